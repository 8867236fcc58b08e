"""Sums of many subsamples: what they are, and that they add up."""

from __future__ import annotations

import pickle
from functools import partial
from itertools import pairwise

import astropy.units as u
import numpy as np
import pytest
from astropy.table import QTable
from numpy.testing import assert_allclose, assert_array_equal

from simulated import COARSE, COLUMNS, WINDOWS, assert_same, catalogue
from torusimaging_torch.catalogue.chunks import open_stars
from torusimaging_torch.catalogue.resampling import bootstrap, jackknife
from torusimaging_torch.data import JointSubsamples, SelectedSubsamples
from torusimaging_torch.data.many import bin_many, scatter_many

N = 30_000
bin_fe = partial(bin_many, groups=WINDOWS, bins=COARSE, **COLUMNS)


@pytest.fixture(scope="module")
def stars() -> QTable:
    return catalogue(N)


def test_shards_merge_to_the_whole(stars):
    s = scatter_many(stars, WINDOWS, COARSE, **COLUMNS)
    settings = {"s": s, "resample": bootstrap(3, seed=1)}
    ends = (0, 7_000, 7_001, N)
    a, b, c = (
        bin_fe(open_stars(stars[i:j], first_row=i, total_rows=N), **settings)
        for i, j in pairwise(ends)
    )
    whole = bin_fe(stars, **settings)
    for merged in (a.merge(b, c), c.merge(a).merge(b), a.merge(b.merge(c))):
        assert merged.n_stars == N
        for binned, expected in zip(merged, whole, strict=True):
            assert_same(binned, expected)
    assert a.n_stars == 7_000  # merging leaves its parts alone
    assert pickle.loads(pickle.dumps(a)).merge(b, c).n_stars == N


def test_sums_that_do_not_fit_are_not_merged(stars):
    sums = bin_fe(stars, s=0.04, resample=bootstrap(2, seed=1))
    with pytest.raises(ValueError, match=r"different scatters of 'fe'.*scatter_many"):
        sums.merge(bin_fe(stars, s=0.05, resample=bootstrap(2, seed=1)))
    with pytest.raises(ValueError, match="different resamplings"):
        sums.merge(bin_fe(stars, s=0.04, resample=bootstrap(2, seed=2)))
    bins = (COARSE["pos"][1:], COARSE["vel"])
    other = bin_many(stars, "field", bins, **COLUMNS, s=0.04, resample=sums.resampling)
    with pytest.raises(ValueError, match="different pixel edges, groups"):
        sums.merge(other)


def test_result_is_a_sequence_with_names_stacks_and_a_table(stars):
    sums = bin_fe(stars, s=0.04, resample=bootstrap(2, seed=1))
    keys = sums.subsamples()
    assert len(sums) == len(keys) == 15
    assert keys[4] == ("fe", "R = 5.5 to 7.5 kpc", 0)
    assert_same(sums[4], sums.binned(keys[4].group, keys[4].resampling, keys[4].label))
    assert_same(sums[-1], sums[10:][-1])
    data, copies = sums.stacked(), sums.stacked("all")
    assert data["label"].shape == (5, 18, 20)
    assert copies["label_err"].shape == (5, 2, 18, 20)
    assert_array_equal(copies["label"][1, 0], sums[4]["label"])
    assert_array_equal(sums.stacked(1)["counts"][4], sums[-1]["counts"])
    table = sums.table()
    assert len(table) == 15
    assert_array_equal(table["resampling"][:4], [-1, 0, 1, -1])
    assert_array_equal(table["n_stars"], [binned["counts"].sum() for binned in sums])
    assert_allclose(table["R_lower"][4].to_value(u.kpc), 5.5)


def test_sums_show_what_they_are_without_numbers_of_pixels(stars):
    sums = bin_fe(stars, s=0.04, resample=bootstrap(2, seed=1))
    first, second = repr(sums).splitlines()
    assert first == "BinnedSums: 15 subsamples, 30000 stars, 18 x 20 pixels"
    assert second == "  labels: fe; groups: 5, 2 resamplings each (bootstrap)"
    assert repr(bin_fe(stars, s=0.04)).endswith("labels: fe; groups: 5")
    first, *rest = repr(JointSubsamples(sums)).splitlines()
    assert first == "JointSubsamples: 15 subsamples with all labels, of"
    assert len(rest) == 2


