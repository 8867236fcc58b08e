"""Upstream's side of survey.py: fits disks of a folder; the last line that it prints is JSON."""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path

import astropy.units as u
import jax
import numpy as np
from disk_mock import SETTINGS

jax.config.update("jax_enable_x64", True)
from torusimaging import TorusImaging1DSpline  # noqa: E402


def main() -> None:
    """Fit each disk from upstream's own start."""
    warnings.simplefilter("ignore")
    found = []
    for path in sorted(Path(sys.argv[1]).glob("*.npz")):
        raw = dict(np.load(path))
        binned = raw | {"pos": raw["pos"] * u.kpc, "vel": raw["vel"] * u.kpc / u.Myr}
        good = np.isfinite(raw["label"]) & np.isfinite(raw["label_err"]) & (raw["label_err"] > 0)
        pixels = {key: raw[key][good] for key in ("pos", "vel", "label", "label_err")}
        model, bounds, start = TorusImaging1DSpline.auto_init(binned, **SETTINGS)
        result = model.optimize(start, "gaussian", bounds, **pixels)
        value = float(model.objective_gaussian(result.params, **pixels)) * len(pixels["pos"])
        found.append({"its own auto_init": (value, bool(result.state.success))})
    print(json.dumps(found))


if __name__ == "__main__":
    main()
