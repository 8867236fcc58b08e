"""The disk mock and the model that the benchmarks fit to it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import astropy.units as u
import numpy as np

REPOSITORY = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("TORUSIMAGING_SHARED_DATA", REPOSITORY.parent / "shared" / "data"))
ORDERS = (2, 4)
SETTINGS: dict[str, Any] = {
    "label_knots": 4,
    "e_knots": {2: 8, 4: 4},
    "e_knots_spacing_power": 0.5,
    "label_l2_sigma": 1.0,
    "label_smooth_sigma": 0.5,
    "e_l2_sigmas": dict.fromkeys(ORDERS, 1.0),
    "e_smooth_sigmas": dict.fromkeys(ORDERS, 0.5),
    "dacc_strength": 1e2,
}


def read_mock() -> tuple[dict[str, Any], dict[str, Any], dict[str, np.ndarray]]:
    """Return the binned data, its usable pixels as bare arrays, and the true acceleration."""
    with np.load(SHARED / "disk_mock_upstream_binned.npz") as stored:
        raw = dict(stored)
    truth = {key: raw.pop(f"truth_{key}") for key in ("z", "az")}
    binned: dict[str, Any] = dict(raw)
    binned["pos"], binned["vel"] = raw["pos"] * u.kpc, raw["vel"] * u.kpc / u.Myr
    label, label_err = binned["label"], binned["label_err"]
    usable = np.isfinite(label) & np.isfinite(label_err) & (label_err > 0)
    keys = ("pos", "vel", "label", "label_err")
    return binned, {key: raw[key][usable] for key in keys}, truth
