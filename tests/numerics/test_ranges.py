"""Numbers in their ranges: what is out of them is named, and 0 is a number."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from torusimaging_torch.numerics.ranges import check_all, not_negative, positive, whole


@pytest.mark.parametrize("value", [2, 2.0, np.int32(2), np.uint8(2), torch.tensor(2)])
def test_whole_numbers_are_taken_whatever_their_type(value):
    found = whole(value, "size", 1)
    assert type(found) is int
    assert found == 2


@pytest.mark.parametrize("value", [0, -1, 1.5, float("nan"), float("inf"), "3", None, True, [3]])
def test_what_is_not_whole_or_too_small_is_named(value):
    with pytest.raises(ValueError, match=f"size must be a whole .*{re.escape(repr(value))}"):
        whole(value, "size", 1)


@pytest.mark.parametrize("value", [1e-300, np.inf, np.array([1, 2]), torch.tensor(3.0)])
def test_positive_numbers_come_back_as_they_are(value):
    assert positive(value, "sigma") is value
    assert not_negative(value, "sigma") is value


@pytest.mark.parametrize("value", [0, -1, np.nan, [1, 0], "x", None, True])
def test_what_is_not_positive_is_named(value):
    with pytest.raises(ValueError, match="sigma must be positive"):
        positive(value, "sigma")


def test_zero_is_not_negative():
    assert not_negative(0, "tol") == 0
    with pytest.raises(ValueError, match="tol must be zero or positive, got -1"):
        not_negative(-1, "tol")


def test_several_are_checked_by_name_and_key():
    kinds = {"sigma": positive, "widths": positive}
    check_all({"widths": {2: 1.0}, "other": -1, "sigma": None}, kinds)
    with pytest.raises(ValueError, match=r"widths\[4\] must be positive, got 0"):
        check_all({"widths": {2: 1.0, 4: 0}}, kinds)
