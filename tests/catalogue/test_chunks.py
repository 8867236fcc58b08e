"""Catalogues from files, in chunks: nothing depends on how they are read."""

from __future__ import annotations

import re
import tracemalloc
from functools import partial

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import MaskedColumn, QTable, Table
from numpy.testing import assert_allclose, assert_array_equal

from simulated import COARSE, COLUMNS, WINDOWS, assert_same, catalogue
from torusimaging_torch.catalogue import chunks
from torusimaging_torch.catalogue.chunks import open_stars, progress_bar
from torusimaging_torch.catalogue.resampling import bootstrap
from torusimaging_torch.data import get_binned_label
from torusimaging_torch.data.many import bin_many

N = 30_000
bin_fe = partial(bin_many, groups=WINDOWS, bins=COARSE, **COLUMNS)


@pytest.fixture(scope="module")
def stars() -> QTable:
    return catalogue(N)


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


def test_memory_does_not_grow_with_the_catalogue(tmp_path):
    """Of NumPy's own; the benchmark measures that of the process with files of any size."""
    peaks = []
    for n in (20_000, 80_000):
        path = tmp_path / f"{n}.parquet"
        catalogue(n)["R", "z", "v", "fe", "err"].write(path)
        tracemalloc.start()
        bin_fe(open_stars(path, chunk_rows=5_000), resample=bootstrap(5, seed=1))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.1 * peaks[0]


def test_masked_numbers_in_files_are_left_out(tmp_path):
    stars = catalogue(2_000)
    mask = np.arange(2_000) < 20
    table = Table(stars["R", "z", "v", "err"])
    table["fe"] = MaskedColumn(np.arange(2_000) % 7, mask=mask)
    table.write(tmp_path / "stars.fits")
    with pytest.warns(UserWarning, match=r"with label\['fe'\] not finite"):
        sums = bin_many(tmp_path / "stars.fits", None, COARSE, **COLUMNS)
    table = table[~mask]
    expected = get_binned_label(table["z"], table["v"], table["fe"], COARSE, label_err=table["err"])
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


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_has_a_rate_and_an_end_in_sight(stars, capsys, monkeypatch, terminal):
    monkeypatch.setattr("sys.stderr.isatty", lambda: terminal, raising=False)
    bar = partial(progress_bar, delay=0.0)
    monkeypatch.setattr(chunks, "progress_bar", lambda *args, delay: bar(*args))
    source = open_stars(stars[:25_000], first_row=5_000, total_rows=N, chunk_rows=20_000)
    bin_fe(source)
    assert capsys.readouterr() == ("", "")
    bin_fe(source, progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.strip().replace("\r", "\n").splitlines()
    assert ("\r" in err) == terminal
    assert lines[0].startswith("pass 1:   0%")
    assert "0.00/25.0k" in lines[0]
    last = [line for line in lines if "100%" in line][-1]
    assert re.match(r"pass \d: 100%.*25\.0k/25\.0k .* stars/s", last)


def test_quick_passes_and_workers_say_nothing(stars, capsys, monkeypatch):
    bin_fe(stars, progress=True)
    monkeypatch.setattr("multiprocessing.parent_process", lambda: "the parent")
    with progress_bar(5, "pass 1") as bar:
        bar.update(5)
    assert capsys.readouterr() == ("", "")
