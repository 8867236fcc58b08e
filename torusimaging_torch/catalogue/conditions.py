"""Conditions on the columns of a table, such as ``abs(z) < 1.5 kpc and FE_H > -1``.

Conditions are read, not run: of Python's grammar only names, numbers, comparisons, arithmetic and
the functions abs and sqrt have a meaning, and nothing else is evaluated.
"""

from __future__ import annotations

import ast
import operator
import warnings
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias, TypeVar

import astropy.units as u
import numpy as np
from astropy.table import Table

from torusimaging_torch.arrays import Array
from torusimaging_torch.catalogue.columns import is_missing, kind_of, read_column
from torusimaging_torch.catalogue.flags import any_flag, read_flags
from torusimaging_torch.catalogue.written_units import mark_units

__all__ = ["columns_of", "parse_condition", "read_number", "select"]


_MAX_LENGTH = 2000

_ARITHMETIC: dict[type[ast.AST], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
}
_COMPARISONS: dict[type[ast.AST], Callable[[Any, Any], Any]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}
_SIGNS: dict[type[ast.AST], Callable[[Any], Any]] = {ast.USub: operator.neg, ast.UAdd: operator.pos}
_FUNCTIONS: dict[str, Callable[[Any], Any]] = {"abs": np.abs, "sqrt": np.sqrt}
# Numbers without a unit take that of what they are compared with, or added to.
_ADAPTING = (ast.Add, ast.Sub)

_GRAMMAR = (
    "allowed are column names, numbers (with a unit: 1.5 kpc), texts in quotes, < <= > >= == !=, "
    "and, or, not, + - * / **, parentheses, abs(), sqrt(), flag(COLUMN, bit) and "
    "col('a name with blanks')"
)


@dataclass(frozen=True)
class _Literal:
    """A number without a unit, as opposed to a column that is known to be dimensionless."""

    value: float  # or a whole number, which may have more digits


class _Truth(NamedTuple):
    """Where a condition is true, and where it is false; where a value is missing it is neither."""

    yes: Array
    no: Array

    @classmethod
    def of(cls, values: Array) -> _Truth:
        """Return what truth values say, None among them or not."""
        return cls(values == True, values == False)  # noqa: E712


_Number: TypeAlias = Array | u.Quantity | _Literal
_Value: TypeAlias = _Number | _Truth | str

Operand = TypeVar("Operand")


def parse_condition(text: str, columns: Collection[str] = ()) -> ast.expr:
    """Read a condition into a syntax tree for `select`.

    Parameters
    ----------
    text
        The condition.
    columns
        Names of columns, which are not units in ``10 km/s * R``.

    Raises
    ------
    ValueError
        If it cannot be read.

    Examples
    --------
    >>> from torusimaging_torch.catalogue import parse_condition
    >>> parse_condition("abs(z) < 1.5 kpc and FE_H > -1")
    <ast.BoolOp object at 0x...>
    >>> parse_condition("abs(z) < 1.5 parsnips")
    Traceback (most recent call last):
        ...
    ValueError: cannot read the condition 'abs(z) < 1.5 parsnips': 'parsnips' is not a unit that ...
    """
    if not isinstance(text, str):
        raise TypeError(f"a condition must be a text, got {text!r}")
    if len(text) > _MAX_LENGTH:
        raise ValueError(f"a condition may have {_MAX_LENGTH} characters, got {len(text)}")
    try:
        return ast.parse(mark_units(text, columns).strip(), mode="eval").body
    except (SyntaxError, RecursionError, MemoryError):
        raise ValueError(f"cannot read the condition {text!r}: {_GRAMMAR}") from None
    except ValueError as error:
        raise ValueError(f"cannot read the condition {text!r}: {error}") from None


def columns_of(text: str, columns: Collection[str] = ()) -> set[str]:
    """Return the names of the columns in a condition, read as by `parse_condition`."""
    return _names_in(parse_condition(text, columns))


def _names_in(tree: ast.AST) -> set[str]:
    match tree:
        case ast.Name(id=name):
            return {name}
        case ast.Call(func=ast.Name(id="col"), args=[ast.Constant(value=str() as name)]):
            return {name}
        case ast.Call(args=args):
            parts: list[ast.AST] = [*args]
        case _:
            parts = list(ast.iter_child_nodes(tree))
    return set().union(*map(_names_in, parts))


