"""What the package logs: nothing unless asked, and then rounds, fallbacks, shards and stars."""

from __future__ import annotations

import logging
import subprocess
import sys

import numpy as np
import pytest
import torch

import disks
from torusimaging_torch import TorusImaging1DSpline
from torusimaging_torch.batch import fit_many
from torusimaging_torch.batch.memory import in_chunks
from torusimaging_torch.data import get_binned_counts

NAME = "torusimaging_torch"
SETTINGS = {
    "label_knots": 3,
    "e_knots": {2: 3},
    "label_l2_sigma": 1.0,
    "label_smooth_sigma": 0.5,
    "e_l2_sigmas": {2: 1.0},
    "e_smooth_sigmas": {2: 0.5},
}


@pytest.fixture(scope="module")
def data():
    return disks.draw(disks.make_model(), "gaussian", seed=0, n=10)


def said(caplog, module, level):
    names = f"{NAME}.{module}"
    return [r.getMessage() for r in caplog.records if r.name == names and r.levelno == level]


def test_nothing_is_said_unless_asked():
    code = (
        f"import {NAME} as oti, logging; log = logging.getLogger({NAME!r});"
        "assert [type(h).__name__ for h in log.handlers] == ['NullHandler'];"
        "oti.data.get_binned_counts([0.1], [0.2], ([0, 1], [0, 1]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")


def test_rounds_of_a_fit_and_its_end(data, caplog):
    model, bounds, start = TorusImaging1DSpline.auto_init(data, **SETTINGS)
    with caplog.at_level(logging.DEBUG, NAME):
        state = model.optimize(start, "gaussian", bounds, **data).state
    rounds = said(caplog, "inference.fit", logging.DEBUG)
    assert len(rounds) >= 2
    assert "0 of 1 go on" in rounds[-1]
    (end,) = said(caplog, "inference.fit", logging.INFO)
    assert f"1 of 1 fits converged: iteration {state.iter_num}," in end
    assert "worked out by" in said(caplog, "evaluation.choose", logging.DEBUG)[0]


def test_a_fallback_and_its_reason(data, caplog):
    model, _, start = TorusImaging1DSpline.auto_init(data, **SETTINGS)
    label = torch.as_tensor(np.asarray(data["label"])).clone().requires_grad_()
    with caplog.at_level(logging.INFO, NAME):
        model.posterior_at(start, data | {"label": label})
    (line,) = said(caplog, "evaluation.choose", logging.INFO)
    assert "by autograd" in line


def test_shards_and_their_end(data, caplog, capsys):
    with caplog.at_level(logging.INFO, NAME):
        fit_many([data, data], shard_size=1, progress=False, **SETTINGS)
    lines = said(caplog, "batch.runners", logging.INFO)
    assert [line.split(":")[0] for line in lines] == ["shard 0", "shard 1"]
    assert "2 of 2 subsamples converged, 2 of 2 done" in lines[1]
    assert capsys.readouterr().err == ""


def test_a_chunk_that_is_halved(caplog):
    def run(items):
        if len(items) > 2:
            raise MemoryError
        return list(items)

    assert list(in_chunks(run, range(4), 4)) == [[0, 1], [2, 3]]
    lines = said(caplog, "batch.memory", logging.WARNING)
    assert lines == ["out of memory: 2 subsamples at a time in place of 4"]


def test_stars_off_the_grid(caplog):
    with caplog.at_level(logging.INFO, NAME):
        get_binned_counts([0.1, 0.2, 3.0], [0.0, 0.0, 0.0], ([0, 1], [-1, 1]))
    assert said(caplog, "data.reader", logging.INFO) == ["3 stars read, 1 of them off the grid"]
