"""What users pass: units, columns, stars that cannot be used, and what is refused."""

from __future__ import annotations

import astropy.units as u
import numpy as np
import pytest
from astropy.table import Column, MaskedColumn
from gala.units import UnitSystem
from numpy.testing import assert_allclose, assert_array_equal

from simulated import BINS, EDGES, KMS, mock
from torusimaging_torch.data import (
    get_binned_counts,
    get_binned_label,
    intrinsic_scatter,
)


@pytest.fixture(scope="module")
def stars() -> dict[str, np.ndarray]:
    return mock(0, 20_000)


def test_units_do_not_matter(stars):
    bare = get_binned_label(
        stars["pos"], stars["vel"], stars["label"], EDGES, label_err=stars["label_err"]
    )
    pos, vel = (stars["pos"] * u.kpc).to(u.pc), (stars["vel"] / KMS) * u.km / u.s
    bins = {"pos": BINS["pos"].to(u.pc), "vel": BINS["vel"]}
    dex = get_binned_label(
        pos, vel, stars["label"] * u.dex, bins, label_err=stars["label_err"] * u.dex
    )
    scaled = UnitSystem(u.pc, u.Gyr, u.Msun, u.rad)
    other = get_binned_label(pos, vel, stars["label"], bins, label_err=0.05, units=scaled)
    # A star within rounding of an edge may change pixels.
    assert np.abs(dex["counts"] - bare["counts"]).sum() <= 4
    same = dex["counts"] == bare["counts"]
    assert_allclose(dex["label"].value[same], bare["label"][same], rtol=1e-6)
    assert dex["label"].unit == dex["label_err"].unit == u.dex
    assert isinstance(bare["label"], np.ndarray)
    assert not isinstance(bare["label"], u.Quantity)
    assert other["pos"].unit == u.pc
    assert other["vel"].unit == u.pc / u.Gyr
    assert_allclose(other["vel"].to_value(u.kpc / u.Myr), bare["vel"].value)


def test_error_and_scatter_follow_the_label_unit():
    rng = np.random.default_rng(0)
    pos, vel, age = rng.random(100), rng.random(100), rng.normal(5, 1, 100)
    bins = [0.0, 0.5, 1.0], [0.0, 1.0]
    bare = get_binned_label(pos, vel, age, bins, label_err=0.3, s=1.0)
    gyr = get_binned_label(pos, vel, age * u.Gyr, bins, label_err=300 * u.Myr, s=1000 * u.Myr)
    assert_allclose(gyr["label_err"].to_value(u.Gyr), bare["label_err"])
    s = intrinsic_scatter(pos, vel, age * u.Gyr, bins, label_err=300 * u.Myr)
    assert_allclose(s.to_value(u.Gyr), intrinsic_scatter(pos, vel, age, bins, label_err=0.3))
    with pytest.raises(u.UnitConversionError, match="label_err"):
        get_binned_label(pos, vel, age * u.Gyr, bins, label_err=0.3 * u.kpc)
    with pytest.raises(u.UnitConversionError, match="s must have the unit of label"):
        get_binned_label(pos, vel, age * u.Gyr, bins, s=0.3 * u.kpc)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"pos": [0.1] * u.km / u.s}, "pos"),
        ({"vel": [0.1] * u.kpc}, "vel"),
        ({"bins": ([0, 1] * u.Myr, [0, 1] * u.km / u.s)}, r"bins\['pos'\]"),
        ({"bins": {"pos": [0, 1] * u.kpc, "vel": [0, 1] * u.kpc}}, r"bins\['vel'\]"),
    ],
)
def test_wrong_dimension_names_the_argument(change, name):
    args = {"pos": [0.1], "vel": [0.1], "bins": ([0, 1], [0, 1])} | change
    with pytest.raises(u.UnitConversionError, match=f"^{name} must be"):
        get_binned_counts(**args)
    with pytest.raises(u.UnitConversionError, match=f"^{name} must be"):
        get_binned_label(label=[1.0], s=1.0, **args)


def test_table_columns_keep_their_units_and_masks(stars):
    mask = np.arange(len(stars["pos"])) % 7 == 0
    kept = {name: values[~mask] for name, values in stars.items()}
    expected = get_binned_label(
        kept["pos"] * u.kpc, kept["vel"] / KMS * u.km / u.s, kept["label"], BINS, s=0.1
    )
    columns = (
        Column(stars["pos"], unit="kpc"),
        Column(stars["vel"] / KMS, unit="km/s"),
        MaskedColumn(np.where(mask, 99.0, stars["label"]), mask=mask, unit="dex"),
    )
    with pytest.warns(UserWarning, match="with label not finite"):
        binned = get_binned_label(*columns, BINS, s=0.1)
    assert binned["label"].unit == u.dex
    assert_allclose(binned["label"].value, expected["label"])
    masked_pos = MaskedColumn(stars["pos"], mask=mask, unit="kpc")
    with pytest.warns(UserWarning, match=f"{mask.sum()} with pos or vel not finite"):
        counts = get_binned_counts(masked_pos, columns[1], BINS)["counts"]
    assert_array_equal(counts, expected["counts"])


