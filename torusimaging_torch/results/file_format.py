"""Fits as one table and one file, and back: a row for each, in the header what all share.

One fit is a table with one row. The four formats hold the same columns, to the last bit.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import astropy.units as u
import numpy as np
import torch
from astropy.table import Column, QTable
from gala.units import UnitSystem
from torch import Tensor

from torusimaging_torch import __version__
from torusimaging_torch.arrays import Array
from torusimaging_torch.catalogue.endings import FORMATS, as_path, format_of
from torusimaging_torch.catalogue.files import write_in
from torusimaging_torch.likelihoods.objectives import make_likelihood
from torusimaging_torch.numerics.minimum import Status
from torusimaging_torch.numerics.params import Layout, Params, iter_leaves
from torusimaging_torch.results.atomic import replaced_file
from torusimaging_torch.results.checksum import is_sealed, seal
from torusimaging_torch.units import (
    PARAM_KINDS,
    as_unit_system,
    gravitational_constant,
    to_quantity,
    unit_of,
)

__all__ = [
    "FORMAT_VERSION",
    "INTEGERS",
    "NUMBERS",
    "check_columns",
    "decode",
    "encode",
    "is_result",
    "read_result",
    "write_result",
]

FORMAT_VERSION = 3
"""The version of the file format; a reader refuses files of another one."""

_FORMAT = "torusimaging_torch fits"
# An ECSV file names its format at the end of the header, after the columns.
_HEADER_SIZE = 1 << 14
_OPTIONS: dict[str, dict[str, object]] = {"hdf5": {"path": "fits"}}
_WRITE_OPTIONS: dict[str, dict[str, object]] = {"hdf5": {"serialize_meta": True}}
_READ_OPTIONS: dict[str, dict[str, object]] = {"fits": {"mask_invalid": False}}

# One number per fit, in the order of the table; those that are not known have no column.
NUMBERS = (
    "fun_val",
    "chi2_dof",
    "n_pixels",
    "n_masked",
    "iterations",
    "evaluations",
    "expected_gain",
    "start_spread",
    "starts_agree",
)
_ROWS = ("at_bound", "lower", "upper", "heights", "plane_Omega", "reach")
_ENDINGS = ("_knots", "label_smooth_sigma", "selection_error")
"""Columns of the fits themselves, and how those end that each data set may have."""
_DTYPES = ("float64", "float32")
INTEGERS = ("n_pixels", "n_masked", "iterations", "evaluations", "starts_agree")
# Names of columns that are the table's own.
_TAKEN = re.compile(
    r"name|success|status|message|Omega0|at_bound|lower|upper|covariance"
    rf"|.*({'|'.join(_ENDINGS)})|heights|plane_Omega|reach|(pos0|vel0|ln_Omega0|ln_rho|.+_vals)(_err)?|{'|'.join(NUMBERS)}"
)


def check_columns(columns: Mapping[str, object]) -> dict[str, Array | u.Quantity]:
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


def encode(
    names: Sequence[str],
    message: Sequence[str],
    values: Mapping[str, Tensor],
    layout: Layout,
    settings: Mapping[str, Any],
    columns: Mapping[str, object],
    covariance: bool = True,
) -> QTable:
    """Return the table of some fits.

    Parameters
    ----------
    names, message, values, layout, settings, columns
        The attributes of a `BatchResult`.
    covariance
        Whether to add the covariances, if they are known.
    """
    units = as_unit_system([u.Unit(name) for name in settings["units"]])
    table = QTable({"name": list(names), **columns})
    table["success"] = (values["status"] == Status.CONVERGED).numpy()
    table["status"] = [Status(int(s)).name for s in values["status"]]
    table["message"] = list(message)
    for name in NUMBERS:
        if name in values:
            table[name] = values[name].numpy()
    known = values.get("covariance")
    sigma = torch.full_like(values["x"], torch.nan) if known is None else _sigma(known)
    errors = dict(iter_leaves(layout.unflatten(sigma)))
    params = layout.unflatten(values["x"])
    for path, leaf in iter_leaves(params):
        unit = unit_of(PARAM_KINDS.get(str(path[0])), units)
        for column, value in ((_column(path), leaf), (f"{_column(path)}_err", errors[path])):
            table[column] = value.numpy() * unit if path[0] in PARAM_KINDS else value.numpy()
    table["Omega0"] = to_quantity(_frequency(params, units), "frequency", units)
    for name in values:
        if name.endswith(_ENDINGS) or name in _ROWS:
            table[name] = values[name].numpy()
    if covariance and known is not None:
        table["covariance"] = known.flatten(1).numpy()
    table.meta = {
        "FORMAT": _FORMAT,
        "VERSION": FORMAT_VERSION,
        "WRITER": f"torusimaging_torch {__version__}",
        "SETTINGS": json.dumps(settings),
        "COLUMNS": json.dumps(list(columns)),
        "PARAMS": json.dumps([[list(p) for p in layout.paths], list(layout.sizes)]),
    }
    seal(table)
    return table


def _frequency(params: Params, units: UnitSystem) -> Tensor:
    """Return Omega0, of a potential by Poisson's equation in the midplane."""
    if "ln_Omega0" in params:
        return params["ln_Omega0"].exp()
    density = params["ln_rho"].exp().sum(-1)
    return (4 * torch.pi * gravitational_constant(units) * density).sqrt()


