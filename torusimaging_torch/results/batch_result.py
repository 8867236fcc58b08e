"""The fits of many subsamples: stacked parameters, their errors, and one table of all."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from astropy.table import QTable
from torch import Tensor

from torusimaging_torch.model.optstep import OptState
from torusimaging_torch.model_spline import TorusImaging1DSpline
from torusimaging_torch.numerics.lbfgs import Status
from torusimaging_torch.numerics.params import Layout, map_leaves
from torusimaging_torch.results.atomic import replaced_file
from torusimaging_torch.results.batch_profiles import batch_profiles
from torusimaging_torch.results.batch_table import NUMBERS, decode, encode
from torusimaging_torch.results.description import build_model
from torusimaging_torch.results.fit_result import FitResult

__all__ = ["BatchResult"]

_WRITE_OPTIONS: dict[str, dict[str, Any]] = {
    ".ecsv": {"format": "ascii.ecsv"},
    ".parquet": {"format": "parquet"},
    ".hdf5": {"format": "hdf5", "path": "batch", "serialize_meta": True},
    ".fits": {"format": "fits"},
}


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
        (B, P); "covariance" (B, P, P) if it was asked for; knots; "at_bound" (B, P); and for each
        subsample "fun_val" (the objective), "chi2_dof" (or the deviance, by degree of freedom),
        "n_pixels", "status", "iterations", "evaluations", "expected_gain" (nats), and of several
        starts "start_spread" (nats between best and worst) and "starts_agree" (how many ended at
        the best). Nan where nothing could be fitted.
    layout
        How parameters are laid out.
    settings
        What was the same for all, as plain values.
    columns
        What else is known of each subsample, arrays or Quantities with shape (B,) by name, such as
        the centre of its group and the number of its resampling.
    """

    names: tuple[str, ...]
    message: tuple[str, ...]
    values: Mapping[str, Tensor]
    layout: Layout
    settings: Mapping[str, Any]
    columns: Mapping[str, Any] = field(default_factory=dict)

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
    def params(self) -> dict[str, Any]:
        """The parameters, nested, with shapes (B,) and (B, K); nan where a fit failed."""
        return self.layout.unflatten(self.values["x"])

    @property
    def covariance(self) -> Tensor | None:
        """The Cramer-Rao bound, with shape (B, P, P), nan where there is none; or None."""
        return self.values.get("covariance")

    @property
    def errors(self) -> dict[str, Any]:
        """Standard deviations by the Cramer-Rao bound, nested as `params`; nan if not known."""
        if self.covariance is None:
            return map_leaves(lambda x: torch.full_like(x, torch.nan), self.params)
        return self.layout.unflatten(self.covariance.diagonal(dim1=-2, dim2=-1).sqrt())

    @property
    def model(self) -> TorusImaging1DSpline:
        """One model for all subsamples: its knots have shape (B, K)."""
        return self.model_of(slice(None))

    def model_of(self, rows: Any) -> TorusImaging1DSpline:
        """Return the model of one subsample, or one for several: an index, slice or tensor."""
        orders = [int(m) for m in self.settings["e_knots"]]
        return build_model(
            {
                "units": self.settings["units"],
                "convention": self.settings["elliptical_angle_convention"],
                "dtype": self.settings["dtype"],
                "label_spline": self.settings["label_spline"],
                "e_spline": self.settings["e_spline"],
                "label_knots": self.values["label_knots"][rows],
                "e_knots": {m: self.values[f"e{m}_knots"][rows] for m in orders},
                "e_signs": {int(m): sign for m, sign in self.settings["e_signs"].items()},
                "regularization": {
                    **self.settings["regularization_func"],
                    "keywords": _int_keys(self.settings["regularization_func"]["keywords"]),
                },
            }
        )

    def __getitem__(self, index: int) -> FitResult:
        """Return one fit, with an ordinary model, its parameters, bounds and errors."""
        i = range(len(self))[index]
        one = {name: tensor[i] for name, tensor in self.values.items()}
        lower, upper = (self.layout.unflatten(one[side]) for side in ("lower", "upper"))
        held = zip(self.layout.names, one["at_bound"].tolist(), strict=True)
        state = OptState(
            success=bool(self.success[i]),
            fun_val=one["fun_val"].item(),
            iter_num=one["iterations"].item(),
            num_fun_eval=one["evaluations"].item(),
            status=Status(int(one["status"])),
            message=self.message[i],
            expected_gain=one["expected_gain"].item(),
            at_bound=tuple(name for name, at in held if at),
            num_masked=0,
        )
        covariance = one.get("covariance")
        return FitResult(
            self.model_of(i),
            self.layout.unflatten(one["x"]),
            map_leaves(lambda low, high: (low, high), lower, upper),
            state,
            self.settings["objective"],
            {"subsample": self.names[i]},
            None if covariance is None else covariance.numpy(),
        )

    def __iter__(self) -> Iterator[FitResult]:
        """Go through the fits one by one."""
        return (self[i] for i in range(len(self)))

    @classmethod
    def concatenate(cls, parts: Sequence[BatchResult]) -> BatchResult:
        """Join results that were made with the same settings, in order."""
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

    def take(self, rows: Any) -> BatchResult:
        """Return some of the subsamples.

        Parameters
        ----------
        rows
            Their places, or booleans with shape (B,).
        """
        places = np.arange(len(self))[rows]
        return replace(
            self,
            names=tuple(self.names[i] for i in places),
            message=tuple(self.message[i] for i in places),
            values={k: v[torch.from_numpy(places)] for k, v in self.values.items()},
            columns={k: v[places] for k, v in self.columns.items()},
        )

    def profiles(
        self, pos_grid: Any, errors: bool = True, from_midplane: bool = False
    ) -> dict[str, Any]:
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
        """
        return batch_profiles(self, pos_grid, errors, from_midplane)

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
        """
        return encode(self, covariance)

    @classmethod
    def from_table(cls, table: QTable) -> BatchResult:
        """Build the result again from its table, the same to the last bit.

        Raises
        ------
        ValueError
            If it is not such a table, or of a newer version; the message says which.
        """
        return cls(**decode(table))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything to one file: .ecsv, .parquet, .hdf5 or .fits; it appears when complete.

        Raises
        ------
        ValueError
            If the ending is another one.
        """
        options = _options(path)
        with replaced_file(path) as temporary:
            self.to_table(covariance=True).write(temporary, **options)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> BatchResult:
        """Read what `save` wrote."""
        options = _options(path)
        options.pop("serialize_meta", None)
        if options["format"] == "fits":
            options["mask_invalid"] = False
        return cls.from_table(QTable.read(path, **options))


def _options(path: str | os.PathLike[str]) -> dict[str, Any]:
    ending = Path(path).suffix
    if ending not in _WRITE_OPTIONS:
        raise ValueError(f"a batch is saved as one of {', '.join(_WRITE_OPTIONS)}, got {path}")
    return dict(_WRITE_OPTIONS[ending])


def _int_keys(keywords: Any) -> Any:
    """Turn the orders m, which JSON makes texts, back into numbers."""
    if not isinstance(keywords, Mapping):
        return keywords
    return {int(k) if str(k).isdecimal() else k: _int_keys(value) for k, value in keywords.items()}
