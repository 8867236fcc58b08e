"""One fit: its model, its parameters with their errors, where they came from, and its tables."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import astropy.units as u
import numpy as np
import torch
from astropy.table import QTable
from numpy.typing import NDArray
from torch import Tensor

from torusimaging_torch.data.arguments import bare
from torusimaging_torch.data.selection import selection_offset
from torusimaging_torch.inference.draws import covariance_root, vector_samples
from torusimaging_torch.inference.parts import part_params, part_rows
from torusimaging_torch.inference.propagation import propagated, vanished
from torusimaging_torch.model.optstep import OptState
from torusimaging_torch.model.predictions import beyond_edge
from torusimaging_torch.numerics.box import Box
from torusimaging_torch.numerics.params import Layout, Nested, Params, batch_shape, map_leaves
from torusimaging_torch.numerics.ranges import one_of, whole
from torusimaging_torch.results.arguments import positions
from torusimaging_torch.results.description import (
    Model,
    build_model,
    build_state,
    describe_model,
    describe_state,
    knots_of,
)
from torusimaging_torch.results.file_format import encode, read_result, write_result
from torusimaging_torch.results.penalty_description import plain, with_numbers
from torusimaging_torch.results.profile_table import PERCENTILES, profiles
from torusimaging_torch.results.profile_values import PROFILES
from torusimaging_torch.units import (
    PARAM_KINDS,
    BinnedData,
    Bounds,
    Numbers,
    of_one_data_set,
    to_quantity,
    unit_of,
)

if TYPE_CHECKING:
    from torusimaging_torch.model.samples import Samples

__all__ = ["FitResult"]

_MEASURED = ("Omega0", "pos0", "vel0")

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
        "gaussian" or "poisson"; of several data sets by their names.
    provenance
        Anything that should be remembered: file, columns, selection, bins. Numbers, texts, lists
        and dictionaries of these.
    covariance
        Covariance of the parameters with shape (P, P), in model units and in the order of the rows
        of `to_table`, as `get_crlb` returns it; nan where not known. None if not known at all.

    Raises
    ------
    TypeError
        If the model has no splines, or the state or the provenance is another thing.
    ValueError
        If the parameters are those of a batch.

    Examples
    --------
    A fit, as the examples of its methods use it.

    >>> from torusimaging_torch.results import FitResult
    >>> bounds = {"ln_Omega0": (-5, -1)}
    >>> fit = model.optimize({**params, "ln_Omega0": -2.5}, "gaussian", bounds, **data)
    >>> covariance = model.get_crlb(fit.params, data, bounds=bounds)
    >>> result = FitResult(model, fit.params, bounds, fit.state, "gaussian", {}, covariance)
    >>> result.state.success
    True
    """

    model: Model
    params: Params
    bounds: Bounds
    state: OptState
    objective: str | Mapping[str, str]
    provenance: Mapping[str, Any] = field(default_factory=dict)
    covariance: NDArray[np.floating] | None = None

    def __post_init__(self) -> None:
        """Check the arguments, and take the covariance to the host."""
        if not isinstance(self.model, Model):
            raise TypeError(
                "model must be a TorusImaging1DSpline or a TorusImaging1DPotential, got "
                f"{type(self.model).__name__}: other models have functions that a file cannot hold"
            )
        if not isinstance(self.state, OptState):
            raise TypeError(
                f"state must be the state that optimize returned, got {type(self.state).__name__}"
            )
        if not isinstance(self.provenance, Mapping):
            raise TypeError(
                "provenance must be a dictionary of what should be remembered, got "
                f"{type(self.provenance).__name__}: give a covariance as covariance=..."
            )
        params = self._tensors()
        if shape := tuple(batch_shape(params)):
            raise ValueError(
                f"params must be those of one problem, got a batch with shape {shape}: make one "
                "result for each"
            )
        if self.covariance is None:
            return
        size = Layout.of(params).size
        covariance = bare(self.covariance, "covariance", None)
        if covariance.shape != (size, size):
            raise ValueError(f"covariance must have shape ({size}, {size}), got {covariance.shape}")
        object.__setattr__(self, "covariance", covariance)

    def _tensors(self) -> Nested:
        return self.model.border.params(self.params)

    @property
    def data_sets(self) -> tuple[str, ...]:
        """The names of the data sets that were fitted together; empty where there was one."""
        return () if isinstance(self.objective, str) else tuple(self.objective)

    def part(self, name: str) -> FitResult:
        """Return what concerns one of several data sets: its labels, on the torus of all.

        Parameters
        ----------
        name
            One of `data_sets`.

        Raises
        ------
        KeyError
            If there is no such data set.
        """
        if isinstance(self.objective, str) or name not in self.objective:
            raise KeyError(f"no data set {name!r}: the fit is of {list(self.data_sets)}")
        whole, own = Layout.of(self._tensors()), Layout.of(part_params(self._tensors(), name))
        rows = part_rows(whole, own, name)
        names = dict(zip([whole.names[i] for i in rows], own.names, strict=True))
        held = tuple(names[held] for held in self.state.at_bound if held in names)
        covariance = self.covariance
        return replace(
            self,
            model=self.model.part(name),
            params=part_params(self._tensors(), name),
            bounds=self._part_bounds(whole, own, rows),
            state=self.state._replace(at_bound=held),
            objective=self.objective[name],
            covariance=None if covariance is None else covariance[np.ix_(rows, rows)],
        )

    def _part_bounds(self, whole: Layout, own: Layout, rows: list[int]) -> Nested:
        _, lower, upper = self._vectors(whole)
        low, high = (own.unflatten(side[rows]) for side in (lower, upper))
        return map_leaves(lambda a, b: (a, b), low, high)

    def to_table(self) -> QTable:
        """Return a table of the parameters, with a row for each, in model units.

        Returns
        -------
        astropy.table.QTable
            Columns name, value, error (nan if not known), lower and upper bound, at_bound (whether
            the bound holds the parameter back) and unit (a text; empty for pure numbers).

        Examples
        --------
        >>> table = result.to_table()
        >>> table.colnames[:4]
        ['name', 'value', 'error', 'lower']
        """
        layout = Layout.of(self._tensors())
        (x, lower, upper), C = self._vectors(layout), self.covariance
        units = {k: unit_of(kind, self.model.units) for k, kind in PARAM_KINDS.items()}
        return QTable(
            {
                "name": layout.names,
                "value": x.double().numpy(),
                "error": np.full(len(x), np.nan) if C is None else np.sqrt(np.diagonal(C)),
                "lower": lower.double().numpy(),
                "upper": upper.double().numpy(),
                "at_bound": [name in self.state.at_bound for name in layout.names],
                "unit": [str(units.get(name, "")) for name in layout.names],
            }
        )

    def _vectors(self, layout: Layout) -> tuple[Tensor, Tensor, Tensor]:
        """Return parameters and their bounds on the host, each with shape (P,)."""
        box = self.model.border.box(self.bounds, layout)
        every = layout.flatten(self._tensors()), box.lower, box.upper
        x, lower, upper = (vector.detach().cpu() for vector in every)
        return x, lower, upper

    @property
    def vanished(self) -> tuple[str, ...]:
        """Which log slopes rest on their lower bound, by name: these slopes are none."""
        layout = Layout.of(self._tensors())
        flags = zip(layout.names, self._vanished(layout).tolist(), strict=True)
        return tuple(name for name, flag in flags if flag)

    def _vanished(self, layout: Layout) -> Tensor:
        """Return which parameters are log slopes on their lower bound, with shape (P,)."""
        x, lower, upper = self._vectors(layout)
        return vanished(x, Box(lower, upper), self.model.torus.logarithmic_in(layout))

    def predict(self, binned: BinnedData) -> NDArray[np.floating]:
        """Return what the fit predicts in pixels: labels, or logs of expected star counts.

        Parameters
        ----------
        binned
            Pixels of any shape with "pos" and "vel"; what a selection function adds to star counts
            (see `torusimaging_torch.data.with_selection`) is in the prediction, nan where no star
            can be seen.

        Returns
        -------
        ndarray
            With the shape of the pixels, in the unit of the labels.

        Examples
        --------
        >>> result.predict(data).shape
        (12, 12)
        """
        binned = of_one_data_set(binned)
        with torch.no_grad():
            label = self.model.get_label(binned["pos"], binned["vel"], self.params).cpu().numpy()
        return label + selection_offset(binned, self._tensors())

    def profiles(self, pos: Numbers, samples: Samples | None = None) -> QTable:
        """Return acceleration, densities and potential at some positions.

        Parameters
        ----------
        pos
            Positions with shape (N,), a Quantity or bare numbers in model units.
        samples
            Samples of the posterior: for their percentiles, and errors from these.

        Returns
        -------
        astropy.table.QTable
            Columns pos; height above the fitted midplane pos0; acceleration; density; surface
            density between -height and height; potential, zero at the midplane; and extrapolated,
            true beyond the last knot. All with units, those that papers print. If the covariance is
            known also standard errors, such as density_err, by linear propagation. With samples
            percentiles such as density_p16, and errors that are half of what lies between the 16th
            and the 84th.

        Examples
        --------
        >>> print(result.profiles([0.1, 0.5] * u.kpc)["surface_density"].round(1))
        [18.8 80.7] solMass / pc2
        """
        units = self.model.units
        where = to_quantity(positions(pos, "pos", units), "length", units)
        table = QTable({"pos": where, "height": where - self.quantity("pos0")})
        columns = self._profile_columns(where, samples)
        for name in PROFILES:
            for column in [c for c in columns.colnames if c.startswith(name)]:
                table[column] = columns[column].to(_PROFILE_UNITS[name])
        table["extrapolated"] = beyond_edge(self.model, self._tensors(), where)
        if samples is not None:
            table.meta["n_samples"] = len(samples)
        return table

    def formula_gap(self) -> tuple[float, float]:
        """Return how far the two formulas of the acceleration differ, and in standard errors.

        Both are the largest absolute values of `~torusimaging_torch.TorusImaging1D`'s
        ``compare_formulas``: a fraction, infinite where one formula has no value, and that over the
        fractional error of the acceleration, nan where that is not known. Without harmonics the
        formulas are the same.

        Examples
        --------
        >>> gap, sigma = result.formula_gap()
        >>> bool(gap > 0)
        True
        """
        pos, gap = self.model.compare_formulas(self._tensors())
        gap = np.where(np.isfinite(gap), np.abs(gap), np.inf)
        table = profiles(self.model, self.params, pos, self.covariance, bounds=self.bounds)
        if self.covariance is None:
            return float(gap.max()), np.nan
        with np.errstate(divide="ignore", invalid="ignore"):
            sigma = gap / np.abs(table["acceleration_err"] / table["acceleration"]).to_value("")
        known = sigma[~np.isnan(sigma)]
        return float(gap.max()), float(known.max()) if known.size else np.nan

    def _profile_columns(self, pos: u.Quantity, samples: Samples | None) -> QTable:
        if samples is None:
            return profiles(self.model, self.params, pos, self.covariance, bounds=self.bounds)
        table = profiles(self.model, self.params, pos)
        cuts = profiles(self.model, samples, pos)
        for name in PROFILES:
            for percentile in PERCENTILES:
                table[f"{name}_p{percentile:g}"] = cuts[f"{name}_p{percentile:g}"]
            table[f"{name}_err"] = (table[f"{name}_p84"] - table[f"{name}_p16"]) / 2
        return table

    def quantity(self, name: str) -> u.Quantity:
        """Return pos0, vel0 or Omega0 of the fit as a Quantity.

        Examples
        --------
        >>> print(result.quantity("Omega0").round(4))
        0.0743 rad / Myr
        """
        return self.measured(name)[0]

    def measured(self, name: str) -> tuple[u.Quantity, u.Quantity]:
        """Return pos0, vel0 or Omega0 with its standard error, nan if that is not known.

        Examples
        --------
        >>> value, error = result.measured("pos0")
        >>> bool(error > 0)
        True
        """
        one_of(name, "name", _MEASURED)
        transform, params = self.model.torus.transform, self._tensors()
        layout = Layout.of(params)
        with torch.enable_grad():
            x = layout.flatten(params).detach().requires_grad_()
            own = layout.unflatten(x)
            ln_Omega0 = transform.ln_frequency(*transform.frame(own))
            value = ln_Omega0.exp() if name == "Omega0" else own[name]
            (slope,) = torch.autograd.grad(value, x)
        error = np.nan
        if self.covariance is not None:
            covariance, still = torch.from_numpy(self.covariance).to(x), self._vanished(layout)
            error = float(propagated(slope.unsqueeze(0), covariance, still.to(x.device)))
        unit = unit_of(PARAM_KINDS.get(name, "frequency"), self.model.units)
        return value.item() * unit, error * unit

    def interval(self, name: str, samples: Samples | None = None) -> u.Quantity:
        """Return pos0, vel0 or Omega0 between its errors, with shape (3,): lower, middle, upper.

        With samples these are their 16th, 50th and 84th percentiles, otherwise the best fit and a
        standard error to either side, nan if that is not known.

        Examples
        --------
        >>> low, middle, high = result.interval("Omega0")
        >>> bool(low < middle < high)
        True
        """
        if samples is None:
            value, error = self.measured(name)
            return u.Quantity([value - error, value, value + error])
        params, transform = samples.params, self.model.torus.transform
        if name == "Omega0":
            draws = transform.ln_frequency(*transform.frame(params)).exp()
        else:
            draws = params[name]
        kind = PARAM_KINDS.get(name, "frequency")
        return np.percentile(to_quantity(draws, kind, self.model.units), [16, 50, 84])

    def draw(self, size: int, seed: int = 0) -> Nested:
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
            Samples along the first dimension of its leaves. Log slopes are drawn as the slopes
            that they stand for, densities of sheets as their total and balances. Parameters whose
            errors are not known are nan, and so is what follows from them; but log slopes on their
            lower bound stay there.

        Raises
        ------
        ValueError
            If the covariance is not known.

        Examples
        --------
        >>> draws = result.draw(3)
        >>> sorted(draws)
        ['e_params', 'label_params', 'ln_Omega0', 'pos0', 'vel0']
        """
        if self.covariance is None or not np.isfinite(self.covariance).any():
            raise ValueError(
                "the fit has no covariance: fit again with --uncertainty crlb, or give get_crlb's"
            )
        size, seed = whole(size, "size", 0), whole(seed, "seed", 0)
        params = self._tensors()
        layout = Layout.of(params)
        vector, box = layout.flatten(params).detach(), self.model.border.box(self.bounds, layout)
        covariance = torch.from_numpy(self.covariance.copy()).to(vector)
        root, generator = covariance_root(covariance), torch.Generator().manual_seed(seed)
        logarithmic = self.model.torus.logarithmic_in(layout).to(vector.device)
        amounts = self.model.torus.amounts_in(layout).to(vector.device)
        draws = vector_samples(vector, root, size, generator, logarithmic, box, amounts)
        lost = covariance.diagonal().isnan() & ~self._vanished(layout).to(vector.device)
        return layout.unflatten(torch.where(lost, torch.nan, draws))

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the fit to one file.

        A file with this name is replaced when all is written. It holds a batch of one, which
        `BatchResult` can read as well.

        Parameters
        ----------
        path
            File name that ends in .ecsv, .fits, .parquet or .hdf5.

        Examples
        --------
        >>> result.write(f"{folder}/fit.ecsv")
        """
        layout, state = Layout.of(self._tensors()), self.state
        x, lower, upper = self._vectors(layout)
        one = {"x": x, "lower": lower, "upper": upper, **knots_of(self.model)}
        one |= describe_state(state, layout.names)
        if self.covariance is not None:
            one["covariance"] = torch.from_numpy(self.covariance.copy())
        described = {**describe_model(self.model), "objective": plain(self.objective)}
        described["provenance"] = plain(self.provenance)
        described["evaluation"] = state.evaluation
        values = {name: value.unsqueeze(0) for name, value in one.items()}
        write_result(encode(["fit"], [state.message], values, layout, described, {}), path)

    @classmethod
    def read(cls, path: str | os.PathLike[str], *, trust: bool = False) -> FitResult:
        """Read a fit from a file that `write` made.

        The model, its parameters and bounds are the same to the last bit.

        Parameters
        ----------
        path
            The file.
        trust
            Whether a penalty of one's own, which is stored by name, may be imported when it is
            called.

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        ValueError
            If the file is not a fit, was written by another version, or is damaged; the message
            names file and reason.

        Examples
        --------
        >>> result.write(f"{folder}/again.ecsv")
        >>> FitResult.read(f"{folder}/again.ecsv").state.success
        True
        """
        stored = read_result(path, trust)
        if len(stored["names"]) != 1:
            raise ValueError(
                f"{path} holds {len(stored['names'])} fits, not one: read it with BatchResult.read"
            )
        one = {name: value[0] for name, value in stored["values"].items()}
        try:
            if not one["x"].isfinite().all():
                raise ValueError("a parameter is not finite")
            return cls.of_row(
                stored["names"][0], stored["message"][0], one, stored["layout"], stored["settings"]
            )
        except (KeyError, IndexError, TypeError, ValueError) as error:
            reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
            raise ValueError(f"the fit in {path} is damaged: {reason}") from None

    @classmethod
    def of_row(
        cls,
        name: str,
        message: str,
        values: Mapping[str, Tensor],
        layout: Layout,
        settings: Mapping[str, Any],
    ) -> FitResult:
        """Return one of the fits of a batch.

        Parameters
        ----------
        name, message, values, layout, settings
            The attributes of a `BatchResult`, of one of its fits: values without their first
            dimension.
        """
        lower, upper = (layout.unflatten(values[side]) for side in ("lower", "upper"))
        provenance = with_numbers(settings.get("provenance", {"subsample": name}))
        return cls(
            build_model(settings, values),
            layout.unflatten(values["x"]),
            map_leaves(lambda low, high: (low, high), lower, upper),
            build_state(values, layout.names, message, settings.get("evaluation", "")),
            settings["objective"],
            provenance,
            values["covariance"].numpy() if "covariance" in values else None,
        )

    def __repr__(self) -> str:
        """Show how the fit ended and what it found at the centre."""
        state, n = self.state, len(self.to_table())
        end = "converged" if state.success else f"not converged ({state.message})"
        kinds = {"": self.objective} if isinstance(self.objective, str) else self.objective
        kind = " and ".join(f"{kind} {name}".strip() for name, kind in kinds.items())
        lines = [f"{kind} fit of {n} parameters, {end} after {state.iter_num} iterations"]
        for name in ("Omega0", "pos0", "vel0"):
            value, error = self.measured(name)
            lines.append(f"{name} = {value.value:.5g} +- {error.value:.2g} {value.unit}")
        held = [f"held back by bounds: {', '.join(state.at_bound)}"] if state.at_bound else []
        return "FitResult: " + "\n  ".join(lines + held)

    def _repr_html_(self) -> str:
        """Show the table of parameters in a notebook."""
        return as_html(self.to_table())


def as_html(table: QTable) -> str:
    """Return a table for a notebook, with as many digits as one reads."""
    for column in table.itercols():
        if column.dtype.kind == "f":
            column.info.format = ".5g"
    return "\n".join(table.pformat(html=True))
