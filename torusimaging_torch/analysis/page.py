"""An analysis as one page of HTML on its own: numbers, figures, and how to repeat it."""

from __future__ import annotations

import platform
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timezone
from html import escape
from importlib.metadata import version

from torusimaging_torch import __citation__, __version__
from torusimaging_torch.analysis.binning import PixelGrid
from torusimaging_torch.analysis.blocks import Block, Heading, Table
from torusimaging_torch.analysis.report import MODELS_DIFFER, sections, summary
from torusimaging_torch.analysis.single import Analysis

__all__ = ["document", "facts", "figure", "html_page", "render", "versions"]

_LIBRARIES = ("torch", "numpy", "scipy", "astropy", "gala")

_STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; margin: 0 auto; max-width: 62rem;
  padding: 1.5rem; }
h1 { font-size: 1.6rem; margin: 0 0 .2rem; }
h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem; border-bottom: 1px solid #ccc; }
p { margin: .4rem 0; max-width: 48rem; }
.where { color: #555; overflow-wrap: anywhere; }
.good, .bad { padding: .4rem .7rem; border-left: .3rem solid; }
.good { border-color: #2c7a3f; background: #eef7f0; }
.bad { border-color: #b3261e; background: #fbeeed; }
.scroll { overflow-x: auto; margin: .9rem 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th { font-weight: 600; text-align: right; border-bottom: 1px solid #999; }
td { text-align: right; }
th, td { padding: .15rem .8rem; white-space: nowrap; }
th:first-child, td:first-child { padding-left: 0; }
th:first-child, td:first-child, .words { text-align: left; }
td.words:last-child { white-space: normal; min-width: 15rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1.5rem; }
dt { color: #555; }
dd { margin: 0; overflow-wrap: anywhere; min-width: 0; }
figure { margin: 1.2rem 0; }
figure svg { width: 100%; height: auto; max-height: 42rem; display: block; }
figcaption { color: #555; font-size: .9rem; }
pre { background: #f4f4f4; padding: .7rem; overflow-x: auto; font-size: .85rem; }
"""

# Names of settings and counts as a reader knows them.
_FACTS = {
    "file": "file",
    "sha256": "SHA-256",
    "n_rows": "stars in the file",
    "n_selected": "stars that the conditions leave",
    "where": "conditions",
    "columns": "columns",
    "sky": "assumed about the Sun",
    "simulation": "simulation",
    "known": "known beforehand",
    "selection": "selection function",
    "groups": "groups",
    "resampling": "resampled",
    "n_on_grid": "stars on the grid",
    "pixels": "pixels",
    "model": "model",
    "choices": "choices",
}


def versions() -> str:
    """Return what this program and the libraries below it are, in a line."""
    names = [f"torusimaging_torch {__version__}"]
    names += [f"{name} {version(name)}" for name in _LIBRARIES]
    return ", ".join([*names, f"Python {platform.python_version()}"])


def html_page(
    analysis: Analysis,
    figures: Mapping[str, tuple[str, str]],
    *,
    title: str,
    command: str = "",
    config: str = "",
    more: Sequence[Block] = (),
) -> str:
    """Return a page on an analysis.

    Parameters
    ----------
    analysis
        Fit and data.
    figures
        By name the caption of each figure, and the figure itself as a text in SVG.
    title
        What the page is about.
    command
        The command line that made it.
    config
        The same as a file for ``--config``.
    more
        What else is to be shown, below the summary.
    """
    provenance = analysis.result.provenance
    body = render([summary(analysis), *more])
    for blocks in sections(analysis).values():
        body += render(blocks)
    body += ["<h2>Figures</h2>"] if figures else []
    body += [figure(name, caption, svg) for name, (caption, svg) in figures.items()]
    body += [
        "<h2>Stars, pixels and choices</h2>",
        facts({**provenance, **_pixels(provenance["grid"])}),
    ]
    return document(title, str(provenance.get("file", "")), body, command, config)


def document(title: str, source: str, body: Sequence[str], command: str, config: str) -> str:
    """Return a whole page around its body: title and date, how to repeat it and how to cite.

    Parameters
    ----------
    title
        What the page is about.
    source
        Where the stars are from.
    body
        Pieces of HTML.
    command, config
        The command line, and the same as a file.
    """
    now = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    pieces = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="where">{escape(source.strip() or "simulated stars")}, {now}</p>',
        *body,
    ]
    if command:
        pieces += ["<h2>To repeat it</h2>", f"<pre>{escape(command)}</pre>"]
    if config:
        pieces += [
            "<p>Or with this file as <code>--config</code>:</p>",
            f"<pre>{escape(config)}</pre>",
        ]
    pieces += [
        "<h2>How to cite</h2>",
        f"<pre>{escape(__citation__.strip())}</pre>",
        f'<p class="where">{escape(versions())}</p>',
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(pieces)
        + "\n</body>\n</html>\n"
    )


def render(blocks: Iterable[Block]) -> list[str]:
    """Return headings, sentences and tables as HTML."""
    lines = []
    for block in blocks:
        match block:
            case Heading(text):
                lines.append(f"<h2>{_pretty(_as_title(text))}</h2>")
            case Table():
                lines.append(_table(block))
            case _:
                bad = block == MODELS_DIFFER or block.startswith("BAD ")
                good = block.startswith("GOOD")
                kind = ' class="bad"' if bad else ' class="good"' if good else ""
                lines.append(f"<p{kind}>{_pretty(block)}</p>")
    return lines


def _pretty(text: str) -> str:
    """Return a text with its signs and powers as one prints them."""
    text = escape(text).replace(" +- ", " \N{PLUS-MINUS SIGN} ")
    text = re.sub(r"(?<![\w.])-(?=\d)", "\N{MINUS SIGN}", text)
    return re.sub(r"\^(\d)", r"<sup>\1</sup>", text)


def _as_title(text: str) -> str:
    """Return a heading of the text page without its capitals."""
    head = re.match(r"[A-Z][A-Z ]+(?![a-z])", text)
    return text if head is None else head[0].capitalize() + text[head.end() :]


def _table(table: Table) -> str:
    words = [' class="words"' if i in table.left else "" for i in range(len(table.header))]

    def row(cells: Sequence[str], tag: str) -> str:
        made = (f"<{tag}{w}>{_pretty(c)}</{tag}>" for c, w in zip(cells, words, strict=True))
        return f"<tr>{''.join(made)}</tr>"

    rows = "\n".join(row(cells, "td") for cells in table.rows)
    return (
        f'<div class="scroll"><table>\n<thead>{row(table.header, "th")}</thead>\n'
        f"<tbody>\n{rows}\n</tbody>\n</table></div>"
    )


def figure(name: str, caption: str, svg: str) -> str:
    """Return a figure with identifiers of its own: all figures share the page's."""
    svg = svg[svg.index("<svg") :]
    prefix = re.sub(r"\W", "-", name)
    svg = re.sub(r'\bid="', f'id="{prefix}-', svg)
    svg = re.sub(r'href="#', f'href="#{prefix}-', svg)
    svg = re.sub(r"url\(#", f"url(#{prefix}-", svg)
    return f"<figure>\n{svg}\n<figcaption>{escape(caption)}</figcaption>\n</figure>"


def facts(told: Mapping[str, object]) -> str:
    """Return what is known of stars, pixels and choices as a list, in an order of its own."""
    rows = [(text, _say(told[name])) for name, text in _FACTS.items() if told.get(name)]
    cells = "\n".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in rows)
    return f"<dl>\n{cells}\n</dl>"


def _pixels(grid: PixelGrid) -> dict[str, int | str]:
    n = grid["n_bins"]
    return {
        "n_on_grid": grid["n_stars"],
        "pixels": f"{n} x {n}, {grid['n_pixels']:,} with stars; |pos| < {grid['pos_max']}, |vel| < "
        f"{grid['vel_max']}",
    }


def _say(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {_say(item)}" for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return "; ".join(_say(item) for item in value)
    return f"{value:,}" if isinstance(value, int) else str(value)
