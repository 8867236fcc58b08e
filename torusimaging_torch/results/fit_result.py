"""What a fit is on disk, and its tables.

A fit is one ECSV file that people can read: a row for each parameter, and in the header all that is
needed to build the same model again, to the last bit.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import astropy.units as u
import numpy as np
import torch
from astropy.table import QTable
from torch import Tensor

from torusimaging_torch import __version__
from torusimaging_torch.inference.fisher import covariance_samples
from torusimaging_torch.model.optstep import OptState
from torusimaging_torch.model_spline import TorusImaging1DSpline
from torusimaging_torch.numerics.lbfgs import Status
from torusimaging_torch.numerics.params import Layout, Params, batch_shape, map_leaves
from torusimaging_torch.results.atomic import replaced_file
from torusimaging_torch.results.description import build_model, describe_model, layout_of, plain
from torusimaging_torch.results.profile_table import delta_profiles
from torusimaging_torch.units import (
    PARAM_KINDS,
    to_quantity,
    to_tensor,
    unit_of,
)

__all__ = ["FORMAT_VERSION", "FitResult", "is_result"]

FORMAT_VERSION = 1
"""The version of the file format; a reader refuses files of a higher one."""

_FORMAT = "torusimaging_torch fit"
# The format is named at the top of the header, after the columns.
_HEADER_SIZE = 4096

# The units in which papers on vertical dynamics print profiles.
_PROFILE_UNITS = {
    "acceleration": u.km / u.s / u.Myr,
    "density": u.Msun / u.pc**3,
    "surface_density": u.Msun / u.pc**2,
    "potential": u.km**2 / u.s**2,
}


@dataclass(frozen=True, eq=False)
class FitResult:
    """A model, the parameters that fit best, and where they came from.

    Attributes
    ----------
    model
        The spline model.
    params
        Best parameters of one problem, a nested dictionary of numbers, tensors or Quantities.
    bounds
        As in `~torusimaging_torch.TorusImaging1D.optimize`.
    state
        How the fit ended.
    objective
        "gaussian" or "poisson".
    provenance
        Anything that should be remembered: file, columns, selection, bins. Numbers, texts, lists
        and dictionaries of these.
    covariance
        Covariance of the parameters with shape (P, P), in model units and in the order of the rows
        of `to_table`, as `get_crlb` returns it; nan where not known. None if not known at all.

    Raises
    ------
    TypeError
        If the model has no splines, or the state is another thing.
    ValueError
        If the parameters are those of a batch.
    """

    model: TorusImaging1DSpline
    params: Params
    bounds: Any
    state: OptState
    objective: str
    provenance: Mapping[str, Any] = field(default_factory=dict)
    covariance: Any = None

    def __post_init__(self) -> None:
        """Check the arguments."""
        if not isinstance(self.model, TorusImaging1DSpline):
            raise TypeError(
                f"model must be a TorusImaging1DSpline, got {type(self.model).__name__}: other "
                "models have functions that a file cannot hold"
            )
        if not isinstance(self.state, OptState):
            raise TypeError(
                f"state must be the state that optimize returned, got {type(self.state).__name__}"
            )
        params = self._tensors(self.params)
        if shape := tuple(batch_shape(params)):
            raise ValueError(
                f"params must be those of one problem, got a batch with shape {shape}: make one "
                "result for each"
            )
        size = Layout.of(params).size
        if self.covariance is not None and np.shape(self.covariance) != (size, size):
            raise ValueError(
                f"covariance must have shape ({size}, {size}), got {np.shape(self.covariance)}"
            )

    def _tensors(self, params: Params) -> dict[str, Any]:
        return self.model.border.params(params)

    def to_table(self) -> QTable:
        """Return a table of the parameters, with a row for each, in model units.

        Returns
        -------
        astropy.table.QTable
            Columns name, value, error (nan if not known), lower and upper bound, at_bound (whether
            the bound holds the parameter back) and unit (a text; empty for pure numbers).
        """
        params = self._tensors(self.params)
        layout = Layout.of(params)
        place = self.model.border.like
        lower, upper = self.model.border.bounds(self.bounds)
        units = {
            name: unit_of(kind, self.model.units).to_string() for name, kind in PARAM_KINDS.items()
        }
        return QTable(
            {
                "name": layout.names,
                "value": _column(layout.flatten(params)),
                "error": self._errors(layout.size),
                "lower": _column(layout.fill(lower, -torch.inf, place)),
                "upper": _column(layout.fill(upper, torch.inf, place)),
                "at_bound": [name in self.state.at_bound for name in layout.names],
                "unit": [units.get(name, "") for name in layout.names],
            }
        )

    def _errors(self, size: int) -> np.ndarray:
        if self.covariance is None:
            return np.full(size, np.nan)
        return np.sqrt(np.diagonal(np.asarray(self.covariance)))

    def profile_table(self, pos: Any) -> QTable:
        """Return acceleration, densities and potential at some positions.

        Parameters
        ----------
        pos
            Positions with shape (N,), a Quantity or bare numbers in model units.

        Returns
        -------
        astropy.table.QTable
            Columns pos; height above the fitted midplane pos0; acceleration; density; surface
            density between -height and height; potential, zero at the midplane; and extrapolated,
            true beyond the last knot. All with units, those that papers print. If the covariance is
            known also standard errors, such as density_err, by linear propagation.
        """
        units = self.model.units
        where = to_quantity(to_tensor(pos, "pos", "length", units), "length", units)
        height = where - self.quantity("pos0")
        table = QTable({"pos": where, "height": height})
        errors = {}
        if self.covariance is not None:
            errors = delta_profiles(self.model, self.params, self.covariance, where)
        for name, unit in _PROFILE_UNITS.items():
            table[name] = getattr(self.model, f"get_{name}")(where, self.params).to(unit)
            if self.covariance is not None:
                table[f"{name}_err"] = errors[f"{name}_err"].to(unit)
        reach = min(float(knots.max()) for knots in self.model.e_knots.values())
        r_e = np.abs(height.value) * np.sqrt(self.quantity("Omega0").value)
        table["extrapolated"] = r_e > reach
        return table

    def quantity(self, name: str) -> u.Quantity:
        """Return pos0, vel0 or Omega0 of the fit as a Quantity."""
        return self.measured(name)[0]

    def measured(self, name: str) -> tuple[u.Quantity, u.Quantity]:
        """Return pos0, vel0 or Omega0 with its standard error, nan if that is not known."""
        row = "ln_Omega0" if name == "Omega0" else name
        table = self.to_table()
        value, error = table[table["name"] == row]["value", "error"][0]
        if name == "Omega0":
            value, error = np.exp(value), np.exp(value) * error
        unit = unit_of(PARAM_KINDS.get(name, "frequency"), self.model.units)
        return value * unit, error * unit

    def draw(self, size: int, seed: int = 0) -> dict[str, Any]:
        """Draw parameters from the Gaussian with the fit's covariance.

        Parameters
        ----------
        size
            Number of samples.
        seed
            Seed of the random numbers, which are this method's own.

        Returns
        -------
        dict
            Samples along the first dimension of its leaves. Parameters whose errors are not known
            stay where they are.

        Raises
        ------
        ValueError
            If the covariance is not known.
        """
        if self.covariance is None or not np.isfinite(self.covariance).any():
            raise ValueError(
                "the fit has no covariance: fit again with --uncertainty crlb, or give get_crlb's"
            )
        params = self._tensors(self.params)
        layout = Layout.of(params)
        vector = layout.flatten(params).detach()
        covariance = torch.as_tensor(np.array(self.covariance)).to(vector)
        generator = torch.Generator().manual_seed(seed)
        return layout.unflatten(covariance_samples(vector, covariance, size, generator))

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the fit to an ECSV file; one with this name is replaced when all is written.

        Parameters
        ----------
        path
            File name, by custom with the ending ``.ecsv``.
        """
        table = self.to_table()
        if self.covariance is not None:
            table["covariance"] = np.asarray(self.covariance, dtype=float)
        table.meta = {
            "format": _FORMAT,
            "format_version": FORMAT_VERSION,
            "written_by": f"torusimaging_torch {__version__}",
            **describe_model(self.model),
            "objective": self.objective,
            "state": _describe_state(self.state),
            "provenance": plain(self.provenance),
        }
        with replaced_file(path) as temporary:
            table.write(temporary, format="ascii.ecsv")

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> FitResult:
        """Read a fit from a file that `write` made.

        The model, its parameters and bounds are the same to the last bit. A penalty of one's own is
        stored by name and imported only when it is called.

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        ValueError
            If the file is not a fit, was written by a newer version, or is damaged; the message
            names file and reason.
        """
        table = _read_table(path)
        try:
            return cls(*_rebuild(table))
        except (KeyError, IndexError, TypeError, ValueError) as error:
            reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
            raise ValueError(f"the fit in {path} is damaged: {reason}") from None


