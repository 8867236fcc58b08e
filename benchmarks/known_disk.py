"""The tests of the papers: forces far from the plane of a disk with a known answer.

Stars of a separable disk, Miyamoto-Nagai with an NFW halo at R = 8.275 kpc, with the labels of the
papers: N(0.064 z_max/kpc + 0.009, 0.05), z_max = sqrt(2 J/Omega0), ln(error) ~ N(-4, 0.5). They are
fitted by the potential, with labels alone and with star counts; by ellipses as the command does;
with a selection function of heights; and in a harmonic oscillator. Run as::

    python benchmarks/known_disk.py [--seeds 8] [--quick] [--write]
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import astropy.units as u
import numpy as np
import torch
from accuracy import BOTH, Fit, potential, torus, with_counts
from numpy.random import Generator
from numpy.typing import NDArray
from results_file import command_line, write_section
from three_dimensions import GALAXY

from torusimaging_torch import TorusImaging1DPotential
from torusimaging_torch.data import get_binned_counts, get_binned_label, with_selection
from torusimaging_torch.simulate import HarmonicOscillator, VerticalPotential, simulate_stars
from torusimaging_torch.simulate.stars import ExponentialActions

Array = NDArray[np.floating]

HEIGHTS = np.array([0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0]) * u.kpc
EDGES = {
    "pos": np.linspace(-2.5, 2.5, 101) * u.kpc,
    "vel": np.linspace(-110, 110, 101) * u.km / u.s,
}
DISK = VerticalPotential(GALAXY, R=8.275 * u.kpc)
OSCILLATOR = HarmonicOscillator(0.08 * u.rad / u.Myr)


@dataclass(frozen=True)
class PaperLabel:
    """The mean label of the papers, by the amplitude of a harmonic orbit of the same action."""

    omega: float  # 1/Myr

    def __call__(self, J: u.Quantity) -> Array:
        """Return mean labels of actions."""
        return 0.064 * np.sqrt(2 * J.to_value(u.kpc**2 / u.Myr) / self.omega) + 0.009


def paper_errors(n: int, rng: Generator) -> Array:
    """Draw label errors."""
    return np.exp(rng.normal(-4, 0.5, n))


def seen(pos: u.Quantity) -> Array:
    """Return the selection function of the papers' second test."""
    return np.minimum(1, ((np.abs(pos.to_value(u.kpc)) + 0.15) / 2) ** 2)


def binned(truth: Any, n: int, seed: int, selection: Any = None) -> tuple[Any, Any]:
    """Return binned labels and star counts."""
    plane = float(np.sqrt(-truth.acceleration_gradient(0 * u.kpc).to_value(u.Myr**-2)))
    stars = simulate_stars(
        truth,
        n,
        df=ExponentialActions([0.008, 0.030] * u.kpc**2 / u.Myr),
        label=PaperLabel(plane),
        label_scatter=0.05,
        label_err=paper_errors,
        selection=selection,
        seed=seed,
    )
    where = stars["z"], stars["v_z"]
    label = get_binned_label(*where, stars["label"], EDGES, label_err=stars["label_err"])
    counts = get_binned_counts(*where, EDGES)
    return label, counts if selection is None else with_selection(counts, selection, 0.0)


def with_stiff_label(label: Any, counts: Any) -> Fit:
    """Fit a potential to the labels, with a quadratic spline of as many knots as by default."""
    model, bounds, start = TorusImaging1DPotential.auto_init(label, label_spline="quadratic")
    return model, bounds, model.optimize(start, "gaussian", bounds, **label), label, "gaussian"


def with_known_selection(label: Any, counts: Any) -> Fit:
    """Fit a potential to labels and star counts with their own selection function."""
    data = {"label": label, "counts": counts}
    model, bounds, start = TorusImaging1DPotential.auto_init(data)
    return model, bounds, model.optimize(start, BOTH, bounds, data=data), data, BOTH


CASES: list[tuple[str, Any, int, Any, dict[str, Callable[..., Fit]]]] = [
    (
        "disk",
        DISK,
        7_000_000,
        None,
        {
            "ellipses": torus,
            "potential": potential,
            "potential, quadratic label": with_stiff_label,
            "potential, with counts": with_counts,
        },
    ),
    (
        "disk",
        DISK,
        700_000,
        None,
        {"ellipses": torus, "potential": potential, "potential, quadratic label": with_stiff_label},
    ),
    (
        "disk, selection by height",
        DISK,
        3_500_000,
        seen,
        {
            "ellipses": torus,
            "potential": potential,
            "potential, with counts": with_known_selection,
        },
    ),
    ("oscillator", OSCILLATOR, 2**20, None, {"ellipses": torus, "potential": potential}),
]


def main() -> None:
    """Measure, and write the table if asked to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--quick", action="store_true", help="one seed, a hundredth of the stars")
    parser.add_argument("--only", help="stars of this kind; nothing is written then")
    parser.add_argument("--write", action="store_true", help="write the results")
    options = parser.parse_args()
    seeds, fewer = (1, 100) if options.quick else (options.seeds, 1)
    torch.set_num_threads(1)
    rows = []
    for kind, truth, n, selection, ways in CASES:
        if options.only not in (None, kind):
            continue
        true = truth.acceleration(HEIGHTS)
        errors: dict[str, list[Array]] = {way: [] for way in ways}
        for seed in range(seeds):
            data = binned(truth, n // fewer, seed, selection)
            for way, fit in ways.items():
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", RuntimeWarning)
                    model, _, (params, _), *_ = fit(*data)
                where = HEIGHTS + params["pos0"].item() * u.kpc
                miss = model.get_acceleration(where, params) / true - 1
                errors[way].append(100 * miss.to_value(""))
        for way, found in errors.items():
            row = {"stars of": kind, "number": n // fewer, "model": way}
            spread = np.std(found, axis=0) / np.sqrt(max(seeds - 1, 1))
            row |= {
                f"{z:g} kpc": f"{mean:+.1f} ± {error:.1f}"
                for z, mean, error in zip(
                    HEIGHTS.value, np.mean(found, axis=0), spread, strict=True
                )
            }
            print(*row.values(), sep="  ", flush=True)
            rows.append(row)
    if options.write and options.only is None:
        summary = (
            f"Errors of a_z in per cent by height: the mean of {seeds} seeds, and its standard "
            "error. Labels are those of the papers; pixels of 50 pc and 2.2 km/s reach to 2.5 kpc."
        )
        write_section("Disks with known answers", command_line(), summary, rows)


if __name__ == "__main__":
    main()
