"""Many subsamples binned at once against one call of get_binned_label for each."""

from __future__ import annotations

import pickle
import tracemalloc
from functools import partial
from itertools import count, pairwise

import astropy.units as u
import numpy as np
import pytest
import torch
from astropy.io import fits
from astropy.table import MaskedColumn, QTable, Table
from numpy.testing import assert_allclose, assert_array_equal

from torusimaging_torch.catalogue.chunks import open_stars
from torusimaging_torch.catalogue.groups import Windows, sliding_windows
from torusimaging_torch.catalogue.resampling import bootstrap, jackknife
from torusimaging_torch.data import get_binned_counts, get_binned_label, intrinsic_scatter
from torusimaging_torch.data import reader as group_reader
from torusimaging_torch.data.many import bin_many, scatter_many
from torusimaging_torch.data.progress import StarProgress
from torusimaging_torch.data.sums import DeviceSums, HostSums

N = 30_000
OMEGA = 0.08
BINS = {"pos": np.linspace(-1.2, 1.2, 21) * u.kpc, "vel": np.linspace(-70, 70, 19) * u.km / u.s}
WINDOWS = "R: 6..8 step 0.5 width 2 kpc"
COLUMNS = {"pos": "z", "vel": "v", "label": "fe", "label_err": "err"}
bin_fe = partial(bin_many, groups=WINDOWS, bins=BINS, **COLUMNS)


def mock(n: int, seed: int = 0) -> QTable:
    rng = np.random.default_rng(seed)
    pos, vel = rng.normal(0, 0.4, n), rng.normal(0, 0.4 * OMEGA, n)
    truth = 0.02 + 0.9 * np.sqrt(0.5 * (OMEGA * pos**2 + vel**2 / OMEGA))
    err = rng.lognormal(np.log(0.05), 0.3, n)
    return QTable(
        {
            "id": np.arange(n),
            "R": rng.uniform(5, 9, n) * u.kpc,
            "z": pos * u.kpc,
            "v": (vel * u.kpc / u.Myr).to(u.km / u.s),
            "fe": truth + rng.normal(0, np.hypot(err, 0.04)),
            "err": err,
            "age": rng.normal(5, 2, n) * u.Gyr,
            "field": rng.choice(["north", "south", "bulge"], n),
        }
    )


@pytest.fixture(scope="module")
def stars() -> QTable:
    return mock(N)


def one(stars, label="fe", label_err="err", **settings):
    """Return what is to come out for some stars; errors may be a column's name."""
    errors = stars[label_err] if isinstance(label_err, str) else label_err
    return get_binned_label(
        stars["z"], stars["v"], stars[label], BINS, label_err=errors, **settings
    )


def assert_same(binned, expected, rtol=1e-11):
    assert list(binned) == list(expected)
    assert_array_equal(binned["counts"], expected["counts"])
    for name, value in expected.items():
        assert getattr(binned[name], "unit", None) == getattr(value, "unit", None)
        assert binned[name].shape == value.shape
        bare = (getattr(x, "value", x) for x in (binned[name], value))
        assert_allclose(*bare, rtol=rtol, atol=1e-15)


def in_window(stars, center):
    return (stars["R"] >= (center - 1) * u.kpc) & (stars["R"] < (center + 1) * u.kpc)


# --- the same as one at a time --------------------------------------------------------------------


@pytest.mark.parametrize("label_err", ["err", 0.05, None])
@pytest.mark.parametrize("s", [None, 0.05])
def test_overlapping_groups_equal_one_at_a_time(stars, label_err, s):
    sums = bin_fe(stars, label_err=label_err, s=s)
    assert len(sums) == 5
    for center, binned in zip([6, 6.5, 7, 7.5, 8], sums, strict=True):
        assert_same(binned, one(stars[in_window(stars, center)], label_err=label_err, s=s))


