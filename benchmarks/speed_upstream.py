"""Upstream's side of speed.py, in an environment of its own; the last line it prints is JSON."""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import astropy.units as u
import jax
import numpy as np
from disk_mock import SETTINGS, read_mock
from jax.flatten_util import ravel_pytree

jax.config.update("jax_enable_x64", True)
from torusimaging import TorusImaging1DSpline  # noqa: E402


def cpu(run: Callable[[], Any], repeats: int) -> tuple[Any, float, float]:
    """Return what a call returns, the CPU time of the first, and the median of the later ones."""
    times = []
    for _ in range(1 + repeats):
        start = time.process_time()
        result = jax.block_until_ready(run())
        times.append(time.process_time() - start)
    return result, times[0], float(np.median(times[1:]))


def main() -> None:
    """Time upstream."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=3)
    repeats = parser.parse_args().repeats
    warnings.simplefilter("ignore")
    binned, pixels, truth = read_mock()
    init = partial(TorusImaging1DSpline.auto_init, binned, **SETTINGS)
    (model, bounds, start), cold, warm = cpu(init, repeats)
    rows = [("auto_init", "upstream", cold, warm, "")]
    floats = jax.tree_util.tree_map(lambda x: np.asarray(x, dtype=float), start)
    x0, unravel = ravel_pytree(floats)
    both = jax.jit(jax.value_and_grad(lambda x: model.objective_gaussian(unravel(x), **pixels)))
    (value, _), cold, warm = cpu(lambda: both(x0), 30 * repeats)
    reading = f"objective {float(value):.8f}, compiled by hand"
    rows.append(("value and gradient, 17 parameters", "upstream", cold, warm, reading))
    fit = partial(model.optimize, start, "gaussian", bounds, **pixels)
    result, cold, warm = cpu(lambda: fit(), repeats)
    z = np.linspace(0.05, 1.1, 200)
    a = np.asarray(model.get_acceleration(z * u.kpc, result.params).to_value(u.kpc / u.Myr**2))
    error = 100 * np.sqrt(np.mean((a / np.interp(z, truth["z"], truth["az"]) - 1) ** 2))
    objective = float(model.objective_gaussian(result.params, **pixels))
    reading = f"objective {objective:.8f}, a_z {error:.2g} %, success {bool(result.state.success)}"
    rows.append(("optimize", "upstream", cold, warm, reading))
    free, _, _ = TorusImaging1DSpline.auto_init(
        binned,
        label_knots=SETTINGS["label_knots"],
        e_knots=SETTINGS["e_knots"],
        e_knots_spacing_power=SETTINGS["e_knots_spacing_power"],
        regularization_func=False,
    )
    bound = partial(free.get_crlb, result.params, pixels)
    _, cold, warm = cpu(lambda: np.asarray(bound()), repeats)
    rows.append(("get_crlb", "upstream", cold, warm, "without its penalty"))
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
