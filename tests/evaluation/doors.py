"""What users call that differentiates, on a small disk: for tests of threads and modes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import astropy.units as u
import numpy as np
from torch import Tensor

from disks import BOUNDS, draw, make_model, start
from torusimaging_torch import TorusImaging1DSpline
from torusimaging_torch.batch import fit_many
from torusimaging_torch.numerics.params import iter_leaves
from torusimaging_torch.results.profile_table import PROFILES, profiles

KINDS = ("full", "data", "expected", "sandwich")
POS = np.linspace(0.0, 0.9, 5) * u.kpc
SETTINGS = {
    "label_knots": 4,
    "e_knots": {2: 4},
    "label_l2_sigma": 1.0,
    "label_smooth_sigma": 0.5,
    "e_l2_sigmas": {2: 1.0},
    "e_smooth_sigmas": {2: 0.5},
}


def leaves(params: Any) -> list[Any]:
    return [leaf for _, leaf in iter_leaves(params)]


def as_arrays(result: Any) -> list[np.ndarray]:
    return [np.asarray(x.detach() if isinstance(x, Tensor) else x) for x in result]


class Doors:
    """The doors of a model that was fitted to a disk, each of which returns arrays."""

    def __init__(self) -> None:
        self.model = make_model()
        self.data = draw(self.model, "gaussian", n=12)
        self.params = self.model.optimize(start(), "gaussian", BOUNDS, **self.data).params
        self.covariance = self.model.get_crlb(self.params, self.data, hessian="expected")

    def every(self) -> dict[str, Callable[[], list[np.ndarray]]]:
        """Return them by name."""
        bounds = {
            f"get_crlb {kind} {who}": partial(self.bound, kind, who)
            for kind in KINDS
            for who in ((None, "autograd") if kind in ("full", "expected") else (None,))
        }
        return bounds | {
            "optimize": partial(self.optimize, None),
            "optimize by torch": partial(self.optimize, "torch"),
            "optimize by autograd": partial(self.optimize, "autograd"),
            "auto_init": self.auto_init,
            "profiles with errors": self.profiles,
            "fit_many": self.many,
            "sample": self.sample,
            "check_laplace": self.laplace,
        }

    def bound(self, kind: str, who: str | None) -> list[np.ndarray]:
        """Return the Cramer-Rao bound."""
        return as_arrays(
            [self.model.get_crlb(self.params, self.data, hessian=kind, evaluation=who)]
        )

    def optimize(self, who: str | None) -> list[np.ndarray]:
        """Return the optimum; by autograd, which is slow, what a few iterations reach."""
        settings = {"evaluation": who, "max_iter": 5 if who == "autograd" else 500}
        found = self.model.optimize(start(), "gaussian", BOUNDS, **settings, **self.data)
        return as_arrays([*leaves(found.params), found.state.fun_val])

    def auto_init(self) -> list[np.ndarray]:
        """Return the automatic start."""
        return as_arrays(leaves(TorusImaging1DSpline.auto_init(self.data, **SETTINGS)[2]))

    def profiles(self) -> list[np.ndarray]:
        """Return profiles with their errors."""
        table = profiles(self.model, self.params, POS, self.covariance)
        return [table[name + end].value for name in PROFILES for end in ("", "_err")]

    def many(self) -> list[np.ndarray]:
        """Return the optima of two subsamples."""
        result = fit_many([self.data, self.data], progress=False, tol=1e-9, **SETTINGS)
        return as_arrays([result.values["x"], result.values["fun_val"], result.covariance])

    def sample(self) -> list[np.ndarray]:
        """Return the first of a chain."""
        found = self.model.sample(
            self.data, self.params, BOUNDS, num_samples=4, num_warmup=0, max_tree_depth=2
        )
        return as_arrays([found.log_density])

    def laplace(self) -> list[np.ndarray]:
        """Return the densities behind the check of the bound."""
        check = self.model.check_laplace(self.params, self.data, bounds=BOUNDS, size=50)
        return as_arrays([check.x])
