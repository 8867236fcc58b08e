"""What is the same for all fits of a batch, and how it is described and recognized."""

from __future__ import annotations

import difflib
import hashlib
import itertools
import json
import pickle
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import torch
from gala.units import UnitSystem, galactic

from torusimaging_torch.inference.fisher import KINDS
from torusimaging_torch.likelihoods.objectives import make_likelihood
from torusimaging_torch.likelihoods.penalty import (
    PenaltyFunction,
    bind_regularization,
    no_regularization,
)
from torusimaging_torch.likelihoods.potential_penalty import (
    LN_RHO_SIGMA,
    regularization_func_potential,
)
from torusimaging_torch.model.joining import n_label_knots
from torusimaging_torch.model.known import as_held, as_priors, describe_priors
from torusimaging_torch.model.signs import default_signs
from torusimaging_torch.model_potential import E_SIGMA, LABEL_SPLINE, N_SHEETS
from torusimaging_torch.numerics.params import Params, path_name
from torusimaging_torch.numerics.ranges import not_negative, positive, whole
from torusimaging_torch.numerics.splines import SPLINES
from torusimaging_torch.results.penalty_description import describe_penalty, plain
from torusimaging_torch.settings import MODELS, ModelSettings, described, setting
from torusimaging_torch.torus.elliptical import check_convention
from torusimaging_torch.units import Knots, as_unit_system, to_tensor

__all__ = ["BatchSettings"]

SCALES = {"label_smooth_sigma": None, "ln_rho_sigma": LN_RHO_SIGMA, "e_sigma": E_SIGMA}
"""Scales of the potential's penalty; what is None follows from the data."""
_UNCERTAINTIES = ("crlb", None)
_KNOTS = ("data", "upstream")
# Names that share so much are taken for one another's misspellings: label_l2_sigma and
# label_smooth_sigma share 0.75.
_CLOSE = 0.8
# Nats that may be missing at the end. Parameters are then within the root of twice this of their
# errors from the optimum: rounding errors, which differ with the company, must not show.
_TOL = {torch.float64: 1e-13, torch.float32: 1e-4}


