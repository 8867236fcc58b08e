"""How near the truth both models come: forces and densities of Milky Way disks with known answers.

Stars of a separable disk are simulated (`milky_way_disk`), binned on 80 x 80 pixels and fitted by
the model with ellipses and harmonics, by the potential, and by the potential with star counts
beside the labels, their selection function known exactly and to 5 per cent. Run as::

    python benchmarks/accuracy.py [--quick] [--stars 50000 200000 700000] [--seeds 32] [--write]

``--radii`` are those of further disks; pulls.py tells how often the truth lies within the errors.
"""

from __future__ import annotations

import argparse
import warnings
from typing import Any

import astropy.units as u
import numpy as np
import torch
from results_file import command_line, write_section

from torusimaging_torch import TorusImaging1DPotential, TorusImaging1DSpline
from torusimaging_torch.analysis.automatic import choose_penalty
from torusimaging_torch.data import get_binned_counts, get_binned_label, with_selection
from torusimaging_torch.settings import LABEL_KNOTS, Settings
from torusimaging_torch.simulate import milky_way, milky_way_disk

FORCE = np.linspace(0.05, 1.1, 106) * u.kpc
DENSITY = np.linspace(0.05, 1.0, 96) * u.kpc
BOTH = {"label": "gaussian", "counts": "poisson"}
EDGES = {"pos": np.linspace(-1.5, 1.5, 81) * u.kpc, "vel": np.linspace(-90, 90, 81) * u.km / u.s}
Fit = tuple[Any, Any, Any, Any, Any]


def binned(n: int, R: u.Quantity, seed: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return binned labels and star counts of one disk."""
    stars = milky_way_disk(n, R=R, seed=seed)
    label = get_binned_label(
        stars["z"], stars["v_z"], stars["label"], EDGES, label_err=stars["label_err"]
    )
    return label, get_binned_counts(stars["z"], stars["v_z"], EDGES)


def torus(label: Any, counts: Any) -> Fit:
    """Fit ellipses with harmonics, as the command does by default."""
    settings = Settings()
    model, bounds, start = TorusImaging1DSpline.auto_init(
        label,
        LABEL_KNOTS,
        settings.e_knots,
        e_knots_spacing_power=settings.e_knots_spacing_power,
        label_spline=settings.label_spline,
        **choose_penalty(label, settings),
    )
    return model, bounds, model.optimize(start, "gaussian", bounds, **label), label, "gaussian"


def potential(label: Any, counts: Any) -> Fit:
    """Fit a potential to the labels."""
    model, bounds, start = TorusImaging1DPotential.auto_init(label)
    return model, bounds, model.optimize(start, "gaussian", bounds, **label), label, "gaussian"


def with_counts(label: Any, counts: Any, error: float = 0.0) -> Fit:
    """Fit a potential to labels and star counts."""
    data = {"label": label, "counts": with_selection(counts, None, error)}
    model, bounds, start = TorusImaging1DPotential.auto_init(data)
    return model, bounds, model.optimize(start, BOTH, bounds, data=data), data, BOTH


def with_unsure_counts(label: Any, counts: Any) -> Fit:
    """Fit a potential to labels and star counts, their selection known to 5 per cent."""
    return with_counts(label, counts, 0.05)


WAYS = {
    "ellipses and harmonics": torus,
    "potential": potential,
    "potential, with counts": with_counts,
    "potential, counts, selection +- 5 %": with_unsure_counts,
}


def misses(model: Any, params: Any, R: u.Quantity) -> tuple[float, float]:
    """Return the rms errors of acceleration and density, in per cent."""
    truth, pos0 = milky_way(R), params["pos0"].item() * u.kpc
    a = model.get_acceleration(FORCE + pos0, params) / truth.acceleration(FORCE) - 1
    rho = model.get_density(DENSITY + pos0, params) / truth.density(DENSITY) - 1
    return tuple(100 * float(np.sqrt(np.mean(x.to_value("") ** 2))) for x in (a, rho))


def table_of(sizes: list[int], radii: list[float], seeds: range) -> list[dict[str, Any]]:
    """Return rms errors of all disks, one row for each way and size."""
    rows = []
    for n in sizes:
        found: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
        for R in radii:
            for seed in seeds:
                data = binned(n, R * u.kpc, seed)
                for way, fit in WAYS.items():
                    model, _, result, *_ = fit(*data)
                    found[way].append(misses(model, result.params, R * u.kpc))
        for way, errors in found.items():
            a, rho = np.sqrt(np.mean(np.square(errors), axis=0))
            row = {
                "stars": n,
                "model": way,
                "disks": len(errors),
                "rms a_z [%]": f"{a:.2f}",
                "median": f"{np.median([e[0] for e in errors]):.2f}",
                "largest": f"{max(e[0] for e in errors):.2f}",
                "rms density [%]": f"{rho:.1f}",
            }
            print(*row.values(), sep="  ", flush=True)
            rows.append(row)
    return rows


def main() -> None:
    """Measure, and write the tables if asked to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two seeds, 50,000 stars")
    parser.add_argument("--stars", type=int, nargs="*", default=[50_000, 200_000, 700_000])
    parser.add_argument("--seeds", type=int, default=32)
    parser.add_argument("--radii", type=float, nargs="*", default=[5.0, 6.5, 8.0, 9.5, 11.0])
    parser.add_argument("--write", action="store_true", help="write the results")
    options = parser.parse_args()
    if options.quick:
        options.stars, options.seeds, options.radii = [50_000], 2, []
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        rows = table_of(options.stars, [8.3], range(options.seeds))
        at_radii = table_of([200_000], options.radii, range(2)) if options.radii else []
    if options.write:
        summary = (
            "rms over |z| = 0.05-1.1 kpc (density: 0.05-1 kpc), of seeds together, R = 8.3 kpc."
        )
        if rows:
            write_section("Accuracy of both models", command_line(), summary, rows)
        if at_radii:
            summary = f"The same at R = {options.radii} kpc, two seeds each."
            write_section("Accuracy at other radii", command_line(), summary, at_radii)


if __name__ == "__main__":
    main()
