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
    model_spline model_helpers model data plot results batch cross_validation simulate catalogue
    units torus orbits likelihoods evaluation inference numerics analysis command
""".split()  # noqa: SIM905
HEAD = """Reference
=========

What most users need comes first: the models, the data, the plots. All names of a section can be
imported from its heading, such as ``torusimaging_torch.data``, if its text names them.
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


def introduction(package: Path, wing: str) -> str:
    """Return what a wing says of itself."""
    path = package / wing / "__init__.py"
    source = path if path.exists() else package / f"{wing}.py"
    text = ast.get_docstring(ast.parse(source.read_text())) or ""
    return text if path.exists() else text.split("\n")[0]


def write_reference(app: Sphinx, config: Config) -> None:
    """Write the page from which autosummary makes the reference."""
    package = Path(app.srcdir).parent / PACKAGE
    page = [HEAD]
    for wing, modules in wings(package).items():
        title = f"{PACKAGE}.{wing}"
        page += ["", title, "-" * len(title), "", introduction(package, wing), ""]
        page += [".. autosummary::", "   :toctree: .", "", *(f"   {m}" for m in modules)]
    target = Path(app.srcdir) / "api" / "generated" / "index.rst"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text("\n".join(page) + "\n")


def setup(app: Sphinx) -> dict[str, Any]:
    """Write the page before Sphinx looks for its sources."""
    app.connect("config-inited", write_reference)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
