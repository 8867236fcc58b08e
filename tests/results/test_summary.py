"""What a batch found at one height, against percentiles and variances taken by hand; its figure."""

from __future__ import annotations

from dataclasses import replace

import astropy.units as u
import matplotlib as mpl
import numpy as np
import pytest
import torch
from astropy.table import QTable
from numpy.testing import assert_allclose

import disks
from torusimaging_torch import plot
from torusimaging_torch.analysis.batch_report import describe_batch
from torusimaging_torch.batch import fit_many
from torusimaging_torch.numerics.minimum import Status
from torusimaging_torch.results.batch_result import BatchResult
from torusimaging_torch.results.profile_table import profiles
from torusimaging_torch.results.summary import count_failures, default_height, summarize
from torusimaging_torch.simulate.potentials import HarmonicOscillator

mpl.use("Agg")
HEIGHT = 0.6 * u.kpc
R = [7.0, 8.0, 9.0]
N = 5  # resamplings
SETTINGS = {
    "label_knots": 4,
    "e_knots": {2: 4},
    "label_l2_sigma": 1.0,
    "label_smooth_sigma": 0.5,
    "e_l2_sigmas": {2: 1.0},
    "e_smooth_sigmas": {2: 0.5},
}


def columns(kind: str = "bootstrap") -> dict:
    return {
        "group": np.repeat([f"R_g = {r:g}" for r in R], 1 + N),
        "resampling": np.tile(np.arange(-1, N), len(R)),
        "resampling_kind": np.tile(["none", *[kind] * N], len(R)),
        "R_g": np.repeat(R, 1 + N) * u.kpc,
        "R_g_lower": np.repeat(R, 1 + N) * u.kpc - 1 * u.kpc,
        "R_g_upper": np.repeat(R, 1 + N) * u.kpc + 1 * u.kpc,
    }


@pytest.fixture(scope="module")
def result() -> BatchResult:
    model = disks.make_model()
    data = [disks.draw(model, "gaussian", seed=i, n=10) for i in range(len(R) * (1 + N))]
    return fit_many(data, **SETTINGS, columns=columns(), progress=False)


def acceleration(result: BatchResult, height=HEIGHT) -> u.Quantity:
    """Return the acceleration of each fit, one at a time."""
    return u.Quantity(
        [one.model.get_acceleration(one.quantity("pos0") + height, one.params) for one in result]
    ).squeeze()


def fail(result: BatchResult, *rows: int) -> BatchResult:
    status = result.status.clone()
    status[list(rows)] = int(Status.MAX_ITER)
    message = [Status.MAX_ITER.message if i in rows else m for i, m in enumerate(result.message)]
    return replace(result, values={**result.values, "status": status}, message=tuple(message))


def plain(result: BatchResult) -> BatchResult:
    return result.take(result.columns["resampling"] < 0)


def test_bootstraps_give_percentiles(result):
    table = summarize(result, HEIGHT)
    a = acceleration(result).reshape(len(R), 1 + N)
    assert table["group"].tolist() == ["R_g = 7", "R_g = 8", "R_g = 9"]
    assert_allclose(table["R_g"].to_value(u.kpc), R)
    assert_allclose(table["acceleration"].to_value(a.unit), a[:, 0].value, rtol=1e-9)
    for percent in (16, 84):
        expected = np.percentile(a[:, 1:].value, percent, axis=1)
        found = table[f"acceleration_p{percent:g}"].to_value(a.unit)
        assert_allclose(found, expected, rtol=1e-9)
    for percent in (2.5, 97.5):  # which five bootstraps cannot tell
        assert np.isnan(table[f"acceleration_p{percent:g}"]).all()
    assert table["n_fits"].tolist() == [1 + N] * 3
    assert table["n_failed"].tolist() == [0] * 3
    assert table.meta == {"HEIGHT": "0.6 kpc", "BANDS": "bootstrap"}
    sigma = np.abs(table["acceleration"]) / (2 * np.pi * 4.498502151469554e-12)
    expected = sigma.to_value(u.kpc / u.Myr**2)  # G in kpc^3 / (Msun Myr^2)
    assert_allclose(table["surface_density"].to_value(u.Msun / u.kpc**2), expected, rtol=1e-6)


def test_jackknife_gives_its_variance(result):
    other = replace(result, columns=columns("jackknife"))
    table = summarize(other, HEIGHT)
    a = acceleration(result).reshape(len(R), 1 + N).value
    t = a[:, 1:]
    sigma = np.sqrt((N - 1) / N * ((t - t.mean(1, keepdims=True)) ** 2).sum(1))
    for end, n_sigma in (("p2.5", -1.96), ("p16", -1), ("p84", 1), ("p97.5", 1.96)):
        assert_allclose(table[f"acceleration_{end}"].value, a[:, 0] + n_sigma * sigma, rtol=1e-9)


