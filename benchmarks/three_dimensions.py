"""How far off both models are where the motion in z does not separate: orbits in three dimensions.

Orbits are integrated by gala in a Miyamoto-Nagai disk with an NFW halo and followed for six Gyr;
stars are what passes through a ring, at any time, so that the sample is in equilibrium exactly,
whatever the orbits. Labels depend on <v_z^2>/Omega_z of the orbit, which is its vertical action
where the motion separates, and constant along it everywhere. Run as::

    python benchmarks/three_dimensions.py [--quick] [--stars 700000] [--seeds 1] [--write]
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import astropy.units as u
import gala.dynamics as gd
import gala.potential as gp
import numpy as np
import torch
from accuracy import Fit, potential, torus, with_counts
from gala.units import galactic
from numpy.typing import NDArray
from results_file import command_line, write_section

from torusimaging_torch import TorusImaging1DPotential
from torusimaging_torch.data import get_binned_counts, get_binned_label
from torusimaging_torch.simulate import VerticalPotential

Array = NDArray[np.float64]

GALAXY = gp.CCompositePotential(
    disk=gp.MiyamotoNagaiPotential(6.91e10 * u.Msun, 3 * u.kpc, 0.25 * u.kpc, units=galactic),
    halo=gp.NFWPotential(5.4e11 * u.Msun, 15 * u.kpc, units=galactic),
)
HALF_WIDTH = 0.25  # of the ring, kpc
STEP, N_STEPS, MIXED = 1.0, 8000, 2000  # Myr; stars are taken after the first two Gyr
BLOCK = 2000  # orbits that are in memory at a time
HEIGHTS = np.array([0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 1.1])
EDGES = {"pos": np.linspace(-1.5, 1.5, 81) * u.kpc, "vel": np.linspace(-90, 90, 81) * u.km / u.s}
SCATTER, ERROR = 0.04, 0.05
_KM_S = (1 * u.km / u.s).to_value(u.kpc / u.Myr)


class Disk(NamedTuple):
    """Dispersions in km/s at 8.3 kpc, of a thin and a thick part; they fall outwards.

    Of the stars those with abs(v_R) < 25 km/s and abs(R - R_g) < 1.5 kpc alone, if cut.
    """

    radial: tuple[float, float]
    vertical: tuple[float, float]
    cut: bool = False


DISKS = {
    "cold": Disk((25.0, 40.0), (13.0, 30.0)),
    "warm": Disk((38.0, 60.0), (18.0, 38.0)),
    "warm, cut": Disk((38.0, 60.0), (18.0, 38.0), cut=True),
}


def start(disk: Disk, R0: float, n: int, rng: np.random.Generator) -> gd.PhaseSpacePosition:
    """Draw orbits in the plane about a ring: an exponential disk, 15 per cent of it thick."""
    R = np.clip(R0 + rng.normal(0, 2.0, 4 * n), 1.0, None)
    R = rng.permutation(R[rng.uniform(size=len(R)) < np.exp(-(R - R.min()) / 2.6)])
    R = np.resize(R, n)  # orbits may begin at the same radius
    thick = rng.uniform(size=n) < 0.15
    falls = np.exp(-(R - 8.3) / 7.0)
    radial, vertical = (_KM_S * np.where(thick, s[1], s[0]) * falls for s in disk[:2])
    at = np.stack([R, 0 * R, 0 * R])
    v_c = GALAXY.circular_velocity(at * u.kpc).to_value(u.kpc / u.Myr)
    v_phi = np.sqrt(np.clip(v_c**2 - 3 * radial**2, 0, None)) + 0.7 * radial * rng.normal(size=n)
    v = np.stack([radial * rng.normal(size=n), v_phi, vertical * rng.normal(size=n)])
    return gd.PhaseSpacePosition(at * u.kpc, v * u.kpc / u.Myr)


def vertical_action(z: Array, v_z: Array) -> Array:
    """Return <v_z^2>/Omega_z of orbits (T, N), from the times of their first and last way up."""
    up = (z[:-1] < 0) & (z[1:] >= 0)
    step, orbit = np.nonzero(up)
    times = step + z[step, orbit] / (z[step, orbit] - z[step + 1, orbit])
    first = np.full(z.shape[1], np.inf)
    last = np.full(z.shape[1], -np.inf)
    np.minimum.at(first, orbit, times)
    np.maximum.at(last, orbit, times)
    period = STEP * (last - first) / np.maximum(up.sum(0) - 1, 1)
    return (v_z**2).mean(0) * period / (2 * np.pi)


def chosen(x: Array, v: Array, R0: float, cut: bool) -> NDArray[np.bool_]:
    """Return which stars are in the ring, and near circular orbits if they are cut."""
    R = np.hypot(x[0], x[1])
    inside = np.abs(R - R0) < HALF_WIDTH
    if cut:
        v_c = GALAXY.circular_velocity([R0, 0, 0] * u.kpc).to_value(u.kpc / u.Myr)
        R_g = (x[0] * v[1] - x[1] * v[0]) / v_c
        slow = np.abs(x[0] * v[0] + x[1] * v[1]) < 25 * _KM_S * R
        inside &= slow & (np.abs(R - R_g) < 1.5)
    return inside


def ring(disk: Disk, R0: float, n: int, n_orbits: int, seed: int) -> dict[str, Array]:
    """Return z, v_z and J of n stars in a ring, in kpc and Myr."""
    rng = np.random.default_rng(seed)
    found: dict[str, list[Array]] = {"z": [], "v_z": [], "J": []}
    for begin in range(0, n_orbits, BLOCK):
        w0 = start(disk, R0, min(BLOCK, n_orbits - begin), rng)
        orbits = GALAXY.integrate_orbit(w0, dt=STEP * u.Myr, n_steps=N_STEPS)
        x, v = orbits.xyz.value[..., MIXED:, :], orbits.v_xyz.value[..., MIXED:, :]
        J = vertical_action(x[2], v[2])
        here = np.nonzero(chosen(x, v, R0, disk.cut))
        keep = rng.choice(len(here[0]), min(len(here[0]), -(-n * BLOCK // n_orbits)), replace=False)
        here = tuple(index[keep] for index in here)
        found["z"].append(x[2][here])
        found["v_z"].append(v[2][here])
        found["J"].append(J[here[1]])
    stars = {name: np.concatenate(parts)[:n] for name, parts in found.items()}
    if len(stars["z"]) < n:
        raise RuntimeError(f"{len(stars['z'])} of {n} stars pass the ring: take more orbits")
    return stars


def binned(stars: dict[str, Array], seed: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return binned labels and star counts; the label is linear in the root of the action."""
    rng = np.random.default_rng(seed)
    error = ERROR * np.exp(0.3 * rng.normal(size=len(stars["z"])))
    noise = rng.normal(size=len(error)) * np.hypot(SCATTER, error)
    label = 0.02 + 0.9 * np.sqrt(stars["J"]) + noise
    z, v_z = stars["z"] * u.kpc, stars["v_z"] * u.kpc / u.Myr
    return get_binned_label(z, v_z, label, EDGES, label_err=error), get_binned_counts(z, v_z, EDGES)