def select(table: Table, text: str) -> Array:
    """Return which rows of a table fulfil a condition.

    A comparison with a missing value (nan, masked, null) is neither true nor false, with a "not"
    before it or without. Whole numbers are added and multiplied as numbers, without a limit.

    Parameters
    ----------
    table
        A table with columns of numbers or texts; they may have units. A number without a unit is
        in the unit of the column that it is compared with.
    text
        The condition.

    Returns
    -------
    ndarray
        Booleans with shape (N,).

    Raises
    ------
    ValueError
        If the condition cannot be read, or is no condition.
    KeyError
        If a column does not exist; the message lists those that do.
    astropy.units.UnitConversionError
        If units do not fit.
    """
    found = _evaluated(table, text)
    if not isinstance(found, _Truth) or found.yes.shape != (len(table),):
        raise ValueError(
            f"{text!r} is not a condition on columns: expected a comparison such as 'R > 3'"
        )
    return found.yes


def read_number(table: Table, text: str) -> Array | u.Quantity:
    """Return a column by its name, or what an expression such as ``L_z / 229 km/s`` makes of some.

    Raises
    ------
    ValueError
        If the expression cannot be read, or is not one number for each star.
    KeyError
        If a column does not exist; the message lists those that do.
    astropy.units.UnitConversionError
        If units do not fit.

    Examples
    --------
    >>> from astropy.table import Table
    >>> read_number(Table({"z": [-1.0, 2.0]}), "abs(z) / 2")
    array([0.5, 1. ])
    """
    if text in table.colnames:
        return read_column(table, text)
    found = _evaluated(table, text)
    if isinstance(found, (_Literal, str, _Truth)) or found.shape != (len(table),):
        raise ValueError(f"{text!r} is not one number for each star")
    return found


def _evaluated(table: Table, text: str) -> _Value:
    """Return the value of a text, with errors that quote it."""
    try:
        # km/s/kpc is good enough for a person, whatever standards say of its second slash.
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore", u.UnitsWarning)
            return _evaluate(parse_condition(text, table.colnames), table)
    except u.UnitConversionError as error:
        raise u.UnitConversionError(f"in the condition {text!r}: {error}") from None
    except KeyError as error:
        raise KeyError(f"in the condition {text!r}: {error.args[0]}") from None
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        message = str(error)
        known = message.startswith("cannot read")
        raise ValueError(message if known else f"in the condition {text!r}: {message}") from None


def _evaluate(node: ast.expr, table: Table) -> _Value:
    """Return the value of a node: an array, a Quantity, a `_Truth`, a `_Literal` or a text."""
    match node:
        case ast.Name(id=name):
            return _column(table, name)
        case ast.Constant(value=str() as value):
            return value.rstrip(" ")
        case ast.Constant(value=bool()):
            raise ValueError(f"True and False have no meaning: {_GRAMMAR}")
        case ast.Constant(value=int() | float() as value):
            return _Literal(value)
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            return _Truth(*reversed(_condition(operand, table)))
        case ast.UnaryOp(op=op, operand=operand) if type(op) in _SIGNS:
            return _map(_SIGNS[type(op)], _number(operand, table))
        case ast.BoolOp(op=op, values=values):
            return _join(isinstance(op, ast.And), [_condition(value, table) for value in values])
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _ARITHMETIC:
            return _arithmetic(op, _number(left, table), _number(right, table))
        case ast.Compare(left=left, ops=ops, comparators=others):
            found = [_evaluate(item, table) for item in (left, *others)]
            return _join(
                True,
                [_compare(op, *pair) for op, *pair in zip(ops, found, found[1:], strict=False)],
            )
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]):
            return _call(name, args, table)
    raise ValueError(f"'{ast.unparse(node)}' has no meaning here: {_GRAMMAR}")


