"""The memory of the compiled loops."""

from __future__ import annotations

import pickle
from multiprocessing.reduction import ForkingPickler

import pytest
import torch
from problems import make_problem

from torusimaging_torch.likelihoods.penalty import no_regularization

pytest.importorskip("numba")


@pytest.mark.parametrize("penalized", [True, False])
def test_a_form_that_was_sent_to_another_process_is_what_it_was(penalized):
    # Sending a tensor moves its memory: an array that shared it would read what is there later.
    changes = {} if penalized else {"regularization_func": no_regularization}
    posterior, x = make_problem(evaluation="numba", batch=(2,), own_knots=True, **changes)
    value, gradient = posterior.value_and_gradient(x)
    sent = ForkingPickler.dumps(posterior)
    junk = [torch.full((size,), 7.0).double() for size in range(1, 2000)]  # into freed memory
    for again in (posterior, pickle.loads(sent)):
        found = again.value_and_gradient(x)
        assert torch.equal(found[0], value)
        assert torch.equal(found[1], gradient)
    del junk
