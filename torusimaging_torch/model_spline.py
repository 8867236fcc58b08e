"""The model whose label and distortion functions are splines."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, cast

import numpy as np
from gala.units import UnitSystem, galactic
from torch import Tensor

from torusimaging_torch.likelihoods.penalty import (
    PenaltyFunction,
    bind_regularization,
    regularization_func_default,
)
from torusimaging_torch.model import start as initialize
from torusimaging_torch.model.border import Start
from torusimaging_torch.model.data_sets import are_several
from torusimaging_torch.model.joining import (
    add_selection_terms,
    join_data_sets,
    primary_of,
    selection_of,
)
from torusimaging_torch.model.known_applied import frame_known, of_frame, start_known
from torusimaging_torch.model.signs import default_signs, try_signs
from torusimaging_torch.model.start import check_e_knots
from torusimaging_torch.model.torus_imaging import TorusImaging1D
from torusimaging_torch.numerics.grad_mode import with_autograd
from torusimaging_torch.numerics.params import Nested
from torusimaging_torch.numerics.ranges import positive
from torusimaging_torch.torus.spline_functions import SplineEFunction, SplineLabelFunction
from torusimaging_torch.units import (
    BinnedData,
    Hold,
    Knots,
    LabelKnots,
    Priors,
    as_unit_system,
    to_tensor,
)

__all__ = ["TorusImaging1DSpline", "regularization_func_default"]


class TorusImaging1DSpline(TorusImaging1D):
    r"""Orbital Torus Imaging with splines for the label and for each distortion :math:`e_m`.

    Parameters
    ----------
    label_knots
        Knots of the label function in r, with shape (K,), or (*B, K) for a batch of problems. The
        model is where they are.
    e_knots
        For each order m the knots of :math:`e_m` in :math:`r_e`; the first is where it is zero.
    e_signs
        For each order m the sign of the slope of :math:`e_m`, 1 or -1.
    regularization_func
        Called as ``regularization_func(model, params)``; see `TorusImaging1D`.
    units
        The gala unit system.
    elliptical_angle_convention
        "pv" or "vp".
    e_spline, label_spline
        "cubic" or "quadratic". The density is a second derivative of :math:`e_m`: it is continuous
        with cubic splines, and jumps at every knot with quadratic ones, which are upstream's.

    Raises
    ------
    ValueError
        If knots do not increase, or orders of knots and signs differ.

    Examples
    --------
    A small model, and data that it describes exactly; the examples of its methods use them.

    >>> import astropy.units as u
    >>> import numpy as np
    >>> import torch
    >>> model = TorusImaging1DSpline([0, 0.2, 0.4], {2: [0, 0.2, 0.4]}, {2: 1.0})
    >>> model
    TorusImaging1DSpline(
      units: kpc, Myr, solMass, torch.float64, cpu
      transform: EllipticalTransform(convention='pv')
      label: SplineLabelFunction(quadratic, 3 knots from 0 to 0.4)
      e_2: SplineEFunction(cubic, 3 knots from 0 to 0.4, sign +1)
      penalty: no_regularization
    )
    >>> params = {
    ...     "pos0": 0 * u.pc,
    ...     "vel0": 0 * u.km / u.s,
    ...     "ln_Omega0": -2.6,
    ...     "e_params": {2: {"vals": [-1.0, -2.0]}},
    ...     "label_params": {"label_vals": [0.1, 0.5, 0.7]},
    ... }
    >>> axes = np.linspace(-1, 1, 12) * u.kpc, np.linspace(-60, 60, 12) * u.km / u.s
    >>> pos, vel = np.meshgrid(*axes)
    >>> label = model.get_label(pos, vel, params)
    >>> data = {"pos": pos, "vel": vel, "label": label, "label_err": 0.001}
    """

    @with_autograd
    def __init__(
        self,
        label_knots: Knots,
        e_knots: Mapping[int, Knots],
        e_signs: Mapping[int, float],
        regularization_func: PenaltyFunction | None = None,
        units: UnitSystem = galactic,
        elliptical_angle_convention: str = "pv",
        *,
        e_spline: str = "cubic",
        label_spline: str = "quadratic",
    ) -> None:
        check_e_knots(e_knots)
        if set(e_knots) != set(e_signs):
            raise ValueError(
                "e_knots and e_signs must have the same orders m, got "
                f"{sorted(e_knots)} and {sorted(e_signs)}"
            )
        for m, sign in e_signs.items():
            if not isinstance(sign, (int, float, np.number, Tensor)) or abs(sign) != 1:
                raise ValueError(f"e_signs[{m}] must be 1 or -1, got {sign!r}")
        units = as_unit_system(units)

        def tensor(knots: object, name: str) -> Tensor:
            return to_tensor(knots, name, "elliptical radius", units)

        first = tensor(label_knots, "label_knots")
        label_func = SplineLabelFunction(first, label_spline)
        e_funcs = {
            m: SplineEFunction(tensor(x, f"e_knots[{m}]").to(first), float(e_signs[m]), e_spline)
            for m, x in e_knots.items()
        }
        super().__init__(
            label_func, e_funcs, regularization_func, units, elliptical_angle_convention
        )
        self.e_spline = e_spline
        self.label_spline = label_spline
        self.to(first.device)

    @property
    def e_signs(self) -> dict[int, float]:
        """Sign of the slope of each e_m, by order."""
        return {m: float(cast(SplineEFunction, f).sign) for m, f in self.e_funcs.items()}

    @classmethod
    @with_autograd
    def auto_init(
        cls,
        binned_data: BinnedData,
        label_knots: LabelKnots,
        e_knots: Mapping[int, Knots],
        e_signs: Mapping[int, float] | None = None,
        regularization_func: PenaltyFunction | bool | None = None,
        units: UnitSystem = galactic,
        label_knots_spacing_power: float = 1.0,
        e_knots_spacing_power: float = 1.0,
        re_max_factor: float = 1.0,
        bounds: Mapping[str, Any] | None = None,
        *,
        elliptical_angle_convention: str = "pv",
        e_spline: str = "cubic",
        label_spline: str = "quadratic",
        knots: str = "data",
        priors: Priors | None = None,
        hold: Hold | None = None,
        **kwargs: Any,
    ) -> tuple[TorusImaging1DSpline, Nested, Nested]:
        r"""Return a model, bounds and a start from which the fit succeeds, from binned data.

        Parameters
        ----------
        binned_data
            Dictionary with keys pos, vel, and label and label_err, or counts. The model will be
            where they are: on the CPU, or on the device of its tensors. Or several of them by name,
            which are fitted together: see `torusimaging_torch.model.data_sets`.
        label_knots, e_knots
            Number of knots of the label function and of each :math:`e_m`, or their positions.
        e_signs
            Sign of each :math:`e_m`; by default such that orbits widen in position, as they do
            where the density falls outwards. With "vp" nothing tells the signs, so those that are
            not given are tried: two fits for each.
        regularization_func
            As in the constructor; what it needs beyond (model, params) is taken from ``kwargs``.
            If not given, `regularization_func_default`, which needs label_l2_sigma,
            label_smooth_sigma, e_l2_sigmas and e_smooth_sigmas. If False, no regularization.
        units
            The gala unit system.
        label_knots_spacing_power, e_knots_spacing_power
            Knots are evenly spaced in this power of the radius.
        re_max_factor
            The last knot lies at this multiple of the largest radius of the data.
        bounds
            Bounds that replace the default ones, for some or all parameters.
        elliptical_angle_convention, e_spline, label_spline
            As in the constructor.
        knots
            "data": knots reach as far as the data on either axis, with the frequency of a quick
            low-order fit; "upstream": they end at upstream's estimate, too short on a disk.
        priors, hold
            What is known beforehand, as in `optimize`: start and knots follow it, priors become a
            part of the model's penalty, and bounds of what is held are equal. So it need not be
            given again later on.
        **kwargs
            Further arguments of the regularization function.

        Returns
        -------
        model, bounds, init_params
            ``bounds`` is a dictionary of (lower, upper) pairs.

        Raises
        ------
        ValueError
            If the regularization function lacks an argument, or no pixel can be used.
        TypeError
            If ``kwargs`` has an argument that the regularization function does not take.

        Examples
        --------
        >>> scales = {"label_l2_sigma": 1.0, "label_smooth_sigma": 0.5}
        >>> scales |= {"e_l2_sigmas": {2: 1.0}, "e_smooth_sigmas": {2: 0.5}}
        >>> auto, bounds, start = TorusImaging1DSpline.auto_init(data, 3, {2: 3}, **scales)
        >>> best, state = auto.optimize(start, "gaussian", bounds, **data)
        >>> state.success, auto.e_signs
        (True, {2: 1.0})
        """
        if knots not in ("data", "upstream"):
            raise ValueError(f"knots must be 'data' or 'upstream', got {knots!r}")
        units = as_unit_system(units)
        if are_several(binned_data):
            primary = primary_of(binned_data)
            own = label_knots[primary] if isinstance(label_knots, Mapping) else label_knots
            one = cls.auto_init(
                binned_data[primary],
                own,
                e_knots,
                e_signs,
                regularization_func,
                units,
                label_knots_spacing_power,
                e_knots_spacing_power,
                re_max_factor,
                bounds,
                elliptical_angle_convention=elliptical_angle_convention,
                e_spline=e_spline,
                label_spline=label_spline,
                knots=knots,
                priors=of_frame(priors),
                hold=of_frame(hold),
                **kwargs,
            )
            joined = join_data_sets(one, primary, binned_data, label_knots)
            return start_known(*joined, priors, hold)
        known = frame_known(priors, hold, units)
        quick = initialize.low_order_fit(
            binned_data, units, elliptical_angle_convention, known=known
        )
        initialize.warn_without_frequency(quick, units)
        extent = quick.extent
        if knots == "upstream":
            extent = initialize.upstream_extent(binned_data, units)
        extent = positive(re_max_factor, "re_max_factor") * extent
        check_e_knots(e_knots)
        place = partial(initialize.place_knots, units=units)
        placed = (
            place(label_knots, extent, label_knots_spacing_power, "label_knots"),
            {
                m: place(n, extent, e_knots_spacing_power, f"e_knots[{m}]")
                for m, n in e_knots.items()
            },
        )

        def make(signs: dict[int, float]) -> Start[TorusImaging1DSpline]:
            model = cls(
                *placed,
                signs,
                bind_regularization(regularization_func, kwargs),
                units,
                elliptical_angle_convention,
                e_spline=e_spline,
                label_spline=label_spline,
            )
            pixels = initialize.label_pixels(model.border, binned_data)
            n_e = {m: len(x) for m, x in model.e_knots.items()}
            found = initialize.default_bounds(quick, pixels, len(model.label_knots), n_e, units)
            found = initialize.replace_bounds(found, bounds or {})
            start = initialize.start_params(model, quick, pixels, found)
            added = add_selection_terms(model, found, start, selection_of(binned_data))
            return start_known(*added, priors, hold)

        signs, own = default_signs(e_knots, elliptical_angle_convention), dict(e_signs or {})
        # Elsewhere the signs follow from what disks are like.
        own = own if elliptical_angle_convention == "vp" else signs | own
        return try_signs(make, signs, own, binned_data)
