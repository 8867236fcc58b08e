"""Errors of positions and velocities: what they do to a fit, and that it is said."""

from __future__ import annotations

import warnings

import astropy.units as u
import numpy as np
import pytest

from torusimaging_torch.analysis.blur import describe_blur
from torusimaging_torch.analysis.single import analyse
from torusimaging_torch.catalogue.tables import read_stars
from torusimaging_torch.command.main import main
from torusimaging_torch.settings import Settings
from torusimaging_torch.simulate import milky_way, milky_way_disk

GRID = {"pos_max": "1.0 kpc", "vel_max": "60.0 km / s", "n_bins": 40}


def stars(pos_err=0.0, vel_err=0.0, n=30_000):
    table, rng = milky_way_disk(n, seed=2), np.random.default_rng(2)
    # Some stars without an error, which do not count.
    unknown = np.arange(n) % 10 == 0
    table["z_err"] = np.where(unknown, np.nan, pos_err * 1000) * u.pc
    table["v_err"] = np.where(unknown, np.nan, vel_err) * u.km / u.s
    table["z"] = table["z"] + rng.normal(size=n) * pos_err * u.kpc
    table["v_z"] = table["v_z"] + rng.normal(size=n) * vel_err * u.km / u.s
    return table


def read(table):
    columns = {"pos_err": "z_err", "vel_err": "v_err"}
    return read_stars(table, "z", "v_z", "label", "label_err", **columns)


def test_small_errors_are_nothing_to_say():
    assert describe_blur(read(stars(0.02, 2.0)), GRID, [0.1, 1] * u.kpc) == []
    assert describe_blur(read_stars(stars(0.1), "z", "v_z"), GRID) == []


def test_errors_beyond_a_pixel_or_a_sheet():
    (line,) = describe_blur(read(stars(0.04)), GRID, [0.1, 1] * u.kpc)
    assert line.startswith("the median error of pos, 40 pc, is larger than 0.3 of the thinnest")
    pos, vel = describe_blur(read(stars(0.06, 4.0)), GRID)
    assert "of pos, 60 pc, is larger than a pixel is wide, 50 pc" in pos
    assert "of vel, 4 km / s, is larger than a pixel is wide, 3 km / s" in vel


@pytest.mark.parametrize(("blur", "sign"), [({"pos_err": 0.12}, -1), ({"vel_err": 9.0}, 1)])
def test_it_is_warned_where_the_force_is_off(blur, sign):
    settings = Settings(model="potential", uncertainty="none")
    with pytest.warns(RuntimeWarning, match="the median error of"):
        result = analyse(read(stars(**blur)), settings).result
    (line,) = result.provenance["blur"]
    assert ("too strong" if sign > 0 else "too low") in line
    height = [0.2] * u.kpc
    found = result.profiles(result.quantity("pos0") + height)["acceleration"]
    off = (found / milky_way(8.3 * u.kpc).acceleration(height) - 1).to_value("")
    assert sign * off > 0.2


def test_on_the_command_line(tmp_path, capsys):
    stars(0.12, n=8000)["z", "v_z", "label", "z_err"].write(tmp_path / "stars.fits")
    command = ["fit", str(tmp_path / "stars.fits"), "--pos", "z", "--vel", "v_z", "--label"]
    more = ["--model", "potential", "--n-bins", "30", "--uncertainty", "none", "--quiet"]
    with warnings.catch_warnings():
        main([*command, "label", "--pos-err", "z_err", *more, "--out", str(tmp_path / "fit")])
    told = capsys.readouterr()
    assert "warning: the median error of pos, 120 pc" in told.err
    assert "the median error of pos, 120 pc" in told.out