def test_counts_equal_one_at_a_time(stars):
    sums = bin_many(stars, WINDOWS, BINS, pos="z", vel="v")
    here = stars[in_window(stars, 7)]
    assert_same(sums[2], get_binned_counts(here["z"], here["v"], BINS))
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
    found = scatter_many(stars, WINDOWS, BINS, **COLUMNS, s_N_thresh=threshold)
    for center, s in zip([6, 6.5, 7, 7.5, 8], found, strict=True):
        here = stars[in_window(stars, center)]
        expected = intrinsic_scatter(
            here["z"], here["v"], here["fe"], BINS, here["err"], s_N_thresh=threshold
        )
        assert_allclose(s, expected, rtol=1e-9)


def test_scatter_is_zero_where_errors_explain_all(stars):
    stars = stars.copy()
    stars["err"] = 3 * stars["err"]
    assert_array_equal(scatter_many(stars, WINDOWS, BINS, **COLUMNS), 0.0)
    assert_same(bin_fe(stars)[0], one(stars[in_window(stars, 6)]))


def test_far_off_labels_lose_no_digits(stars):
    stars = stars.copy()
    stars["fe"] = stars["fe"] + 1e5
    here = stars[in_window(stars, 6)]
    expected = intrinsic_scatter(here["z"], here["v"], here["fe"], BINS, here["err"])
    assert_allclose(scatter_many(stars, WINDOWS, BINS, **COLUMNS)[0], expected, rtol=1e-5)


# --- resamplings ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "resample", [bootstrap(18, seed=1), bootstrap(3, "multinomial", seed=1), jackknife(4)]
)
def test_resampled_data_are_those_of_the_copied_stars(stars, resample):
    sums = bin_fe(stars, s=0.04, resample=resample)
    copies = resample.copies(0, N, N)
    inside = in_window(stars, 6.5)
    for index in (0, resample.n - 1):
        rows = np.repeat(np.arange(N)[inside], copies[inside, index])
        assert_same(sums.binned("R = 5.5 to 7.5 kpc", index), one(stars[rows], s=0.04))
    assert_same(sums.binned("R = 5.5 to 7.5 kpc"), one(stars[inside], s=0.04))


def test_resampled_data_keep_the_scatter_of_the_data(stars):
    plain, resampled = bin_fe(stars), bin_fe(stars, resample=bootstrap(2, seed=1))
    assert_array_equal(plain.scatter(), resampled.scatter())


def test_error_of_resampled_data_makes_the_likelihood_that_of_the_copied_stars(stars):
    """Between any two models, chi2 of the pixels and chi2 of the copies differ by the same."""
    resample = bootstrap(1, seed=1)
    copies = resample.copies(0, N, N)[:, 0]
    binned = bin_many(stars, None, BINS, **COLUMNS, s=0.04, resample=resample).binned(None, 0)
    full = binned["counts"] > 0
    row = np.digitize(stars["v"].value, BINS["vel"].value) - 1
    column = np.digitize(stars["z"].value, BINS["pos"].value) - 1
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
    stars, n = mock(60_000, seed=3), 30
    rng = np.random.default_rng(4)
    stars["fe"] = 0.1 + rng.normal(0, np.hypot(stars["err"], 0.04))
    sums = bin_many(stars, None, BINS, **COLUMNS, s=0.04, resample=bootstrap(n, seed=2))
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
    """With as many blocks as stars the jackknife's variance of a plain mean is s^2/n."""
    stars = mock(40, seed=1)
    bins = ([-50.0, 50.0], [-1e3, 1e3] * u.km / u.s)
    settings = {"pos": "z", "vel": "v", "label": "fe"}
    sums = bin_many(stars, None, bins, **settings, resample=jackknife(40, "contiguous"))
    means = sums.stacked("all")["label"].ravel()
    variance = 39 / 40 * ((means - means.mean()) ** 2).sum()
    assert_allclose(np.sqrt(variance), sums.binned()["label_err"].item(), rtol=1e-10)


# --- chunks, files, shards ------------------------------------------------------------------------


def write(stars, folder, kind):
    if kind == "memory":
        return stars
    if kind == "two files":
        paths = [folder / "a.parquet", folder / "b.fits"]
        for path, part in zip(paths, (stars[:11_000], stars[11_000:]), strict=True):
            part.write(path)
        return paths
    path = folder / f"stars.{kind}"
    stars.write(path)
    return path