def _call(name: str, args: list[ast.expr], table: Table) -> _Value:
    match name, args:
        case "col", [ast.Constant(value=str() as column)]:
            return _column(table, column)
        case "quantity", [ast.Constant(value=int() | float() as value), ast.Constant(value=unit)]:
            return u.Quantity(float(value), unit)
        case "flag", _:
            return _Truth.of(any_flag(table, *read_flags(args)))
        case _, [argument] if name in _FUNCTIONS:
            return _map(_FUNCTIONS[name], _number(argument, table))
    raise ValueError(f"{name}() with {len(args)} arguments has no meaning here: {_GRAMMAR}")


def _column(table: Table, name: str) -> _Value:
    values = read_column(table, name)
    # Of texts or truth values none of which is there nobody can tell which they are.
    return _Truth.of(values) if kind_of(values) in ("truth", "") else values


def _join(all_of: bool, parts: Sequence[_Truth]) -> _Truth:
    """Join conditions by "and" or by "or": false if one is false, or true if one is true."""
    yes, no = zip(*parts, strict=True)
    every, one = np.logical_and.reduce, np.logical_or.reduce
    return _Truth(every(yes), one(no)) if all_of else _Truth(one(yes), every(no))


def _condition(node: ast.expr, table: Table) -> _Truth:
    value = _evaluate(node, table)
    if not isinstance(value, _Truth):
        raise ValueError(f"'{ast.unparse(node)}' is not a condition")
    return value


def _number(node: ast.expr, table: Table) -> _Number:
    value = _evaluate(node, table)
    if isinstance(value, (_Literal, u.Quantity)):
        return value
    if isinstance(value, (str, _Truth)) or kind_of(value) != "number":
        raise ValueError(f"'{ast.unparse(node)}' is not a number")
    return value.astype(float)  # whole numbers, and short ones, have ends that they pass


def _map(function: Callable[..., Any], *values: _Number) -> _Number:
    """Apply a function to numbers; literals among themselves stay a literal."""
    literals = [np.float64(value.value) for value in values if isinstance(value, _Literal)]
    if len(literals) == len(values):
        return _Literal(float(function(*literals)))
    return function(*(v.value if isinstance(v, _Literal) else v for v in values))


def _same_unit(left: Operand, right: Operand) -> tuple[Operand, Operand]:
    """Give a literal the unit of its partner."""
    if isinstance(left, _Literal) and isinstance(right, u.Quantity):
        return left.value * right.unit, right
    if isinstance(right, _Literal) and isinstance(left, u.Quantity):
        return left, right.value * left.unit
    return left, right


def _arithmetic(op: ast.operator, left: _Number, right: _Number) -> _Number:
    if isinstance(op, _ADAPTING):
        left, right = _same_unit(left, right)
    return _map(_ARITHMETIC[type(op)], left, right)


def _is_text(value: object) -> bool:
    return isinstance(value, str) or (isinstance(value, np.ndarray) and kind_of(value) == "text")


def _compare(op: ast.cmpop, left: Any, right: Any) -> _Truth:
    left, right = (_as_number(x) if isinstance(x, _Truth) else x for x in (left, right))
    if type(op) not in _COMPARISONS:
        raise ValueError(f"'in' and 'is' have no meaning: {_GRAMMAR}")
    if any(isinstance(x, np.ndarray) and x.size and is_missing(x).all() for x in (left, right)):
        nowhere = np.zeros(max(np.shape(left), np.shape(right)), dtype=bool)
        return _Truth(nowhere, nowhere)
    if _is_text(left) != _is_text(right):
        raise ValueError("texts compare with texts alone")
    left, right = _same_unit(left, right)
    left, right = (v.value if isinstance(v, _Literal) else v for v in (left, right))
    units = [getattr(v, "unit", u.dimensionless_unscaled) for v in (left, right)]
    # astropy itself takes lengths and speeds as unequal, without an error.
    if not units[0].is_equivalent(units[1]):
        raise u.UnitConversionError(f"cannot compare a value in '{units[0]}' with '{units[1]}'")
    result = _COMPARISONS[type(op)](left, right)
    if not isinstance(result, np.ndarray) or result.ndim == 0:
        raise ValueError("a comparison needs a column")
    known = ~(is_missing(left) | is_missing(right))
    return _Truth(result & known, ~result & known)


def _as_number(truth: _Truth) -> Array:
    return np.select([truth.yes, truth.no], [1.0, 0.0], np.nan)
