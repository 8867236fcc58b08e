"""The documented recipe for catalogues in HATS format, on a folder laid out like one."""

from __future__ import annotations

import re
from pathlib import Path

import astropy.units as u
import numpy as np
import pytest
from astropy.table import Table, vstack
from numpy.testing import assert_allclose

from torusimaging_torch.data.many import bin_many

pytest.importorskip("dask")
pytest.importorskip("pyarrow")
pytest.importorskip("pandas")

PAGE = Path(__file__).parents[2] / "docs" / "batch.md"
PARTS = ["Norder=0/Dir=0/Npix=3", "Norder=1/Dir=0/Npix=17", "Norder=1/Dir=10000/Npix=10044/part0"]


def read_recipe(first_line: str) -> str:
    blocks = re.findall(
        r"^```{code-block} python\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE
    )
    (recipe,) = (block for block in blocks if first_line in block)
    return recipe


def stars(n: int, seed: int) -> Table:
    """Return stars without units, as HATS has them."""
    rng = np.random.default_rng(seed)
    return Table(
        {
            "_healpix_29": np.arange(n),
            "R_g": rng.uniform(6, 10, n),
            "z": rng.normal(0, 0.4, n),
            "v_z": rng.normal(0, 30, n),
            "fe_h": rng.normal(0, 0.2, n),
            "fe_h_err": rng.uniform(0.03, 0.06, n),
        }
    )


def test_partitions_add_up_to_the_catalogue(tmp_path, monkeypatch):
    folder = tmp_path / "gaia_hats" / "dataset"
    parts = [stars(n, seed) for seed, n in enumerate((900, 1, 1500))]
    for name, part in zip(PARTS, parts, strict=True):
        path = folder / f"{name}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        part.to_pandas().to_parquet(path)
    parts[0][:5].to_pandas().to_parquet(folder / "data_thumbnail.parquet")
    (folder / "_metadata").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    bins = {"pos": np.linspace(-1, 1, 9) * u.kpc, "vel": np.linspace(-70, 70, 9) * u.km / u.s}
    names: dict = {"bins": bins}
    exec(read_recipe("Norder=*"), names)

    whole = vstack(parts)
    for column, unit in names["units"].items():
        whole[column].unit = unit
    columns = names["columns"]
    expected = bin_many(whole, names["groups"], bins, **columns, resample=names["resample"])
    assert names["sums"].n_stars == 2401
    assert len(expected) == 3 * 26
    assert_allclose(names["sums"].scatter(), expected.scatter(), rtol=1e-10)
    for one, other in zip(names["sums"], expected, strict=True):
        for key in ("counts", "label", "label_err"):
            assert_allclose(one[key], other[key], rtol=1e-9)
