"""A file of stars and a fit of them, for the tests of the command."""

from __future__ import annotations

import astropy.units as u
import numpy as np
import pytest

from torusimaging_torch.command.main import main
from torusimaging_torch.simulate import milky_way_disk

pytest.register_assert_rewrite("command_line")  # what failed there is shown as in a test
from command_line import COARSE, COLUMNS  # noqa: E402


@pytest.fixture(scope="session")
def stars():
    table = milky_way_disk(8000, seed=5)
    table["R"] = np.linspace(7, 9, len(table)) * u.kpc
    return table["z", "v_z", "label", "label_err", "R"]


@pytest.fixture(scope="session")
def star_file(stars, tmp_path_factory):
    path = tmp_path_factory.mktemp("stars") / "stars.fits"
    stars.write(path)
    return str(path)


@pytest.fixture(scope="module")
def fitted(star_file, tmp_path_factory):
    """Return the folder of a fit with all that the command writes."""
    out = tmp_path_factory.mktemp("run") / "fit"
    where = ["--where", "R > 7.1", "--where", "abs(z) < 1.5 kpc"]
    assert main(["fit", star_file, *COLUMNS, *COARSE, *where, "--out", str(out)]) == 0
    return out