def test_without_resamplings_bands_are_those_of_the_bound(result):
    table = summarize(plain(result), HEIGHT)
    assert table.meta["BANDS"] == "crlb"
    for i, one in enumerate(plain(result)):
        pos = one.quantity("pos0") + HEIGHT
        errors = profiles(
            one.model, one.params, u.Quantity([pos]), one.covariance, bounds=one.bounds
        )
        width = (table["acceleration_p84"] - table["acceleration_p16"])[i] / 2
        # The height goes with the midplane, whose error matters only at a fixed position.
        assert width.to_value(u.kpc / u.Myr**2) == pytest.approx(
            errors["acceleration_err"][0].to_value(u.kpc / u.Myr**2), rel=0.2
        )


def test_figure_has_both_bands_where_they_are_known(result):
    other = replace(result, columns=columns("jackknife"))
    _, axes = plot.plot_batch(other, height=HEIGHT, pyplot=False)
    assert legend(axes)[-1] == "68 %, 95 % (5 jackknife blocks)"
    outer, inner = (band.get_paths()[0].vertices[:, 1] for band in axes[1].collections[::2])
    assert inner.max() < outer.max()


def test_failed_fits_are_left_out_and_counted(result):
    table = summarize(fail(result, 6, 1), HEIGHT)
    assert table["n_failed"].tolist() == [1, 1, 0]
    assert np.isnan(table["acceleration"]).tolist() == [False, True, False]
    a = acceleration(result).value
    assert_allclose(table["acceleration_p84"].value[0], np.percentile(a[2:6], 84), rtol=1e-9)
    three = summarize(fail(result, 1, 2), HEIGHT)
    assert np.isnan(three["acceleration_p84"]).tolist() == [True, False, False]
    counted = count_failures(fail(result, 6, 1, 2))
    assert counted == {Status.MAX_ITER.message: 3}
    with pytest.raises(ValueError, match="no fit to the stars of a group converged"):
        summarize(fail(result, 0, 6, 12))


def changed(result: BatchResult, what: str, row: int) -> BatchResult:
    values = {name: value.clone() for name, value in result.values.items()}
    names = result.layout.names
    if what == "vel0":
        values["at_bound"][row, names.index("vel0")] = True
    elif what == "label":
        values["at_bound"][row, names.index("label_params.label_vals[1]")] = True
    elif what == "pos0":
        at = names.index("pos0")
        values["covariance"][row, at] = values["covariance"][row, :, at] = np.nan
    else:
        at = names.index("ln_Omega0")
        values["covariance"][row, at, at] = 1.1**2
    return replace(result, values=values)


@pytest.mark.parametrize("what", ["vel0", "pos0", "the frequency Omega0"])
def test_no_numbers_of_what_stars_do_not_determine(result, what):
    row = 1 + N  # of the second group, its own stars
    table = summarize(changed(result, what, row), HEIGHT)
    whole = summarize(result, HEIGHT)
    assert table["undetermined"].tolist() == ["", what, ""]
    for name in ("acceleration", "surface_density", "acceleration_p16", "surface_density_p84"):
        assert np.isnan(table[name][1])
        assert (table[name][[0, 2]] == whole[name][[0, 2]]).all()
    (line,) = [x for x in describe_batch(changed(result, what, row)) if x.startswith("no numbers")]
    assert line == f"no numbers of R_g = 8: these stars do not determine {what}"


def test_a_flat_label_is_no_worthless_fit(result):
    table = summarize(changed(result, "label", 1 + N), HEIGHT)
    assert table["undetermined"].tolist() == ["", "", ""]
    assert np.isfinite(table["acceleration"]).all()
    assert not [x for x in describe_batch(result) if x.startswith("no numbers")]


def test_default_height_is_within_all_knots(result):
    reach = [
        float(one.model.e_knots[2].max()) / np.sqrt(float(one.params["ln_Omega0"].exp()))
        for one in plain(result)
    ]
    height = default_height(result).to_value(u.kpc)
    assert min(min(reach), 1.1) * 0.9 < height <= min(reach)
    assert summarize(result, 1.2 * max(reach) * u.kpc)["inside"].tolist() == [False] * 3
    assert summarize(result, 0.9 * min(reach) * u.kpc)["inside"].tolist() == [True] * 3


def test_a_result_without_columns_has_a_group_for_each_fit(result):
    bare = replace(plain(result), columns={})
    table = summarize(bare, HEIGHT)
    assert table["group"].tolist() == list(bare.names)
    with pytest.raises(ValueError, match="x must be a column of numbers"):
        plot.plot_batch(bare, height=HEIGHT)


def lines(ax) -> list[np.ndarray]:
    """Return the curves through points, without those that are markers alone."""
    return [np.transpose(line.get_data()) for line in ax.lines if line.get_linestyle() != "None"]


def legend(axes) -> list[str]:
    return [text.get_text() for text in axes[0].get_legend().get_texts()]


