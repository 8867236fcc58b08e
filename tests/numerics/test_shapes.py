"""Shapes that broadcast, against torch, and without what torch loads for it."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from torusimaging_torch.numerics.shapes import broadcast_shapes

SHAPES = st.lists(st.lists(st.sampled_from([0, 1, 1, 2, 3]), max_size=4).map(tuple), max_size=4)


@settings(deadline=None)  # torch loads SymPy first
@given(SHAPES)
def test_as_torch_does_it(shapes):
    try:
        expected = torch.broadcast_shapes(*shapes)
    except RuntimeError:
        with pytest.raises(ValueError, match="must broadcast, got"):
            broadcast_shapes(*shapes)
    else:
        found = broadcast_shapes(*shapes)
        assert isinstance(found, torch.Size)
        assert found == expected


def test_a_fit_does_not_load_sympy():
    script = """
import sys, torch
from torusimaging_torch import TorusImaging1DPotential
grid = torch.meshgrid(torch.linspace(-1, 1, 9), torch.linspace(-0.08, 0.08, 9), indexing="xy")
pos, vel = (x.double() for x in grid)
label = (0.07 * pos.square() + vel.square() / 0.07).sqrt()
data = {"pos": pos, "vel": vel, "label": label, "label_err": 0.01 + 0 * label}
model, bounds, start = TorusImaging1DPotential.auto_init(data)
assert model.optimize(start, "gaussian", bounds, **data).state.success
print(*sorted({"sympy", "matplotlib", "pyro", "scipy.stats"} & set(sys.modules)))
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.split() == []