def test_one_after_the_other_they_are_what_each_is_alone(stars):
    names = ("fe", "counts")
    label = {"fe": COLUMNS["label"], "counts": None}
    sums = bin_many(
        stars, WINDOWS, COARSE, **COLUMNS | {"label": label}, s={"fe": 0.04}, resample=bootstrap(66)
    )
    for place, binned in enumerate(sums):
        assert_same(binned, sums[place])
    assert place == len(sums) - 1 == 2 * 5 * 67 - 1
    first, second, *_ = sums
    first["pos"] -= 1 * u.kpc
    assert_same(second, sums[1])
    assert all(values.base is None for values in first.values() if type(values) is np.ndarray)
    for joint in (JointSubsamples(sums), SelectedSubsamples(JointSubsamples(sums))):
        for place, both in zip(range(70), joint, strict=False):
            alone = joint[place]
            assert tuple(both) == tuple(alone) == names
            for name in names:
                assert_same(both[name], alone[name])


def test_errors_of_sources_and_names(stars, tmp_path):
    (tmp_path / "bad.parquet").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"cannot read .*bad\.parquet as parquet"):
        open_stars(tmp_path / "bad.parquet")
    with pytest.raises(ValueError, match="total_rows must be at least"):
        open_stars(stars, first_row=5, total_rows=N)
    with pytest.raises(ValueError, match="has no stars"):
        open_stars(stars[:0])
    sums = bin_fe(stars, s=0.04)
    with pytest.raises(KeyError, match="group must be one of 'R = 5 to 7 kpc'"):
        sums.binned("R = 1 to 2 kpc")
    with pytest.raises(KeyError, match="resampling must be None or below 0"):
        sums.binned("R = 5 to 7 kpc", 0)
    with pytest.raises(IndexError, match="there are 5 subsamples"):
        sums[5]


def test_error_of_resampled_data_makes_the_likelihood_that_of_the_copied_stars(stars):
    """Between any two models, chi2 of the pixels and chi2 of the copies differ by the same."""
    resample = bootstrap(1, seed=1)
    copies = resample.copies(0, N)[:, 0]
    binned = bin_many(stars, None, COARSE, **COLUMNS, s=0.04, resample=resample).binned(None, 0)
    full = binned["counts"] > 0
    row = np.digitize(stars["v"].value, COARSE["vel"].value) - 1
    column = np.digitize(stars["z"].value, COARSE["pos"].value) - 1
    on = (row >= 0) & (row < 18) & (column >= 0) & (column < 20)
    weight = copies[on] / (stars["err"][on] ** 2 + 0.04**2)

    def chi2s(model):
        pixels = (((binned["label"] - model) / binned["label_err"]) ** 2)[full].sum()
        residual = stars["fe"][on] - model[row[on], column[on]]
        return pixels, (weight * residual**2).sum()

    models = [np.full((18, 20), 0.1), np.random.default_rng(0).normal(0.2, 0.1, (18, 20))]
    (p0, s0), (p1, s1) = map(chi2s, models)
    assert_allclose(p1 - p0, s1 - s0, rtol=1e-9)


def test_bootstrapped_means_scatter_by_the_error_of_the_data():
    """And lie twice the variance off the truth: the data's own error and that of the resampling."""
    stars, n = catalogue(60_000, seed=3), 30
    rng = np.random.default_rng(4)
    stars["fe"] = 0.1 + rng.normal(0, np.hypot(stars["err"], 0.04))
    sums = bin_many(stars, None, COARSE, **COLUMNS, s=0.04, resample=bootstrap(n, seed=2))
    data, boot = sums.binned(), sums.stacked("all")
    many = data["counts"] > 100
    label, label_err = boot["label"][0][:, many], boot["label_err"][0][:, many]
    pulls = (label - data["label"][many]) / data["label_err"][many]
    error = 1 / np.sqrt(n * many.sum() / 2)
    assert many.sum() > 100
    assert abs((pulls**2).mean() - 1) < 4 * error
    # Shared by all resamplings, so as uncertain as one data set is.
    off = (((label - 0.1) / label_err) ** 2).mean()
    assert abs(off - 2) < 4 / np.sqrt(many.sum() / 2)


def test_jackknife_variance_is_that_of_the_mean():
    """With 400 blocks the standard deviation is known to 1/sqrt(2 * 400) = 3.5 per cent."""
    stars = catalogue(4_000, seed=1)
    bins = ([-50.0, 50.0] * u.kpc, [-1e3, 1e3] * u.km / u.s)
    settings = {"pos": "z", "vel": "v", "label": "fe"}
    sums = bin_many(stars, None, bins, **settings, resample=jackknife(400))
    means = sums.stacked("all")["label"].ravel()
    variance = 399 / 400 * ((means - means.mean()) ** 2).sum()
    assert_allclose(np.sqrt(variance), sums.binned()["label_err"].item(), rtol=0.12)
