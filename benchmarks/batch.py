"""Many subsamples: bins of Galactocentric radius times bootstraps, as published analyses have them.

Stars of a disk are simulated in each bin and resampled; every resampling is binned on 100 x 100
pixels and fitted with 9 knots in the label and e_m knots {2: 8, 4: 4}, by one call of `fit_many`
for each size of its chunks. Upstream fits the first of them beside, with JAX. Run as::

    python benchmarks/batch.py [--bins 25] [--bootstraps 25] [--chunks 1 8 64] [--write]
"""

from __future__ import annotations

import argparse
import os
import resource
import time
import warnings
from collections.abc import Callable
from typing import Any

import astropy.units as u
import numpy as np
import torch
from disk_mock import SETTINGS
from results_file import write_section

from torusimaging_torch.batch import chunk as batch_fit
from torusimaging_torch.batch import fit_many
from torusimaging_torch.batch import shard as batch_shard
from torusimaging_torch.batch.memory import problem_bytes
from torusimaging_torch.data import get_binned_label
from torusimaging_torch.model import start as initialize
from torusimaging_torch.simulate import milky_way_disk

MODEL = SETTINGS | {"label_knots": 9}
N_PARAMS, N_PIXELS = 3 + 7 + 3 + 9, 100


def subsamples(n_bins: int, n_bootstraps: int, n_stars: int) -> list[dict[str, Any]]:
    """Return binned data of all bins and bootstraps."""
    binned = []
    for i, radius in enumerate(np.linspace(6, 12, n_bins)):
        stars = milky_way_disk(n_stars, R=radius * u.kpc, seed=i)
        bins = {}
        for name, column in (("pos", "z"), ("vel", "v_z")):
            edge = np.percentile(np.abs(stars[column]), 98)
            bins[name] = np.linspace(-edge, edge, N_PIXELS + 1)
        rng = np.random.default_rng(i)
        for _ in range(n_bootstraps):
            drawn = stars[rng.integers(0, n_stars, n_stars)]
            data = get_binned_label(
                drawn["z"], drawn["v_z"], drawn["label"], bins=bins, label_err=drawn["label_err"]
            )
            binned.append(data)
    return binned


class Clock:
    """Seconds spent in functions of a module, while it is on."""

    def __init__(self, **functions: tuple[Any, str]) -> None:
        self.seconds = dict.fromkeys(functions, 0.0)
        self.places = functions

    def __enter__(self) -> Clock:
        """Put clocks around the functions."""
        self.originals = {key: getattr(*place) for key, place in self.places.items()}
        for key, (module, name) in self.places.items():
            setattr(module, name, self._timed(key, self.originals[key]))
        return self

    def __exit__(self, *_: object) -> None:
        """Take them away."""
        for key, (module, name) in self.places.items():
            setattr(module, name, self.originals[key])

    def _timed(self, key: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            result = function(*args, **kwargs)
            self.seconds[key] += time.perf_counter() - start
            return result

        return call


def run(data: list[dict[str, Any]], chunk: int, device: str) -> tuple[dict[str, Any], Any]:
    """Fit everything in chunks of a size; return a row of the table and the result."""
    pixels = max(int(np.isfinite(d["label"]).sum()) for d in data)
    memory = 1.001 * chunk * problem_bytes(pixels, N_PARAMS)
    places = {
        "read": (batch_shard, "_read"),
        "stacked": (batch_fit, "stack"),
        "start": (initialize, "fit_low_order"),
        "fit": (batch_fit, "fit"),
        "errors": (batch_fit, "bound_at"),
    }
    start, cpu = time.perf_counter(), time.process_time()
    with Clock(**places) as clock:
        result = fit_many(data, **MODEL, max_memory=memory, device=device, shard_size=len(data))
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    row = {
        "who": f"ours, chunks of {chunk}",
        "fits": len(data),
        "succeeded": int(result.success.sum()),
        "seconds per fit": seconds / len(data),
        "CPU seconds per fit": cpu / len(data),
        **{key: f"{value / seconds:.1%}" for key, value in clock.seconds.items()},
        "iterations": int(result.iterations.double().median()),
        "evaluations": int(result.evaluations.double().median()),
        "peak memory": f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB",
    }
    print(row, flush=True)
    return row, result


def run_upstream(data: list[dict[str, Any]]) -> dict[str, Any]:
    """Fit some with upstream, as its users do."""
    import jax

    jax.config.update("jax_enable_x64", True)
    from torusimaging import TorusImaging1DSpline

    start, cpu, good, iterations = time.perf_counter(), time.process_time(), 0, []
    for one in data:
        model, bounds, init = TorusImaging1DSpline.auto_init(one, **MODEL)
        used = np.isfinite(one["label"]) & np.isfinite(one["label_err"]) & (one["label_err"] > 0)
        bare = {"label": one["label"][used], "label_err": one["label_err"][used]}
        bare["pos"] = one["pos"][used].to_value(u.kpc)
        bare["vel"] = one["vel"][used].to_value(u.kpc / u.Myr)
        state = model.optimize(init, "gaussian", bounds, **bare).state
        good += bool(state.success)
        iterations.append(int(state.iter_num))
    row = {
        "who": "upstream, one by one",
        "fits": len(data),
        "succeeded": good,
        "seconds per fit": (time.perf_counter() - start) / len(data),
        "CPU seconds per fit": (time.process_time() - cpu) / len(data),
        **dict.fromkeys(("read", "stacked", "start", "fit", "errors"), ""),
        "iterations": int(np.median(iterations)),
        "evaluations": "",
        "peak memory": "",
    }
    print(row, flush=True)
    return row


def main() -> None:
    """Run the benchmark and print its rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bins", type=int, default=25)
    parser.add_argument("--bootstraps", type=int, default=25)
    parser.add_argument("--stars", type=int, default=150_000, help="per bin")
    parser.add_argument("--chunks", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--upstream", type=int, default=1, help="fits with upstream")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--write", action="store_true", help="write RESULTS.md's section")
    arguments = parser.parse_args()
    load = os.getloadavg()[0]
    data = subsamples(arguments.bins, arguments.bootstraps, arguments.stars)
    results, rows = [], []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for chunk in arguments.chunks:
            row, result = run(data, chunk, arguments.device)
            rows.append(row)
            results.append(result)
        if arguments.upstream:
            rows.append(run_upstream(data[: arguments.upstream]))
    first = results[0]
    sigma = first.covariance.diagonal(dim1=-2, dim2=-1).sqrt()
    fun = max(float((r.fun_val - first.fun_val).abs().max()) for r in results)
    pulls = [((r.values["x"] - first.values["x"]) / sigma).abs().nan_to_num(0.0) for r in results]
    summary = (
        f"{arguments.bins} bins of R_g times {arguments.bootstraps} bootstraps, 100 x 100 pixels, "
        f"{torch.get_num_threads()} threads, load at the start {load:.1f}. Between sizes of chunks "
        f"objectives differ by at most {fun:.1e}, parameters by {max(p.max() for p in pulls):.1e} "
        "of their errors. Read to errors are shares of the wall time."
    )
    print(summary)
    if arguments.write:
        options = f"--bins {arguments.bins} --bootstraps {arguments.bootstraps} --chunks "
        options += " ".join(str(chunk) for chunk in arguments.chunks)
        command = f"python benchmarks/batch.py {options} --write"
        write_section("Many subsamples at once", command, summary, rows)


if __name__ == "__main__":
    main()
