"""The published shape of work: bins of R_g times bootstraps, binned, fitted and kept in one go.

Stars of gala's Milky Way are simulated at 25 radii, fewer further out, and binned with their
bootstraps on 100 x 100 pixels by one call of `bin_many`; one call of `fit_many` fits all 650 data
sets (25 x 25 bootstraps, and the 25 of the stars themselves) with 9 knots in the label and e_m
knots {2: 8, 4: 4} in two processes of one thread each, into a store. The truth is known, so errors
and their bars can be judged. Upstream fits five of them beside, with JAX, as its users do: from its
own start, and from e values set by hand; each call compiles. Run::

    python benchmarks/published.py [--radii 25] [--bootstraps 25] [--write] [--figure]
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import tempfile
import time
import warnings
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import astropy.units as u
import numpy as np
from astropy.table import QTable, vstack
from disk_mock import ORDERS, SETTINGS
from results_file import write_section

MODEL = SETTINGS | {"label_knots": 9}
FIGURE = Path(__file__).resolve().parent.parent / "docs" / "_static" / "published.png"
BINS = {"pos": np.linspace(-1.5, 1.5, 101) * u.kpc, "vel": np.linspace(-75, 75, 101) * u.km / u.s}
RADII = (6.0, 12.0)
N_FIRST, N_SCALE = 150_000, 4.5  # stars at the innermost radius, scale length in kpc
HEIGHT = 1.1 * u.kpc
PULLS: u.Quantity = [0.3, 0.6, 0.9, 1.1] * u.kpc
GRID = np.linspace(0.05, 1.1, 106) * u.kpc
SHARD = 13
WORKERS = 2
DENSITY = u.Msun / u.pc**2

Row = dict[str, Any]


def catalogue(radii: np.ndarray) -> QTable:
    """Return stars at all radii in one table, fewer further out."""
    from torusimaging_torch.simulate import milky_way_disk

    tables = []
    for seed, radius in enumerate(radii):
        n = round(N_FIRST * np.exp(-(radius - RADII[0]) / N_SCALE))
        stars = milky_way_disk(n, R=radius * u.kpc, seed=seed)
        stars["R_g"] = np.full(n, radius) * u.kpc
        tables.append(stars["R_g", "z", "v_z", "label", "label_err"])
    return vstack(tables, metadata_conflicts="silent")


def bin_all(stars: QTable, radii: np.ndarray, n_bootstraps: int) -> Any:
    """Bin everything in one call; each radius is a group of its own."""
    from torusimaging_torch.catalogue import bootstrap
    from torusimaging_torch.data import bin_many

    step = (RADII[1] - RADII[0]) / (len(radii) - 1)
    groups = f"R_g: {RADII[0]}..{RADII[1]} step {step:g} width {step:g} kpc"
    columns: dict[str, Any] = {"pos": "z", "vel": "v_z", "label": "label", "label_err": "label_err"}
    return bin_many(stars, groups, BINS, **columns, resample=bootstrap(n_bootstraps, seed=1))


def fit_all(sums: Any, store: str) -> tuple[Any, float, float]:
    """Fit everything in worker processes; return the result, wall and CPU time of all workers."""
    from torusimaging_torch.batch import fit_many

    start, before = time.perf_counter(), _children()
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(WORKERS, mp_context=context) as executor:
        result = fit_many(sums, **MODEL, store=store, executor=executor, shard_size=SHARD)
    return result, time.perf_counter() - start, _children() - before


def _children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def judge(result: Any, radii: np.ndarray) -> tuple[list[Row], str]:
    """Compare with the truth; return a row for each radius, and sentences about all."""
    from torusimaging_torch.simulate import milky_way

    plain = result.columns["resampling"] < 0
    heights = u.Quantity([*PULLS, *GRID])
    found = result.profiles(heights, errors=True, from_midplane=True)
    a, bound = (found[key].value for key in ("acceleration", "acceleration_err"))
    a[~result.success.numpy()] = np.nan
    sigma = found["surface_density"].to_value(DENSITY)
    at = int(np.flatnonzero(heights == HEIGHT)[0])
    chi2 = result.chi2_dof.numpy()
    rows, pulls, bars = [], [], []
    for radius in radii:
        here = np.isclose(result.columns["R_g"].to_value(u.kpc), radius)
        own, others = int(np.flatnonzero(here & plain)[0]), here & ~plain
        potential = milky_way(radius * u.kpc)
        truth = potential.acceleration(heights).to_value(found["acceleration"].unit)
        scatter = np.nanstd(a[others], axis=0, ddof=1)
        pulls.append((np.abs(a[own]) - np.abs(truth)) / scatter)
        bars.append(bound[own] / scatter)
        error = 100 * (a[own] / truth - 1)[len(PULLS) :]
        iterations = result.iterations[here].double().median()
        true = potential.surface_density(HEIGHT).to_value(DENSITY)
        spread = np.nanstd(sigma[others, at], ddof=1)
        row = {
            "R [kpc]": f"{radius:g}",
            "stars": f"{result.columns['n_stars'][own]:,.0f}",
            "pixels": int(result.n_pixels[own]),
            "succeeded": f"{int(result.success[here].sum())} of {int(here.sum())}",
            "iterations": int(iterations),
            "chi2/dof": f"{chi2[own]:.3f}",
            "of bootstraps": f"{np.nanmedian(chi2[others]):.2f}",
            "rms a_z error": f"{np.sqrt(np.mean(error**2)):.1f} %",
            "true Sigma(1.1 kpc)": f"{true:.1f}",
            "found ± bootstraps": f"{sigma[own, at]:.1f} ± {spread:.1f}",
            "mean of bootstraps": f"{np.nanmean(sigma[others, at]):.1f}",
            "pull": f"{pulls[-1][at]:+.2f}",
        }
        print(*row.values(), sep="  ", flush=True)
        rows.append(row)
    return rows, _describe(np.array(pulls), np.array(bars), rows)


def _describe(pulls: np.ndarray, bars: np.ndarray, rows: list[Row]) -> str:
    n = len(PULLS)
    parts = [
        f"{z.value:g} kpc {mean:+.2f} and {std:.2f}"
        for z, mean, std in zip(
            PULLS, pulls[:, :n].mean(0), pulls[:, :n].std(0, ddof=1), strict=True
        )
    ]
    rms = [float(row["rms a_z error"].split()[0]) for row in rows]
    return (
        f"rms error of a_z over 0.05-1.1 kpc: median {np.median(rms):.1f} %, largest "
        f"{max(rms):.1f} %. Pulls of |a_z| by the scatter of the bootstraps, mean and standard "
        f"deviation over the radii: {'; '.join(parts)}. The bound of a fit is "
        f"{np.nanmedian(bars[:, :n]):.2f} of the scatter of the bootstraps (median)."
    )


def compare(sums: Any, result: Any, radii: np.ndarray, n: int) -> list[Row]:
    """Fit some of the data sets with upstream and, on its knots, with ours."""
    import jax

    jax.config.update("jax_enable_x64", True)
    rows = []
    for radius in radii[np.linspace(0, len(radii) - 1, n).round().astype(int)]:
        here = np.isclose(result.columns["R_g"].to_value(u.kpc), radius)
        i = int(np.flatnonzero(here & (result.columns["resampling"] < 0))[0])
        rows += _compare_one(sums[i], result[i], radius)
    return rows


def _compare_one(binned: dict[str, Any], ours: Any, radius: float) -> list[Row]:
    import torusimaging

    import torusimaging_torch

    used = np.isfinite(binned["label"]) & np.isfinite(binned["label_err"])
    used &= binned["label_err"] > 0
    data = {key: binned[key][used] for key in ("pos", "vel", "label", "label_err")}
    data["pos"] = data["pos"].to_value(u.kpc)
    data["vel"] = data["vel"].to_value(u.kpc / u.Myr)
    theirs = torusimaging.TorusImaging1DSpline.auto_init
    init = theirs(binned, **MODEL)
    rows = [_run("upstream, its start", init, data, radius)]
    model, bounds, start = theirs(binned, **MODEL)
    # What its users take: -0.5, and a slope that leaves e_4 = 0.05 at the last knot.
    values = dict(zip(ORDERS, (-0.5, np.log(0.05 / np.max(model._label_knots))), strict=True))
    start = start | {
        "e_params": {m: {"vals": np.full(MODEL["e_knots"][m] - 1, values[m])} for m in ORDERS}
    }
    rows.append(_run("upstream, e values set by hand", (model, bounds, start), data, radius))
    again = torusimaging_torch.TorusImaging1DSpline.auto_init
    init = again(binned, **MODEL, knots="upstream", e_spline="quadratic")
    rows.append(_run("ours, upstream's knots", init, data, radius))
    own = "ours, in the batch"
    rows.append(_row(own, ours.model, ours.params, ours.state, None, data, radius))
    return rows


def _run(who: str, init: Any, data: Any, radius: float) -> Row:
    model, bounds, start = init
    began = time.perf_counter(), time.process_time()
    found = model.optimize(start, "gaussian", bounds, **data)
    times = time.perf_counter() - began[0], time.process_time() - began[1]
    return _row(who, model, found.params, found.state, times, data, radius)


def _row(
    who: str,
    model: Any,
    params: Any,
    state: Any,
    times: tuple[float, float] | None,
    data: Any,
    radius: float,
) -> Row:
    from torusimaging_torch.simulate import milky_way

    unit = u.kpc / u.Myr**2
    truth = milky_way(radius * u.kpc).acceleration(GRID).to_value(unit)
    error = 100 * (np.asarray(model.get_acceleration(GRID, params).to_value(unit)) / truth - 1)
    row = {
        "R [kpc]": f"{radius:g}",
        "who": who,
        "objective": f"{float(model.objective_gaussian(params, **data)):.6f}",
        "rms a_z error": f"{np.sqrt(np.mean(error**2)):.1f} %",
        "success": bool(state.success),
        "iterations": int(state.iter_num),
        "wall [s]": "" if times is None else f"{times[0]:.2f}",
        "CPU [s]": "" if times is None else f"{times[1]:.2f}",
    }
    print(*row.values(), sep="  ", flush=True)
    return row


def draw(result: Any, path: Path) -> None:
    """Draw surface density and acceleration against radius, with the truth."""
    from matplotlib.figure import Figure

    from torusimaging_torch.plot import plot_batch
    from torusimaging_torch.simulate import milky_way

    fig = Figure((5.2, 5.6), layout="constrained")
    _, axes = plot_batch(
        result,
        "R_g",
        height=HEIGHT,
        truth=milky_way().gala_potential,
        truth_label="MilkyWayPotential2022",
        x_label="$R$",
        axes=fig.subplots(2, 1, sharex=True),
    )
    axes[0].set_yscale("log")
    axes[0].set_yticks([30, 50, 100, 150], [30, 50, 100, 150])
    axes[0].set_yticks([], minor=True)
    fig.savefig(path, dpi=150, bbox_inches="tight")


def main() -> None:
    """Run the benchmark and print its rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--radii", type=int, default=25)
    parser.add_argument("--bootstraps", type=int, default=25)
    parser.add_argument("--upstream", type=int, default=5, help="data sets for upstream")
    parser.add_argument("--store", help="a folder that keeps the fits; none by default")
    parser.add_argument("--write", action="store_true", help="write RESULTS.md's sections")
    parser.add_argument("--figure", action="store_true", help="draw docs/_static/published.png")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"  # for the workers
    load, radii = os.getloadavg()[0], np.linspace(*RADII, options.radii)
    stars = catalogue(radii)
    start = time.perf_counter(), time.process_time()
    sums = bin_all(stars, radii, options.bootstraps)
    binning = time.perf_counter() - start[0], time.process_time() - start[1]
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # failures are in the table
        result, wall, cpu = fit_all(sums, options.store or folder)
    n = len(result)
    rows, judged = judge(result, radii)
    failed = {m for m, s in zip(result.message, result.success.tolist(), strict=True) if not s}
    summary = (
        f"{options.radii} radii times (1 + {options.bootstraps} bootstraps): {n} fits of "
        f"{len(stars):,} stars on 100 x 100 pixels, "
        f"{int(result.success.sum())} succeeded{'. Failed: ' + str(failed) if failed else ''}. "
        f"Binned with all bootstraps by one call of `bin_many` in {binning[0]:.1f} s "
        f"({binning[1]:.1f} s of CPU). Fitted into a store by {WORKERS} processes of one thread in "
        f"{wall:.0f} s, {cpu / n:.2f} s of CPU per fit, with the start, the bound, storing and "
        f"starting of processes; load at the start {load:.1f}, at the end "
        f"{os.getloadavg()[0]:.1f} (the machine is shared). Bootstrapped data have chi2/dof of "
        f"about 2. {judged} Sigma in Msun/pc^2."
    )
    print(summary, flush=True)
    if options.figure:
        draw(result, FIGURE)
    shape = f"--radii {options.radii} --bootstraps {options.bootstraps}"
    command = f"python benchmarks/published.py {shape} --write --figure"
    if options.write:
        write_section("The published shape of work", command, summary, rows)
    if options.upstream:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            rows = compare(sums, result, radii, options.upstream)
        if options.write:
            _write_comparison(command, rows)


def _write_comparison(command: str, rows: list[Row]) -> None:
    from importlib.metadata import version

    packages = ", ".join(f"{name} {version(name)}" for name in ("torusimaging", "jax", "jaxopt"))
    summary = (
        f"The stars themselves at some of the radii, in the same run, with {packages}. Times are "
        "of `optimize` alone, each call cold: upstream's compiles at every call. The first three "
        "rows of a radius have upstream's knots and quadratic splines, so that their objectives, "
        "each evaluated anew at what came back, can be compared; the last has knots that cover "
        "the data and cubic splines. Errors of a_z are over 0.05-1.1 kpc."
    )
    write_section("The published shape of work: upstream beside", command, summary, rows)


if __name__ == "__main__":
    main()
