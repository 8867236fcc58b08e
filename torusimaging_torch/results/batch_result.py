"""The fits of many subsamples: stacked parameters, their errors, and one table of all."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, SupportsIndex, overload

import astropy.units as u
import numpy as np
import torch
from astropy.table import QTable
from torch import Tensor

from torusimaging_torch.arrays import Array
from torusimaging_torch.numerics.box import Box
from torusimaging_torch.numerics.minimum import Status
from torusimaging_torch.numerics.params import Layout, Nested, map_leaves
from torusimaging_torch.results.arguments import Rows, positions, some_rows
from torusimaging_torch.results.description import Model, build_model
from torusimaging_torch.results.file_format import NUMBERS, encode, read_result, write_result
from torusimaging_torch.results.fit_result import FitResult, as_html
from torusimaging_torch.results.profile_table import profiles_with_errors
from torusimaging_torch.results.profile_values import PROFILES
from torusimaging_torch.units import Numbers, gravitational_constant, to_quantity

__all__ = ["BatchResult"]

# Subsamples at a time: each carries the derivatives by all its parameters, at all positions.
_CHUNK = 16


@dataclass(frozen=True, eq=False)
class BatchResult:
    """The fits of B subsamples.

    Attributes
    ----------
    names
        Name of each subsample.
    message
        How each fit ended, in words.
    values
        Tensors with first dimension B: parameters "x" with their bounds "lower" and "upper",
        (B, P); "covariance" (B, P, P) if it was asked for; knots; "at_bound" (B, P); "reach" (B,),
        the largest distance of a pixel from pos0, in model units; and for each subsample "fun_val"
        (the objective), "chi2_dof" (or the deviance, by degree of freedom), "n_pixels", "status",
        "iterations", "evaluations", "expected_gain" (nats), and of several starts "start_spread"
        (nats between best and worst) and "starts_agree" (how many ended at the best). Nan where
        nothing could be fitted.
    layout
        How parameters are laid out.
    settings
        What was the same for all, as plain values.
    columns
        What else is known of each subsample, arrays or Quantities with shape (B,) by name, such as
        the centre of its group and the number of its resampling.

    Examples
    --------
    Two fits, as the examples of its methods use them.

    >>> from torusimaging_torch.batch import fit_many
    >>> scales = {"label_l2_sigma": 1.0, "label_smooth_sigma": 0.5}
    >>> scales |= {"e_l2_sigmas": {2: 1.0}, "e_smooth_sigmas": {2: 0.5}}
    >>> twice = {"inner": data, "outer": data}
    >>> batch = fit_many(twice, label_knots=3, e_knots={2: 3}, progress=False, **scales)
    >>> batch
    BatchResult: 2 gaussian fits of 8 parameters, 2 converged
      columns: -
    """

    names: tuple[str, ...]
    message: tuple[str, ...]
    values: Mapping[str, Tensor]
    layout: Layout
    settings: Mapping[str, Any]
    columns: Mapping[str, Array | u.Quantity] = field(default_factory=dict)

    def __len__(self) -> int:
        """Return the number of subsamples."""
        return len(self.names)

    def __getattr__(self, name: str) -> Tensor:
        """Return one of the numbers per subsample, such as ``expected_gain``."""
        if name in (*NUMBERS, "status", "at_bound"):
            return self.values[name]
        raise AttributeError(f"a BatchResult has no attribute {name!r}")

    @property
    def success(self) -> Tensor:
        """Which fits converged, with shape (B,)."""
        return self.values["status"] == Status.CONVERGED

    @property
    def params(self) -> Nested:
        """The parameters, nested, with shapes (B,) and (B, K); nan where a fit failed."""
        return self.layout.unflatten(self.values["x"])

    @property
    def covariance(self) -> Tensor | None:
        """The Cramer-Rao bound, with shape (B, P, P), nan where there is none; or None."""
        return self.values.get("covariance")

    @property
    def errors(self) -> Nested:
        """Standard deviations by the Cramer-Rao bound, nested as `params`; nan if not known."""
        if self.covariance is None:
            return map_leaves(lambda x: torch.full_like(x, torch.nan), self.params)
        return self.layout.unflatten(self.covariance.diagonal(dim1=-2, dim2=-1).sqrt())

    @property
    def model(self) -> Model:
        """One model for all subsamples: its knots have shape (B, K)."""
        return self.model_of(slice(None))

    def model_of(self, rows: Rows) -> Model:
        """Return the model of one subsample, or one for several: an index, slice or tensor.

        Examples
        --------
        >>> type(batch.model_of(0)).__name__
        'TorusImaging1DSpline'
        """
        places = some_rows(rows, len(self))
        return build_model(self.settings, {name: v[places] for name, v in self.values.items()})

    @overload
    def __getitem__(self, index: SupportsIndex) -> FitResult: ...

    @overload
    def __getitem__(self, index: slice) -> BatchResult: ...

    def __getitem__(self, index: SupportsIndex | slice) -> FitResult | BatchResult:
        """Return one fit, with an ordinary model, its parameters, bounds and errors.

        Of a slice the fits are a batch, as `take` returns it.

        Examples
        --------
        >>> batch[0].state.success, batch[:1].names
        (True, ('inner',))
        """
        if isinstance(index, slice):
            return self.take(index)
        if not isinstance(index, SupportsIndex):
            raise TypeError(
                f"a fit has one place, and several are a slice, got {type(index).__name__}: use "
                "take for others"
            )
        i = range(len(self))[index]
        one = {name: tensor[i] for name, tensor in self.values.items()}
        return FitResult.of_row(self.names[i], self.message[i], one, self.layout, self.settings)

    def __iter__(self) -> Iterator[FitResult]:
        """Go through the fits one by one."""
        return (self[i] for i in range(len(self)))

    @classmethod
    def concatenate(cls, parts: Sequence[BatchResult]) -> BatchResult:
        """Join results that were made with the same settings, in order.

        Examples
        --------
        >>> from torusimaging_torch.results import BatchResult
        >>> len(BatchResult.concatenate([batch, batch]))
        4
        """
        if not parts:
            raise ValueError("there is nothing to join: no part was given")
        first = parts[0]
        if any(part.settings != first.settings for part in parts):
            raise ValueError("only results of the same settings can be joined")
        if any(list(part.columns) != list(first.columns) for part in parts):
            raise ValueError("only results with the same columns can be joined")
        return replace(
            first,
            names=tuple(name for part in parts for name in part.names),
            message=tuple(text for part in parts for text in part.message),
            values={k: torch.cat([part.values[k] for part in parts]) for k in first.values},
            columns={k: np.concatenate([part.columns[k] for part in parts]) for k in first.columns},
        )

    def take(self, rows: Rows) -> BatchResult:
        """Return some of the subsamples.

        Parameters
        ----------
        rows
            Their places, a slice of them, or booleans with shape (B,).

        Examples
        --------
        >>> batch.take([1]).names
        ('outer',)
        """
        places = np.atleast_1d(some_rows(rows, len(self)))
        return replace(
            self,
            names=tuple(self.names[i] for i in places),
            message=tuple(self.message[i] for i in places),
            values={k: v[torch.from_numpy(places)] for k, v in self.values.items()},
            columns={k: v[places] for k, v in self.columns.items()},
        )

    def profiles(
        self, pos_grid: Numbers, errors: bool = True, from_midplane: bool = False
    ) -> dict[str, u.Quantity]:
        """Return acceleration, densities and potential of all subsamples at once.

        Parameters
        ----------
        pos_grid
            Positions with shape (N,).
        errors
            Whether to add standard errors by linear propagation of the bound, if it is known.
        from_midplane
            Whether positions are counted from each subsample's own pos0.

        Returns
        -------
        dict
            Quantities with shape (B, N), such as "density", and "density_err"; and "pos" (N,). Nan
            for a subsample whose fit failed.

        Examples
        --------
        >>> batch.profiles([0.1, 0.5] * u.kpc)["surface_density"].shape
        (2, 2)
        """
        units = self.model.units
        pos = positions(pos_grid, "pos_grid", units)
        x, G = self.values["x"], gravitational_constant(units)
        C = self.covariance if errors else None
        shape = (2, len(PROFILES), len(self), len(pos))
        every = torch.full(shape, torch.nan, dtype=x.dtype)
        for rows in x.isfinite().all(-1).nonzero().squeeze(-1).split(_CHUNK):
            own = None if C is None else C[rows].to(x)
            torus = self.model_of(rows).torus
            box = Box(self.values["lower"][rows], self.values["upper"][rows])
            some = profiles_with_errors(
                torus, pos.to(x), self.layout, x[rows], G, own, from_midplane, box
            )
            every[:, :, rows] = torch.stack(some)
        found = {"pos": to_quantity(pos, "length", units)}
        for name, values, sigma in zip(PROFILES, *every, strict=True):
            found[name] = to_quantity(values, name.replace("_", " "), units)
            if C is not None:
                found[f"{name}_err"] = to_quantity(sigma, name.replace("_", " "), units)
        return found

    def to_table(self, covariance: bool = False) -> QTable:
        """Return a table with one row for each subsample, those that failed included.

        Parameters
        ----------
        covariance
            Whether to add the covariances, flattened to P^2 numbers.

        Returns
        -------
        astropy.table.QTable
            Columns name, those of ``columns``, success, status, message; the numbers per subsample;
            each parameter with its error, vectors as columns with shape (B, K) named e2_vals or
            label_vals; Omega0; knots; and at_bound, lower and upper with shape (B, P). The header
            has the settings, as JSON, and the names of the P parameters.

        Examples
        --------
        >>> table = batch.to_table()
        >>> len(table), table.colnames[:2]
        (2, ['name', 'success'])
        """
        return encode(**vars(self), covariance=covariance)

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write everything to one file: .ecsv, .parquet, .hdf5 or .fits.

        A file with this name is replaced when all is written.

        Raises
        ------
        ValueError
            If the ending is another one.

        Examples
        --------
        >>> batch.write(f"{folder}/fits.ecsv")
        """
        write_result(self.to_table(covariance=True), path)

    @classmethod
    def read(cls, path: str | os.PathLike[str], *, trust: bool = False) -> BatchResult:
        """Read what `write` wrote, the same to the last bit; also the file of one fit.

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
            If it holds no fits, was written by another version, or is damaged; the message says
            which.

        Examples
        --------
        >>> from torusimaging_torch.results import BatchResult
        >>> batch.write(f"{folder}/again_fits.ecsv")
        >>> BatchResult.read(f"{folder}/again_fits.ecsv").names
        ('inner', 'outer')
        """
        return cls(**read_result(path, trust))

    def __repr__(self) -> str:
        """Show how many fits there are, how they ended, and what is known of them."""
        return (
            f"BatchResult: {len(self)} {self.settings['objective']} fits of {self.layout.size} "
            f"parameters, {int(self.success.sum())} converged\n"
            f"  columns: {', '.join(self.columns) or '-'}"
        )

    def _repr_html_(self) -> str:
        """Show the table in a notebook."""
        return as_html(self.to_table())
