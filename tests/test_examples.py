"""Whatever is public has an example in its docstring; that they run, the doctests show."""

from __future__ import annotations

import inspect
from functools import partial

import pytest

import torusimaging_torch as oti

MODULES = [oti, *(x for x in map(partial(getattr, oti), oti.__all__) if inspect.ismodule(x))]
# For whoever writes a potential of their own, or what the package calls itself.
INNER = {
    "bare_potential", "bare_acceleration", "bare_gradient", "of_row", "of_pixels", "quantiles",
}  # fmt: skip
# What takes a minute, a library, a file or several data sets: shown in the tutorials.
ELSEWHERE = {"mcmc_run_label", "to_galpy", "CircularSpeed.read", "FitResult.part"}


def public():
    """Yield each public function, class and method with its name, once."""
    seen = set()
    for home in MODULES:
        for name in home.__all__:
            thing = getattr(home, name)
            if not (inspect.isclass(thing) or inspect.isfunction(thing)) or id(thing) in seen:
                continue
            seen.add(id(thing))
            yield name, thing
            for key, value in vars(thing).items() if inspect.isclass(thing) else ():
                method = getattr(value, "__func__", value)
                if (
                    not key.startswith("_")
                    and inspect.isfunction(method)
                    and id(method) not in seen
                ):
                    seen.add(id(method))
                    yield f"{name}.{key}", method


@pytest.mark.parametrize(
    ("name", "thing"), list(public()), ids=lambda x: x if type(x) is str else ""
)
def test_it_has_an_example(name, thing):
    words = {name, name.rpartition(".")[2]}
    if words & (INNER | ELSEWHERE):
        return
    assert ">>>" in (inspect.getdoc(thing) or "")