def test_stars_left_out_are_told_once_and_counted():
    nan, inf = np.nan, np.inf
    pos = np.array([0.5, 0.5, nan, 0.5, 0.5, 0.5, 0.5, 9.0, inf])
    label = np.array([1.0, 3.0, 7.0, nan, 7.0, 7.0, 7.0, nan, 7.0])
    error = np.array([0.1, 0.1, 0.1, 0.1, 0.0, nan, -1.0, 0.1, 0.1])
    message = (
        "stars left out: 2 with pos or vel not finite; 1 with label not finite; "
        "3 with label_err not finite or not positive"
    )
    with pytest.warns(UserWarning, match=f"^{message}$") as caught:
        binned = get_binned_label(
            pos, np.full(9, 0.5), label, ([0, 1], [0, 1]), label_err=error, s=0.0
        )
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert binned["counts"] == 2
    assert_allclose(binned["label"], 2.0)
    assert_allclose(binned["label_err"], 0.1 / np.sqrt(2))


def test_several_labels_equal_one_by_one(stars):
    age = 10 * stars["label"] * u.Gyr
    age[3] = np.nan * u.Gyr
    args = stars["pos"] * u.kpc, stars["vel"] * u.kpc / u.Myr
    labels = {"FE_H": stars["label"], "age": age}
    errors = {"FE_H": stars["label_err"], "age": None}
    with pytest.warns(UserWarning, match=r"left out: 1 with label\['age'\] not finite$"):
        both = get_binned_label(*args, labels, BINS, label_err=errors)
    with pytest.warns(UserWarning, match="left out: 1 with label not finite$"):
        alone = get_binned_label(*args, age, BINS)
    fe_h = get_binned_label(*args, stars["label"], BINS, label_err=stars["label_err"])
    assert list(both) == ["FE_H", "age"]
    for one, name in ((fe_h, "FE_H"), (alone, "age")):
        assert set(one) == {"pos", "vel", "counts", "label", "label_err"}
        assert set(both[name]) == set(one) | {"label_covariance"}
        for key in one:
            assert_array_equal(both[name][key], one[key])
    assert both["FE_H"]["pos"] is both["age"]["pos"]
    assert both["age"]["counts"].sum() == both["FE_H"]["counts"].sum() - 1
    with pytest.raises(ValueError, match=r"label_err must be None or a dictionary.*got ndarray"):
        get_binned_label(*args, labels, BINS, label_err=stars["label_err"])
    with pytest.raises(ValueError, match=r"s must be None or a dictionary.*got \['age'\]"):
        get_binned_label(*args, labels, BINS, s={"age": 1.0})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pos": [0.1, 0.2]}, "pos and vel must be one-dimensional with one value per star"),
        ({"pos": [], "vel": []}, "those of one star at least"),
        ({"pos": 0.1, "vel": 0.1}, "one value per star, got shapes"),
        ({"bins": 10}, "bins must be a dictionary .* got 10"),
        ({"bins": {"pos": [0, 1]}}, "bins must be a dictionary"),
        ({"bins": (10, 10)}, "at least two pixel edges"),
        ({"bins": ([0], [0, 1])}, r"bins\['pos'\] must hold at least two pixel edges"),
        ({"bins": ([0, 1], [0, 1, 1])}, r"bins\['vel'\] must be finite and strictly increasing"),
        ({"bins": ([1, 0], [0, 1])}, r"bins\['pos'\] must be finite and strictly increasing"),
        ({"bins": ([0, np.nan], [0, 1])}, r"bins\['pos'\] must be finite"),
        ({"label": [1.0, 2.0]}, "label must have one value per star"),
        ({"label_err": [1.0, 2.0]}, "label_err must be one number or one per star"),
        ({"label_err": 0.0}, "label_err is 0 for all stars; pass None"),
        ({"s": -1.0}, "s must be one number, finite and not negative"),
        ({"s": [1.0, 2.0]}, "s must be one number"),
    ],
)
def test_bad_input_is_named(change, message):
    args = {"pos": [0.1], "vel": [0.1], "label": [1.0], "bins": ([0, 1], [0, 1]), "s": 1.0}
    with pytest.raises(ValueError, match=message):
        get_binned_label(**args | change)


def test_other_moments_do_not_exist():
    with pytest.raises(NotImplementedError, match=r"'mean'.*'median'"):
        get_binned_label([0.1], [0.1], [1.0], ([0, 1], [0, 1]), "median")
