"""The model with a potential inside the torus: density, force and orbits without a limit."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, cast

import torch
from gala.units import UnitSystem, galactic
from torch import Tensor

from torusimaging_torch.inference.pixels import Pixels
from torusimaging_torch.likelihoods.penalty import PenaltyFunction, no_regularization
from torusimaging_torch.likelihoods.potential_penalty import (
    LN_RHO_SIGMA,
    regularization_func_potential,
)
from torusimaging_torch.model import potential_start
from torusimaging_torch.model import start as initialize
from torusimaging_torch.model.border import Border
from torusimaging_torch.model.data_sets import are_several
from torusimaging_torch.model.joining import (
    add_selection_terms,
    join_data_sets,
    primary_of,
    selection_of,
)
from torusimaging_torch.model.known_applied import frame_known, of_frame, start_known
from torusimaging_torch.model.low_order import LowOrderFit
from torusimaging_torch.model.torus_imaging import TorusImaging1D
from torusimaging_torch.numerics.grad_mode import with_autograd
from torusimaging_torch.numerics.params import Nested, map_leaves
from torusimaging_torch.numerics.ranges import positive
from torusimaging_torch.torus.potential_ellipse import PotentialEllipse
from torusimaging_torch.torus.spline_functions import LinearEFunction, SplineLabelFunction
from torusimaging_torch.units import (
    BinnedData,
    Hold,
    Knots,
    LabelKnots,
    Numbers,
    Priors,
    as_unit_system,
    gravitational_constant,
    to_tensor,
)

__all__ = [
    "E_SIGMA",
    "LABEL_SPLINE",
    "N_SHEETS",
    "TorusImaging1DPotential",
    "regularization_func_potential",
]

E_SIGMA = 0.1
"""The correction e_m that is to be expected at the edge of the data."""
N_SHEETS = 6
"""Sheets with heights a factor of 1.9 apart. More are no better, and their prior biases more."""
LABEL_SPLINE = "cubic"
"""Quadratic splines need twice the knots to bend as the labels of millions of stars do."""


class TorusImaging1DPotential(TorusImaging1D):
    r"""Orbital Torus Imaging with a potential in place of the ellipse.

    The orbits of a disk whose vertical motion is separable are circles in the plane of velocity and
    the root of the potential, whatever its shape: no Fourier series has to follow them. The density
    is a sum of isothermal sheets and a constant, so it is positive and falls outwards; see
    `~torusimaging_torch.torus.potential_ellipse`.

    Parameters
    ----------
    label_knots
        Knots of the label function in r, with shape (K,), or (*B, K) for a batch of problems.
    heights
        Heights of the sheets, with shape (K,) or (*B, K).
    Omega
        Frequency of the plane, with shape () or (*B,): it fixes the unit of r and is no parameter.
    e_knots
        For each even order m the knots of a correction :math:`e_m` to the circles, with slopes of
        either sign; none by default.
    regularization_func
        Called as ``regularization_func(model, params)``; see `TorusImaging1D`.
    units
        The gala unit system.
    label_spline
        "quadratic" or "cubic".

    Notes
    -----
    Parameters are ``{"pos0", "vel0", "ln_rho", "label_params"}``, and ``e_params`` with e_knots.
    ``ln_rho`` has K + 1 entries: natural logs of densities in model units (solar masses per kpc^3),
    first that of the constant, then those of the sheets in the midplane.

    Raises
    ------
    ValueError
        If knots do not increase, a height is not positive, or an order is odd.

    Examples
    --------
    >>> import astropy.units as u
    >>> model = TorusImaging1DPotential([0, 0.2, 0.4], [0.3, 1.0] * u.kpc, 0.07 * u.rad / u.Myr)
    >>> params = {"pos0": 0 * u.pc, "vel0": 0 * u.km / u.s, "ln_rho": [15.0, 18.0, 17.0]}
    >>> params["label_params"] = {"label_vals": [0.1, 0.5, 0.7]}
    >>> print(model.get_density(0 * u.pc, params).to(u.Msun / u.pc**3).round(4))
    0.0931 solMass / pc3
    """

    @with_autograd
    def __init__(
        self,
        label_knots: Knots,
        heights: Numbers,
        Omega: object,
        e_knots: Mapping[int, Knots] | None = None,
        regularization_func: PenaltyFunction | None = None,
        units: UnitSystem = galactic,
        *,
        label_spline: str = LABEL_SPLINE,
    ) -> None:
        if odd := [m for m in e_knots or {} if m % 2]:
            raise ValueError(f"a correction of odd order says nothing about the force, got {odd}")
        units = as_unit_system(units)
        first = to_tensor(label_knots, "label_knots", "elliptical radius", units)
        tensor = partial(to_tensor, units=units, device=first.device)
        transform = PotentialEllipse(
            tensor(heights, "heights", "length"),
            tensor(Omega, "Omega", "frequency"),
            gravitational_constant(units),
        )
        knots = {
            m: tensor(x, f"e_knots[{m}]", "elliptical radius") for m, x in (e_knots or {}).items()
        }
        super().__init__(
            SplineLabelFunction(first, label_spline),
            {m: LinearEFunction(x) for m, x in knots.items()},
            regularization_func,
            units,
            transform=transform,
        )
        self.label_spline = label_spline
        self.to(first.device)

    @property
    def sheets(self) -> PotentialEllipse:
        """The transform, which knows the sheets."""
        return cast(PotentialEllipse, self.torus.transform)

    @property
    def heights(self) -> Tensor:
        """Heights of the sheets, with shape (*B, K), in model units."""
        return self.sheets.heights

    @property
    def Omega(self) -> Tensor:
        """Frequency of the plane, with shape () or (*B,), in model units."""
        return self.sheets.omega

    @classmethod
    @with_autograd
    def auto_init(
        cls,
        binned_data: BinnedData,
        label_knots: LabelKnots = 6,
        n_components: int = N_SHEETS,
        heights: Numbers | None = None,
        e_knots: Mapping[int, Knots] | None = None,
        regularization_func: PenaltyFunction | bool | None = None,
        units: UnitSystem = galactic,
        label_knots_spacing_power: float = 1.0,
        e_knots_spacing_power: float = 1.0,
        re_max_factor: float = 1.0,
        bounds: Mapping[str, Any] | None = None,
        *,
        elliptical_angle_convention: str = "pv",
        label_spline: str = LABEL_SPLINE,
        label_smooth_sigma: float | None = None,
        ln_rho_sigma: float = LN_RHO_SIGMA,
        e_sigma: float = E_SIGMA,
        priors: Priors | None = None,
        hold: Hold | None = None,
    ) -> tuple[TorusImaging1DPotential, Nested, Nested]:
        r"""Return a model, bounds and a start, from binned data; no other argument is needed.

        Parameters
        ----------
        binned_data
            Dictionary with keys pos, vel, and label and label_err, or counts; or several of them by
            name, which are fitted together: see `torusimaging_torch.model.data_sets`.
        label_knots, e_knots
            Number of knots of the label function and of each correction, or their positions.
        n_components, heights
            Number K of sheets, or their heights. By default they reach from 0.07 to 1.7 times the
            largest height of the data.
        regularization_func
            A penalty of one's own, called with (model, params). If not given,
            `regularization_func_potential` with the scales below. If False, none.
        units, label_knots_spacing_power, e_knots_spacing_power, re_max_factor, bounds, label_spline
            As in `TorusImaging1DSpline.auto_init`.
        elliptical_angle_convention
            "pv": a potential goes with no other one.
        label_smooth_sigma
            Scale of the change of the label's slope from knot to knot; its mean slope by default.
        ln_rho_sigma
            Standard deviation of the log densities, about a mean that makes the frequency.
        e_sigma
            Standard deviation of corrections at the edge of the data.
        priors, hold
            What is known beforehand, as in `optimize`: start and knots follow it, priors become a
            part of the model's penalty, and bounds of what is held are equal. So it need not be
            given again later on.

        Returns
        -------
        model, bounds, init_params
            ``bounds`` is a dictionary of (lower, upper) pairs.

        Raises
        ------
        ValueError
            If the convention is "vp", or no pixel can be used.

        Examples
        --------
        >>> auto, bounds, start = TorusImaging1DPotential.auto_init(data, n_components=3)
        >>> best, state = auto.optimize(start, "gaussian", bounds, **data)
        >>> state.success, start["ln_rho"].shape
        (True, torch.Size([4]))
        """
        if elliptical_angle_convention != "pv":
            raise ValueError(
                "a potential of one coordinate alone has circles in (velocity, root of the "
                "potential), symmetric in velocity: it needs elliptical_angle_convention='pv', got "
                f"{elliptical_angle_convention!r}; use TorusImaging1DSpline for radial data"
            )
        units = as_unit_system(units)
        if are_several(binned_data):
            several, primary = binned_data, primary_of(binned_data)
            own = label_knots.get(primary, 6) if isinstance(label_knots, Mapping) else label_knots
            options = (regularization_func, units, label_knots_spacing_power)
            one = cls.auto_init(
                several[primary],
                own,
                n_components,
                heights,
                e_knots,
                *options,
                e_knots_spacing_power,
                re_max_factor,
                bounds,
                label_spline=label_spline,
                label_smooth_sigma=label_smooth_sigma,
                ln_rho_sigma=ln_rho_sigma,
                e_sigma=e_sigma,
                priors=of_frame(priors),
                hold=of_frame(hold),
            )
            joined = join_data_sets(one, primary, several, label_knots)
            return start_known(*joined, priors, hold)
        known = frame_known(priors, hold, units)
        quick = initialize.low_order_fit(binned_data, units, known=known)
        initialize.warn_without_frequency(quick, units)
        border = Border(units).to(quick.pos0.device)
        pixels = initialize.label_pixels(border, binned_data)
        model = cls.of_pixels(
            pixels,
            quick,
            label_knots,
            n_components,
            heights,
            e_knots,
            no_regularization,
            units,
            label_knots_spacing_power,
            e_knots_spacing_power,
            re_max_factor,
            label_spline,
        )
        if regularization_func is None or regularization_func is True:
            smooth: float | Tensor | None = label_smooth_sigma
            if smooth is None:
                smooth = initialize.label_smoothness(quick, pixels)
            scales = model.penalty_scales(smooth, ln_rho_sigma, e_sigma)
            numbers = map_leaves(lambda x: float(x), scales)
            model.regularization_func = partial(regularization_func_potential, **numbers)
        elif regularization_func is not False:
            model.regularization_func = regularization_func
        found = potential_start.potential_bounds(model, quick, pixels)
        found = initialize.replace_bounds(found, bounds or {})
        start = potential_start.potential_start(model, quick, pixels, found)
        added = add_selection_terms(model, found, start, selection_of(binned_data))
        return start_known(*added, priors, hold)

    @classmethod
    def of_pixels(
        cls,
        pixels: Pixels,
        quick: LowOrderFit,
        label_knots: Knots,
        n_components: int,
        heights: Numbers,
        e_knots: Mapping[int, Knots] | None,
        regularization_func: PenaltyFunction,
        units: UnitSystem,
        label_knots_spacing_power: float = 1.0,
        e_knots_spacing_power: float = 1.0,
        re_max_factor: float = 1.0,
        label_spline: str = LABEL_SPLINE,
    ) -> TorusImaging1DPotential:
        """Return a model for pixels (*B, N), with heights and knots where their data are.

        Parameters
        ----------
        pixels, quick
            The data, as labels, and their low-order fit.
        label_knots, n_components, heights, e_knots, regularization_func, units
            As in `auto_init`, with a penalty that is complete.
        label_knots_spacing_power, e_knots_spacing_power, re_max_factor, label_spline
            As in `auto_init`.
        """
        G = gravitational_constant(units)
        omega = potential_start.plane_frequency(quick)
        sheets = potential_start.place_heights(heights, n_components, pixels, units)
        transform = PotentialEllipse(sheets, omega, G)
        extent = positive(re_max_factor, "re_max_factor") * potential_start.potential_extent(
            transform, pixels, quick
        )
        place = partial(initialize.place_knots, units=units)
        return cls(
            place(label_knots, extent, label_knots_spacing_power, "label_knots"),
            sheets,
            omega,
            {
                m: place(n, extent, e_knots_spacing_power, f"e_knots[{m}]")
                for m, n in (e_knots or {}).items()
            },
            regularization_func,
            units,
            label_spline=label_spline,
        )

    def penalty_scales(
        self, label_smooth_sigma: object, ln_rho_sigma: float, e_sigma: float
    ) -> dict[str, Any]:
        """Return the arguments of `regularization_func_potential` for this model.

        Parameters
        ----------
        label_smooth_sigma, ln_rho_sigma, e_sigma
            As in `auto_init`; the first a number, or with shape (*B,).

        Examples
        --------
        >>> sheets = TorusImaging1DPotential(
        ...     [0, 0.2, 0.4], [0.3, 1.0] * u.kpc, 0.07 * u.rad / u.Myr
        ... )
        >>> sorted(sheets.penalty_scales(0.5, 2.0, 0.3))
        ['e_sigmas', 'label_smooth_sigma', 'ln_rho_mean', 'ln_rho_sigma']
        """
        scales = {"label_smooth_sigma": label_smooth_sigma, "ln_rho_sigma": ln_rho_sigma}
        for name, value in {**scales, "e_sigma": e_sigma}.items():
            positive(value, name)
        return {
            "label_smooth_sigma": torch.as_tensor(label_smooth_sigma),
            "ln_rho_mean": self.sheets.ln_rho_mean,
            "ln_rho_sigma": torch.as_tensor(ln_rho_sigma).expand_as(self.sheets.ln_rho_mean),
            "e_sigmas": {m: e_sigma / knots[..., -1] for m, knots in self.e_knots.items()},
        }
