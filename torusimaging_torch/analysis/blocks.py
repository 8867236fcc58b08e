"""A page made of headings, sentences and tables, and the page as text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

__all__ = ["Block", "Heading", "Table", "as_text", "text_table"]


@dataclass(frozen=True)
class Heading:
    """The title of what follows."""

    text: str


@dataclass(frozen=True)
class Table:
    """Rows of texts, of which the first says what a row is about.

    Attributes
    ----------
    header, rows
        Texts, as many in each row as in the header.
    left
        Columns beside the first that are words, not numbers.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    left: tuple[int, ...] = ()


Block = str | Heading | Table
"""A sentence, a heading or a table."""


def text_table(
    header: Sequence[str], rows: Iterable[Iterable[str]], left: Sequence[int] = ()
) -> list[str]:
    """Align columns of text: the first one and those of ``left`` left, the others right."""
    table = [list(header), *(list(row) for row in rows)]
    widths = [max(len(row[i]) for row in table) for i in range(len(header))]
    places = {0, *left}

    def cell(i: int, text: str) -> str:
        return text.ljust(widths[i]) if i in places else text.rjust(widths[i])

    return ["  ".join(cell(i, text) for i, text in enumerate(row)).rstrip() for row in table]


def as_text(blocks: Iterable[Block]) -> list[str]:
    """Return a page as lines, with an empty one before each heading and each table."""
    lines: list[str] = []
    below_heading = True
    for block in blocks:
        if not (isinstance(block, str) or below_heading):
            lines.append("")
        below_heading = isinstance(block, Heading)
        match block:
            case Heading(text):
                lines.append(text)
            case Table(header, rows, left):
                lines += text_table(header, rows, left)
            case _:
                lines.append(block)
    return lines
