"""Values that are no values, and what they leave behind: nothing."""

from __future__ import annotations

import pytest
from command_line import COARSE, COLUMNS, fails, names

from torusimaging_torch.command.main import main


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--pos-max", ""], "--pos-max: expected a value, got nothing"),
        (["--pos-max", "4 parsnips"], "--pos-max: expected a number with or without a unit"),
        (["--pos-max", "nan kpc"], "--pos-max: expected a number with or without a unit"),
        (["--vel-max", "[1, 2] km/s"], "--vel-max: expected a number with or without a unit"),
        (["--prior", "pos0 = 0 +- 20 parsnips"], "--prior 'pos0 = 0 +- 20 parsnips': expected"),
        (["--prior", "pso0 = 0 +- 20 pc"], "--prior: no parameter is called pso0: expected some"),
        (["--hold", "vel = 0 km/s"], "--hold: no parameter is called vel: expected some of"),
        (["--hold", "vel0 = inf km/s"], "--hold 'vel0 = inf km/s': expected a number"),
        (["--spacing-power", "1e-300"], "--spacing-power must leave knots apart"),
        (["--scatter", "1e200"], "must be one number, finite and not negative"),
    ],
)
def test_what_is_no_value_is_refused_by_the_name_of_its_option(
    star_file, tmp_path, capsys, options, said
):
    command = ["fit", star_file, *COLUMNS, *COARSE, "--out", tmp_path / "out", *options]
    assert said in fails(capsys, *command)
    assert not names(tmp_path)


def test_a_fit_that_is_not_there_is_named(star_file, tmp_path, capsys):
    said = fails(capsys, "actions", tmp_path / "nofit", star_file, "--out", tmp_path / "out.fits")
    assert "no file or folder" in said
    assert "nofit" in said


def test_positions_are_no_velocities(star_file, tmp_path, capsys):
    fit = tmp_path / "fit"
    plain = ["--uncertainty", "none", "--out", str(fit), "--quiet"]
    assert main(["fit", str(star_file), *COLUMNS, *COARSE, *plain]) in (0, 1)
    out, _ = tmp_path / "with_actions.ecsv", capsys.readouterr()
    said = fails(capsys, "actions", fit, star_file, "--vel", "z", "--out", out)
    assert "--vel: column 'z' is that of the positions, too" in said
    assert not out.exists()
