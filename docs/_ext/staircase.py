"""The list of modules in architecture.md, shown there and turned into the API reference.

It is written once; tests/test_layers.py reads the same lines.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.util.docutils import SphinxDirective

PACKAGE = "torusimaging_torch"
SECTION = re.compile(r"# (?P<title>.*) \((?P<libraries>.*)\)")
MODULE = re.compile(r"(?P<name>\w+)(?:\.py|/) +(?P<purpose>.*)")
HEAD = f"""API reference
=============

The modules in the order of the :doc:`staircase </architecture>`: each builds on those above it.
Most users need :py:mod:`{PACKAGE}.model_spline`, :py:mod:`{PACKAGE}.data` and
:py:mod:`{PACKAGE}.plot`, at the end of the list.
"""


class Staircase(SphinxDirective):
    """Lines "# section (libraries)" and "module.py  what it is for", as lists with links."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        """Return the list as Markdown, parsed."""
        lines: list[str] = []
        for line in self.content:
            if section := SECTION.match(line):
                libraries = ", ".join(f"`{name}`" for name in section["libraries"].split(", "))
                lines += ["", f"**{section['title']}** (imports {libraries})", ""]
            elif module := MODULE.match(line):
                link = f"{{py:mod}}`{module['name']} <{PACKAGE}.{module['name']}>`"
                lines.append(f"* {link}: {module['purpose']}")
        holder = nodes.container()
        self.state.nested_parse(StringList(lines, "staircase"), 0, holder)
        return holder.children


def write_reference(app: Sphinx, config: Config) -> None:
    """Write the page from which autosummary makes the reference, one page for each module."""
    source = (Path(app.srcdir) / "architecture.md").read_text()
    block = re.search(r"```\{staircase\}\n(.*?)```", source, re.DOTALL)
    assert block is not None
    page = [HEAD]
    for line in block[1].splitlines():
        if section := SECTION.match(line):
            title = section["title"]
            page += ["", title, "-" * len(title), "", ".. autosummary::", "   :toctree: .", ""]
        elif (module := MODULE.match(line)) and module["name"] != "__main__":
            page.append(f"   {PACKAGE}.{module['name']}")
    target = Path(app.srcdir) / "api" / "generated" / "index.rst"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text("\n".join(page) + "\n")


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directive; write the page before Sphinx looks for its sources."""
    app.add_directive("staircase", Staircase)
    app.connect("config-inited", write_reference)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