@described
@dataclass(frozen=True, kw_only=True)
class BatchSettings(ModelSettings):
    """Everything that decides the answers of `fit_many`, but for the data."""

    objective: str | Mapping[str, str] = setting(
        "gaussian", help='"gaussian" or "poisson"; of several data sets by name'
    )
    n_components: int = setting(N_SHEETS, help="number of sheets of a potential")
    heights: Any = setting(help="their heights")
    regularization_func: PenaltyFunction | bool | None = setting(
        help="a penalty of one's own; False for none"
    )
    units: UnitSystem = setting(factory=lambda: galactic, help="unit system of the models")
    re_max_factor: float = setting(
        1.0, help="the last knot lies at this multiple of the largest radius of the data"
    )
    bounds: Mapping[str, Any] | None = setting(help="bounds that replace the default ones")
    init: Params | None = setting(help="a start for all")
    knots: str = setting("data", help='where knots end: with the "data", or as "upstream"')
    hessian: str = setting("expected", help="kind of the bound, as in `get_crlb`")
    multistart: int = setting(1, help="starts of each fit", metavar="N")
    seed: int = setting(0, help="of all that is random", metavar="S")
    tol: float | None = setting(help="gain in nats that may still be expected at the end")
    history: int = setting(20, help="steps from which L-BFGS estimates the curvature")
    dtype: torch.dtype = setting(torch.float64, help="type of the numbers")
    penalty_arguments: Mapping[str, Any] = setting(
        factory=dict, help="arguments of the penalty, as `auto_init` takes them"
    )

    def __post_init__(self) -> None:
        """Check what can be checked without data, and fill in what has a default."""
        for objective in self.objectives.values():
            make_likelihood(objective)
        check_convention(self.elliptical_angle_convention)
        _one_of("model", self.model, MODELS)
        self._set("uncertainty", None if self.uncertainty == "none" else self.uncertainty)
        _one_of("uncertainty", self.uncertainty, _UNCERTAINTIES)
        _one_of("knots", self.knots, _KNOTS)
        _one_of("dtype", self.dtype, tuple(_TOL))
        _one_of("hessian", self.hessian, KINDS)
        for name, least in (("multistart", 1), ("seed", 0), ("max_iter", 0), ("history", 1)):
            self._set(name, whole(getattr(self, name), name, least))
        positive(self.re_max_factor, "re_max_factor")
        if self.tol is not None:
            not_negative(self.tol, "tol")
        signs: dict[int, float] = {}
        if self.label_spline is None:
            self._set("label_spline", LABEL_SPLINE if self.model == "potential" else "quadratic")
        for name in ("label_spline", "e_spline"):
            _one_of(name, getattr(self, name), tuple(SPLINES))
        if self.model == "potential":
            self._complete_potential()
        else:
            self._need_knots()
            penalty = self._bound_penalty()
            signs = default_signs(self.e_knots or {}, self.elliptical_angle_convention)
            self._set("regularization_func", penalty)
        self._set("penalty_arguments", {})
        self._set("tol", _TOL[self.dtype] if self.tol is None else self.tol)
        self._set("units", as_unit_system(self.units))
        self._check_known()
        self._set("e_signs", signs | dict(self.e_signs or {}))

    @property
    def objectives(self) -> Mapping[str, str]:
        """What each data set is fitted by, by its name; "" if there is one alone."""
        return {"": self.objective} if isinstance(self.objective, str) else self.objective

    @property
    def primary(self) -> str:
        """The data set that tells frequency and extent: the first with labels, or the first."""
        labels = [name for name, kind in self.objectives.items() if kind == "gaussian"]
        return labels[0] if labels else next(iter(self.objectives))

    @property
    def _order(self) -> list[str]:
        """The data sets, the one that the settings are about first."""
        return [self.primary, *(name for name in self.objectives if name != self.primary)]

    @property
    def n_sheets(self) -> int:
        """How many sheets a potential has."""
        if self.heights is None:
            return self.n_components
        return to_tensor(self.heights, "heights", "length", self.units).numel()

    def label_knots_of(self, name: str) -> Knots:
        """Return the knots of the label function of a data set: their number or positions."""
        if not isinstance(self.label_knots, Mapping):
            first = self.label_knots if name == self.primary else None
        else:
            first = self.label_knots.get(name)
        if first is None and name == self.primary:
            return 6
        return n_label_knots(self.objectives[name] == "poisson") if first is None else first

    def label_spline_of(self, name: str) -> str:
        """Return the kind of spline of the label function of a data set."""
        counts = name != self.primary and self.objectives[name] == "poisson"
        return "cubic" if counts else str(self.label_spline)

    def _need_knots(self) -> None:
        missing = [name for name in ("label_knots", "e_knots") if getattr(self, name) is None]
        if missing:
            raise ValueError(
                f"{' and '.join(missing)} must be given for a torus: numbers of knots, or their "
                'positions (model="potential" has default ones)'
            )

    def _bound_penalty(self) -> PenaltyFunction:
        try:
            return bind_regularization(self.regularization_func, self.penalty_arguments)
        except TypeError as error:
            raise TypeError(f"{error}{self._meant(self.penalty_arguments)}") from None

    def _meant(self, unknown: Iterable[str]) -> str:
        """Return which settings some unknown ones may have been meant for, and where all are."""
        names = {one.name for one in fields(self)} - {"penalty_arguments"}
        found = (difflib.get_close_matches(name, names, 1, _CLOSE) for name in unknown)
        close = " and ".join(itertools.chain.from_iterable(found))
        meant = f"; did you mean {close}?" if close else "."
        return f"{meant} The docstring of fit_many has all settings"

    def _complete_potential(self) -> None:
        """Fill in what a potential has by default; scales that data decide are left open."""
        if self.elliptical_angle_convention != "pv":
            raise ValueError('model="potential" needs elliptical_angle_convention="pv"')
        unknown = sorted(set(self.penalty_arguments) - set(SCALES))
        if unknown:
            raise TypeError(
                f"unknown arguments {unknown}: the penalty of a potential takes {sorted(SCALES)}"
                f"{self._meant(unknown)}"
            )
        self._set("label_knots", 6 if self.label_knots is None else self.label_knots)
        self._set("e_knots", dict(self.e_knots or {}))
        if self.regularization_func is None or self.regularization_func is True:
            scales = SCALES | dict(self.penalty_arguments)
            self._set("regularization_func", partial(regularization_func_potential, **scales))
        elif self.regularization_func is False:
            self._set("regularization_func", no_regularization)

    def _check_known(self) -> None:
        """Check what is known beforehand, and take its units off."""
        if self.hold is not None and not isinstance(self.hold, Mapping):
            raise TypeError(
                "hold must be a dictionary of values by parameter in fit_many, got "
                f"{type(self.hold).__name__}"
            )
        self._set("priors", as_priors(self.priors or {}, self.units))
        self._set("hold", as_held(self.hold or {}, self.units))

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)

    def describe(self) -> dict[str, Any]:
        """Return the settings as numbers, texts, lists and dictionaries, as JSON has them."""
        described = {f.name: getattr(self, f.name) for f in fields(self)}
        del described["penalty_arguments"]
        described["priors"] = describe_priors(self.priors or {})
        described["hold"] = {path_name(path): value for path, value in (self.hold or {}).items()}
        described["regularization_func"] = describe_penalty(self.regularization_func)  # type: ignore[arg-type]
        described["units"] = [unit.to_string() for unit in self.units.to_dict().values()]
        described["dtype"] = str(self.dtype).removeprefix("torch.")
        if "" not in self.objectives:
            described["label_spline"] = {name: self.label_spline_of(name) for name in self._order}
        return json.loads(json.dumps(plain(described)))

    def fingerprint(self) -> str:
        """Return a text that other settings do not have.

        Raises
        ------
        ValueError
            If the penalty can be neither named nor pickled, so that nobody could tell it from
            another one.
        """
        described = self.describe()
        if described["regularization_func"]["name"] is None:
            try:
                code = pickle.dumps(self.regularization_func)
            except (pickle.PicklingError, AttributeError, TypeError):
                raise ValueError(
                    "a store must recognize the penalty, and this one has no importable name and "
                    "cannot be pickled: define regularization_func at the top of a module"
                ) from None
            described["penalty"] = hashlib.sha256(code).hexdigest()
        text = json.dumps(described, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


def _one_of(name: str, value: object, choices: tuple[object, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {choices}, got {value!r}")
