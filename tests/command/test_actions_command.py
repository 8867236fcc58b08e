"""The command that adds actions to a catalogue: columns, formats, chunks, and what it refuses."""

from __future__ import annotations

import astropy.units as u
import numpy as np
import pytest
from astropy.table import QTable, Table
from test_actions_files import NEW, make_result

from torusimaging_torch.analysis.actions import add_actions
from torusimaging_torch.command.main import main

pytestmark = pytest.mark.filterwarnings("ignore:.* have no orbit within the fit:RuntimeWarning")


@pytest.fixture(scope="module")
def result():
    return make_result()


@pytest.fixture
def stars():
    rng = np.random.default_rng(0)
    z, v = rng.normal(size=3000) * 0.4, rng.normal(size=3000) * 25
    z[5], v[7] = np.nan, np.inf
    table = Table({"id": np.arange(3000), "z": z, "v_z": v})
    table["z"].unit, table["v_z"].unit = "kpc", "km / s"
    return table


@pytest.fixture
def folder(tmp_path, result):
    result.write(tmp_path / "fit.ecsv")
    return tmp_path


@pytest.mark.parametrize("ending", ["fits", "ecsv"])
def test_catalogue_gets_columns(folder, result, stars, ending, capsys):
    stars.write(folder / f"stars.{ending}")
    out = folder / f"out.{ending}"
    assert main(["actions", str(folder), str(folder / f"stars.{ending}"), "--out", str(out)]) == 0
    written = QTable.read(out)
    assert written.colnames == ["id", "z", "v_z", *NEW]
    expected = result.model.compute_action_angle(
        np.asarray(stars["z"]) * u.kpc, np.asarray(stars["v_z"]) * u.km / u.s, result.params
    )
    for name in NEW[:4]:
        assert written[name].unit == expected[name].unit
        np.testing.assert_allclose(written[name], expected[name], rtol=1e-12, equal_nan=True)
    np.testing.assert_array_equal(written["valid"], expected["valid"])
    assert not written["valid"][[5, 7]].any()
    said = capsys.readouterr()
    assert f"{expected['valid'].sum():,} stars with orbits" in said.out
    assert said.err.count("actions: ") == 0  # a second is not worth a word
    assert "reading" in said.err


def test_chunks_make_no_difference(result, stars):
    whole, parts = stars.copy(), stars.copy()
    n = add_actions(result, whole, "z", "v_z", method="exact")
    assert n == add_actions(result, parts, "z", "v_z", method="exact", chunk=512)
    for name in NEW:
        np.testing.assert_allclose(whole[name], parts[name], rtol=1e-12)


def test_columns_that_exist_are_not_touched(folder, stars, capsys):
    stars["J"] = 1.0
    path, out = folder / "stars.ecsv", folder / "out.ecsv"
    stars.write(path)
    command = ["actions", str(folder / "fit.ecsv"), str(path), "--out", str(out), "--quiet"]
    assert main(command) == 2
    assert "prefix" in capsys.readouterr().err
    assert not out.exists()
    assert main([*command, "--prefix", "oti_"]) == 0
    written = Table.read(out)
    assert (written["J"] == 1).all()
    assert "oti_J" in written.colnames
    assert main([*command, "--prefix", "oti_"]) == 2
    assert "exists" in capsys.readouterr().err
    assert main([*command, "--prefix", "oti_", "--overwrite"]) == 0


def test_nothing_half_written_is_left(folder, stars, capsys):
    path = folder / "stars.ecsv"
    stars.write(path)
    out = folder / "out.unknown"
    assert main(["actions", str(folder), str(path), "--out", str(out)]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("torusimaging-torch: error: cannot write")
    assert sorted(p.name for p in folder.iterdir()) == ["fit.ecsv", "stars.ecsv"]
    assert main(["actions", str(folder), str(path), "--out", f"{out}.fits", "--vel", "w"]) == 2
    assert "no column 'w'" in capsys.readouterr().err
