"""Links to names where they are handed on: ``torusimaging_torch.data.bin_many`` leads to its home.

A name without a package is sought in the module that mentions it, and among the methods of models.
Other people's names are left as they are: there is no network to look them up.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

PACKAGE = "torusimaging_torch"
OTHERS = {"torch", "numpy", "astropy", "gala", "scipy", "pyro", "matplotlib", "dask"}
PREFIXES = (f"{PACKAGE}.TorusImaging1DSpline.", f"{PACKAGE}.")


def find(name: str) -> Any:
    """Return what a dotted name means, or None."""
    parts = name.split(".")
    for i in range(len(parts), 0, -1):
        try:
            thing: Any = importlib.import_module(".".join(parts[:i]))
        except ImportError:
            continue
        for part in parts[i:]:
            thing = getattr(thing, part, None)
        return thing
    return None


def resolve(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, content: nodes.Element
) -> nodes.Element | None:
    """Return a link to the place where a name is documented."""
    target = node.get("reftarget", "")
    if node.get("refdomain") != "py":
        return None
    if target.split(".")[0] in OTHERS | sys.stdlib_module_names:
        return content
    here = node.get("py:module") or ""
    for prefix in ("", f"{here}.", *PREFIXES):
        thing = find(prefix + target)
        home, own = getattr(thing, "__module__", None), getattr(thing, "__qualname__", None)
        name = f"{home}.{own}" if home and own else getattr(thing, "__name__", None)
        for known in (name, prefix + target):
            domain = env.get_domain("py")
            found = known and domain.resolve_any_xref(
                env, node["refdoc"], app.builder, known, node, content
            )
            if found:
                return found[0][1]
        if thing is not None:  # a constant, or a folder of the package, which has no entry
            return content
    return None


def setup(app: Sphinx) -> dict[str, Any]:
    """Come in where Sphinx itself finds nothing."""
    app.connect("missing-reference", resolve)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
