r"""Fits of stars of which some have a wrong label: rounds of binning, fit and expectation.

Each round bins the stars with weights :math:`p/(e^2 + s^2)`, fits the model to the pixels, and asks
of each star with which probability p it is no outlier, given its distance from the label that the
model has where the star is; see `torusimaging_torch.data.mixture`. In the words of expectation
maximization the fit is the step that maximizes, so the rounds go up in the likelihood.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import astropy.units as u
import numpy as np
import torch
from gala.units import UnitSystem

from torusimaging_torch.arrays import Array
from torusimaging_torch.data.binned import array_reader, get_binned_label
from torusimaging_torch.data.mixture import Mixture, fit_mixture, weighted_scatter
from torusimaging_torch.data.reader import Part
from torusimaging_torch.inference.parts import part_params
from torusimaging_torch.model.optstep import OptState
from torusimaging_torch.numerics.params import Nested, Params
from torusimaging_torch.numerics.ranges import whole
from torusimaging_torch.units import Binned, BinnedData, Bins, Bounds, Numbers, to_tensor

__all__ = ["OutlierFit", "fit_outliers"]


Found = TypeVar("Found")


class OutlierFit(NamedTuple):
    """A fit of stars with outliers. Of several labels all but params and state are dictionaries.

    Attributes
    ----------
    params, state
        As `optimize` returns them.
    eps
        The fraction of the stars whose label is an outlier.
    s_out
        The scatter that outliers have beyond that of all.
    s
        The intrinsic scatter of the labels in a pixel.
    probability
        Of each star with shape (N,): that its label is no outlier; nan where it was not used.
    binned
        The pixels that were fitted, with the data sets beside them: what errors follow from.
    """

    params: Nested
    state: OptState
    eps: Any
    s_out: Any
    s: Any
    probability: Any
    binned: Binned


def fit_outliers(
    model: Any,
    params0: Params,
    stars: Mapping[str, Any],
    bins: Bins,
    bounds: Bounds = None,
    *,
    rounds: int = 4,
    beside: Mapping[str, BinnedData] | None = None,
    **options: Any,
) -> OutlierFit:
    r"""Fit stars of which an unknown fraction has a label that tells nothing of their orbit.

    Their labels are taken to be normal about the mean label with a scatter :math:`s_\mathrm{out}`
    of their own. Rounds of expectation maximization: bin with weights :math:`p/(e^2 + s^2)`, fit,
    update the probability p of each star to be no outlier, the fraction :math:`\epsilon` of
    outliers, :math:`s_\mathrm{out}` and the intrinsic scatter s.

    Parameters
    ----------
    params0, bounds
        Start and bounds, as for `optimize`: those that `auto_init` finds for all stars will do.
    stars
        Dictionary with keys pos, vel, label and label_err, with shape (N,), as the arguments of
        `torusimaging_torch.data.get_binned_label`; label and label_err may be dictionaries of
        several labels, each of which has its own outliers.
    bins
        Pixel edges, as there.
    rounds
        Number of rounds of binning and fit. The first takes all stars alike.
    beside
        Other data sets by name that are fitted together with the labels and have no outliers, such
        as star counts; the labels need names then.
    **options
        As for `optimize`: priors, hold, max_iter, ...

    Returns
    -------
    OutlierFit
        ``params``, ``state``, ``eps``, ``s_out``, ``s``, ``probability`` and ``binned``. The bound
        of the last pixels (`get_crlb`) takes the probabilities for certain: it is as good as they
        are near 0 or 1.

    Raises
    ------
    ValueError
        If there is no round, or nothing to fit.

    Examples
    --------
    >>> from torusimaging_torch import TorusImaging1DPotential, data
    >>> from torusimaging_torch.simulate import milky_way_disk
    >>> table, rng = milky_way_disk(20_000, seed=1), np.random.default_rng(1)
    >>> label = rng.normal(table["label"], np.where(rng.uniform(size=20_000) < 0.05, 0.5, 0))
    >>> stars = dict(pos=table["z"], vel=table["v_z"], label=label, label_err=table["label_err"])
    >>> edges = np.linspace(-1, 1, 31)
    >>> bins = {"pos": 1.2 * edges * u.kpc, "vel": 70 * edges * u.km / u.s}
    >>> binned = data.get_binned_label(**stars, bins=bins)
    >>> disk, bounds, start = TorusImaging1DPotential.auto_init(binned)
    >>> found = disk.fit_outliers(start, stars, bins, bounds, rounds=2)
    >>> round(found.eps, 2), round(found.s_out, 1)
    (0.05, 0.5)
    """
    rounds = whole(rounds, "rounds", 1)
    if missing := [name for name in ("pos", "vel", "label") if name not in stars.keys()]:  # noqa: SIM118
        raise ValueError(f"stars must have pos, vel and label, got no {', '.join(missing)}")
    several = isinstance(stars["label"], Mapping)
    if beside and not several:
        raise ValueError(
            "labels need names where other data sets are beside them: pass label={...}"
        )
    labels = _read(stars, bins, model.border.units)
    params: Any = params0
    given: dict[str, Any] = {}
    for _ in range(rounds):
        binned = get_binned_label(**stars, bins=bins, units=model.border.units, **given)
        data: Binned = {**binned, **(beside or {})}
        kinds = {name: _objective(one) for name, one in data.items()} if several else "gaussian"
        params, state = model.optimize(params, kinds, bounds, data=data, **options)
        for one in labels:
            one.look_at(model, params, binned)
        given = {
            "weights": _by_name(labels, lambda one: np.nan_to_num(one.probability, nan=1.0)),
            "s": _by_name(labels, lambda one: one.in_unit(one.s)),
        }
    return OutlierFit(
        params,
        state,
        _by_name(labels, lambda one: one.mixture.eps),
        _by_name(labels, lambda one: one.in_unit(one.mixture.s_out)),
        _by_name(labels, lambda one: one.in_unit(one.s)),
        _by_name(labels, lambda one: one.probability),
        data,
    )


class _Labels:
    """One label of the stars, and what became known of its outliers.

    Parameters
    ----------
    name
        The label's name, "" of one alone.
    part
        The stars that can be used.
    where
        Positions and velocities of all stars.
    unit
        The label's unit, if it has one.

    Attributes
    ----------
    mixture
        What residuals come from.
    s
        The scatter in a pixel: that of the mixture and the change of the label across the pixel.
    probability
        Of each star with shape (N,), nan where it is not used.
    """

    mixture: Mixture
    s: float

    def __init__(
        self, name: str, part: Part, where: Sequence[Any], unit: u.UnitBase | None
    ) -> None:
        self.name, self.unit, self._part = name, unit, part
        self._where = [values[part.rows] for values in where]
        self.probability = np.full(len(where[0]), np.nan)

    def look_at(self, model: Any, params: Params, binned: BinnedData) -> None:
        """Find the outliers of a fit, and the scatter of the others about it in a pixel."""
        pixels = binned
        if self.name:
            model, params = model.part(self.name), part_params(params, self.name)
            pixels = binned[self.name]
        stars, at_stars = self._part, _predict(model, params, *self._where)
        residual = stars.label - at_stars
        self.mixture = fit_mixture(residual, stars.variance)
        p = self.mixture.probability(residual, stars.variance)
        self.probability[stars.rows] = p
        at_pixels = _predict(model, params, pixels["pos"], pixels["vel"]).ravel()[stars.pixel]
        self.s = weighted_scatter(stars.label - at_pixels, stars.variance, p, self.mixture.s)

    def in_unit(self, value: float) -> float | u.Quantity:
        """Return a scatter in the label's unit."""
        return value if self.unit is None else u.Quantity(value, self.unit, subok=True)


