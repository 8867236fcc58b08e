"""Time of binning, and whether the errors of the pixel means are right: ours beside upstream.

Bins the stars of shared/data/disk_mock_stars.fits (or, without it, 200,000 simulated stars of a
harmonic oscillator) into 80 x 80 pixels with both, if upstream's ``torusimaging`` is importable.
The true label of a pixel is the mean over its stars of 0.02 + 0.9 sqrt(J); a pull is (label -
truth)/label_err, over all pixels with a star. If the errors are right the pulls have variance 1.

Run ``python benchmarks/binning.py``; binning uses one thread, times are the best of the repeats.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import astropy.units as u
import numpy as np
from astropy.table import QTable
from disk_mock import SHARED
from gala.units import galactic

from torusimaging_torch.data import get_binned_counts, get_binned_label, intrinsic_scatter

BINS = {"pos": np.linspace(-1.2, 1.2, 81) * u.kpc, "vel": np.linspace(-70, 70, 81) * u.km / u.s}

Stars = dict[str, Any]


def simulate(n: int, seed: int = 0) -> Stars:
    rng = np.random.default_rng(seed)
    omega = 0.08
    pos, vel = rng.normal(0.0, 0.4, n), rng.normal(0.0, 0.4 * omega, n)
    truth = 0.02 + 0.9 * np.sqrt(0.5 * (omega * pos**2 + vel**2 / omega))
    label_err = rng.lognormal(np.log(0.05), 0.3, n)
    label = truth + rng.normal(0.0, np.hypot(label_err, 0.04))
    speed = vel * u.kpc / u.Myr
    return {"pos": pos * u.kpc, "vel": speed, "truth": truth, "label": label, "err": label_err}


def read_mock(path: Path) -> Stars:
    table = QTable.read(path)
    return {
        "pos": table["z"].astype(float),
        "vel": table["v_z"].astype(float),
        "truth": 0.02 + 0.9 * np.sqrt(table["J"].to_value(u.kpc**2 / u.Myr).astype(float)),
        "label": np.asarray(table["label"], dtype=float),
        "err": np.asarray(table["label_err"], dtype=float),
    }


def timed(run: Callable[[], Any], repeats: int) -> tuple[Any, float]:
    best = np.inf
    for _ in range(repeats):
        start = time.perf_counter()
        result = run()
        best = min(best, time.perf_counter() - start)
    return result, best


def pull_variance(binned: dict[str, Any], truth: np.ndarray) -> float:
    full = binned["counts"] > 0
    return float(np.var(((binned["label"] - truth) / binned["label_err"])[full]))


def report(who: str, n: int, seconds: float, *numbers: str) -> None:
    print(f"{who:<38}{n:>12,}{seconds:>10.3f}" + "".join(f"{x:>10}" for x in numbers), flush=True)


def compare(stars: Stars, with_upstream: bool) -> None:
    args = stars["pos"], stars["vel"], stars["label"], BINS
    n = len(stars["label"])
    plain = get_binned_label(stars["pos"], stars["vel"], stars["truth"], BINS, s=1.0)["label"]
    ours, seconds = timed(lambda: get_binned_label(*args, label_err=stars["err"]), 5)
    s = intrinsic_scatter(*args, label_err=stars["err"])
    report("ours, label", n, seconds, f"{s:.4f}", f"{pull_variance(ours, plain):.3f}")
    _, seconds = timed(lambda: get_binned_counts(stars["pos"], stars["vel"], BINS), 5)
    report("ours, counts", n, seconds)
    if not with_upstream:
        return
    try:
        from torusimaging.data import get_binned_label as upstream
    except ImportError as error:
        print(f"upstream is not here: {error}")
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs, seconds = timed(lambda: upstream(*args, label_err=stars["err"], units=galactic), 2)
    # Upstream's squared error is 1/sum(1/label_err^2) + s^2/counts; ours with s = 0 is the first.
    no_scatter = get_binned_label(*args, label_err=stars["err"], s=0.0)["label_err"]
    s = np.nanmedian(np.sqrt((theirs["label_err"] ** 2 - no_scatter**2) * theirs["counts"]))
    report("upstream, label", n, seconds, f"{s:.4f}", f"{pull_variance(theirs, plain):.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stars", type=Path, default=SHARED / "disk_mock_stars.fits")
    parser.add_argument("--large", type=int, default=10_000_000, help="stars in the large run")
    parser.add_argument("--no-upstream", action="store_true", help="leave upstream out")
    options = parser.parse_args()
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    print(f"{platform.machine()}, {os.cpu_count()} CPUs, load {load:.1f}")
    print(f"{'80 x 80 pixels':<38}{'stars':>12}{'time [s]':>10}{'s':>10}{'pull var':>10}")
    if options.stars.exists():
        compare(read_mock(options.stars), not options.no_upstream)
    compare(simulate(200_000), not options.no_upstream)
    if options.large:
        stars = simulate(options.large)
        args = stars["pos"], stars["vel"], stars["label"], BINS
        _, seconds = timed(lambda: get_binned_label(*args, label_err=stars["err"]), 2)
        report("ours, label", options.large, seconds)
        _, seconds = timed(lambda: get_binned_counts(stars["pos"], stars["vel"], BINS), 2)
        report("ours, counts", options.large, seconds)


if __name__ == "__main__":
    main()
