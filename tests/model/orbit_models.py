"""Tori without labels, with and without knots, and stars for the tests of orbits."""

from __future__ import annotations

import math

import torch

from torusimaging_torch.torus.orbital_torus import OrbitalTorus
from torusimaging_torch.torus.spline_functions import SplineEFunction

OMEGA0, POS0, VEL0, SCALE = 0.08, 0.03, -0.002, 0.4
MODELS = [
    ("pv", {2: 1.0, 4: -1.0}),
    ("vp", {2: -1.0, 4: -1.0}),
    ("vp", {1: 1.0, 2: -1.0, 3: 1.0}),
]


def tensor(x):
    return torch.as_tensor(x, dtype=torch.float64)


def smooth_e(r_e, a):
    return a * r_e**2 / (r_e**2 + SCALE**2)


def smooth_model(convention, amplitudes):
    """Return a model whose e functions have no knots, e_m = a_m r^2/(r^2 + SCALE^2)."""
    torus = OrbitalTorus(lambda r: r, dict.fromkeys(amplitudes, smooth_e), convention)
    params = {
        "pos0": tensor(POS0),
        "vel0": tensor(VEL0),
        "ln_Omega0": tensor(math.log(OMEGA0)),
        "e_params": {m: {"a": tensor(a)} for m, a in amplitudes.items()},
    }
    return torus, params


def spline_model(convention, signs, kind="cubic", seed=0, batch=(), size=-0.7):
    generator = torch.Generator().manual_seed(seed)
    e_funcs = {
        m: SplineEFunction(torch.linspace(0, 0.6, 6 if m < 3 else 4, dtype=torch.float64), s, kind)
        for m, s in signs.items()
    }

    def random(*shape):
        return torch.rand((*batch, *shape), generator=generator, dtype=torch.float64)

    params = {
        "pos0": 0.05 * random() - 0.02,
        "vel0": 0.005 * random(),
        "ln_Omega0": math.log(OMEGA0) + 0.1 * random(),
        "e_params": {
            m: {"vals": size - abs(m - 2) + 0.5 * random(f.spline.n_slopes)}
            for m, f in e_funcs.items()
        },
    }
    return OrbitalTorus(lambda r: r, e_funcs, convention), params


def random_stars(n, batch=(), seed=1, reach=0.9):
    generator = torch.Generator().manual_seed(seed)
    uniform = 2 * torch.rand(2, *batch, n, generator=generator, dtype=torch.float64) - 1
    return reach * uniform[0], reach * 0.08 * uniform[1]
