"""Many fits: one by one, joined and taken apart, and their profiles."""

from __future__ import annotations

import astropy.units as u
import numpy as np
import pytest
import torch

from torusimaging_torch.results import BatchResult


def test_one_of_many_is_an_ordinary_fit(batch):
    one = batch[2]
    assert one.state.success
    assert one.provenance == {"subsample": "c'"}
    assert one.to_table()["error"][-2] > 0
    assert one.state.fun_val == batch.fun_val[2]
    assert batch[-3].provenance == {"subsample": "a"}
    assert not batch[1].state.success
    with pytest.raises(IndexError):
        batch[len(batch)]


def test_slices_are_batches(batch):
    assert batch[1:].names == ("b b", "c'")
    assert torch.equal(batch[::-2].values["x"], batch.values["x"][[2, 0]])
    assert batch[np.int64(2)].provenance == {"subsample": "c'"}
    assert len(batch[3:]) == 0
    with pytest.raises(TypeError, match="got list: use take"):
        batch[[0, 2]]


def test_joined_and_taken_apart_it_is_the_same(batch):
    again = BatchResult.concatenate(
        [batch.take([0, 1]), batch.take(np.array([False, False, True]))]
    )
    assert again.names == batch.names
    assert torch.equal(again.values["x"].nan_to_num(0), batch.values["x"].nan_to_num(0))
    assert again.columns["population"].tolist() == ["thin", "", "thick"]
    with pytest.raises(ValueError, match="nothing to join"):
        BatchResult.concatenate([])


def test_profiles_of_all_are_those_of_each(batch):
    pos = np.linspace(-0.6, 0.6, 5) * u.kpc
    every, one = batch.profiles(pos), batch[2].profiles(pos)
    for name in ("acceleration", "density", "surface_density", "potential"):
        assert every[name].shape == (3, 5)
        for column in (name, f"{name}_err"):
            got, expected = every[column][2].to_value(one[column].unit), one[column].value
            # The potential's quadrature reaches the centres of all subsamples.
            scale = np.abs(expected).max()
            np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-6 * scale)
        assert np.isnan(every[name][1]).all()
        assert np.isnan(every[f"{name}_err"][1]).all()
    assert "density_err" not in batch.profiles(pos, errors=False)


def test_profiles_from_the_midplane_are_those_at_its_place(batch):
    heights = [0.2, 0.5] * u.kpc
    one = batch[0]
    shifted = batch.profiles(heights, from_midplane=True)
    expected = one.profiles(one.quantity("pos0") + heights)
    assert u.allclose(shifted["acceleration"][0], expected["acceleration"], rtol=1e-9)
    assert np.all(shifted["density_err"][0] > 0)


def test_table_has_units_and_a_row_for_each(batch):
    table = batch.to_table()
    assert len(table) == 3
    assert table["pos0"].unit == u.kpc
    assert table["vel0_err"].unit == u.kpc / u.Myr
    assert table["Omega0"].unit == u.rad / u.Myr
    assert table["e2_vals"].shape == (3, 4)
    assert list(table["status"]) == ["CONVERGED", "NON_FINITE", "CONVERGED"]
    assert np.isnan(table["pos0"][1])


def test_shown_it_says_how_many_converged(batch):
    text = repr(batch)
    assert text.startswith("BatchResult: 3 gaussian fits of 13 parameters, 2 converged")
    assert "R_g, population, n" in text
    assert "<table" in batch._repr_html_()
