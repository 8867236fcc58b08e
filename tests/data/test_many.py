"""Many subsamples binned at once against one call of get_binned_label for each."""

from __future__ import annotations

from functools import partial

import astropy.units as u
import numpy as np
import pytest
from astropy.table import QTable
from numpy.testing import assert_allclose, assert_array_equal

from simulated import COARSE, COLUMNS, WINDOWS, assert_same, catalogue, in_window
from torusimaging_torch.catalogue.chunks import open_stars
from torusimaging_torch.catalogue.groups import sliding_windows
from torusimaging_torch.catalogue.resampling import bootstrap, jackknife
from torusimaging_torch.data import get_binned_counts, get_binned_label, intrinsic_scatter
from torusimaging_torch.data.many import bin_many, scatter_many

N = 30_000
bin_fe = partial(bin_many, groups=WINDOWS, bins=COARSE, **COLUMNS)


@pytest.fixture(scope="module")
def stars() -> QTable:
    return catalogue(N)


def one(stars, label="fe", label_err="err", **settings):
    """Return what is to come out for some stars; errors may be a column's name."""
    errors = stars[label_err] if isinstance(label_err, str) else label_err
    return get_binned_label(
        stars["z"], stars["v"], stars[label], COARSE, label_err=errors, **settings
    )


@pytest.mark.parametrize("label_err", ["err", 0.05, None])
@pytest.mark.parametrize("s", [None, 0.05])
def test_overlapping_groups_equal_one_at_a_time(stars, label_err, s):
    sums = bin_fe(stars, label_err=label_err, s=s)
    assert len(sums) == 5
    for center, binned in zip([6, 6.5, 7, 7.5, 8], sums, strict=True):
        assert_same(binned, one(stars[in_window(stars, center)], label_err=label_err, s=s))


def test_counts_equal_one_at_a_time(stars):
    sums = bin_many(stars, WINDOWS, COARSE, pos="z", vel="v")
    here = stars[in_window(stars, 7)]
    assert_same(sums[2], get_binned_counts(here["z"], here["v"], COARSE))
    assert np.isnan(sums[2]["label"]).any()
    with pytest.raises(ValueError, match="star counts have no intrinsic scatter"):
        sums.scatter()


def test_several_labels_have_their_own_stars_units_and_scatters(stars):
    stars = stars.copy()
    stars["fe"][:100] = np.nan
    stars["err"][50:150] = -1.0
    stars["z"][200:300] = np.nan * u.kpc
    labels = {"metal": "fe", "age": "age"}
    errors = {"metal": "err", "age": 500 * u.Myr}
    with pytest.warns(UserWarning, match="left out: 100 with pos or vel not finite") as warned:
        sums = bin_fe(stars, label=labels, label_err=errors)
    assert len(warned) == 1  # not one for each pass or chunk
    here = stars[in_window(stars, 6)]
    with pytest.warns(UserWarning, match="left out"):
        metal, age = one(here), one(here, "age", 0.5 * u.Gyr)
    assert_same(sums.binned("R = 5 to 7 kpc", label="metal"), metal)
    assert_same(sums.binned("R = 5 to 7 kpc", label="age"), age)
    assert sums.scatter("age").unit == u.Gyr
    assert not hasattr(sums.scatter("metal"), "unit")


@pytest.mark.parametrize("threshold", [None, 40])
def test_scatters_are_those_of_the_restricted_likelihood(stars, threshold):
    found = scatter_many(stars, WINDOWS, COARSE, **COLUMNS, s_N_thresh=threshold)
    for center, s in zip([6, 6.5, 7, 7.5, 8], found, strict=True):
        here = stars[in_window(stars, center)]
        expected = intrinsic_scatter(
            here["z"], here["v"], here["fe"], COARSE, here["err"], s_N_thresh=threshold
        )
        assert_allclose(s, expected, rtol=1e-9)


def test_scatter_is_zero_where_errors_explain_all(stars):
    stars = stars.copy()
    stars["err"] = 3 * stars["err"]
    assert_array_equal(scatter_many(stars, WINDOWS, COARSE, **COLUMNS), 0.0)
    assert_same(bin_fe(stars)[0], one(stars[in_window(stars, 6)]))


def test_far_off_labels_lose_no_digits(stars):
    stars = stars.copy()
    stars["fe"] = stars["fe"] + 1e5
    here = stars[in_window(stars, 6)]
    expected = intrinsic_scatter(here["z"], here["v"], here["fe"], COARSE, here["err"])
    assert_allclose(scatter_many(stars, WINDOWS, COARSE, **COLUMNS)[0], expected, rtol=1e-5)


