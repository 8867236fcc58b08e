"""The list of modules as a directive: one list per section, modules linked to their pages.

The list is written once, in architecture.md; tests/test_layers.py reads the same lines.
"""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

PACKAGE = "torusimaging_torch"


class Staircase(SphinxDirective):
    """Lines "# section (libraries)" and "module.py  what it is for"."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        """Return the list as Markdown, parsed."""
        lines: list[str] = []
        for line in self.content:
            if section := re.match(r"# (.*) \((.*)\)", line):
                libraries = ", ".join(f"`{name}`" for name in section[2].split(", "))
                lines += ["", f"**{section[1]}** (imports {libraries})", ""]
            elif module := re.match(r"(\w+)(?:\.py|/) +(.*)", line):
                lines.append(f"* {{py:mod}}`{module[1]} <{PACKAGE}.{module[1]}>`: {module[2]}")
        holder = nodes.container()
        self.state.nested_parse(StringList(lines, "staircase"), 0, holder)
        return holder.children


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directive."""
    app.add_directive("staircase", Staircase)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
