"""Make the stored Hessians of upstream's ``torusimaging`` 0.1, by JAX.

Run it in an environment where ``torusimaging`` can be imported::

    python tests/data/make_upstream_hessian.py

It writes ``upstream_hessian.npz`` beside itself. Upstream's own ``get_crlb`` raises with its
default penalty, since it hands scalars on as vectors: here its likelihood and penalty are given
what they expect, and JAX differentiates them.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

KNOTS = {
    "label_knots": np.linspace(0, 0.35, 4),
    "e_knots": {2: np.linspace(0, 0.35**0.5, 5) ** 2, 4: np.linspace(0, 0.35, 3)},
    "e_signs": {2: 1.0, 4: -1.0},
}
PENALTY: dict[str, Any] = {
    "label_l2_sigma": 1.0,
    "label_smooth_sigma": 0.5,
    "e_l2_sigmas": {2: 1.0, 4: 1.0},
    "e_smooth_sigmas": {2: 0.5, 4: 0.5},
    "dacc_strength": 1e2,
    "dacc_dpos_scale": 1e-4,
}


def make_data() -> dict[str, np.ndarray]:
    """Draw pixels with labels, and counts, that vary along ellipses."""
    rng = np.random.default_rng(11)
    pos, vel = (
        x.ravel() for x in np.meshgrid(np.linspace(-1, 1, 20), np.linspace(-0.07, 0.07, 20))
    )
    r = np.hypot(vel / 0.08**0.5, 0.9 * pos * 0.08**0.5)
    err = rng.uniform(0.01, 0.05, pos.size)
    return {
        "pos": pos,
        "vel": vel,
        "label": 0.02 + 0.7 * r + err * rng.normal(size=pos.size),
        "label_err": err,
        "counts": rng.poisson(np.exp(3 - 4 * r)).astype(float),
    }


def make_params() -> dict[str, Any]:
    """Return parameters near, not at, the optimum: every term of the Hessian is at work."""
    return {
        "pos0": np.array(0.01),
        "vel0": np.array(-0.001),
        "ln_Omega0": np.array(np.log(0.082)),
        "e_params": {
            2: {"vals": np.array([-1.2, -1.0, -1.4, -1.7])},
            4: {"vals": np.array([-2.5, -2.9])},
        },
        "label_params": {"label_vals": np.array([0.02, 0.7, 0.72, 0.65])},
    }


def main() -> None:
    """Differentiate and store."""
    import jax
    import jax.numpy as jnp
    from jax.flatten_util import ravel_pytree
    from torusimaging import TorusImaging1DSpline
    from torusimaging.model_spline import regularization_func_default

    jax.config.update("jax_enable_x64", True)
    penalty = partial(regularization_func_default, **PENALTY)
    model = TorusImaging1DSpline(**KNOTS, regularization_func=penalty)
    data = {key: jnp.array(value) for key, value in make_data().items()}
    flat, unravel = ravel_pytree(jax.tree_util.tree_map(jnp.array, make_params()))
    names = {"gaussian": ("label", "label_err"), "poisson": ("counts",)}
    answers = {"R": jax.hessian(lambda x: penalty(model, unravel(x)))(flat)}
    for objective, observed in names.items():
        used = {key: data[key] for key in ("pos", "vel", *observed)}
        ln_likelihood = getattr(model, f"ln_{objective}_likelihood")

        def minus_ln_likelihood(x: Any, f: Any = ln_likelihood, used: Any = used) -> Any:
            return -f(unravel(x), **used)

        answers[objective] = jax.hessian(minus_ln_likelihood)(flat)
    np.savez_compressed(
        Path(__file__).with_name("upstream_hessian.npz"),
        **{key: np.asarray(value) for key, value in answers.items()},
    )


if __name__ == "__main__":
    main()