@pytest.mark.parametrize("resample", [bootstrap(18, seed=1), jackknife(4)])
def test_resampled_data_are_those_of_the_copied_stars(stars, resample):
    sums = bin_fe(stars, s=0.04, resample=resample)
    copies = resample.copies(0, N)
    inside = in_window(stars, 6.5)
    for index in (0, resample.n - 1):
        rows = np.repeat(np.arange(N)[inside], copies[inside, index])
        assert_same(sums.binned("R = 5.5 to 7.5 kpc", index), one(stars[rows], s=0.04))
    assert_same(sums.binned("R = 5.5 to 7.5 kpc"), one(stars[inside], s=0.04))


def test_resampled_data_keep_the_scatter_of_the_data(stars):
    plain, resampled = bin_fe(stars), bin_fe(stars, resample=bootstrap(2, seed=1))
    assert_array_equal(plain.scatter(), resampled.scatter())


def test_groups_by_values_conditions_and_masks(stars):
    conditions = {
        "north": "field == 'north' and R < 20 kpc",
        "south": "field == 'south'",
        "bulge": np.asarray(stars["field"]) == "bulge",
    }
    by_value = bin_fe(stars, groups="field", s=0.04)
    by_condition = bin_fe(open_stars(stars, chunk_rows=7_000), groups=conditions, s=0.04)
    assert by_value.groups == ("bulge", "north", "south")
    for name in by_value.groups:
        expected = one(stars[stars["field"] == name], s=0.04)
        assert_same(by_value.binned(name), expected)
        assert_same(by_condition.binned(name), expected)


def test_a_group_without_a_scatter_leaves_the_others_alone(stars):
    groups = {"all": np.ones(N, dtype=bool), "one": np.arange(N) == 5, "none": np.zeros(N, bool)}
    with pytest.warns(UserWarning, match="no intrinsic scatter.*'fe' of 'one'.*'fe' of 'none'"):
        sums = bin_fe(stars, groups=groups)
    assert_same(sums[0], one(stars))
    assert sums.binned("one")["counts"].sum() == 1
    assert np.isnan(sums.binned("one")["label"]).all()
    assert np.isnan(sums.scatter()[1:]).all()


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"pos": "R_g"}, KeyError, "no column 'R_g' in the catalogue: it has id, R, z"),
        ({"pos": "v"}, u.UnitConversionError, "v must be a length"),
        (
            {"groups": sliding_windows("R", 6, 8, 1, 2)},
            u.UnitConversionError,
            "only the column has",
        ),
        ({"groups": "R: 6..8 step 1 width 2 Gyr"}, u.UnitConversionError, "has the unit 'kpc'"),
        ({"groups": "R: 8..6 step 1 width 2 kpc"}, ValueError, "stop not below start"),
        ({"groups": "R >"}, KeyError, "no column 'R >'"),
        ({"groups": {"a": "R >"}}, ValueError, "cannot read the condition 'R >'"),
        ({"groups": {"a": np.ones(3, bool)}}, ValueError, "booleans, one for each of the 30000"),
        ({"groups": {}}, ValueError, "there are no groups"),
        ({"groups": 5}, TypeError, "groups must be one text"),
        ({"label": None}, ValueError, "label_err has no meaning without a label"),
        ({"label": ["fe", "age"]}, ValueError, "label_err must be None or a dictionary"),
        ({"s": [0.1, 0.2]}, ValueError, "one for each of 5 groups"),
        ({"s": -1.0}, ValueError, "finite and not negative"),
        ({"s": 1 * u.kpc}, u.UnitConversionError, r"s\['fe'\] must be a pure number"),
        ({"s": 0.0, "label_err": None}, ValueError, r"s\['fe'\] must be positive"),
        ({"label": "age", "label_err": 1 * u.kpc}, u.UnitConversionError, "unit of label"),
        ({"stars": 5}, TypeError, "stars must be a table"),
        ({"stars": "nothing.fits"}, FileNotFoundError, r"no file 'nothing\.fits'"),
        ({"stars": __file__}, ValueError, "cannot read .* as a table of stars"),
    ],
)
def test_errors_name_the_argument(stars, change, error, match):
    settings = {"stars": stars, "groups": WINDOWS, "bins": COARSE, **COLUMNS} | change
    with pytest.raises(error, match=match):
        bin_many(**settings)