def test_figure_shows_points_bands_and_truth(result):
    figure, axes = plot.plot_batch(
        result, height=HEIGHT, truth=lambda r: HarmonicOscillator(0.6 / u.Myr), pyplot=False
    )
    table = summarize(result, HEIGHT)
    surface, acc = axes
    points, truth = lines(acc)
    assert_allclose(points[:, 0], R)
    assert_allclose(points[:, 1], table["acceleration"].to_value(u.km / u.s / u.Myr))
    expected = -((0.6 / u.Myr) ** 2) * HEIGHT
    assert_allclose(truth[:, 1], expected.to_value(u.km / u.s / u.Myr), rtol=1e-9)
    assert_allclose(lines(surface)[0][:, 1], table["surface_density"].to_value(u.Msun / u.pc**2))
    inner = acc.collections[2].get_paths()[0].vertices[:, 1]
    low, high = (table[f"acceleration_p{p}"].to_value(u.km / u.s / u.Myr) for p in (16, 84))
    assert inner.min() == pytest.approx(low.min())
    assert inner.max() == pytest.approx(high.max())
    assert "0.6" in surface.get_ylabel()
    assert "M_{\\odot}" in surface.get_ylabel()
    assert acc.get_xlabel() == r"$R_\mathrm{g}$ [$\mathrm{kpc}$]"
    assert legend(axes) == ["stars in windows of 2 kpc", "truth", "68 % (5 bootstraps)"]
    figure.canvas.draw()
    frame = axes[0].get_legend().get_window_extent()
    assert frame.y0 >= axes[0].get_window_extent().y1  # it covers no data


def test_figure_tells_what_is_missing_or_beyond(result):
    _, axes = plot.plot_batch(fail(result, 6), height=3 * u.kpc, pyplot=False)
    assert legend(axes)[-2:] == [
        "beyond the edge of the data",
        "1 of 18 fits left out: not converged",
    ]
    # Groups on either side of the one that failed stand alone: they have bars.
    bars = [c.get_segments() for c in axes[1].collections[1::2]]
    assert [len(some) for some in bars] == [0, 2]


def test_other_columns_have_colours_of_their_own(result):
    three = plain(result)
    twice = BatchResult.concatenate([three, three])
    known = dict(twice.columns, population=np.repeat(["thin", "thick"], 3))
    known["group"] = np.array(
        [f"{g}, {p}" for g, p in zip(known["group"], known["population"], strict=True)]
    )
    _, axes = plot.plot_batch(replace(twice, columns=known), height=HEIGHT, pyplot=False)
    assert legend(axes)[:2] == ["population = thin", "population = thick"]
    assert len(lines(axes[0])) == 2
    with pytest.raises(ValueError, match=r"one of \['R_g', 'R_g_lower', 'R_g_upper'\], got 'pop"):
        plot.plot_batch(replace(twice, columns=known), "population", height=HEIGHT)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lower": np.zeros(2)}, "the results have a column 'lower' of their own"),
        ({"a": np.zeros((2, 2))}, "a number or a text for each subsample, got 'a'"),
        ({"a": np.zeros(2), "b": np.zeros(3)}, "the same length"),
        ({"a": np.zeros(1)}, "a value for each subsample, got 1 of 'a'"),
    ],
)
def test_columns_are_checked_before_anything_is_fitted(change, message):
    data = [disks.draw(disks.make_model(), "gaussian", seed=i, n=8) for i in range(2)]
    for given in (change, QTable(change)) if len(change) == 1 else (change,):
        with pytest.raises(ValueError, match=message):
            fit_many(data, **SETTINGS, columns=given, progress=False)


def test_groups_on_a_bound_do_not_hide_the_others(result):
    at_bound = result.at_bound.clone()
    at_bound[6] = True  # the second group's own stars
    x = result.values["x"].clone()
    x[6, result.layout.names.index("ln_Omega0")] += 3.0
    bound = replace(result, values={**result.values, "at_bound": at_bound, "x": x})
    assert summarize(bound, HEIGHT)["on_bound"].tolist() == [False, True, False]
    _, axes = plot.plot_batch(bound, height=HEIGHT, pyplot=False)
    _, whole = plot.plot_batch(result, height=HEIGHT, pyplot=False)
    assert np.isnan(axes[0].lines[0].get_ydata()[1])
    assert_allclose(axes[0].get_ylim(), whole[0].get_ylim(), rtol=0.3)
    texts = [text.get_text() for text in axes[0].get_legend().get_texts()]
    assert "1 of 3 groups left out: on a bound" in texts
    label = torch.tensor([name.startswith("label") for name in result.layout.names])
    all_bound = {**result.values, "at_bound": label.expand_as(at_bound)}
    every = replace(result, values=all_bound)
    _, axes = plot.plot_batch(every, height=HEIGHT, pyplot=False)
    assert np.isfinite(axes[0].lines[0].get_ydata()).all()
