"""Wings stand on a ladder: each imports only those before it, and libraries keep to theirs."""

from __future__ import annotations

import ast
import sys
from graphlib import TopologicalSorter
from pathlib import Path

NAME = "torusimaging_torch"
PACKAGE = Path(__file__).parents[1] / NAME
LADDER = """
    arrays numerics torus model_helpers likelihoods evaluation orbits inference
    units tensors settings catalogue data simulate model model_spline model_potential results batch
    cross_validation plot analysis command __main__
""".split()  # noqa: SIM905
# Torch and what goes with it: no units, no tables, no files.
BARE = LADDER[: LADDER.index("units")]
TORCH = {"torch", "numpy", "pyro", "torchinterp1d", "numba", "triton"}
# What lives in one wing alone.
HOMES = {"matplotlib": "plot", "argparse": "command", "dask": "batch", "distributed": "batch"}

FILES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts): path
    for path in PACKAGE.rglob("*.py")
    if path != PACKAGE / "__init__.py"
}


def wing(module: str) -> str:
    return module.split(".")[0]


def read_imports(module: str) -> set[str]:
    """Return the dotted names that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(FILES[module].read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: write imports out"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def ours(names: set[str]) -> set[str]:
    """Return the modules of the package among dotted names; of a wing's own name, its __init__."""
    found = set()
    for name in names:
        parts = name.split(".")
        if parts[0] != NAME or parts[1:] in ([], ["__version__"], ["__citation__"]):
            continue
        inner = [".".join(parts[1:i]) for i in range(len(parts), 1, -1)]
        known = [m for name in inner for m in (name, f"{name}.__init__") if m in FILES]
        assert known, f"{name} is no module of the package"
        found.add(known[0])
    return found


IMPORTS = {module: read_imports(module) for module in FILES}
OURS = {module: ours(names) for module, names in IMPORTS.items()}


def test_a_wing_imports_only_wings_before_it():
    place = LADDER.index
    wrong = [(m, u) for m, used in OURS.items() for u in used if place(wing(u)) > place(wing(m))]
    assert not wrong


def test_files_have_no_circle():
    TopologicalSorter(OURS).prepare()


def test_the_first_wings_know_torch_alone():
    allowed = TORCH | set(sys.stdlib_module_names) | {NAME}
    foreign = {
        (module, name)
        for module, names in IMPORTS.items()
        if wing(module) in BARE
        for name in names
        if wing(name) not in allowed
    }
    assert not foreign


def test_libraries_with_a_home_stay_there():
    strangers = {
        (module, name)
        for module, names in IMPORTS.items()
        for name in names
        if HOMES.get(wing(name), wing(module)) != wing(module)
    }
    assert not strangers


def test_private_names_stay_in_their_file():
    outside = {
        f"{module}:{node.lineno}: {ast.unparse(node)}"
        for module, path in FILES.items()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute)
        and node.attr.startswith("_")
        and not node.attr.startswith("__")
        # Those of a named tuple have an underscore so that they cannot be one of its fields.
        and node.attr not in {"_asdict", "_fields", "_replace", "_make"}
        and ast.unparse(node.value) not in {"self", "cls", "super()"}
        and f"def {node.attr}(" not in path.read_text()
    }
    imported = {
        f"{module}: {name}"
        for module, names in IMPORTS.items()
        for name in names
        if name.startswith(f"{NAME}.") and "._" in name and not name.endswith("__")
    }
    assert not outside | imported


def n_lines(path):
    """Return how many lines a file has besides its docstrings."""
    text = path.read_text()
    nodes = [node for node in ast.walk(ast.parse(text)) if isinstance(node, DOCUMENTED)]
    told = [node.body[0] for node in nodes if ast.get_docstring(node)]
    return len(text.splitlines()) - sum(x.end_lineno - x.lineno + 1 for x in told)


DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef)


def test_files_are_short():
    here = Path(__file__).parent
    assert [path for path in PACKAGE.rglob("*.py") if n_lines(path) > 350] == []
    assert [path for path in here.rglob("*.py") if len(path.read_text().splitlines()) > 400] == []