def _sigma(covariance: Tensor) -> Tensor:
    return covariance.diagonal(dim1=-2, dim2=-1).sqrt()


def decode(table: QTable, trust: bool = False) -> dict[str, Any]:
    """Return the attributes of a `BatchResult` from its table, the same to the last bit.

    Parameters
    ----------
    table
        The table.
    trust
        Whether penalties of other packages, of which the table has the names, may be imported when
        they are called.

    Raises
    ------
    ValueError
        If it is not such a table, of another version, not what was written, or of nonsense; the
        message says which.
    KeyError
        If something is missing in it.
    """
    meta = {key.upper(): value for key, value in table.meta.items()}
    if meta.get("FORMAT") != _FORMAT:
        raise ValueError(f"expected a table with FORMAT: {_FORMAT}, got {meta.get('FORMAT')}")
    if int(meta["VERSION"]) != FORMAT_VERSION:
        raise ValueError(
            f"it has format version {meta['VERSION']} ({meta.get('WRITER')}), this program "
            f"(torusimaging_torch {__version__}) reads {FORMAT_VERSION}: update the older of them"
        )
    if not is_sealed(table):
        raise ValueError("its numbers, units or header are not those that were written")
    paths, sizes = json.loads(meta["PARAMS"])
    layout = Layout(tuple(tuple(path) for path in paths), tuple(sizes))
    values = {name: _tensor(table[name]) for name in NUMBERS if name in table.colnames}
    values |= {name: values[name].long() for name in INTEGERS if name in values}
    leaves = [_tensor(table[_column(path)]) for path in layout.paths]
    values["x"] = torch.cat([x.unsqueeze(-1) if x.ndim == 1 else x for x in leaves], dim=-1)
    values["status"] = torch.tensor([int(Status[s]) for s in _texts(table["status"])])
    values["at_bound"] = _tensor(table["at_bound"]).bool()
    for name in table.colnames:
        if name.endswith(_ENDINGS) or name in set(_ROWS) - {"at_bound"}:
            values[name] = _tensor(table[name])
    if "covariance" in table.colnames:
        square = (len(table), layout.size, layout.size)
        values["covariance"] = _tensor(table["covariance"]).reshape(square)
    return {
        "names": _texts(table["name"]),
        "message": _texts(table["message"]),
        "values": values,
        "layout": layout,
        "settings": _read_settings(json.loads(meta["SETTINGS"]), trust),
        "columns": {name: _plain(table[name]) for name in json.loads(meta["COLUMNS"])},
    }


def _read_settings(settings: dict[str, Any], trust: bool) -> dict[str, Any]:
    """Return settings of a file, with what they may name and what they can be."""
    objectives = settings["objective"]
    for one in objectives.values() if isinstance(objectives, Mapping) else [objectives]:
        make_likelihood(one)
    if settings["dtype"] not in _DTYPES:
        raise ValueError(f"dtype must be one of {_DTYPES}, got {settings['dtype']!r}")
    return {name: _with_trust(value, trust) for name, value in settings.items()}


