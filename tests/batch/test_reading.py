"""Subsamples become a batch: nothing is changed, and nothing copied that need not be."""

from __future__ import annotations

import warnings

import astropy.units as u
import numpy as np
import pytest
import torch

from torusimaging_torch.batch.reading import read_subsample
from torusimaging_torch.batch.stack import _BLOCK, stack_columns
from torusimaging_torch.data import with_selection
from torusimaging_torch.units import galactic

GAUSSIAN = {"": "gaussian"}
HERE = {"dtype": torch.float64, "device": torch.device("cpu")}


def subsample(n: int, seed: int = 0, gaps: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    data = {key: rng.normal(size=(2, n)) for key in ("pos", "vel", "label")}
    data["label_err"] = rng.uniform(0.1, 0.2, (2, n))
    data["label"].flat[:gaps] = np.nan
    return data


def stacked(*subsamples, objectives=GAUSSIAN):
    problems = [read_subsample(one, objectives, galactic) for one in subsamples]
    return stack_columns([one.parts[""].pixels for one in problems], HERE)


def test_each_row_has_the_usable_pixels_of_its_subsample():
    several = [subsample(4 + i % 5, seed=i, gaps=i % 3) for i in range(2 * _BLOCK + 3)]
    pixels = stacked(*several)
    assert pixels.pos.shape == (len(several), 16)
    for i, one in enumerate(several):
        usable = np.isfinite(one["label"])
        n = int(pixels.n[i])
        assert n == usable.sum()
        rows = {"pos": pixels.pos, "vel": pixels.vel}
        rows |= dict(zip(("label", "label_err"), pixels.observed, strict=True))
        for name, row in rows.items():
            np.testing.assert_array_equal(row[i, :n], one[name][usable])
            assert (row[i, n:] == row[i, 0]).all()
        assert pixels.weight[i].tolist() == [1.0] * n + [0.0] * (16 - n)
    assert pixels.n_masked == sum(int(np.isnan(one["label"]).sum()) for one in several)


def test_subsamples_of_one_size_need_no_weights():
    assert stacked(subsample(3), subsample(3, 1)).weight is None
    weighted = subsample(3) | {"weight": np.full((2, 3), 0.5)}
    assert stacked(weighted, subsample(3, 1)).weight.tolist() == [[0.5] * 6, [1.0] * 6]


def test_exposures_and_terms_of_a_selection_function_come_along():
    pos, vel = np.meshgrid(np.linspace(-1, 1, 4) * u.kpc, np.linspace(-60, 60, 3) * u.km / u.s)
    counts = {"pos": pos, "vel": vel, "counts": np.arange(12.0).reshape(3, 4)}
    seen = with_selection(counts, lambda z: np.exp(-np.abs(z.to_value(u.kpc))), 0.1)
    other = {name: np.array(x, copy=True, subok=True) for name, x in seen.items()}
    other["counts"][0, 1] = np.nan
    pixels = stacked(seen, other, objectives={"": "poisson"})
    np.testing.assert_allclose(pixels.offset[0], np.log(seen["exposure"]).ravel(), rtol=1e-15)
    np.testing.assert_array_equal(pixels.terms[0], seen["selection_terms"].reshape(3, 12))
    usable = np.isfinite(other["counts"]).ravel()
    np.testing.assert_array_equal(
        pixels.terms[1, :, :11], other["selection_terms"].reshape(3, 12)[:, usable]
    )


def test_terms_go_where_positions_and_velocities_are_rows_and_columns():
    grid = {"pos": np.linspace(-1, 1, 4)[None] * u.kpc, "vel": np.linspace(-1, 1, 3)[:, None]}
    grid["counts"] = np.arange(12.0).reshape(3, 4)
    seen = with_selection(grid, None, 0.1)
    pixels = stacked(seen, objectives={"": "poisson"})
    full = seen["selection_terms"] * np.ones((3, 4))
    np.testing.assert_array_equal(pixels.terms[0], full.reshape(-1, 12))
    bad = seen | {"selection_terms": np.ones((3, 2, 4))}
    with pytest.raises(ValueError, match=r"expected \(3, 3, 4\), got \(3, 2, 4\)"):
        stacked(bad, objectives={"": "poisson"})


def test_exposures_may_be_beyond_single_precision():
    grid = {"pos": np.linspace(-1, 1, 4), "vel": np.linspace(-1, 1, 4), "counts": np.ones(4)}
    data = grid | {"exposure": np.array([1e-60, 1.0, 1e60, 2.0])}
    columns = read_subsample(data, {"": "poisson"}, galactic).parts[""].pixels
    pixels = stack_columns([columns], {"dtype": torch.float32, "device": torch.device("cpu")})
    np.testing.assert_allclose(pixels.offset[0], np.log(data["exposure"]), rtol=1e-6)


def test_arrays_of_the_user_are_read_where_they_are():
    data = subsample(5)
    columns = read_subsample(data, GAUSSIAN, galactic).parts[""].pixels
    assert all(np.shares_memory(columns.values[name], data[name]) for name in data)
    before = {name: values.copy() for name, values in data.items()}
    stacked(data, subsample(7))
    assert all(np.array_equal(data[name], values) for name, values in before.items())


@pytest.mark.parametrize(
    "kind", ["read-only", "single", "masked", "broadcast", "tensor", "negative", "km / s"]
)
def test_any_array_is_read(kind):
    data = subsample(5)
    expected = stacked(data)
    if kind == "read-only":
        for values in data.values():
            values.setflags(write=False)
    elif kind == "single":
        data = {name: values.astype(np.float32) for name, values in data.items()}
        expected = stacked({name: values.astype(float) for name, values in data.items()})
    elif kind == "masked":
        data["label"] = np.ma.masked_array(data["label"], [[True, *[False] * 4], [False] * 5])
        expected = stacked(data | {"label": data["label"].filled(np.nan)})
    elif kind == "broadcast":
        data["label_err"] = np.broadcast_to(0.1, (2, 5))
        expected = stacked(data | {"label_err": np.full((2, 5), 0.1)})
    elif kind == "tensor":
        data = {name: torch.tensor(values, requires_grad=True) for name, values in data.items()}
    elif kind == "negative":  # a view with a bit that NumPy does not know
        data["vel"] = torch.complex(torch.zeros(2, 5).double(), -torch.tensor(data["vel"]))
        data["vel"] = data["vel"].conj().imag
    else:
        data["vel"] = (data["vel"] * u.kpc / u.Myr).to(u.km / u.s)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = stacked(data)
    for one, other in zip(
        (found.pos, found.vel, *found.observed),
        (expected.pos, expected.vel, *expected.observed),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-14, atol=0)
        assert not one.requires_grad
