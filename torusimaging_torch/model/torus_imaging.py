"""The model as an astronomer uses it: quantities in, quantities out, upstream's names."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from functools import partial

from gala.units import UnitSystem, galactic
from torch import Tensor, nn

from torusimaging_torch.likelihoods.penalty import PenaltyFunction, move_penalty, no_regularization
from torusimaging_torch.model import (
    data_sets,
    diagnostics,
    fitting,
    frequency_curve,
    laplace_check,
    orbit_tables,
    outliers,
    predictions,
    rotation,
    start,
    uncertainty,
    upstream_names,
)
from torusimaging_torch.model.border import Border
from torusimaging_torch.numerics.grad_mode import with_autograd
from torusimaging_torch.torus.at_knots import KnotMaps, knots_of
from torusimaging_torch.torus.orbital_torus import OrbitalTorus
from torusimaging_torch.torus.radial_function import RadialFunction
from torusimaging_torch.torus.transform import Transform

__all__ = ["TorusImaging1D"]

_PACKAGE = __name__.partition(".")[0]
# What a subclass is free to write: how it is made, and how it is shown.
_FREE = {"auto_init", "extra_repr"}


class TorusImaging1D(nn.Module):
    r"""An Orbital Torus Imaging model of one degree of freedom.

    Labels of stars are constant along orbits, so contours of the mean label in position and
    velocity are orbits. The model describes them as ellipses with a Fourier distortion,
    :math:`r = r_e (1 + \sum_m e_m(r_e) \cos m\theta_e)`, and the label as a function of r
    (Price-Whelan et al. 2021, arXiv:2012.00015; 2025, ApJ 979, 115).

    Parameters
    ----------
    label_func
        The label as a function of the distorted radius, called as ``label_func(r,
        **label_params)``, in torch operations.
    e_funcs
        For each order m the function :math:`e_m`, called as ``e_funcs[m](r_e, **e_params[m])``.
        Any set of non-negative orders works.
    regularization_func
        Called as ``regularization_func(model, params)``; returns the penalty R in nats that is
        taken off the log-likelihood. No penalty if not given. It may be replaced at any time.
    units
        The gala unit system of everything inside: kpc, Myr, solar mass and radian by default.
    elliptical_angle_convention
        "pv": the elliptical angle is zero on the velocity axis, as in upstream's 0.1; "vp": on
        the position axis, where odd orders are sound.
    transform
        What takes the place of the elliptical transform, if anything does.

    Notes
    -----
    Parameters are a nested dictionary ``{"pos0", "vel0", "ln_Omega0", "e_params": {m: {...}},
    "label_params": {...}}`` of numbers, arrays, tensors or quantities. Leaves with shape (*B,), and
    vectors with shape (*B, K), make a batch of problems; positions and velocities then have shape
    (*B, N) or (N,). Without a batch they may have any shape. Anything without a unit is taken to be
    in the model's unit system.

    The model is a `torch.nn.Module`: ``model.to("cuda")`` and ``model.to(torch.float32)`` decide
    where and how precisely it computes.

    Examples
    --------
    A model with a label function of one's own, and ellipses without distortion.

    >>> from torusimaging_torch import TorusImaging1D
    >>> plain = TorusImaging1D(lambda r, l0, l1: l0 + l1 * r, {})
    >>> circle = {"pos0": 0.0, "vel0": 0.0, "ln_Omega0": -2.5, "e_params": {}}
    >>> circle["label_params"] = {"l0": 0.1, "l1": 0.5}
    >>> plain.get_label(500 * u.pc, 10 * u.km / u.s, circle).round(decimals=4)
    tensor(0.1738, dtype=torch.float64)
    """

    @with_autograd
    def __init__(
        self,
        label_func: Callable[..., Tensor],
        e_funcs: Mapping[int, Callable[..., Tensor]],
        regularization_func: PenaltyFunction | None = None,
        units: UnitSystem = galactic,
        elliptical_angle_convention: str = "pv",
        *,
        transform: Transform | None = None,
    ) -> None:
        super().__init__()
        self.torus = OrbitalTorus(label_func, e_funcs, elliptical_angle_convention, transform)
        self.border = Border(units)
        self.regularization_func = regularization_func or no_regularization
        self.knot_maps = KnotMaps(self.torus) if KnotMaps.fits(self.torus) else None

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> TorusImaging1D:
        """Move the penalty along with the modules: its tensors are none of theirs."""
        super()._apply(fn, recurse)
        self.regularization_func = move_penalty(self.regularization_func, self.border.like)
        return self

    # What the model says about places.
    forward = get_label = predictions.get_label
    compute_elliptical = predictions.compute_elliptical
    get_acceleration = predictions.get_acceleration
    get_acceleration_deriv = predictions.get_acceleration_deriv
    get_density = predictions.get_density
    get_surface_density = predictions.get_surface_density
    get_potential = predictions.get_potential
    get_radial_force = rotation.get_radial_force
    get_circular_velocity = rotation.get_circular_velocity
    get_guiding_radius = rotation.get_guiding_radius
    check_e_funcs = predictions.check_e_funcs
    compare_formulas = diagnostics.compare_formulas
    get_lowest_density = diagnostics.get_lowest_density
    at_knots = predictions.at_knots
    part = data_sets.part

    # The fit.
    estimate_init_params = start.estimate_init_params
    ln_gaussian_likelihood = fitting.ln_gaussian_likelihood
    ln_poisson_likelihood = fitting.ln_poisson_likelihood
    objective_gaussian = fitting.objective_gaussian
    objective_poisson = fitting.objective_poisson
    unpack_bounds = staticmethod(fitting.unpack_bounds)
    optimize = fitting.optimize
    fit_outliers = outliers.fit_outliers
    as_module = fitting.as_module
    posterior_at = fitting.posterior_at

    # Its errors.
    get_crlb = uncertainty.get_crlb
    get_crlb_uncertainties = uncertainty.get_crlb_uncertainties
    get_crlb_error_samples = uncertainty.get_crlb_error_samples
    check_laplace = laplace_check.check_laplace
    sample = uncertainty.sample
    mcmc_run_label = uncertainty.mcmc_run_label

    # Orbits.
    compute_action_angle = orbit_tables.compute_action_angle
    action_angle_function = orbit_tables.action_angle_function
    compute_phase_space = orbit_tables.compute_phase_space
    orbit = orbit_tables.orbit
    compute_frequency_curve = frequency_curve.compute_frequency_curve

    # Upstream's private names.
    _get_label = predictions.get_label
    _get_elliptical_coords = upstream_names.get_elliptical_coords
    _get_es = upstream_names.get_es
    _get_r = upstream_names.get_r
    _get_pos = upstream_names.get_pos
    _get_vel = upstream_names.get_vel
    _get_dacc_dpos_vmap = upstream_names.get_dacc_dpos

    # What it is made of.
    @property
    def units(self) -> UnitSystem:
        """The gala unit system of everything inside."""
        return self.border.units

    @property
    def elliptical_angle_convention(self) -> str:
        """Convention of the elliptical angle, "pv" or "vp"."""
        return self.torus.convention

    @property
    def label_func(self) -> RadialFunction:
        """The label function."""
        return self.torus.label_func

    @property
    def e_funcs(self) -> dict[int, RadialFunction]:
        """The functions e_m, by order."""
        return self.torus.distortion.e_funcs

    @property
    def label_knots(self) -> Tensor:
        """Knots of the label function, with shape (*B, K); raises if it has none."""
        return knots_of(self.label_func)

    @property
    def e_knots(self) -> dict[int, Tensor]:
        """Knots of each e_m that has some, by order, with shape (*B, K)."""
        return {m: f.knots for m, f in self.e_funcs.items() if f.knots is not None}

    def __repr__(self) -> str:
        """Show units, convention, functions with their knots and signs, and penalty."""
        parts = {
            "units": self.border.extra_repr(),
            "transform": repr(self.torus.transform),
            "label": repr(self.label_func),
            **{f"e_{m}": repr(f) for m, f in self.e_funcs.items()},
            "penalty": _describe(self.regularization_func),
        }
        lines = "".join(f"  {name}: {text}\n" for name, text in parts.items())
        return f"{type(self).__name__}(\n{lines})"

    def __init_subclass__(cls, **kwargs: object) -> None:
        """Warn of methods that a subclass overrides: the package calls functions, not these."""
        super().__init_subclass__(**kwargs)
        if cls.__module__.partition(".")[0] == _PACKAGE:
            return
        ours = [c for c in cls.__mro__[1:] if c.__module__.partition(".")[0] == _PACKAGE]
        names = {name for c in ours for name in vars(c) if not name.startswith("__")}
        overridden = sorted(names & set(vars(cls)) - _FREE)
        if overridden:
            warnings.warn(
                f"{cls.__name__} overrides {', '.join(overridden)}: the package itself does not "
                "call these methods, so its fits, errors and orbits stay as they were; pass your "
                "own label_func, e_funcs or regularization_func instead",
                UserWarning,
                stacklevel=2,
            )


def _describe(function: PenaltyFunction) -> str:
    """Return a penalty as it would be called."""
    if isinstance(function, partial):
        arguments = ", ".join(f"{name}={value!r}" for name, value in function.keywords.items())
        return f"{_describe(function.func)}({arguments})"
    return getattr(function, "__name__", repr(function))
