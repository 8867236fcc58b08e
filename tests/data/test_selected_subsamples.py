"""Subsamples of star counts with the selection function that they went through."""

from __future__ import annotations

import astropy.units as u
import numpy as np
import pytest

from torusimaging_torch.batch import fit_many
from torusimaging_torch.data import (
    JointSubsamples,
    SelectedSubsamples,
    bin_many,
    get_binned_counts,
    with_selection,
)
from torusimaging_torch.simulate import milky_way, milky_way_disk

BINS = {"pos": np.linspace(-1.2, 1.2, 25) * u.kpc, "vel": np.linspace(-70, 70, 25) * u.km / u.s}
COLUMNS = {"pos": "z", "vel": "v_z"}


def seen(z):
    return np.minimum(1.0, (np.abs(z.to_value(u.kpc)) + 0.15) / 0.8)


@pytest.fixture(scope="module")
def stars():
    table = milky_way_disk(60_000, seed=2)
    kept = table[np.random.default_rng(3).uniform(size=len(table)) < seen(table["z"])]
    kept["half"] = np.arange(len(kept)) % 2
    return kept


def test_each_is_what_it_would_be_alone(stars):
    counts = bin_many(stars, "half", BINS, **COLUMNS)
    every = SelectedSubsamples(counts, seen, 0.1)
    assert (len(every), every.names) == (2, counts.names)
    assert every.table().colnames == counts.table().colnames
    for half, found in enumerate(every):
        some = stars[stars["half"] == half]
        alone = with_selection(get_binned_counts(some["z"], some["v_z"], BINS), seen, 0.1)
        assert found.keys() >= alone.keys()
        for name, value in alone.items():
            np.testing.assert_array_equal(found[name], value, err_msg=name)
    assert [x["selection_error"] for x in every[:1]] == [0.1]


def test_selection_is_shown_without_its_values(stars):
    counts = bin_many(stars, "half", BINS, **COLUMNS)
    exposures = SelectedSubsamples(counts, np.ones((24, 24)), 0.1)
    first, *rest = repr(exposures).splitlines()
    assert first == "SelectedSubsamples: 2 subsamples with a selection function, error 0.1, of"
    assert len(rest) == 2
    assert "with all stars seen" in repr(SelectedSubsamples(counts))


def test_labels_beside_counts_stay_as_they_are(stars):
    label = {"label": "label", "counts": None}
    both = bin_many(stars, "half", BINS, **COLUMNS, label=label, s={"label": 0.05})
    plain, selected = JointSubsamples(both), SelectedSubsamples(JointSubsamples(both), seen)
    assert selected[0]["label"].keys() == plain[0]["label"].keys()
    assert set(selected[0]["counts"]) - set(plain[0]["counts"]) == {
        *("exposure", "selection_terms", "selection_error")
    }


def test_a_selection_function_of_labels_is_refused(stars):
    labels = bin_many(stars, "half", BINS, **COLUMNS, label="label", s=0.05)
    with pytest.raises(ValueError, match="is one of star counts, got the labels"):
        SelectedSubsamples(labels, seen)


def test_many_fits_know_of_it(stars):
    counts = bin_many(stars, "half", BINS, **COLUMNS)
    options = {"objective": "poisson", "model": "potential", "progress": False}
    height = [0.3, 0.6] * u.kpc
    truth = milky_way(8.3 * u.kpc).acceleration(height)

    def pulls(subsamples):
        found = fit_many(subsamples, **options).profiles(height, from_midplane=True)
        off = (found["acceleration"] - truth) / found["acceleration_err"]
        return np.abs(off.to_value(u.one))

    assert pulls(SelectedSubsamples(counts, seen, 0.0)).max() < 3
    assert pulls(counts).max() > 5
