"""Catalogues that say little end in honest numbers, or in a sentence (benchmarks/poor_data.py)."""

from __future__ import annotations

import astropy.units as u
import numpy as np
import pytest
from astropy.table import QTable, vstack

from torusimaging_torch.analysis.single import analyse
from torusimaging_torch.catalogue.tables import read_stars
from torusimaging_torch.settings import Settings
from torusimaging_torch.simulate import milky_way, milky_way_disk

POS0, VEL0 = -20.8 * u.pc, -7.8 * u.km / u.s


def disk(n, seen=None):
    table = milky_way_disk(n, R=8.3 * u.kpc, seed=11, pos0=POS0, vel0=VEL0, selection=seen)
    return table["z", "v_z", "label", "label_err"]


def along_a_cone(z):
    x = z.to_value(u.kpc) / 1.5
    return np.where((x > 0) & (x < 1), np.clip(x, 0, 1) ** 2, 0.0)


KINDS = {
    "above the plane": lambda: disk(3300, lambda z: (z > 0) & (z < 2 * u.kpc)),
    "within 100 pc": lambda: disk(4000, lambda z: np.abs(z) < 0.1 * u.kpc),
    "few": lambda: disk(500),
    "one sight line": lambda: disk(2000, along_a_cone),
}


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("kind", list(KINDS))
def test_numbers_are_honest(kind):
    stars = KINDS[kind]()
    first = analyse(read_stars(stars, "z", "v_z", "label", "label_err"), Settings())
    height = np.percentile(np.abs(stars["z"]), 90)[None] / 2
    for analysis in (first, first.beside):
        result = analysis.result
        assert result.provenance["verdict"]["good"] != bool(analysis.undetermined)
        if analysis.undetermined:
            continue
        told = "its errors do not hold" in result.provenance["verdict"]["reading"]
        assert told == (not result.provenance["bound"]["khat"] < 5)
        if told:
            continue
        found = result.profiles(result.quantity("pos0") + height)
        off = found["acceleration"] - milky_way(8.3 * u.kpc).acceleration(height)
        assert np.abs(off) < 3 * found["acceleration_err"]
        for name, truth in (("pos0", POS0), ("vel0", VEL0)):
            value, error = result.measured(name)
            assert abs(value - truth) < 3 * error


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_halo_stars_make_a_bad_fit_that_says_what_may_help():
    rng, n = np.random.default_rng(0), 400
    others = {
        "z": rng.normal(0, 3, n) * u.kpc,
        "v_z": rng.normal(0, 100, n) * u.km / u.s,
        "label": rng.normal(0.8, 0.3, n),
        "label_err": np.full(n, 0.05),
    }
    stars = vstack([disk(3600), QTable(others)], metadata_conflicts="silent")
    read = read_stars(stars, "z", "v_z", "label", "label_err")
    options = {"uncertainty": "none", "model": "potential"}
    bad = analyse(read, Settings(**options)).result.provenance["verdict"]
    assert not bad["good"]
    assert "--outliers" in bad["reading"]
    better = analyse(read, Settings(outliers=True, **options)).result
    told = better.provenance["outliers"]["label"]
    assert told["n_outliers"] == pytest.approx(200, abs=60)  # of 400 about half are on the grid
    assert told["s"] == pytest.approx(0.04, rel=0.1)
    off = better.profiles([0.5] * u.kpc)["acceleration"] / milky_way(8.3 * u.kpc).acceleration(
        [0.52] * u.kpc
    )
    assert abs(off - 1) < 0.12
