"""Errors from samples of the posterior, as the command writes and prints them."""

from __future__ import annotations

import contextlib
import io

import astropy.units as u
import numpy as np
import pytest
import torch
from astropy.table import QTable
from command_line import COARSE, COLUMNS, NO_FIGURES, TABLES, names

from torusimaging_torch.analysis.report import interval
from torusimaging_torch.command.main import main
from torusimaging_torch.numerics.params import Layout
from torusimaging_torch.results import FitResult


@pytest.fixture(scope="module")
def sampled_fit(star_file, tmp_path_factory):
    """Return the folder and the text of a fit with a few samples of the posterior."""
    out = tmp_path_factory.mktemp("run") / "fit"
    arguments = ["fit", star_file, *COLUMNS, *COARSE, *NO_FIGURES, "--uncertainty", "nuts"]
    arguments += ["--draws", "30"]
    text, told = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.redirect_stderr(told):
        assert main([*arguments, "--out", str(out)]) == 0
    return out, text.getvalue(), told.getvalue()


def test_fit_keeps_samples_and_their_percentiles(sampled_fit):
    out, _, _ = sampled_fit
    assert names(out) == {*TABLES, "samples.ecsv"}
    samples = QTable.read(out / "samples.ecsv")
    result = FitResult.read(out / "fit.ecsv")
    assert len(samples) == 30
    assert set(result.to_table()["name"]) <= set(samples.colnames)
    assert result.provenance["sampling"]["n_samples"] == 30
    assert result.covariance[-1, -1] == pytest.approx(np.var(samples["vel0"].value, ddof=1))
    # The acceleration of each sample, by the model itself.
    profiles = QTable.read(out / "profiles.ecsv")
    layout = Layout.of(result.params)
    vectors = torch.tensor(
        np.stack(
            [samples[name].value if samples[name].unit else samples[name] for name in layout.names],
            -1,
        )
    )
    rows = [layout.unflatten(row) for row in vectors]
    every = u.Quantity([result.model.get_acceleration(profiles["pos"], row) for row in rows])
    low, middle, high = np.percentile(every, [16, 50, 84], axis=0)
    tolerance = 1e-9 * np.abs(every).max()
    assert u.allclose(profiles["acceleration_p50"], middle, atol=tolerance)
    assert u.allclose(profiles["acceleration_err"], (high - low) / 2, atol=tolerance)
    assert u.allclose(
        profiles["acceleration"],
        result.model.get_acceleration(profiles["pos"], result.params),
        atol=tolerance,
    )


def test_output_tells_how_samples_turned_out(sampled_fit):
    out, text, told = sampled_fit
    assert "errors: median and 68 % of 30 samples of the posterior; R-hat up to" in text
    assert "samples.ecsv" in text
    samples = QTable.read(out / "samples.ecsv")
    low, middle, high = np.percentile(samples["pos0"].to_value(u.pc), [16, 50, 84])
    assert interval((low, middle, high)) in text
    assert "sampling the posterior: 30 draws after 30 steps of warm-up" in told
    warnings = [line for line in told.splitlines() if "warning" in line]
    assert len(warnings) == 1
    assert "the sampler has not converged" in warnings[0]
    assert "it/s" not in told  # no bars where nobody sees them


@pytest.mark.parametrize("draws", ["0", "3", "many"])
def test_too_few_draws_are_refused(draws, capsys):
    assert main(["demo", "--uncertainty", "nuts", "--draws", draws]) == 2
    assert "--draws" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("ends", "text"),
    [
        ((57.1, 61.3, 66.0), "61.3 +4.7 \N{MINUS SIGN}4.2"),
        ((-8.002, -7.851, -7.70), "-7.85 ± 0.15"),
        ((0.001, 0.0123, 0.05), "0.012 +0.038 \N{MINUS SIGN}0.011"),
        ((np.nan, 5.0, np.nan), "5.000"),
    ],
)
def test_errors_that_differ_are_given_one_by_one(ends, text):
    assert interval(ends) == text
