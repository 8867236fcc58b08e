"""Which optimizer finds the optimum, from where: disks, starts, and who says success.

The same objective (upstream's model: quadratic splines, its penalty) is minimized from three
starts: auto_init's, upstream's own (every e value on its lower bound), and one at random in the
box. "Found" is within 1e-3 nats of the best that anybody found. Upstream runs in a Python of its
own, on some of the disks. Run as::

    python benchmarks/survey.py [--n 200] [--upstream PYTHON] [--n-upstream 20] [--write]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import warnings
from pathlib import Path
from typing import Any

import astropy.units as u
import numpy as np
import torch
from disk_mock import SETTINGS
from results_file import command_line, write_section
from scipy.optimize import minimize

from torusimaging_torch import TorusImaging1DSpline
from torusimaging_torch.data import get_binned_label
from torusimaging_torch.simulate import milky_way_disk

HERE = Path(__file__).resolve().parent
_ENOUGH = 1e-3
_MODEL = SETTINGS | {"knots": "upstream", "e_spline": "quadratic"}
Found = tuple[float, bool]


def disk(seed: int) -> dict[str, Any]:
    """Return binned labels of a disk of random radius and size, as upstream would bin them."""
    rng = np.random.default_rng(seed)
    n, R = int(10 ** rng.uniform(4.5, 5.7)), rng.uniform(5, 11)
    stars = milky_way_disk(n, R=R * u.kpc, seed=seed)
    edges = {
        "pos": np.linspace(-1.5, 1.5, 61) * u.kpc,
        "vel": np.linspace(-90, 90, 61) * u.km / u.s,
    }
    return get_binned_label(
        stars["z"], stars["v_z"], stars["label"], edges, label_err=stars["label_err"]
    )


def starts_of(start: dict[str, Any], posterior: Any, box: Any, seed: int) -> dict[str, Any]:
    """Return vectors to start from, by name."""
    layout = posterior.layout
    low = {
        **start,
        "e_params": {m: {"vals": 0 * e["vals"] - 16} for m, e in start["e_params"].items()},
    }
    rng = torch.Generator().manual_seed(seed)
    fraction = 0.05 + 0.9 * torch.rand(layout.size, generator=rng, dtype=torch.float64)
    anywhere = box.lower + fraction * (box.upper - box.lower)
    return {
        "automatic": layout.flatten(start),
        "upstream's, e at -16": box.nudge_inside(layout.flatten(low)),
        "random in the box": box.nudge_inside(anywhere),
    }


def by_scipy(posterior: Any, box: Any, x0: torch.Tensor) -> Found:
    """Minimize with SciPy's L-BFGS-B and our gradient; return -ln P and whether it says success."""

    def fun(x: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = posterior.value_and_gradient(torch.from_numpy(x))
        return -float(value), -gradient.numpy()

    limits = np.stack([box.lower.numpy(), box.upper.numpy()], -1)
    options = {"maxiter": 2000, "maxfun": 20_000}
    found = minimize(fun, x0.numpy(), jac=True, method="L-BFGS-B", bounds=limits, options=options)
    return float(found.fun), bool(found.success)


def survey(n: int, folder: Path, n_upstream: int) -> dict[str, list[dict[str, Found]]]:
    """Return what each optimizer found from each start, disk by disk."""
    found: dict[str, list[dict[str, Found]]] = {"ours": [], "SciPy L-BFGS-B, our gradient": []}
    for seed in range(n):
        binned = disk(seed)
        model, bounds, start = TorusImaging1DSpline.auto_init(binned, **_MODEL)
        posterior, _ = model.posterior_at(start, binned)
        box = model.border.box(bounds, posterior.layout)
        ours, theirs = {}, {}
        for name, x0 in starts_of(start, posterior, box, seed).items():
            params = posterior.layout.unflatten(x0)
            state = model.optimize(params, "gaussian", bounds, **binned).state
            ours[name] = (state.fun_val * float(posterior.pixels.n), bool(state.success))
            theirs[name] = by_scipy(posterior, box, x0)
        found["ours"].append(ours)
        found["SciPy L-BFGS-B, our gradient"].append(theirs)
        if seed < n_upstream:
            pixels = {k: np.asarray(v) for k, v in binned.items()}
            pixels["pos"] = binned["pos"].to_value(u.kpc)
            pixels["vel"] = binned["vel"].to_value(u.kpc / u.Myr)
            np.savez(folder / f"{seed:04d}.npz", **pixels)
    return found


def rows_of(found: dict[str, list[dict[str, Found]]]) -> list[dict[str, Any]]:
    """Return one row for each optimizer and start."""
    best = [
        min(x for who in found.values() if seed < len(who) for x, _ in who[seed].values())
        for seed in range(max(len(who) for who in found.values()))
    ]
    rows = []
    for who, disks in found.items():
        for start in disks[0]:
            excess = np.array([one[start][0] - least for one, least in zip(disks, best)])  # noqa: B905
            success = np.array([one[start][1] for one in disks])
            there = excess < _ENOUGH
            row = {
                "optimizer": who,
                "start": start,
                "disks": len(disks),
                "found": f"{100 * there.mean():.1f} %",
                "wrong, but success": f"{100 * (~there & success).mean():.1f} %",
                "median excess of the wrong [nats]": float(np.median(excess[~there]))
                if (~there).any()
                else "",
            }
            print(*row.values(), sep="  ", flush=True)
            rows.append(row)
    return rows


def main() -> None:
    """Survey, and write the table if asked to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=200, help="disks")
    parser.add_argument("--upstream", metavar="PYTHON", help="a Python that has torusimaging")
    parser.add_argument("--n-upstream", type=int, default=20, help="disks for upstream")
    parser.add_argument("--quick", action="store_true", help="three disks")
    parser.add_argument("--write", action="store_true", help="write the results")
    options = parser.parse_args()
    torch.set_num_threads(1)
    n = 3 if options.quick else options.n
    with tempfile.TemporaryDirectory() as name, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        folder = Path(name)
        found = survey(n, folder, options.n_upstream if options.upstream else 0)
        if options.upstream:
            command = [options.upstream, str(HERE / "survey_upstream.py"), name]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            found["upstream"] = json.loads(done.stdout.splitlines()[-1])
    rows = rows_of(found)
    if options.write:
        write_section("Who finds the optimum", command_line(), SUMMARY, rows)


SUMMARY = """Disks of 30,000 to 500,000 stars at 5 to 11 kpc, 60 x 60 pixels, upstream's model and
penalty. "Found": within 1e-3 nats of the best that anybody found on that disk from any start."""

if __name__ == "__main__":
    main()