@pytest.mark.parametrize("kind", ["memory", "parquet", "fits", "two files"])
def test_chunks_and_files_do_not_change_the_sums(stars, tmp_path, kind):
    if kind in ("parquet", "two files"):
        pytest.importorskip("pyarrow")
    resample = bootstrap(3, seed=1)
    whole = bin_fe(stars, resample=resample)
    source = open_stars(write(stars, tmp_path, kind), chunk_rows=4_001)
    parts = bin_fe(source, resample=resample)
    assert parts.n_stars == N
    assert_allclose(parts.scatter(), whole.scatter(), rtol=1e-12)
    for binned, expected in zip(parts, whole, strict=True):
        assert_same(binned, expected)


def test_shards_merge_to_the_whole(stars):
    s = scatter_many(stars, WINDOWS, BINS, **COLUMNS)
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
    bins = (BINS["pos"][1:], BINS["vel"])
    other = bin_many(stars, "field", bins, **COLUMNS, s=0.04, resample=sums.resampling)
    with pytest.raises(ValueError, match="different pixel edges, groups"):
        sums.merge(other)


def test_memory_does_not_grow_with_the_catalogue(tmp_path):
    """Of NumPy's own; the benchmark measures that of the process with files of any size."""
    peaks = []
    for n in (20_000, 80_000):
        path = tmp_path / f"{n}.parquet"
        mock(n)["R", "z", "v", "fe", "err"].write(path)
        tracemalloc.start()
        bin_fe(open_stars(path, chunk_rows=5_000), resample=bootstrap(5, seed=1))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.1 * peaks[0]


def test_masked_numbers_in_files_are_left_out(tmp_path):
    stars = mock(2_000)
    mask = np.arange(2_000) < 20
    table = Table(stars["R", "z", "v", "err"])
    table["fe"] = MaskedColumn(np.arange(2_000) % 7, mask=mask)
    table.write(tmp_path / "stars.fits")
    with pytest.warns(UserWarning, match="with label 'fe' not finite"):
        sums = bin_many(tmp_path / "stars.fits", None, BINS, **COLUMNS)
    table = table[~mask]
    expected = get_binned_label(table["z"], table["v"], table["fe"], BINS, label_err=table["err"])
    assert_same(sums[0], expected)


def test_scaled_and_logical_columns_of_fits_are_read_as_astropy_reads_them(tmp_path):
    columns = [
        fits.Column("scaled", "I", array=np.arange(-5, 5), unit="kpc"),
        fits.Column("unsigned", "J", bzero=2**31, array=np.arange(10, dtype=np.uint32)),
        fits.Column("flag", "L", array=np.arange(10) > 4),
        fits.Column("name", "5A", array=[f"s{i}" for i in range(10)]),
    ]
    fits.BinTableHDU.from_columns(columns).writeto(tmp_path / "scaled.fits")
    fits.setval(tmp_path / "scaled.fits", "TSCAL1", value=0.5, ext=1)
    fits.setval(tmp_path / "scaled.fits", "TZERO1", value=3.0, ext=1)
    expected = Table.read(tmp_path / "scaled.fits")
    (_, found), *rest = open_stars(tmp_path / "scaled.fits").chunks(expected.colnames)
    assert not rest
    for name in expected.colnames:
        assert_array_equal(found[name], expected[name])
        assert found[name].unit == expected[name].unit
    assert_array_equal(found["scaled"], 3.0 + 0.5 * np.arange(-5, 5))


def test_units_may_be_given_for_files_that_have_none(stars, tmp_path):
    bare = Table({name: stars[name].value for name in ("R", "z", "v", "fe", "err")})
    bare.write(tmp_path / "bare.fits")
    source = open_stars(tmp_path / "bare.fits", units={"R": "kpc", "z": "kpc", "v": "km/s"})
    assert_same(bin_fe(source, s=0.04)[0], bin_fe(stars, s=0.04)[0])


