"""Knots and penalty by cross-validation on mocks, and what that does for the acceleration.

Data from the same disk: the disk mock of 200,000 stars, one sample of a tenth of that, and four of
these that share one choice. Every candidate of a grid is judged by 5-fold cross-validation, fitted
to all pixels, and its acceleration compared with the truth, which the cross-validation does not
know. Run as::

    OMP_NUM_THREADS=1 python benchmarks/cross_validation.py [--write] [--figure]
"""

from __future__ import annotations

import argparse
import os
import time
import warnings
from pathlib import Path
from typing import Any

import astropy.units as u
import numpy as np
from disk_mock import REPOSITORY, SETTINGS, read_mock
from matplotlib.figure import Figure
from results_file import write_section
from scipy.stats import spearmanr

from torusimaging_torch import TorusImaging1DSpline
from torusimaging_torch.cross_validation import Selection, select
from torusimaging_torch.data import get_binned_label
from torusimaging_torch.plot import plot_selection
from torusimaging_torch.simulate import milky_way, milky_way_disk

FIGURE = REPOSITORY / "docs" / "_static" / "selection.png"
GRID: dict[str, list[Any]] = {
    "e_knots": [{2: 3, 4: 3}, {2: 8, 4: 4}, {2: 16, 4: 8}],
    "label_knots": [4, 8],
    "e_smooth_sigmas": [0.03, 0.3, 3.0, 30.0],
}
# Few stars say nothing of very many knots.
SMALL_GRID = GRID | {"e_knots": GRID["e_knots"][:2]}
FIXED = {name: value for name, value in SETTINGS.items() if name not in GRID}
RADIUS = 8.3 * u.kpc


def few_stars(seed: int, n: int = 20_000) -> dict[str, Any]:
    """Return binned data of few stars, on 40 x 40 pixels."""
    stars = milky_way_disk(n, R=RADIUS, seed=seed)
    bins = {"pos": np.linspace(-1.2, 1.2, 41) * u.kpc, "vel": np.linspace(-70, 70, 41) * u.km / u.s}
    return get_binned_label(
        stars["z"], stars["v_z"], stars["label"], bins=bins, label_err=stars["label_err"]
    )


def force_error(data: dict[str, Any], settings: dict[str, Any]) -> float:
    """Return the rms error of the acceleration of a fit to all pixels, in per cent."""
    model, bounds, init = TorusImaging1DSpline.auto_init(data, **settings)
    params, _ = model.optimize(init, "gaussian", bounds, **data)
    z = np.linspace(0.05, 1.1, 60) * u.kpc
    found = model.get_acceleration(z + params["pos0"].item() * u.kpc, params)
    return 100 * float(np.sqrt(np.mean((found / milky_way(RADIUS).acceleration(z) - 1) ** 2)))


def run(
    name: str, data: list[dict[str, Any]], grid: dict[str, list[Any]]
) -> tuple[Selection, np.ndarray, list[dict[str, Any]], str]:
    """Judge all candidates; return the selection, errors of a_z, rows and a sentence."""
    start, cpu = time.perf_counter(), time.process_time()
    selection = select(data, grid, **FIXED)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    every = [[force_error(d, one.settings) for d in data] for one in selection.candidates]
    errors = np.sqrt(np.mean(np.square(every), 1))
    table = selection.table
    rows = [
        {
            "data": name,
            "label knots": row["label_knots"],
            "e knots": row["e_knots"],
            "e_smooth_sigmas": row["e_smooth_sigmas"].split(": ")[-1],
            "parameters": int(row["n_params"]),
            "converged": f"{row['fits_converged']} of {selection.n_fits}",
            "ln L below the best": _nats(row, selection.n_pixels),
            "rms a_z error": float(error) * u.percent,
            "": " ".join(flag for flag in ("within", "best", "chosen") if row[flag]),
        }
        for row, error in zip(table, errors, strict=True)
    ]
    scored = np.isfinite(selection.score)
    rank = spearmanr(selection.score[scored], errors[scored]).statistic
    best, chosen = selection.best_index, selection.chosen_index
    sentence = (
        f"{name}: {selection.n_pixels} pixels, {len(selection)} candidates, "
        f"{len(selection) * selection.n_fits} fits in {seconds:.0f} s ({cpu:.0f} s of CPU). rms "
        f"error of a_z: chosen {errors[chosen]:.2f} %, best score {errors[best]:.2f} %, smallest "
        f"{np.nanmin(errors):.2f} %, median {np.nanmedian(errors):.2f} %, largest "
        f"{np.nanmax(errors):.2f} %; as good as the best by score: "
        f"{errors[selection.within].min():.2f} to {errors[selection.within].max():.2f} %. Rank "
        f"correlation of score and error {rank:+.2f}."
    )
    return selection, errors, rows, sentence


