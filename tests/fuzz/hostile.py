"""Values as nobody should give them, and as anybody may: what is made of a good one."""

from __future__ import annotations

from typing import Any

import astropy.units as u
import numpy as np
import torch
from astropy.table import Column, MaskedColumn
from astropy.utils.masked import Masked
from hypothesis import strategies as st


def array_of(value: Any) -> Any:
    """Return the numbers of a value as an array, without their unit."""
    if isinstance(value, torch.Tensor):
        return value.detach().numpy().copy()
    return np.array(getattr(value, "value", value), dtype=float)


def like(value: Any, array: Any) -> Any:
    """Return an array with the unit that a value has, if it has one."""
    return array * value.unit if isinstance(value, u.Quantity) else array


def _strided(x: Any) -> Any:
    wide = np.zeros((*x.shape, 2))
    wide[..., 0] = x
    return wide[..., 0]


def _frozen(x: Any) -> Any:
    x = x.copy()
    x.flags.writeable = False
    return x


# The same numbers in another form: the answer has to be the same.
HARMLESS = {
    "list": lambda v: like(v, array_of(v)) if isinstance(v, u.Quantity) else array_of(v).tolist(),
    "float32": lambda v: like(v, array_of(v).astype(np.float32)),
    "big-endian": lambda v: like(v, array_of(v).astype(">f8")),
    "strided": lambda v: like(v, _strided(array_of(v))),
    "Fortran order": lambda v: like(v, np.array(array_of(v), order="F")),
    "read-only": lambda v: like(v, _frozen(array_of(v))),
    "objects": lambda v: like(v, array_of(v)) if isinstance(v, u.Quantity) else array_of(v) + 0,
    "column": lambda v: Column(array_of(v), unit=getattr(v, "unit", None)),
    "masked column": lambda v: MaskedColumn(array_of(v), unit=getattr(v, "unit", None)),
    "masked nowhere": lambda v: Masked(like(v, array_of(v)), mask=False),
    "another unit": lambda v: v.to(v.unit * 10) if isinstance(v, u.Quantity) else v,
}


def _spoilt(number: float) -> Any:
    def spoil(value: Any) -> Any:
        x = array_of(value)
        if x.ndim == 0:
            return like(value, np.array(number))
        x.flat[x.size // 2] = number
        return like(value, x)

    return spoil


def _masked(value: Any) -> Any:
    x = array_of(value)
    mask = np.zeros(x.shape, dtype=bool)
    mask.flat[:1] = True
    return Masked(like(value, x), mask=mask)


# Other numbers, other things: an answer, or an error that says what is wrong.
HOSTILE = {
    "nan": _spoilt(np.nan),
    "inf": _spoilt(np.inf),
    "minus inf": _spoilt(-np.inf),
    "huge": _spoilt(1e300),
    "tiny": _spoilt(5e-324),
    "zeros": lambda v: like(v, 0 * array_of(v)),
    "negative": lambda v: like(v, -np.abs(array_of(v))),
    "all nan": lambda v: like(v, np.full_like(array_of(v), np.nan)),
    "masked": _masked,
    "number": lambda v: like(v, np.float64(0.1)),
    "empty": lambda v: like(v, array_of(v).reshape(-1)[:0]),
    "one": lambda v: like(v, array_of(v).reshape(-1)[:1]),
    "shorter": lambda v: like(v, array_of(v)[:-1]) if array_of(v).ndim else v,
    "one more dimension": lambda v: like(v, array_of(v)[None]),
    "two more dimensions": lambda v: like(v, array_of(v)[None, :, None]) if array_of(v).ndim else v,
    "flat": lambda v: like(v, array_of(v).reshape(-1)),
    "integers": lambda v: like(v, array_of(v).astype(int)),
    "small integers": lambda v: array_of(v).astype(np.int8),
    "truth": lambda v: array_of(v) > 0,
    "complex": lambda v: like(v, array_of(v) + 1j),
    "texts": lambda v: array_of(v).astype(str),
    "dates": lambda v: np.full(array_of(v).shape, np.datetime64("2020-01-01")),
    "wrong unit": lambda v: array_of(v) * u.s,
    "requires grad": lambda v: torch.tensor(array_of(v), requires_grad=True),
    "float16": lambda v: torch.tensor(array_of(v), dtype=torch.float16),
    "complex tensor": lambda v: torch.tensor(array_of(v) + 0j),
    "None": lambda v: None,
    "text": lambda v: "text",
    "dictionary": lambda v: {"a": 1},
    "object": lambda v: object(),
    "ragged": lambda v: [[1.0, 2.0], [3.0]],
}


# In place of a whole number, a number that is none of an array, or a word.
CHOICES: dict[str, Any] = {
    **{str(number): number for number in (0, -1, 0.1, np.nan, np.inf, -np.inf, True, None)},
    **{repr(text): text for text in ("", "nonsense")},
    **{"array": np.arange(3.0), "list": [], "dictionary": {"a": 1}, "object": object()},
    "seconds": 1 * u.s,
}


def change_of_parameters(kind: str, params: dict) -> Any:
    """Return parameters with a leaf that is missing, there without need, or of another shape."""
    changed = dict(params)
    if kind == "missing":
        del changed["ln_Omega0"]
    elif kind == "extra":
        changed["pos1"] = 0.0
    elif kind == "missing order":
        changed["e_params"] = {2: params["e_params"][2]}
    elif kind == "extra order":
        changed["e_params"] = {**params["e_params"], 6: {"vals": [0.0, 0.0]}}
    elif kind == "short leaf":
        changed["label_params"] = {"label_vals": params["label_params"]["label_vals"][:-1]}
    elif kind == "number for leaf":
        changed["label_params"] = {"label_vals": 1.0}
    elif kind == "leaf for branch":
        changed["e_params"] = 1.0
    elif kind == "text":
        changed["pos0"] = "zero"
    elif kind == "wrong unit":
        changed["pos0"] = 1 * u.s
    elif kind == "nan":
        changed["ln_Omega0"] = np.nan
    elif kind == "None":
        changed["vel0"] = None
    elif kind == "a list":
        return [1, 2]
    elif kind == "batches that differ":
        changed |= {"pos0": np.zeros(2), "vel0": np.zeros(3)}
    return changed


PARAMS = (
    "missing",
    "extra",
    "missing order",
    "extra order",
    "short leaf",
    "number for leaf",
    "leaf for branch",
    "text",
    "wrong unit",
    "nan",
    "None",
    "a list",
    "batches that differ",
)

BOUNDS = {
    "reversed": {"ln_Omega0": (0.0, -5.0)},
    "equal": {"ln_Omega0": (-2.5, -2.5)},
    "nan": {"ln_Omega0": (np.nan, 0.0)},
    "one number": {"ln_Omega0": -2.0},
    "three numbers": {"ln_Omega0": (-3.0, -2.0, -1.0)},
    "of nothing": {"omega": (0.0, 1.0)},
    "of another shape": {"label_params": {"label_vals": (np.zeros(2), np.ones(2))}},
    "wrong unit": {"pos0": (-1, 1) * u.s},
    "a list": [1, 2, 3],
    "a text": "tight",
    "the start outside": {"ln_Omega0": (3.0, 4.0)},
    "infinite": {"ln_Omega0": (-np.inf, np.inf)},
}

harmless, hostile = st.sampled_from(sorted(HARMLESS)), st.sampled_from(sorted(HOSTILE))
