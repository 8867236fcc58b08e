"""What the placement of knots does at the edge, and what the kind of spline does to the density.

Fits the disk mock (shared/data/disk_mock_upstream_binned.npz) with knots as far as upstream places
them and as far as the data reach, with quadratic and with cubic splines. Prints the error of the
acceleration by position, and draws it beside the density. Run as::

    python benchmarks/edge.py [--out docs/_static/edge.png] [--write]
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import astropy.units as u
import numpy as np
from disk_mock import SETTINGS, read_mock
from matplotlib.figure import Figure
from results_file import write_section

from torusimaging_torch import TorusImaging1DSpline
from torusimaging_torch.simulate import milky_way

CASES = (("upstream", "quadratic"), ("data", "quadratic"), ("data", "cubic"))
RANGES = ((0.05, 0.9), (0.9, 1.0), (1.0, 1.1), (1.1, 1.2))


def fit(data: dict[str, Any], knots: str, e_spline: str) -> tuple[TorusImaging1DSpline, Any]:
    """Fit one case from `auto_init` alone."""
    model, bounds, init = TorusImaging1DSpline.auto_init(
        data, knots=knots, e_spline=e_spline, **SETTINGS
    )
    return model, model.optimize(init, "gaussian", bounds, **data)


def row(knots: str, e_spline: str, model: TorusImaging1DSpline, result: Any) -> dict[str, Any]:
    """Return a line of the table."""
    truth = milky_way(8.3 * u.kpc)
    last = model.e_knots[2][-1] / np.exp(0.5 * float(result.params["ln_Omega0"]))
    line: dict[str, Any] = {"knots": knots, "e spline": e_spline, "last knot": float(last) * u.kpc}
    line["objective"] = f"{result.state.fun_val:.6f}"
    for low, high in RANGES:
        z = np.linspace(low, high, 40) * u.kpc
        error = model.get_acceleration(z, result.params) / truth.acceleration(z) - 1
        line[f"{low}-{high} kpc"] = 100 * float(np.sqrt(np.mean(error**2))) * u.percent
    return line


def draw(fits: dict[tuple[str, str], Any]) -> Figure:
    """Draw the error of the acceleration and the density of each case."""
    truth = milky_way(8.3 * u.kpc)
    z = np.linspace(0.02, 1.25, 1000) * u.kpc
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    density = u.Msun / u.pc**3
    for ((knots, spline), (model, result)), color in zip(
        fits.items(), ("#999999", "#0072b2", "#d55e00"), strict=True
    ):
        label = f"{spline}, knots to {'upstream’s guess' if knots == 'upstream' else 'the data'}"
        error = model.get_acceleration(z, result.params) / truth.acceleration(z) - 1
        left.plot(z, 100 * error, color=color, label=label)
        right.plot(z, model.get_density(z, result.params).to(density), color=color, label=label)
    right.plot(z, truth.density(z).to(density), "k--", lw=1, label="truth")
    left.axhline(0, color="k", ls="--", lw=1)
    left.set(xlabel="z [kpc]", ylabel="error of $a_z$ [%]", ylim=(-12, 12))
    right.set(xlabel="z [kpc]", ylabel=r"$\rho$ [M$_\odot$ pc$^{-3}$]", yscale="log")
    right.set_ylim(3e-3, 0.2)
    for ax in (left, right):
        ax.axvline(1.2, color="0.8", lw=1, zorder=0)
    right.legend(frameon=False)
    return figure


def main() -> None:
    """Run the benchmark, print its table and draw its figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/_static/edge.png"))
    parser.add_argument("--write", action="store_true", help="write RESULTS.md's section")
    arguments = parser.parse_args()
    data = read_mock()[0]
    fits = {case: fit(data, *case) for case in CASES}
    rows = [row(*case, *found) for case, found in fits.items()]
    for line in rows:
        print(line)
    draw(fits).savefig(arguments.out, dpi=150)
    if arguments.write:
        summary = (
            "rms error of a_z by height. The data end at 1.2 kpc; beyond the last knot the model "
            "extrapolates."
        )
        write_section("Knots at the edge", "python benchmarks/edge.py --write", summary, rows)


if __name__ == "__main__":
    main()
