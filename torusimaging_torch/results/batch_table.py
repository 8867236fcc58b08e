"""A batch of fits as one table, and back: a row for each subsample."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import astropy.units as u
import numpy as np
import torch
from astropy.table import QTable
from torch import Tensor

from torusimaging_torch import __version__
from torusimaging_torch.numerics.lbfgs import Status
from torusimaging_torch.numerics.params import Layout, iter_leaves
from torusimaging_torch.units import PARAM_KINDS, to_quantity, unit_of

__all__ = ["INTEGERS", "NUMBERS", "check_columns", "decode", "encode"]

_FORMAT = "torusimaging_torch batch"
_FORMAT_VERSION = 1
# One number per subsample, in the order of the table.
NUMBERS = (
    "fun_val",
    "chi2_dof",
    "n_pixels",
    "iterations",
    "evaluations",
    "expected_gain",
    "start_spread",
    "starts_agree",
)
INTEGERS = ("n_pixels", "iterations", "evaluations", "starts_agree")
# Names of columns that are the batch's own.
_TAKEN = re.compile(
    r"name|success|status|message|Omega0|at_bound|lower|upper|covariance|.*_knots"
    rf"|(pos0|vel0|ln_Omega0|\w+_vals)(_err)?|{'|'.join(NUMBERS)}"
)


def check_columns(columns: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is known of the subsamples as plain arrays and Quantities.

    Parameters
    ----------
    columns
        Anything array-like with shape (B,), by name; a table will do.

    Raises
    ------
    ValueError
        If columns differ in length, hold more than a number or a text in a row, or have names that
        the results have.
    """
    plain = {name: _plain(columns[name]) for name in columns.keys()}  # noqa: SIM118
    for name, values in plain.items():
        if _TAKEN.fullmatch(name):
            raise ValueError(f"the results have a column {name!r} of their own: rename yours")
        if values.ndim != 1 or values.dtype.kind not in "biufU":
            raise ValueError(
                f"columns must hold a number or a text for each subsample, got {name!r} with "
                f"{values.dtype} and shape {values.shape}"
            )
    if len(lengths := {len(values) for values in plain.values()}) > 1:
        raise ValueError(f"columns must have the same length, got {sorted(lengths)}")
    return plain


def encode(result: Any, covariance: bool) -> QTable:
    """Return the table of a `BatchResult`; see its ``to_table``."""
    units = result.model.units
    table = QTable({"name": list(result.names), **result.columns})
    table["success"] = result.success.numpy()
    table["status"] = [Status(int(s)).name for s in result.values["status"]]
    table["message"] = list(result.message)
    for name in NUMBERS:
        table[name] = result.values[name].numpy()
    errors = dict(iter_leaves(result.errors))
    for path, leaf in iter_leaves(result.params):
        unit = unit_of(PARAM_KINDS.get(str(path[0])), units)
        for column, value in ((_column(path), leaf), (f"{_column(path)}_err", errors[path])):
            table[column] = value.numpy() * unit if path[0] in PARAM_KINDS else value.numpy()
    table["Omega0"] = to_quantity(result.params["ln_Omega0"].exp(), "frequency", units)
    for name in result.values:
        if name.endswith("_knots") or name in ("at_bound", "lower", "upper"):
            table[name] = result.values[name].numpy()
    if covariance and result.covariance is not None:
        table["covariance"] = result.covariance.flatten(1).numpy()
    table.meta = {
        "FORMAT": _FORMAT,
        "VERSION": _FORMAT_VERSION,
        "WRITER": f"torusimaging_torch {__version__}",
        "SETTINGS": json.dumps(result.settings),
        "COLUMNS": json.dumps(list(result.columns)),
        "PARAMS": json.dumps([[list(p) for p in result.layout.paths], list(result.layout.sizes)]),
    }
    return table


def decode(table: QTable) -> dict[str, Any]:
    """Return the attributes of a `BatchResult` from its table; see its ``from_table``."""
    meta = {key.upper(): value for key, value in table.meta.items()}
    if meta.get("FORMAT") != _FORMAT:
        raise ValueError(
            f"expected a table of a batch (FORMAT: {_FORMAT}), got FORMAT: {meta.get('FORMAT')}"
        )
    if int(meta["VERSION"]) > _FORMAT_VERSION:
        raise ValueError(
            f"the table has version {meta['VERSION']} ({meta.get('WRITER')}), this program "
            f"reads up to {_FORMAT_VERSION}: update it"
        )
    paths, sizes = json.loads(meta["PARAMS"])
    layout = Layout(tuple(tuple(path) for path in paths), tuple(sizes))
    settings = json.loads(meta["SETTINGS"])
    values = {name: _tensor(table[name]) for name in NUMBERS}
    values |= {name: values[name].long() for name in INTEGERS}
    leaves = [_tensor(table[_column(path)]) for path in layout.paths]
    columns = [x.unsqueeze(-1) if x.ndim == 1 else x for x in leaves]
    values["x"] = torch.cat(columns, dim=-1)
    values["status"] = torch.tensor([int(Status[s]) for s in _texts(table["status"])])
    values["at_bound"] = _tensor(table["at_bound"]).bool()
    known = {name: _plain(table[name]) for name in json.loads(meta.get("COLUMNS", "[]"))}
    for name in table.colnames:
        if name.endswith("_knots") or name in ("lower", "upper"):
            values[name] = _tensor(table[name])
    if "covariance" in table.colnames:
        square = (len(table), layout.size, layout.size)
        values["covariance"] = _tensor(table["covariance"]).reshape(square)
    dtype = getattr(torch, settings["dtype"])
    values = {k: v.to(dtype) if v.is_floating_point() else v for k, v in values.items()}
    names, message = _texts(table["name"]), _texts(table["message"])
    return {
        "names": names,
        "message": message,
        "values": values,
        "layout": layout,
        "settings": settings,
        "columns": known,
    }


def _column(path: tuple[Any, ...]) -> str:
    """Return the column of a parameter: pos0, e2_vals, label_vals."""
    if path[0] == "e_params":
        return f"e{path[1]}_{path[-1]}"
    return str(path[-1])


def _plain(column: Any) -> Any:
    """Return a column as an array or a Quantity, texts as texts, in the machine's byte order."""
    if isinstance(column, u.Quantity):
        return u.Quantity(_native(column.value), column.unit, copy=False)
    array = np.asarray(column)
    if getattr(column, "unit", None) is not None:
        return u.Quantity(_native(array), column.unit, copy=False)
    if array.dtype.kind in "SOU":
        return np.array(_texts(column), dtype=str)
    return _native(array)


def _native(array: Any) -> Any:
    # Files may have the other byte order, which torch does not know.
    return np.array(array, dtype=array.dtype.newbyteorder("="))


def _texts(column: Any) -> tuple[str, ...]:
    items = np.ma.filled(column, "").tolist()
    return tuple(item.decode() if isinstance(item, bytes) else item for item in items)


def _tensor(column: Any) -> Tensor:
    bare = np.asarray(np.ma.filled(getattr(column, "value", column), np.nan))
    return torch.from_numpy(_native(bare))
