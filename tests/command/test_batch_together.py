"""Several labels, and star counts beside them, of each group by the command batch."""

from __future__ import annotations

import astropy.units as u
import numpy as np
import pytest
from astropy.table import QTable, Table
from command_line import NO_FIGURES, fails
from grouped import RADII, batch, draw_groups

from torusimaging_torch.analysis import batch as batch_command
from torusimaging_torch.command.main import main
from torusimaging_torch.results import FitResult
from torusimaging_torch.simulate.potentials import milky_way

pytest.importorskip("pyarrow")
pytest.importorskip("pandas")


@pytest.fixture(scope="module")
def stars() -> Table:
    return draw_groups()


@pytest.mark.slow
def test_labels_and_counts_of_each_group_are_fitted_together(stars, tmp_path, capsys):
    """Two labels that scatter together, and the stars: each group as `fit` would fit it."""
    rng, table = np.random.default_rng(4), stars.copy()
    table["FE_H"] = -2 * np.asarray(table["label"]) + 0.04 * rng.normal(size=len(table))
    path = tmp_path / "stars.parquet"
    table.write(path)
    columns = ["--pos", "z", "--vel", "v_z", "--label", "label", "--label", "FE_H", "--counts"]
    more = ["--model", "potential", "--quiet"]
    store = tmp_path / "store"
    assert batch(str(path), store, *more, "--bootstrap", "2", columns=columns) == 0
    said = capsys.readouterr()
    assert "of the same stars" not in said.err
    found = batch_command.load_batch(store)
    assert len(found) == 9
    assert found.success.all()
    assert set(found.params["label_params"]) == {"label", "FE_H", "counts"}
    assert (store / "report.html").exists()
    truth = [milky_way(radius * u.kpc).surface_density(1.1 * u.kpc) for radius in RADII]
    rows = found.take(found.columns["resampling"] < 0).profiles([1.1] * u.kpc, from_midplane=True)
    sigma, error = rows["surface_density"][:, 0], rows["surface_density_err"][:, 0]
    assert np.all(np.abs(sigma - u.Quantity(truth)) < 3 * error)
    # The same command goes on: there is nothing left to do.
    assert batch(str(path), store, *more, "--bootstrap", "2", columns=columns) == 0
    assert batch(str(path), store, *more, "--bootstrap", "2", columns=columns[:-1]) == 2
    assert "--counts" in capsys.readouterr().err


@pytest.mark.slow
def test_a_group_of_several_is_the_fit_of_its_stars(stars, tmp_path):
    table = stars.copy()
    table["FE_H"] = -2 * np.asarray(table["label"])
    table["FE_H"] += 0.04 * np.random.default_rng(4).normal(size=len(table))
    path = tmp_path / "stars.parquet"
    table.write(path)
    columns = ["--pos", "z", "--vel", "v_z", "--label", "label", "--label", "FE_H"]
    options = ["--model", "potential", "--n-bins", "12", "--pos-max", "1.2kpc", "--quiet"]
    options += ["--vel-max", "80 km/s", "--label-knots", "4"]
    store, out = tmp_path / "store", tmp_path / "fit"
    chosen = ["--group", "R_g: 6.5..7.5 kpc"]
    assert main(["batch", str(path), *columns, *options, *chosen, "--store", str(store)]) == 0
    where = ["--where", "R_g >= 6.5 and R_g < 7.5"]
    assert main(["fit", str(path), *columns, *options, *where, "--out", str(out)]) == 0
    one = FitResult.read(out / "fit.ecsv")
    many = batch_command.load_batch(store)
    for name in ("pos0", "vel0"):
        assert float(many.params[name][0]) == pytest.approx(float(one.params[name]), abs=1e-5)


def test_star_counts_of_a_group_know_their_selection_function(stars, tmp_path, capsys):
    path, table, store = tmp_path / "stars.parquet", tmp_path / "seen.ecsv", tmp_path / "store"
    stars.write(path)
    seen = QTable({"z": [-1.2, 0, 1.2] * u.kpc, "selection": [1.0, 0.4, 1.0]})
    seen.write(table)
    options = ["--pos", "z", "--vel", "v_z", "--model", "potential", "--n-bins", "12", "--quiet"]
    options += ["--pos-max", "1.2kpc", "--vel-max", "80 km/s", "--selection", str(table)]
    options += ["--selection-error", "0.1"]
    group, where = ["--group", "R_g: 6.5..7.5 kpc"], ["--where", "R_g >= 6.5 and R_g < 7.5"]
    command = ["batch", str(path), *options, *group, "--store", str(store)]
    assert main([*command, "--counts"]) == 0
    fit = ["fit", str(path), *options, *where, *NO_FIGURES, "--out", str(tmp_path / "fit")]
    assert main([*fit, "--counts"]) == 0
    one, many = FitResult.read(tmp_path / "fit" / "fit.ecsv"), batch_command.load_batch(store)
    row, alone = many[0].to_table(), one.to_table()
    miss = np.abs(np.asarray(row["value"]) - np.asarray(alone["value"]))
    assert (miss < 1e-3 * np.asarray(alone["error"])).all()
    assert "selection_params.vals[0]" in list(row["name"])
    assert "selection function" in (store / "report.html").read_text()
    # It is one of star counts, and another one would be another run.
    capsys.readouterr()
    assert "are of star counts" in fails(capsys, *command, "--label", "label")
    seen["selection"][1] = 0.5
    seen.write(table, overwrite=True)
    assert "--selection a table of 3 rows" in fails(capsys, *command, "--counts")