def _predict(model: Any, params: Params, pos: Numbers, vel: Numbers) -> Array:
    with torch.no_grad():
        return np.asarray(model.get_label(pos, vel, params).cpu())


def _read(stars: Mapping[str, Any], bins: Bins, units: UnitSystem) -> list[_Labels]:
    label = stars["label"] if isinstance(stars["label"], Mapping) else {"": stars["label"]}
    reader = array_reader(stars["pos"], stars["vel"], label, bins, stars.get("label_err"), units)
    (chunk,) = reader.chunks()
    where = [
        to_tensor(stars[name], name, kind, units).cpu().numpy()
        for name, kind in (("pos", "length"), ("vel", "velocity"))
    ]
    found = []
    for name, of in reader.labels.items():
        if not chunk.parts(name):
            raise ValueError(f"no star with a usable label{of.key} is on the grid")
        found.append(_Labels(name, chunk.parts(name)[0], where, of.unit))
    return found


def _by_name(
    labels: Sequence[_Labels], what: Callable[[_Labels], Found]
) -> Found | dict[str, Found]:
    """Return something of each label by name, or of one alone without it."""
    found = {one.name: what(one) for one in labels}
    return found.get("", found)


def _objective(binned: BinnedData) -> str:
    return "gaussian" if "label_err" in binned else "poisson"
