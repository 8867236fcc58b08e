"""Folds: each usable pixel, or each star, is held out once."""

from __future__ import annotations

import math

import astropy.units as u
import numpy as np
import pytest
from numpy.random import SeedSequence
from selections import MODEL, folds_of, run

import disks


@pytest.mark.parametrize("kind", ["pixels", "blocks"])
def test_folds_hold_out_each_usable_pixel_once(kind, data):
    folds = folds_of(data, kind=kind)
    held = np.concatenate([fold.index for fold in folds])
    assert sorted(held) == np.flatnonzero(np.isfinite(data["label"])).tolist()
    for fold in folds:
        blank = np.flatnonzero(np.isnan(fold.train["label"]) & np.isfinite(data["label"]))
        assert blank.tolist() == sorted(fold.index)
        assert fold.test.observed[0].tolist() == data["label"].reshape(-1)[fold.index].tolist()
    assert np.isfinite(data["label"]).sum() == 97
    if kind == "pixels":
        assert sorted(len(fold.index) for fold in folds) == [32, 32, 33]


def test_folds_are_those_of_the_seed(data):
    def index(seed):
        return [fold.index.tolist() for fold in folds_of(data, seed=SeedSequence(seed))]

    assert index(1) == index(1) != index(2)


def test_blocks_are_held_out_as_a_whole():
    data = disks.draw(MODEL, "gaussian", n=16)
    for fold in folds_of(data, n_folds=4, kind="blocks"):
        held = np.isnan(fold.train["label"]).reshape(8, 2, 8, 2).sum((1, 3))
        assert set(held.ravel()) == {0, 4}
        assert (held == 4).sum() == 16


def test_thinning_deals_out_all_stars(counts):
    counts = counts | {"counts": counts["counts"].copy()}
    counts["counts"][0, 0] = np.nan
    folds = folds_of(counts, "poisson", kind="thinning")
    parts = np.stack([fold.test.observed[0].numpy() for fold in folds])
    assert parts.sum(0).tolist() == counts["counts"].reshape(-1)[1:].tolist()
    for fold, part in zip(folds, parts, strict=True):
        rest = (counts["counts"] - fold.train["counts"]).reshape(-1)
        assert np.isnan(rest[0])
        assert rest[1:].tolist() == part.tolist()
        assert fold.shift == pytest.approx(-math.log(2))


def test_units_and_masks_survive_being_held_out(data):
    label = np.ma.masked_invalid(data["label"])
    for values in (label, data["label"] * u.Gyr):
        one = data | {"label": values}
        if isinstance(values, u.Quantity):
            one["label_err"] = data["label_err"] * u.Gyr
        for fold, expected in zip(folds_of(one), folds_of(data), strict=True):
            assert getattr(fold.train["label"], "unit", None) == getattr(values, "unit", None)
            bare = u.Quantity(fold.train["label"]).value
            np.testing.assert_array_equal(bare, expected.train["label"])


def test_counts_that_are_weighted_are_not_dealt_out(counts):
    weighted = counts | {"counts": counts["counts"] * 0.5}
    with pytest.raises(ValueError, match="whole numbers"):
        run(weighted, objective="poisson", folds="thinning")