def _nats(row: Any, n_pixels: int) -> str:
    return f"{row['delta'] * n_pixels:.2f} ± {row['delta_err'] * n_pixels:.2f}"


def draw(results: list[tuple[str, Selection, np.ndarray]], path: Path) -> None:
    """Draw the scores, and the errors of a_z against them."""
    fig = Figure(figsize=(9.6, 9.2), layout="constrained")
    axes = fig.subplots(3, 2, width_ratios=[1.25, 1])
    for (name, selection, errors), (left, right) in zip(results, axes, strict=True):
        plot_selection(selection, axes=left)
        left.set_title(name, fontsize="medium", loc="left")
        left.get_legend().remove()
        nats = -selection.delta * selection.n_pixels
        for within, color in ((False, "white"), (True, "0.3")):
            some = selection.within == within
            right.scatter(nats[some], errors[some], s=24, c=color, edgecolors="0.3")
        for index, style in (
            (selection.chosen_index, {"s": 150, "facecolors": "none", "edgecolors": "k"}),
            (selection.best_index, {"s": 110, "marker": "*", "c": "k"}),
        ):
            right.scatter(nats[index], errors[index], zorder=4, **style)
        right.set_xscale("symlog", linthresh=10.0)
        right.set_xticks(
            [-100, -10, -5, 0], ["\N{MINUS SIGN}100", "\N{MINUS SIGN}10", "\N{MINUS SIGN}5", "0"]
        )
        right.set_xlim(1.6 * nats[np.isfinite(nats)].min(), 1.0)
        right.set_yscale("log")
        right.set_yticks([1, 2, 5, 10, 20, 50], [1, 2, 5, 10, 20, 50])
        right.set_yticks([], minor=True)
        right.set(
            xlabel=r"$\Delta \ln L$ of held-out pixels [nats]", ylabel="rms error of $a_z$ [%]"
        )
    for left, right in axes[:-1]:
        left.set_xlabel("")
        right.set_xlabel("")
    handles = axes[0, 0].get_legend_handles_labels()
    fig.legend(*handles, loc="outside upper center", ncols=4, frameon=False, fontsize="small")
    fig.savefig(path, dpi=150)


def main() -> None:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="write RESULTS.md's section")
    parser.add_argument("--figure", action="store_true", help="draw docs/_static/selection.png")
    arguments = parser.parse_args()
    load = os.getloadavg()[0]
    mock = {k: v for k, v in read_mock()[0].items() if k != "counts"}
    results, rows, sentences = [], [], []
    few = [few_stars(seed) for seed in range(1, 5)]
    for name, data, grid in (
        ("200,000 stars", [mock], GRID),
        ("20,000 stars", few[:1], SMALL_GRID),
        ("4 times 20,000 stars, one choice", few, SMALL_GRID),
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            selection, errors, some, sentence = run(name, data, grid)
        print(sentence, flush=True)
        results.append((name, selection, errors))
        rows += some
        sentences.append(sentence)
    for row in rows:
        print(*(f"{k}={v}" for k, v in row.items() if k))
    if arguments.figure:
        draw(results, FIGURE)
    if arguments.write:
        summary = (
            "5 folds of pixels. Errors of a_z are those of fits to all pixels, over 0.05-1.1 kpc. "
            "Held-out ln L is that of all pixels together, in nats, with the standard error of the "
            f"difference from the best. Load at the start {load:.1f}. " + " ".join(sentences)
        )
        command = "OMP_NUM_THREADS=1 python benchmarks/cross_validation.py --write --figure"
        write_section("Knots and penalty by cross-validation", command, summary, rows)


if __name__ == "__main__":
    main()
