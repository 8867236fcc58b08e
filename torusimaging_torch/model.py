"""The model as an astronomer uses it: quantities in, quantities out, upstream's names."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import astropy.units as u
import torch
from gala.units import UnitSystem, galactic
from torch import Tensor, nn

from torusimaging_torch import acceleration as dynamics
from torusimaging_torch.bounds import Box
from torusimaging_torch.distortion import check_e_funcs
from torusimaging_torch.fit import Fit, fit
from torusimaging_torch.lbfgs import Status
from torusimaging_torch.params import Layout, Params, batch_shape, function_params
from torusimaging_torch.posterior import Pixels, Posterior, make_likelihood
from torusimaging_torch.torus import OrbitalTorus
from torusimaging_torch.trainable import TrainableTorus
from torusimaging_torch.units import (
    as_unit_system,
    bounds_to_tensors,
    data_to_tensors,
    gravitational_constant,
    params_to_tensors,
    to_quantity,
    to_tensor,
)

__all__ = ["OptState", "OptStep", "TorusImaging1D", "no_regularization"]


def no_regularization(model: Any, params: Params) -> Tensor:
    """Return no penalty at all: zeros with shape (*B,)."""
    return torch.zeros_like(params["ln_Omega0"])


class OptState(NamedTuple):
    """How an optimization ended; tensors with shape (*B,) where a batch was fitted.

    Attributes
    ----------
    success
        Whether the fit converged.
    fun_val
        The objective -(ln L - R)/N at the end.
    iter_num, num_fun_eval
        Iterations and function evaluations.
    status
        A `~torusimaging_torch.lbfgs.Status`.
    message
        The status in words, and how many pixels were left out.
    expected_gain
        Nats of ln L - R still to be had.
    at_bound
        Names of the parameters that a bound holds back; in a batch, a list of them per problem.
    num_masked
        Number of pixels left out because they could not be used.
    """

    success: Any
    fun_val: Any
    iter_num: Any
    num_fun_eval: Any
    status: Any
    message: Any
    expected_gain: Any
    at_bound: Any
    num_masked: int


class OptStep(NamedTuple):
    """Result of an optimization: the parameters (nested dictionary of tensors) and its state."""

    params: dict[str, Any]
    state: OptState


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

    Notes
    -----
    Parameters are a nested dictionary ``{"pos0", "vel0", "ln_Omega0", "e_params": {m: {...}},
    "label_params": {...}}`` of numbers, arrays, tensors or quantities. Leaves with shape (*B,), and
    vectors with shape (*B, K), make a batch of problems; positions and velocities then have shape
    (*B, N) or (N,). Without a batch they may have any shape. Anything without a unit is taken to be
    in the model's unit system.

    The model is a `torch.nn.Module`: ``model.to("cuda")`` and ``model.to(torch.float32)`` decide
    where and how precisely it computes.
    """

    def __init__(
        self,
        label_func: Callable[..., Tensor],
        e_funcs: Mapping[int, Callable[..., Tensor]],
        regularization_func: Callable[..., Any] | None = None,
        units: UnitSystem = galactic,
        elliptical_angle_convention: str = "pv",
    ) -> None:
        super().__init__()
        self.torus = OrbitalTorus(label_func, e_funcs, elliptical_angle_convention)
        self.units = as_unit_system(units)
        self.regularization_func = regularization_func or no_regularization
        # An empty buffer that follows .to(): what a model without knots computes in.
        self.register_buffer("_like", torch.empty(0, dtype=torch.float64), persistent=False)

    _like: Tensor

    @property
    def elliptical_angle_convention(self) -> str:
        """Convention of the elliptical angle, "pv" or "vp"."""
        return self.torus.convention

    @property
    def label_func(self) -> nn.Module:
        """The label function."""
        return self.torus.label_func

    @property
    def e_funcs(self) -> dict[int, nn.Module]:
        """The functions e_m, by order."""
        return self.torus.distortion.e_funcs

    @property
    def _place(self) -> dict[str, Any]:
        return {"dtype": self._like.dtype, "device": self._like.device}

    def _tensor(self, value: Any, name: str, kind: str | None) -> Tensor:
        return to_tensor(value, name, kind, self.units, **self._place)

    def _params(self, params: Params) -> dict[str, Any]:
        return params_to_tensors(params, self.units, **self._place)

    def _quantity(self, value: Tensor, kind: str | None) -> u.Quantity:
        return to_quantity(value, kind, self.units)

    # -- labels ------------------------------------------------------------------------------

    def forward(self, pos: Any, vel: Any, params: Params) -> Tensor:
        """Return the label at each position and velocity; the same as `get_label`."""
        return self.get_label(pos, vel, params)

    def get_label(self, pos: Any, vel: Any, params: Params) -> Tensor:
        """Return the predicted label.

        Parameters
        ----------
        pos, vel
            Positions and velocities, with shape (*B, N).
        params
            Model parameters.

        Returns
        -------
        Tensor
            Labels with shape (*B, N), differentiable.

        Raises
        ------
        astropy.units.UnitConversionError
            If a quantity has the wrong dimension.
        """
        pos, vel = self._tensor(pos, "pos", "length"), self._tensor(vel, "vel", "velocity")
        return self.torus(pos, vel, self._params(params))

    def compute_elliptical(
        self, pos: Any, vel: Any, params: Params
    ) -> tuple[u.Quantity, u.Quantity]:
        r"""Return the elliptical radius r_e and the elliptical angle theta_e.

        Parameters
        ----------
        pos, vel
            Positions and velocities, with shape (*B, N).
        params
            Model parameters.

        Returns
        -------
        r_e, theta_e
            Quantities with shape (*B, N): in length (angle/time)^(1/2), since :math:`r_e^2` is a
            squared length times a frequency, and in angle from -pi to pi.
        """
        pos, vel = self._tensor(pos, "pos", "length"), self._tensor(vel, "vel", "velocity")
        p = self._params(params)
        r_e, theta_e = self.torus.transform(pos, vel, p["pos0"], p["vel0"], p["ln_Omega0"])
        return self._quantity(r_e, "elliptical radius"), self._quantity(theta_e, "angle")

    # -- dynamics ----------------------------------------------------------------------------

    def get_acceleration(self, pos: Any, params: Params) -> u.Quantity:
        """Return the acceleration at ``pos`` (*B, N), in the limit of zero velocity."""
        pos, p = self._tensor(pos, "pos", "length"), self._params(params)
        return self._quantity(dynamics.acceleration(self.torus, pos, p), "acceleration")

    def get_acceleration_deriv(self, pos: Any, params: Params) -> u.Quantity:
        """Return the derivative of the acceleration by position, at ``pos`` (*B, N)."""
        pos, p = self._tensor(pos, "pos", "length"), self._params(params)
        gradient = dynamics.acceleration_gradient(self.torus, pos, p)
        return self._quantity(gradient, "acceleration gradient")

    def get_density(self, pos: Any, params: Params) -> u.Quantity:
        """Return the total mass density at ``pos`` (*B, N), from Poisson's equation in one dimension.

        What the radial terms of the Poisson equation add is left out.
        """
        pos, p = self._tensor(pos, "pos", "length"), self._params(params)
        G = gravitational_constant(self.units)
        return self._quantity(dynamics.density(self.torus, pos, p, G), "density")

    def get_surface_density(self, pos: Any, params: Params) -> u.Quantity:
        """Return the mass per area between -pos and pos, measured from the midplane pos0."""
        pos, p = self._tensor(pos, "pos", "length"), self._params(params)
        G = gravitational_constant(self.units)
        return self._quantity(dynamics.surface_density(self.torus, pos, p, G), "surface density")

    def get_potential(self, pos: Any, params: Params) -> u.Quantity:
        """Return the potential at ``pos`` (*B, N), zero at the midplane pos0."""
        pos, p = self._tensor(pos, "pos", "length"), self._params(params)
        return self._quantity(dynamics.potential(self.torus, pos, p), "potential")

    def check_e_funcs(self, e_params: Params, r_e_max: Any) -> tuple[Any, Any]:
        r"""Check that orbits do not cross, :math:`dr/dr_e > 0` out to ``r_e_max``.

        Parameters
        ----------
        e_params
            Parameters of each e function, by order.
        r_e_max
            Largest elliptical radius to look at, with shape (*B,).

        Returns
        -------
        valid, checks
            Whether all is well (a bool, or a tensor with shape (*B,)), and
            :math:`dr/dr_e - 1` on a grid of radii and angles as a NumPy array.
        """
        r_e_max = self._tensor(r_e_max, "r_e_max", "elliptical radius")
        tensors = self._params({"e_params": e_params})["e_params"]
        with torch.no_grad():
            valid, checks = check_e_funcs(self.torus.distortion, tensors, r_e_max)
        return (bool(valid) if valid.ndim == 0 else valid), checks.cpu().numpy()

    # -- likelihoods -------------------------------------------------------------------------

    def _posterior(self, objective: str, layout: Layout, n_batch: int, data: Any) -> Posterior:
        likelihood = make_likelihood(objective)
        tensors = data_to_tensors(data, likelihood.observed, self.units, **self._place)
        return Posterior(self, likelihood, layout, Pixels.clean(likelihood, tensors, n_batch))

    def _evaluate(self, objective: str, what: str, params: Params, data: Any) -> Tensor:
        p = self._params(params)
        layout = Layout.of(p)
        posterior = self._posterior(objective, layout, len(batch_shape(p)), data)
        if what == "likelihood":
            return posterior.ln_likelihood(p)
        return posterior.objective(layout.flatten(p))

    def ln_gaussian_likelihood(
        self, params: Params, pos: Any, vel: Any, label: Any, label_err: Any
    ) -> Tensor:
        r"""Return :math:`-\frac12\sum((y - l)/\sigma)^2`, with shape (*B,).

        Parameters
        ----------
        params
            Model parameters.
        pos, vel, label, label_err
            Pixels or stars, with shape (*B, N). Those that are not finite count as zero.
        """
        data = {"pos": pos, "vel": vel, "label": label, "label_err": label_err}
        return self._evaluate("gaussian", "likelihood", params, data)

    def ln_poisson_likelihood(self, params: Params, pos: Any, vel: Any, counts: Any) -> Tensor:
        """Return the log-likelihood of star counts if the label is the log expected count.

        Parameters
        ----------
        params
            Model parameters.
        pos, vel, counts
            Pixels, with shape (*B, N).

        Returns
        -------
        Tensor
            ln L with shape (*B,).
        """
        data = {"pos": pos, "vel": vel, "counts": counts}
        return self._evaluate("poisson", "likelihood", params, data)

    def objective_gaussian(
        self, params: Params, pos: Any, vel: Any, label: Any, label_err: Any
    ) -> Tensor:
        """Return -(ln L - R)/N for Gaussian labels, N the number of usable pixels; shape (*B,)."""
        data = {"pos": pos, "vel": vel, "label": label, "label_err": label_err}
        return self._evaluate("gaussian", "objective", params, data)

    def objective_poisson(self, params: Params, pos: Any, vel: Any, counts: Any) -> Tensor:
        """Return -(ln L - R)/N for star counts, N the number of usable pixels; shape (*B,)."""
        data = {"pos": pos, "vel": vel, "counts": counts}
        return self._evaluate("poisson", "objective", params, data)

    # -- fitting -----------------------------------------------------------------------------

    @classmethod
    def unpack_bounds(cls, bounds: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Split a dictionary of (lower, upper) pairs into one of lower and one of upper bounds.

        Raises
        ------
        ValueError
            If a leaf is not a pair.
        """
        return bounds_to_tensors(bounds)

    def optimize(
        self,
        params0: Params,
        objective: str,
        bounds: Mapping[str, Any] | tuple[Mapping[str, Any], Mapping[str, Any]] | None = None,
        jaxopt_kwargs: Mapping[str, Any] | None = None,
        *,
        max_iter: int = 500,
        tol: float = 1e-9,
        history: int = 20,
        compile: bool = False,
        progress: bool = False,
        **data: Any,
    ) -> OptStep:
        """Find the parameters that maximize ln L - R within their bounds.

        L-BFGS in Fisher-whitened logistic coordinates; see `torusimaging_torch.fit`.

        Parameters
        ----------
        params0
            Start. With a batch shape (*B,), a batch of independent fits.
        objective
            "gaussian" (data pos, vel, label, label_err) or "poisson" (pos, vel, counts).
        bounds
            A dictionary of (lower, upper) pairs, or a pair of dictionaries, or None. A parameter
            that is left out has no bounds.
        jaxopt_kwargs
            Upstream's: ``maxiter`` and ``tol`` are taken over, anything else raises.
        max_iter
            Largest number of iterations.
        tol
            Gain in nats of ln L - R that may still be expected at the end.
        history
            Number of steps from which L-BFGS estimates the curvature.
        compile
            Whether to compile the posterior with `torch.compile` first: it takes a minute.
        progress
            Whether to report on standard error as the fit goes on.
        **data
            The data, with shape (*B, N). Pixels that are not finite are left out, and counted in
            the state. A dictionary from `torusimaging_torch.data` can be passed as it is.

        Returns
        -------
        OptStep
            ``params`` and ``state``. A fit that did not converge warns and says so in its state.

        Raises
        ------
        ValueError
            If a start lies outside its bounds, bounds do not match the parameters, or no pixel can
            be used.
        astropy.units.UnitConversionError
            If a quantity has the wrong dimension.
        """
        max_iter, tol = _upstream_options(jaxopt_kwargs, max_iter, tol)
        p = self._params(params0)
        layout = Layout.of(p)
        n_batch = len(batch_shape(p))
        posterior = self._posterior(objective, layout, n_batch, data)
        if compile:
            posterior.compile()
        lower, upper = self._bound_vectors(bounds, layout)
        x0 = layout.flatten(p).detach()
        box = Box(lower, upper, layout.names)
        result = fit(
            posterior,
            box,
            box.nudge_inside(x0),
            tol=tol,
            max_iter=max_iter,
            history=history,
            callback=_report if progress else None,
        )
        _warn_failed(result)
        return OptStep(layout.unflatten(result.x), _state(result, posterior, layout))

    def _bound_vectors(self, bounds: Any, layout: Layout) -> tuple[Tensor, Tensor]:
        lower, upper = bounds_to_tensors(bounds or {}, self.units, **self._place)
        return (
            layout.fill(lower, -torch.inf, self._like),
            layout.fill(upper, torch.inf, self._like),
        )

    def as_module(self, params: Params, bounds: Any = None) -> TrainableTorus:
        """Return a module whose parameters are this model's, for any torch optimizer.

        Parameters
        ----------
        params
            Initial values.
        bounds
            As in `optimize`. The module's parameters are unconstrained coordinates of the box.

        Returns
        -------
        TrainableTorus
            Maps positions and velocities in model units to labels.
        """
        p = self._params(params)
        layout = Layout.of(p)
        lower, upper = self._bound_vectors(bounds, layout)
        box = Box(lower, upper, layout.names)
        start = layout.unflatten(box.nudge_inside(layout.flatten(p)))
        return TrainableTorus(self.torus, start, layout.unflatten(lower), layout.unflatten(upper))

    # -- names that upstream's users rely on -------------------------------------------------

    def _bare(self, value: Any) -> Tensor:
        return self._tensor(value, "argument", None)

    def _get_label(self, pos: Any, vel: Any, params: Params) -> Tensor:
        return self.get_label(pos, vel, params)

    def _get_elliptical_coords(
        self, pos: Any, vel: Any, pos0: Any, vel0: Any, ln_Omega0: Any
    ) -> tuple[Tensor, Tensor]:
        return self.torus.transform(*map(self._bare, (pos, vel, pos0, vel0, ln_Omega0)))

    def _get_es(self, r_e: Any, e_params: Params) -> dict[int, Tensor]:
        tensors = self._params({"e_params": e_params})["e_params"]
        return self.torus.distortion.es(self._bare(r_e), tensors)

    def _get_r(self, r_e: Any, theta_e: Any, e_params: Params) -> Tensor:
        tensors = self._params({"e_params": e_params})["e_params"]
        return self.torus.distortion(self._bare(r_e), self._bare(theta_e).cos(), tensors)

    def _get_pos(
        self, r: Any, theta_e: Any, params: Params, Bisection_kwargs: Any = None
    ) -> Tensor:
        return self._phase_space(r, theta_e, params)[0]

    def _get_vel(
        self, r: Any, theta_e: Any, params: Params, Bisection_kwargs: Any = None
    ) -> Tensor:
        return self._phase_space(r, theta_e, params)[1]

    def _phase_space(self, r: Any, theta_e: Any, params: Params) -> tuple[Tensor, Tensor]:
        p = self._params(params)
        r, theta_e = torch.broadcast_tensors(self._bare(r), self._bare(theta_e))
        r_e = self.torus.distortion.invert(r, theta_e.cos(), function_params(p, "e_params"))
        return self.torus.transform.inverse(r_e, theta_e, p["pos0"], p["vel0"], p["ln_Omega0"])

    def _get_dacc_dpos_vmap(self, pos: Any, params: Params) -> Tensor:
        pos, p = self._tensor(pos, "pos", "length"), self._params(params)
        return dynamics.acceleration_gradient(self.torus, pos, p)


def _upstream_options(
    options: Mapping[str, Any] | None, max_iter: int, tol: float
) -> tuple[int, float]:
    """Take over the two options of upstream's optimizer that have a counterpart here."""
    if options is None:
        return max_iter, tol
    unknown = sorted(set(options) - {"maxiter", "tol"})
    if unknown:
        raise ValueError(
            f"jaxopt_kwargs {unknown} have no counterpart: the optimizer is L-BFGS in whitened "
            "coordinates; use the arguments max_iter, tol (nats) and history of optimize instead"
        )
    warnings.warn(
        "jaxopt_kwargs is deprecated: use the arguments max_iter and tol (nats) of optimize",
        DeprecationWarning,
        stacklevel=3,
    )
    return options.get("maxiter", max_iter), options.get("tol", tol)


def _report(result: Fit) -> None:
    """Print one line about how far the fits are."""
    running = int((result.status == Status.RUNNING).sum())
    gain = float(result.expected_gain.max())
    value = float(result.log_prob.mean())
    print(
        f"iteration {int(result.nit.max()):4d}: {running} running, mean ln L - R = {value:.3f}, "
        f"largest expected gain {gain:.1e} nats",
        file=sys.stderr,
        flush=True,
    )


def _warn_failed(result: Fit) -> None:
    failed = int((~result.success).sum())
    if failed:
        codes = sorted({int(code) for code in result.status[~result.success].reshape(-1)})
        reasons = "; ".join(Status(code).message for code in codes)
        warnings.warn(
            f"{failed} of {result.status.numel()} fits did not converge ({reasons}); their state "
            "says which",
            RuntimeWarning,
            stacklevel=3,
        )


def _state(result: Fit, posterior: Posterior, layout: Layout) -> OptState:
    single = result.status.ndim == 0
    n_masked = posterior.pixels.n_masked
    masked = f"; {n_masked} pixels without usable data left out" if n_masked else ""
    messages = [Status(int(s)).message + masked for s in result.status.reshape(-1)]
    held = [
        tuple(name for name, at in zip(layout.names, row, strict=True) if at)
        for row in result.at_bound.reshape(-1, layout.size).tolist()
    ]

    def value(tensor: Tensor) -> Any:
        return tensor.item() if single else tensor

    return OptState(
        success=value(result.success),
        fun_val=value(-result.log_prob / posterior.pixels.n),
        iter_num=value(result.nit),
        num_fun_eval=value(result.nfev),
        status=Status(int(result.status)) if single else result.status,
        message=messages[0] if single else messages,
        expected_gain=value(result.expected_gain),
        at_bound=held[0] if single else held,
        num_masked=n_masked,
    )
