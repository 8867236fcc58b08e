"""What errors of positions and velocities do to the force, and the width of pixels.

Milky Way disks of 200,000 stars are blurred, binned and fitted by the potential. Run as::

    python benchmarks/blur.py [--seeds 8] [--quick] [--write]
"""

from __future__ import annotations

import argparse
import warnings
from typing import Any

import astropy.units as u
import numpy as np
import torch
from results_file import command_line, write_section

from torusimaging_torch import TorusImaging1DPotential
from torusimaging_torch.data import get_binned_label
from torusimaging_torch.simulate import milky_way, milky_way_disk

RADIUS = 8.3 * u.kpc
HEIGHTS = np.array([0.1, 0.3, 0.5, 1.0]) * u.kpc
POS_MAX, VEL_MAX = 1.5 * u.kpc, 90 * u.km / u.s
N_BINS = 80
CASES = [
    *(("position", error * u.pc) for error in (0, 20, 40, 80, 150)),
    *(("velocity", error * u.km / u.s) for error in (2.5, 5, 10)),
    *(("pixels", n) for n in (160, 40, 20)),
]


def stars_of(seed: int, n_stars: int, kind: str, size: Any) -> tuple[Any, ...]:
    """Return positions, velocities, labels and their errors, blurred."""
    stars, rng = milky_way_disk(n_stars, R=RADIUS, seed=seed), np.random.default_rng(seed)
    noise, z, v = rng.normal(size=len(stars)), stars["z"], stars["v_z"]
    z = z + noise * size if kind == "position" else z
    v = v + noise * size if kind == "velocity" else v
    return z, v, stars["label"], stars["label_err"]


def errors_of(seed: int, n_stars: int, kind: str, size: Any) -> list[float]:
    """Return the errors of the force at `HEIGHTS`, and of the midplane density, in per cent."""
    z, v, label, label_err = stars_of(seed, n_stars, kind, size)
    half = np.linspace(-1, 1, (size if kind == "pixels" else N_BINS) + 1)
    binned = get_binned_label(
        z, v, label, {"pos": half * POS_MAX, "vel": half * VEL_MAX}, label_err=label_err
    )
    model, bounds, start = TorusImaging1DPotential.auto_init(binned)
    params, _ = model.optimize(start, "gaussian", bounds, **binned)
    truth, pos0 = milky_way(RADIUS), params["pos0"].item() * u.kpc
    found = model.get_acceleration(HEIGHTS + pos0, params) / truth.acceleration(HEIGHTS)
    plane = model.get_density(pos0, params) / truth.density(0 * u.kpc)
    return [100 * (float(x) - 1) for x in (*found.to_value(""), plane.to_value(""))]


def row_of(kind: str, size: Any, errors: np.ndarray) -> dict[str, str]:
    """Return the row of one case, given errors (seeds, quantities)."""
    what = f"{size} x {size} pixels" if kind == "pixels" else f"errors of {kind}, {size:g}"
    names = [*(f"a_z({z.value:g} kpc)" for z in HEIGHTS), "density of the plane"]
    mean, scatter = errors.mean(0), errors.std(0, ddof=1) / np.sqrt(len(errors))
    row = {"what": what if size != 0 else "none"}
    row |= {k: f"{m:+.1f} ± {s:.1f}" for k, m, s in zip(names, mean, scatter, strict=True)}
    print(*row.values(), sep="  ", flush=True)
    return row


def main() -> None:
    """Measure, and write the table if asked to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--quick", action="store_true", help="two seeds, a tenth of the stars")
    parser.add_argument("--write", action="store_true", help="write the results")
    options = parser.parse_args()
    torch.set_num_threads(1)
    seeds, n_stars = (2, 20_000) if options.quick else (options.seeds, 200_000)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        rows = [
            row_of(*case, np.array([errors_of(seed, n_stars, *case) for seed in range(seeds)]))
            for case in CASES
        ]
    if options.write:
        summary = (
            f"Errors in per cent, means of {seeds} disks of {n_stars:,} stars with their standard "
            f"errors; {N_BINS} x {N_BINS} pixels of 38 pc and 2.3 km/s but where others are named. "
            "The same stars everywhere, so that differences are surer than each."
        )
        write_section("Blurred positions and velocities", command_line(), summary, rows)


if __name__ == "__main__":
    main()
