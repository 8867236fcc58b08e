"""What speaks against fits of a batch: what `fit` would say of them, as far as numbers tell."""

from __future__ import annotations

import astropy.units as u
import numpy as np
import pytest

from torusimaging_torch.analysis.batch_report import describe_batch
from torusimaging_torch.analysis.batch_verdict import doubts
from torusimaging_torch.batch import fit_many
from torusimaging_torch.data import get_binned_counts, get_binned_label
from torusimaging_torch.simulate import milky_way_disk

BINS = {"pos": np.linspace(-1.5, 1.5, 25) * u.kpc, "vel": np.linspace(-70, 70, 25) * u.km / u.s}
SCALES = {"label_l2_sigma": 1.0, "label_smooth_sigma": 0.5, "e_l2_sigmas": {2: 1.0, 4: 1.0}}
ELLIPSES = {
    "label_knots": 6,
    "e_knots": {2: 6, 4: 3},
    "e_smooth_sigmas": {2: 0.5, 4: 0.5},
    **SCALES,
}


def labels(R: float, n: int = 40_000, **changes):
    stars = milky_way_disk(n, R=R * u.kpc, seed=2)
    where = stars["z"], stars["v_z"], stars["label"]
    return get_binned_label(*where, BINS, label_err=stars["label_err"], s=0.04) | changes


@pytest.fixture(scope="module")
def several():
    good = labels(8.3)
    return {
        "good": good,
        "small errors": good | {"label_err": good["label_err"] / 1.5},
        "large errors": good | {"label_err": good["label_err"] * 2},
    }


def test_reasons_are_told_by_fit(several):
    result = fit_many(several, **ELLIPSES, progress=False)
    found = doubts(result)
    assert found["good"] == ()
    assert found["small errors"][0].startswith("residuals are larger than their errors (")
    assert found["large errors"][0].startswith("errors are too large (")
    lines = describe_batch(result)
    (head,) = [line for line in lines if "BAD FITS" in line]
    assert head.startswith("BAD FITS: 2 of 3;")
    assert any(line.strip().startswith("small errors: residuals") for line in lines)


def test_nothing_is_told_of_good_fits_and_resamplings(several):
    result = fit_many([several["good"]], model="potential", progress=False)
    assert doubts(result) == {"0": ()}
    assert any("nothing that numbers tell" in line for line in describe_batch(result))
    columns = {"resampling": [0]}
    small = fit_many([several["small errors"]], model="potential", columns=columns, progress=False)
    assert doubts(small) == {}


def test_contours_that_are_no_orbits_are_told():
    far, near = (milky_way_disk(150_000, R=R * u.kpc, seed=1) for R in (3.0, 9.0))
    together = [np.concatenate([far[c], near[c]]) for c in ("z", "v_z", "label", "label_err")]
    binned = get_binned_label(*together[:3], BINS, label_err=together[3])
    result = fit_many({"mixed": binned}, **ELLIPSES, progress=False)
    assert any("two formulas of the acceleration" in why for why in doubts(result)["mixed"])


def test_star_counts_are_bad_where_their_deviance_is():
    stars = milky_way_disk(40_000, seed=2)
    counts = get_binned_counts(stars["z"], stars["v_z"], BINS)
    rng = np.random.default_rng(1)
    noisy = counts | {"counts": rng.poisson(counts["counts"] * rng.gamma(4.0, 0.25, (24, 24)))}
    both = {"as they are": counts, "too noisy": noisy}
    found = doubts(fit_many(both, objective="poisson", model="potential", progress=False))
    assert not any("residuals" in why for why in found["as they are"])
    assert any("residuals are larger" in why for why in found["too noisy"])


def test_heights_end_where_pixels_do(several):
    (one,) = fit_many([several["good"]], model="potential", progress=False)
    result = fit_many([several["good"]], model="potential", progress=False)
    reach = float(result.values["reach"][0])
    pos = several["good"]["pos"].to_value(u.kpc)[np.isfinite(several["good"]["label"])]
    expected = np.abs(pos - float(one.params["pos0"])).max()
    assert reach == pytest.approx(expected, rel=1e-12)
