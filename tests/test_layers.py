"""The staircase of docs/architecture.md: a module imports only modules above it in that list."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = "torusimaging_torch"
DOOR = ROOT / PACKAGE / "__init__.py"


def read_staircase() -> dict[str, set[str]]:
    """Return the modules in the order of the list, each with the libraries of its section."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    modules, allowed = {}, set()
    for line in re.search(r"```\{staircase\}\n(.*?)```", text, re.DOTALL)[1].splitlines():
        if section := re.match(r"# .* \((.*)\)", line):
            allowed = set(section[1].split(", "))
        elif module := re.match(r"(\w+)(?:\.py|/) ", line):
            modules[module[1]] = allowed
    return modules


def find_modules() -> dict[str, list[Path]]:
    """Return the files of each module; a folder is one module."""
    modules: dict[str, list[Path]] = {}
    for path in sorted(set((ROOT / PACKAGE).rglob("*.py")) - {DOOR}):
        name = path.relative_to(ROOT / PACKAGE).parts[0].removesuffix(".py")
        modules.setdefault(name, []).append(path)
    return modules


def read_imports(path: Path) -> set[str]:
    """Return the dotted names that a file imports, anywhere in it, relative ones written out."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parts = path.relative_to(ROOT).parts[: -node.level] if node.level else ()
            home = ".".join([*parts, *filter(None, [node.module])])
            found |= {f"{home}.{alias.name}" for alias in node.names}
    return found - {f"{PACKAGE}.__version__"}


STAIRCASE = read_staircase()
MODULES = find_modules()
IMPORTS = {name: set().union(*map(read_imports, files)) for name, files in MODULES.items()}


def test_list_names_every_module_and_no_other():
    assert set(STAIRCASE) == set(MODULES)


@pytest.mark.parametrize("module", MODULES)
def test_module_imports_only_what_is_above_it(module):
    order = list(STAIRCASE)
    ours = {name.split(".")[1] for name in IMPORTS[module] if name.startswith(f"{PACKAGE}.")}
    below = ours - {module} - set(order[: order.index(module)])
    assert not below, f"{module} imports {below}, not above it in docs/architecture.md"


@pytest.mark.parametrize("module", MODULES)
def test_module_imports_only_libraries_of_its_section(module):
    libraries = (
        {name.split(".")[0] for name in IMPORTS[module]} - sys.stdlib_module_names - {PACKAGE}
    )
    foreign = libraries - STAIRCASE[module]
    assert not foreign, f"{module} imports {foreign}; its section in docs/architecture.md does not"


def test_matplotlib_lives_in_plot_alone():
    users = {module for module, names in IMPORTS.items() if any("matplotlib" in n for n in names)}
    assert users <= {"plot"}