def is_result(path: str | os.PathLike[str]) -> bool:
    """Return whether a file says of itself that it is a fit; it may still be damaged."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return f"format: {_FORMAT}" in file.read(_HEADER_SIZE)
    except OSError:
        return False


def _column(vector: Tensor) -> np.ndarray:
    return vector.detach().cpu().numpy().astype(np.float64)


def _describe_state(state: OptState) -> dict[str, Any]:
    described = plain(state._asdict())
    del described["at_bound"]  # a column of the table
    return {**described, "status": Status(int(state.status)).name}


def _read_table(path: str | os.PathLike[str]) -> QTable:
    try:
        table = QTable.read(path, format="ascii.ecsv")
    except (OSError, MemoryError):
        raise
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{path} is not a fit result, or is damaged: {reason}") from None
    if table.meta.get("format") != _FORMAT:
        raise ValueError(
            f"{path} is not a fit result: its header has no 'format: {_FORMAT}'; expected a file "
            "that FitResult.write or 'torusimaging-torch fit' made"
        )
    version = table.meta.get("format_version")
    if not isinstance(version, int) or version > FORMAT_VERSION:
        raise ValueError(
            f"{path} has format version {version} ({table.meta.get('written_by')}), this program "
            f"(torusimaging_torch {__version__}) reads up to {FORMAT_VERSION}: update it"
        )
    return table


def _rebuild(table: QTable) -> tuple[Any, ...]:
    """Return the arguments of `FitResult` from the table of a file."""
    meta = table.meta
    model = build_model(meta)
    layout = layout_of(model)
    _check_rows(table, layout)
    values, lower, upper = (
        layout.unflatten(
            torch.tensor(np.asarray(table[name], dtype=float)).to(model.border.like.dtype)
        )
        for name in ("value", "lower", "upper")
    )
    bounds = map_leaves(lambda low, high: (low, high), lower, upper)
    state = dict(meta["state"])
    state["status"] = Status[state["status"]]
    state["at_bound"] = tuple(str(name) for name in table["name"][np.asarray(table["at_bound"])])
    covariance = np.asarray(table["covariance"]) if "covariance" in table.colnames else None
    return (
        model,
        values,
        bounds,
        OptState(**state),
        meta["objective"],
        meta["provenance"],
        covariance,
    )


def _check_rows(table: QTable, layout: Layout) -> None:
    names = [str(name) for name in table["name"]]
    if names != layout.names:
        raise ValueError(f"expected one row for each of {layout.names}, got {names}")
    if not np.isfinite(table["value"]).all():
        raise ValueError("a parameter is not finite")