def hybrid(label: Any, counts: Any) -> Fit:
    """Fit a potential with corrections of orders two and four to the labels."""
    model, bounds, first = TorusImaging1DPotential.auto_init(label, e_knots={2: 4, 4: 4})
    return model, bounds, model.optimize(first, "gaussian", bounds, **label), label, "gaussian"


WAYS: dict[str, tuple[Callable[..., Fit], str]] = {
    "ellipses and harmonics": (torus, "turning"),
    "the same, energy formula": (torus, "energy"),
    "potential": (potential, "turning"),
    "potential and harmonics": (hybrid, "turning"),
    "potential, with counts": (with_counts, "turning"),
}


def errors_of(stars: dict[str, Array], R0: float, seed: int) -> dict[str, Array]:
    """Return the errors of the acceleration at all heights, in per cent, by way."""
    data = binned(stars, seed)
    truth = VerticalPotential(GALAXY, R=R0 * u.kpc).acceleration(HEIGHTS * u.kpc)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        fits = {fit: fit(*data) for fit, _ in WAYS.values()}
    found = {}
    for way, (fit, method) in WAYS.items():
        model, _, (params, _), *_ = fits[fit]
        where = HEIGHTS * u.kpc + params["pos0"].item() * u.kpc
        a = model.get_acceleration(where, params, method=method)
        found[way] = 100 * (a / truth - 1).to_value("")
    return found


def main() -> None:
    """Measure, and write the tables if asked to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one ring, few stars")
    parser.add_argument("--stars", type=int, default=700_000)
    parser.add_argument("--orbits", type=int, default=40_000)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--radii", type=float, nargs="*", default=[6.0, 8.3, 10.0])
    parser.add_argument("--write", action="store_true", help="write the results")
    options = parser.parse_args()
    if options.quick:
        options.stars, options.orbits, options.radii = 30_000, 500, [8.3]
    torch.set_num_threads(1)
    rows, means = [], []
    for name, disk in DISKS.items():
        for R0 in options.radii:
            found = [
                errors_of(ring(disk, R0, options.stars, options.orbits, seed), R0, seed)
                for seed in range(options.seeds)
            ]
            for way in WAYS:
                errors = np.array([one[way] for one in found])
                mean = errors[:, HEIGHTS > 0.15].mean(1)
                row = {"disk": name, "R [kpc]": R0, "model": way}
                row |= {
                    f"{z:g} kpc": f"{e:+.1f}" for z, e in zip(HEIGHTS, errors.mean(0), strict=True)
                }
                rows.append(row | {"mean": f"{mean.mean():+.1f}", "scatter": f"{mean.std():.1f}"})
                print(*rows[-1].values(), sep="  ", flush=True)
            means += [
                [one[way][HEIGHTS > 0.15].mean() for way in ("ellipses and harmonics", "potential")]
                for one in found
            ]
    ellipses, sheets = np.array(means).T
    summary = (
        f"Errors of a_z in per cent by height, of {options.stars} stars, means of {options.seeds} "
        f"seeds; the mean is that over 0.2-1.1 kpc, and the scatter that of the seeds about it. "
        f"The truth lies between both models' means in {np.sum(ellipses * sheets < 0)} of "
        f"{len(means)} mocks; their difference is {np.abs(ellipses - sheets).mean():.1f} % in the "
        f"mean, the error of the potential {np.abs(sheets).mean():.1f} %, that of the ellipses "
        f"{np.abs(ellipses).mean():.1f} %."
    )
    print(summary)
    if options.write:
        write_section("Orbits in three dimensions", command_line(), summary, rows)


if __name__ == "__main__":
    main()