def _with_trust(value: object, trust: bool) -> Any:
    """Mark penalties that are named, wherever they are, as such that may be imported or not."""
    if isinstance(value, list):
        return [_with_trust(item, trust) for item in value]
    if not isinstance(value, Mapping):
        return value
    found = {key: _with_trust(item, trust) for key, item in value.items() if key != "trusted"}
    named = "keywords" in found and ":" in str(found.get("name"))
    return {**found, "trusted": trust} if named else found


def write_result(table: QTable, path: str | os.PathLike[str]) -> None:
    """Write a table of fits in the format that the file's name asks for; it appears when complete.

    Raises
    ------
    ValueError
        If the ending is another one than those of ECSV, FITS, parquet or HDF5.
    """
    name = _format(path)
    options = _OPTIONS.get(name, {}) | _WRITE_OPTIONS.get(name, {})
    with replaced_file(path) as temporary:
        write_in(table, temporary, name, **options)


def read_result(path: str | os.PathLike[str], trust: bool = False) -> dict[str, Any]:
    """Read what `write_result` wrote; see `decode`.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is a folder, holds no fits, was written by another version, or is damaged; the message
        says which.
    """
    path = as_path(path)
    if not path.exists():
        raise FileNotFoundError(f"no file or folder {str(path)!r}")
    if path.is_dir():
        raise ValueError(f"{path} is a folder, expected a file with fits: {_inside(path)}")
    name = _format(path)
    options = _OPTIONS.get(name, {}) | _READ_OPTIONS.get(name, {})
    try:
        return decode(QTable.read(path, format=name, **options), trust)
    except (FileNotFoundError, MemoryError, ImportError):
        raise
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        reason = f"{reason} is missing" if isinstance(error, KeyError) else reason
        raise ValueError(f"{path} holds no fits, or is damaged: {reason[:200]}") from None


def _inside(folder: Path) -> str:
    """Return what to read instead of a folder."""
    if (folder / "store.json").is_file():
        return "it is the store of a batch, read it with torusimaging_torch.batch.merge"
    found = sorted(str(path) for path in folder.glob("*.ecsv") if is_result(path))
    return f"read {' or '.join(found)}" if found else "there is none in it"


def is_result(path: str | os.PathLike[str]) -> bool:
    """Return whether an ECSV file says of itself that it holds fits; it may still be damaged."""
    try:
        with open(as_path(path), encoding="utf-8", errors="replace") as file:
            return f"FORMAT: {_FORMAT}" in file.read(_HEADER_SIZE)
    except OSError:
        return False


def _format(path: str | os.PathLike[str]) -> str:
    name = format_of(path)
    if name is None:
        usual = ", ".join(endings[0] for endings in FORMATS.values())
        raise ValueError(f"fits are files that end in one of {usual}, got {os.fspath(path)!r}")
    return name


def _column(path: tuple[Any, ...]) -> str:
    """Return the column of a parameter: pos0, e2_vals, label_vals, mg_fe_label_vals."""
    match path:
        case ("e_params", order, leaf):
            return f"e{order}_{leaf}"
        case ("selection_params", *names, leaf):
            return "_".join([*names, "selection", leaf])
        case (_, *names, leaf):
            return "_".join([*names, leaf])
    return str(path[0])


def _plain(column: object) -> Array | u.Quantity:
    """Return a column as an array or a Quantity, texts as texts, in the machine's byte order."""
    if isinstance(column, u.Quantity):
        return u.Quantity(_native(column.value), column.unit, copy=False)
    array = np.asarray(column)
    if (unit := getattr(column, "unit", None)) is not None:
        return u.Quantity(_native(array), unit, copy=False)
    if array.dtype.kind in "SOU":
        return np.array(_texts(column), dtype=str)
    return _native(array)


def _native(array: Array) -> Array:
    # Files may have the other byte order, which torch does not know.
    return np.array(array, dtype=array.dtype.newbyteorder("="))


def _texts(column: Column) -> tuple[str, ...]:
    items = np.ma.filled(column, "").tolist()
    return tuple(item.decode() if isinstance(item, bytes) else item for item in items)


def _tensor(column: Column | u.Quantity) -> Tensor:
    bare = np.asarray(np.ma.filled(getattr(column, "value", column), np.nan))
    return torch.from_numpy(_native(bare))
