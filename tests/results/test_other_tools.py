"""What other programs get: FITS for TOPCAT and tables for pandas."""

from __future__ import annotations

import astropy.units as u
import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

from torusimaging_torch.catalogue import prepare


def assert_plain(path):
    """Check that a FITS file has one table of plain columns, with units that FITS knows."""
    with fits.open(path) as file:
        assert [type(part) for part in file] == [fits.PrimaryHDU, fits.BinTableHDU]
        for column in file[1].columns:
            assert column.format[-1] in "LBIJKEDA", column  # no pointer to an array elsewhere
            if column.unit:
                u.Unit(column.unit, format="fits")


def test_profiles_and_stars_in_fits(batch, tmp_path):
    fit = batch[0]
    fit.profiles(np.linspace(-0.3, 0.3, 7) * u.kpc).write(tmp_path / "profiles.fits")
    assert_plain(tmp_path / "profiles.fits")
    sky = {name: [1.0] for name in ("ra", "dec", "pmra", "pmdec", "distance", "radial_velocity")}
    Table(prepare(sky)).write(tmp_path / "stars.fits")
    assert_plain(tmp_path / "stars.fits")
    header = fits.getheader(tmp_path / "stars.fits", 1)
    assert header["R_SUN"] == "8.275 kpc"
    assert header["V_C"] == "229 km / s"


def test_the_table_of_a_batch_in_fits(batch, tmp_path):
    batch.write(tmp_path / "batch.fits")
    assert_plain(tmp_path / "batch.fits")
    names = Table.read(tmp_path / "batch.fits").colnames
    assert len({name.lower() for name in names}) == len(names)  # TOPCAT does not tell case


def test_profiles_in_pandas(batch):
    pytest.importorskip("pandas")
    frame = Table(batch[0].profiles(np.linspace(-0.3, 0.3, 7) * u.kpc)).to_pandas()
    assert len(frame) == 7
    assert frame["acceleration"].notna().all()
