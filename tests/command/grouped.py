"""Stars of three groups, and the command that fits each of them."""

from __future__ import annotations

import astropy.units as u
import numpy as np
from astropy.table import Table, vstack

from torusimaging_torch.command.main import main
from torusimaging_torch.simulate import simulate_stars
from torusimaging_torch.simulate.potentials import milky_way

RADII = (7.0, 8.0, 9.0)
N = 1500
COLUMNS = ["--pos", "z", "--vel", "v_z", "--label", "label", "--label-err", "label_err"]
GROUP = ["--group", "R_g: 7..9 step 1 kpc"]
COARSE = ["--n-bins", "12", "--e-knots", "2:3", "--label-knots", "3", "--pos-max", "1.2kpc"]
COARSE += ["--e-signs", "2:1"]


def draw_groups() -> Table:
    """Return a disk: stars around three radii, each in the force of its own."""
    rng = np.random.default_rng(0)
    parts = []
    for seed, radius in enumerate(RADII):
        part = simulate_stars(milky_way(radius * u.kpc), N, seed=seed)
        part["R_g"] = rng.uniform(radius - 0.25, radius + 0.25, N) * u.kpc
        part["field"] = rng.choice(["north", "south"], N)
        part.meta = {}
        parts.append(part["z", "v_z", "label", "label_err", "R_g", "field"])
    return vstack(parts)[rng.permutation(N * len(RADII))]


def batch(star_file, store, *more, columns=COLUMNS, group=GROUP) -> int:
    size = [] if "--shard-size" in more else ["--shard-size", "3"]
    options = [*columns, *group, *COARSE, *size, "--store", str(store), *more]
    return main(["batch", star_file, *options])
