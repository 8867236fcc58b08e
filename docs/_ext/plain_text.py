"""Docstrings as plain text: shapes such as (*B, N) become literals, stars and bars mean themselves.

reStructuredText would take the star for the start of an emphasis and abs(x) written with bars for a
substitution. Neither is used in the docstrings here, which are written to be read as they are.
"""

from __future__ import annotations

import re
from typing import Any

from sphinx.application import Sphinx

TOKEN = re.compile(
    r"""
    (?P<keep> ``.*?`` | `[^`]*`                                         # literals and roles
        | ^(?P<indent>[ ]*)[^\n]*::\n (?: (?P=indent)[ ]+[^\n]*\n | [ ]*\n )+  # formulas, examples
        | ^[ ]*>>>[^\n]* )
    | (?P<shape> \( (?: [\w*]+,[ ] )* \*[A-Z] [^()`]* \) )
    | (?P<markup> [*|] (?![ \n]) | (?<=\w)[|] )
    """,
    re.VERBOSE | re.MULTILINE | re.DOTALL,
)


def convert(token: re.Match[str]) -> str:
    """Return what stands for a piece of a docstring."""
    if token["shape"]:
        return f"``{token[0]}``"
    return "\\" + token[0] if token["markup"] else token[0]


def make_plain(
    app: Sphinx, what: str, name: str, thing: object, options: Any, lines: list[str]
) -> None:
    """Convert a docstring in place."""
    lines[:] = TOKEN.sub(convert, "\n".join(lines) + "\n").split("\n")


def setup(app: Sphinx) -> dict[str, Any]:
    """Work on docstrings before numpydoc does."""
    app.connect("autodoc-process-docstring", make_plain, priority=100)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
