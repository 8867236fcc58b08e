"""The problems that the speeds are those of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import astropy.units as u
import numpy as np
from disk_mock import SETTINGS, read_mock

from torusimaging_torch import TorusImaging1DSpline
from torusimaging_torch.data import get_binned_label
from torusimaging_torch.simulate import milky_way_disk

MODEL = SETTINGS | {"label_knots": 9}
"""The published shape of work: 22 parameters."""
MODELS = {
    splines: SETTINGS | {"knots": "upstream", "e_spline": splines}
    for splines in ("quadratic", "cubic")
}
"""With upstream's knots: the model that upstream fits, too, and the same with our splines."""
POSITIONS = np.linspace(0.01, 1.2, 100) * u.kpc


@dataclass(frozen=True)
class Problem:
    """Binned data, its usable pixels as bare arrays, and the true acceleration at heights z."""

    binned: dict[str, Any]
    pixels: dict[str, Any]
    z: np.ndarray
    truth: np.ndarray

    @classmethod
    def mock(cls) -> Problem:
        """Return the disk mock."""
        binned, pixels, truth = read_mock()
        z = np.linspace(0.05, 1.1, 200)
        return cls(binned, pixels, z, np.interp(z, truth["z"], truth["az"]))

    @classmethod
    def quick(cls) -> Problem:
        """Return a small problem of the same kind, without files."""
        stars = milky_way_disk(20_000, R=8.3 * u.kpc, seed=1)
        edges = {
            "pos": np.linspace(-1.5, 1.5, 41) * u.kpc,
            "vel": np.linspace(-90, 90, 41) * u.km / u.s,
        }
        binned = get_binned_label(
            stars["z"], stars["v_z"], stars["label"], edges, label_err=stars["label_err"]
        )
        label, err = np.asarray(binned["label"]), np.asarray(binned["label_err"])
        usable = np.isfinite(label) & np.isfinite(err) & (err > 0)
        pixels = {
            "pos": binned["pos"].to_value(u.kpc)[usable],
            "vel": binned["vel"].to_value(u.kpc / u.Myr)[usable],
            "label": label[usable],
            "label_err": err[usable],
        }
        z = np.linspace(0.05, 1.1, 200)
        return cls(binned, pixels, z, np.full_like(z, np.nan))


def simulated(n_pixels: int) -> tuple[Any, dict[str, np.ndarray], dict[str, Any]]:
    """Return a model with 60 parameters, pixels, and parameters."""
    n = {2: 26, 4: 12}
    model = TorusImaging1DSpline(
        np.linspace(0, 0.5, 21),
        {m: np.linspace(0, 0.5, k) for m, k in n.items()},
        {2: 1.0, 4: -1.0},
    )
    rng = np.random.default_rng(0)
    pixels = {
        "pos": rng.uniform(-1, 1, n_pixels),
        "vel": rng.uniform(-0.08, 0.08, n_pixels),
        "label": rng.normal(size=n_pixels),
        "label_err": rng.uniform(0.1, 0.2, n_pixels),
    }
    params = {
        "pos0": 0.01,
        "vel0": 0.001,
        "ln_Omega0": -2.5,
        "e_params": {m: {"vals": np.full(k - 1, -2.0)} for m, k in n.items()},
        "label_params": {"label_vals": np.linspace(0.1, 1, 21)},
    }
    return model, pixels, params
