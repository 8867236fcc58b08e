"""Shapes in docstrings, such as (*B, N), as literals: the star would start an emphasis."""

from __future__ import annotations

import re
from typing import Any

from sphinx.application import Sphinx

SHAPE = re.compile(r"(?<!`)\((?:[\w*]+, )*\*[A-Z][^()]*\)(?!`)")


def quote_shapes(
    app: Sphinx, what: str, name: str, thing: object, options: Any, lines: list[str]
) -> None:
    """Put the shapes in a docstring between double backquotes."""
    lines[:] = [SHAPE.sub(r"``\g<0>``", line) for line in lines]


def setup(app: Sphinx) -> dict[str, Any]:
    """Work on docstrings before numpydoc does."""
    app.connect("autodoc-process-docstring", quote_shapes, priority=100)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
