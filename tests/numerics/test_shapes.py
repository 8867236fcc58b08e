"""Shapes that broadcast, against torch."""

from __future__ import annotations

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
