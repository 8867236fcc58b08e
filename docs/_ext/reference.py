"""The API reference, made from the package: a section for each wing, a page for each module.

What a section says is the docstring of the wing's ``__init__``; nothing is listed by hand but the
order of the sections, and a wing that is not in it comes last.
"""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx
from sphinx.config import Config

PACKAGE = "torusimaging_torch"
ORDER = """
    model_spline model_potential model_helpers model data plot results batch cross_validation
    settings simulate catalogue units tensors torus orbits likelihoods evaluation inference numerics
    analysis command
""".split()  # noqa: SIM905
HEAD = """API
===

What most users need comes first: the models, the data, the plots. Each section is a folder or file
of the package; what it hands on can be imported from its name.

.. toctree::
   :maxdepth: 1

"""


def wings(package: Path) -> dict[str, list[str]]:
    """Return the modules of each wing by its name; a file at the top is a wing of its own."""
    found: dict[str, list[str]] = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package).with_suffix("").parts
        if path.name not in ("__init__.py", "__main__.py"):
            found.setdefault(parts[0], []).append(".".join([PACKAGE, *parts]))
    place = {name: i for i, name in enumerate(ORDER)}
    return dict(sorted(found.items(), key=lambda item: place.get(item[0], len(place))))


def page(package: Path, wing: str, modules: list[str]) -> str:
    """Return the page of a wing: what it says of itself, what it hands on, its modules."""
    path = package / wing / "__init__.py"
    tree = ast.parse((path if path.exists() else package / f"{wing}.py").read_text())
    text = ast.get_docstring(tree) or ""
    if not path.exists():
        text = text.split("\n")[0]
    lines = [wing, "=" * len(wing), "", text, ""]
    if names := handed_on(tree) if path.exists() else []:
        links = ", ".join(f":py:obj:`{name} <{home}.{name}>`" for name, home in names)
        lines += [f"``from {PACKAGE}.{wing} import`` {links}", ""]
    lines += [".. autosummary::", "   :toctree: .", "", *(f"   {m}" for m in modules)]
    return "\n".join(lines) + "\n"


def handed_on(tree: ast.Module) -> list[tuple[str, str]]:
    """Return the names that an ``__init__`` imports from its own files, each with its module."""
    imports = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    found = [
        (alias.name, node.module or "")
        for node in imports
        for alias in node.names
        if (node.module or "").startswith(f"{PACKAGE}.")
    ]
    return sorted(found)


def write_reference(app: Sphinx, config: Config) -> None:
    """Write the pages from which autosummary makes the reference."""
    package = Path(app.srcdir).parent / PACKAGE
    target = Path(app.srcdir) / "api" / "generated"
    target.mkdir(parents=True, exist_ok=True)
    index = HEAD
    for wing, modules in wings(package).items():
        (target / f"wing_{wing}.rst").write_text(page(package, wing, modules))
        index += f"   wing_{wing}\n"
    (target / "index.rst").write_text(index)


def setup(app: Sphinx) -> dict[str, Any]:
    """Write the page before Sphinx looks for its sources."""
    app.connect("config-inited", write_reference)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
