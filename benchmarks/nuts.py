"""What NUTS costs on the disk mock, in gradients per draw and effective draw, and the bound.

    python benchmarks/nuts.py --write

The first cannot be blurred by a busy machine. The mock is ``disk_mock_upstream_binned.npz`` of the
validation data, 80 x 80 pixels; the penalty's wall against negative densities is 1e2 nats high.
"""

from __future__ import annotations

import argparse
import time
import warnings
from typing import Any

from disk_mock import SETTINGS, read_mock
from results_file import command_line, write_section

from torusimaging_torch import TorusImaging1DSpline


def measure(spline: str, dacc: float, args: argparse.Namespace) -> list[dict[str, Any]]:
    data = read_mock()[0]
    model, bounds, p0 = TorusImaging1DSpline.auto_init(
        data, e_spline=spline, **(SETTINGS | {"dacc_strength": dacc})
    )
    params = model.optimize(p0, "gaussian", bounds, **data).params
    clock = time.process_time()
    model.get_crlb(params, data, bounds=bounds)
    bound_time = time.process_time() - clock
    rows = []
    for depth in args.depth:
        clock = time.process_time()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            samples = model.sample(
                data,
                params,
                bounds,
                num_samples=args.samples,
                num_warmup=args.warmup,
                max_tree_depth=depth,
                target_accept=args.accept,
            )
        cpu = time.process_time() - clock
        chains, ess = samples.chains, float(samples.ess_bulk.min())
        gradients = int(chains.n_gradients.sum())
        total = gradients + chains.n_gradients_warmup
        rows.append(
            {
                "e spline": spline,
                "dacc_strength": dacc,
                "max depth": depth,
                "gradients per draw": gradients / len(samples),
                "in warm-up": chains.n_gradients_warmup / args.warmup,
                "min bulk ESS": ess,
                "min tail ESS": float(samples.ess_tail.min()),
                "gradients per ESS": gradients / ess,
                "step": float(chains.step_size[0]),
                "acceptance": float(chains.acceptance[0]),
                "divergences": int(chains.divergences.sum()),
                "max R-hat": float(samples.rhat.max()),
                "CPU ms per gradient": 1e3 * cpu / total,
                "CPU s of get_crlb": bound_time,
            }
        )
        print(rows[-1], flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--warmup", type=int, default=1000)
    parser.add_argument("--accept", type=float, default=0.9)
    parser.add_argument("--depth", type=int, nargs="+", default=[6])
    parser.add_argument("--splines", nargs="+", default=["cubic", "quadratic"])
    parser.add_argument("--dacc", type=float, nargs="+", default=[1e2, 0.0])
    parser.add_argument("--write", action="store_true", help="put the section into RESULTS.md")
    args = parser.parse_args()
    rows = []
    for spline in args.splines:
        for dacc in args.dacc:
            rows += measure(spline, dacc, args)
    if args.write:
        text = f"{args.warmup} steps of warm-up, {args.samples} draws, one chain, one thread."
        write_section("NUTS on the disk mock", command_line(), text, rows)


if __name__ == "__main__":
    main()