def test_progress_of_long_passes_goes_to_standard_error(stars, capsys, monkeypatch):
    source = open_stars(stars[:25_000], first_row=5_000, total_rows=N, chunk_rows=20_000)
    bin_fe(source, progress=True)
    assert capsys.readouterr() == ("", "")
    clock = partial(next, count(0, 11))
    monkeypatch.setattr(group_reader, "StarProgress", partial(StarProgress, clock=clock))
    bin_fe(source)
    assert capsys.readouterr() == ("", "")
    bin_fe(source, progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    first, second, *others = err.splitlines()
    assert first.startswith("pass 1: 20,000 of 25,000 stars (80%)")
    assert second.startswith("pass 1: 25,000 of 25,000 stars (100%)")
    assert others[-1].startswith(f"pass {len(others) // 2 + 1}: 25,000 of 25,000")


# --- groups ---------------------------------------------------------------------------------------


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


def test_windows():
    windows = sliding_windows("R", 6 * u.kpc, 12 * u.kpc, 250 * u.pc, 2 * u.kpc)
    assert len(windows.names) == 25
    assert windows.names[0] == "R = 5 to 7 kpc"
    assert windows.names[-1] == "R = 11 to 13 kpc"
    assert_allclose(windows.describe()["R"].to_value(u.kpc), np.linspace(6, 12, 25))
    rows = dict(Windows("x", [0, 1], [2, 3]).members(Table({"x": [0, 1, 2.0, np.nan, 3]}), 0))
    assert_array_equal(rows[0], [0, 1])
    assert_array_equal(rows[1], [1, 2])


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


def test_a_group_without_a_scatter_leaves_the_others_alone(stars):
    groups = {"all": np.ones(N, dtype=bool), "one": np.arange(N) == 5, "none": np.zeros(N, bool)}
    with pytest.warns(UserWarning, match="no intrinsic scatter.*'fe' of 'one'.*'fe' of 'none'"):
        sums = bin_fe(stars, groups=groups)
    assert_same(sums[0], one(stars))
    assert sums.binned("one")["counts"].sum() == 1
    assert np.isnan(sums.binned("one")["label"]).all()
    assert np.isnan(sums.scatter()[1:]).all()


# --- devices --------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_sums_on_a_device_are_those_of_the_host(device):
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no GPU")
    rng = np.random.default_rng(0)
    shape = (2, 2, 30, 4)
    host, there = HostSums(shape), DeviceSums(shape, device)
    for group in (0, 1, 1):
        pixel = rng.integers(0, 30, 500).astype(np.int32)
        terms = list(rng.normal(size=(2, 500)))
        copies = rng.poisson(1, (500, 4)).astype(np.uint8)
        for sums in (host, there):
            sums.add(group, pixel, terms, copies)
    assert_allclose(there.total(), host.total(), rtol=1e-12, atol=1e-12)


# --- errors ---------------------------------------------------------------------------------------


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
        ({"label": ["fe", "age"]}, ValueError, "label_err must be a mapping"),
        ({"s": [0.1, 0.2]}, ValueError, "one for each of 5 groups"),
        ({"s": -1.0}, ValueError, "finite and not negative"),
        ({"s": 1 * u.kpc}, u.UnitConversionError, "s of 'fe'"),
        ({"s": 0.0, "label_err": None}, ValueError, "must be positive: the labels have no errors"),
        ({"label": "age", "label_err": 1 * u.kpc}, u.UnitConversionError, "unit of label"),
        ({"stars": 5}, TypeError, "stars must be a table"),
        ({"stars": "nothing.fits"}, FileNotFoundError, r"no file 'nothing\.fits'"),
        ({"stars": __file__}, ValueError, r"expected a name that ends in \.parquet or \.fits"),
    ],
)
def test_errors_name_the_argument(stars, change, error, match):
    settings = {"stars": stars, "groups": WINDOWS, "bins": BINS, **COLUMNS} | change
    with pytest.raises(error, match=match):
        bin_many(**settings)


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
