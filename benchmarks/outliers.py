"""What stars with wrong labels cost, and what is left of it when outliers are sought.

Disks as in accuracy.py of which five per cent of the stars have labels off by a normal error of .5,
twelve times the intrinsic scatter. Both models fit the others alone (which nobody could pick out),
all stars alike, and all stars with `fit_outliers`. Run as::

    python benchmarks/outliers.py [--quick] [--seeds 16] [--write]
"""

from __future__ import annotations

import argparse
import warnings
from typing import Any

import astropy.units as u
import numpy as np
import torch
from accuracy import EDGES, Fit, misses, potential, torus
from results_file import command_line, write_section

from torusimaging_torch.data import get_binned_label
from torusimaging_torch.simulate import milky_way_disk

R, N, SHARE, SIZE = 8.3 * u.kpc, 200_000, 0.05, 0.5
MODELS = {"potential": potential, "ellipses and harmonics": torus}


def binned(stars: dict[str, Any]) -> dict[str, Any]:
    """Return binned labels."""
    return get_binned_label(**stars, bins=EDGES)


def disk(seed: int) -> tuple[dict[str, Any], np.ndarray]:
    """Return stars, and which of them are outliers."""
    table, rng = milky_way_disk(N, R=R, seed=seed), np.random.default_rng(seed + 1000)
    bad = rng.uniform(size=N) < SHARE
    label = np.asarray(table["label"]) + bad * rng.normal(0, SIZE, N)
    names = ("pos", "vel", "label", "label_err")
    columns = (table["z"], table["v_z"], label, table["label_err"])
    return dict(zip(names, columns, strict=True)), bad


def rows_of(seeds: range) -> list[dict[str, Any]]:
    """Return a row for each model and way of fitting."""
    errors: dict[tuple[str, str], list[tuple[float, float]]] = {}
    found: dict[str, list[tuple[float, ...]]] = {}
    for seed in seeds:
        stars, bad = disk(seed)
        clean = binned({name: values[~bad] for name, values in stars.items()})
        everything = binned(stars)
        for kind, fit in MODELS.items():
            one: Fit = fit(clean, None)
            errors.setdefault((kind, "without the outliers"), []).append(
                misses(one[0], one[2].params, R)
            )
            model, bounds, result, *_ = fit(everything, None)
            errors.setdefault((kind, "all alike"), []).append(misses(model, result.params, R))
            sought = model.fit_outliers(result.params, stars, EDGES, bounds)
            errors.setdefault((kind, "outliers sought"), []).append(misses(model, sought.params, R))
            found.setdefault(kind, []).append((sought.eps, sought.s_out, sought.s))
    rows = []
    for (kind, way), each in errors.items():
        a, rho = np.sqrt(np.mean(np.square(each), axis=0))
        row = {
            "model": kind,
            "stars": way,
            "rms a_z [%]": f"{a:.2f}",
            "rms density [%]": f"{rho:.1f}",
        }
        if way == "outliers sought":
            for name, values in zip(("eps", "s_out", "s"), np.transpose(found[kind]), strict=True):
                row[name] = f"{values.mean():.4f} ± {values.std():.4f}"
        print(*row.values(), sep="  ", flush=True)
        rows.append(row)
    return rows


def main() -> None:
    """Measure, and write the table if asked to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two seeds")
    parser.add_argument("--seeds", type=int, default=16)
    parser.add_argument("--write", action="store_true", help="write the results")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        rows = rows_of(range(2 if options.quick else options.seeds))
    if options.write:
        summary = (
            f"{options.seeds} disks of {N:,} stars, of which {100 * SHARE:g} % have labels off by "
            f"{SIZE:g}; the intrinsic scatter is 0.04. rms over |z| = 0.05-1.1 kpc (density: 0.05-"
            "1 kpc) of seeds together; eps, s_out and s: mean and scatter of what is found."
        )
        write_section("Outliers", command_line(), summary, rows)


if __name__ == "__main__":
    main()
