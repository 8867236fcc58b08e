"""Vectors and rows that are none of a posterior's are refused: compiled loops would not look."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from problems import by, make_problem

from disks import draw, make_model

IMPLEMENTATIONS = ("torch", "numba", "autograd")
implementations = pytest.mark.parametrize("who", IMPLEMENTATIONS)


def joint():
    model = make_model()
    label, counts = draw(model, "gaussian"), draw(model, "poisson")
    data = {"label": label, "counts": counts}
    made, _, start = type(model).auto_init(
        data, 3, {2: 3}, label_l2_sigma=1.0, label_smooth_sigma=1.0,
        e_l2_sigmas={2: 1.0}, e_smooth_sigmas={2: 1.0},
    )  # fmt: skip
    kinds = {"label": "gaussian", "counts": "poisson"}
    return lambda who: made.posterior_at(start, data, kinds, who)


def both_calls(posterior):
    return posterior, posterior.value_and_gradient


@implementations
@pytest.mark.parametrize("kind", ["one", "joint"])
def test_a_vector_of_another_model(who, kind):
    posterior, x = joint()(who) if kind == "joint" else make_problem(evaluation=who)
    for wrong in (torch.cat([x, x]), x[:-1], x[:0], x.sum()):
        for call in both_calls(posterior):
            with pytest.raises(
                ValueError,
                match=rf"shape \(\*S, {len(x)}\) .*got \({len(wrong) if wrong.ndim else ''}",
            ):
                call(wrong)
    assert posterior(torch.stack([x, x])).shape == (2,)


@implementations
@pytest.mark.parametrize("dtype", [torch.float32, torch.int64])
def test_a_vector_of_another_type(who, dtype):
    posterior, x = make_problem(evaluation=who)
    for call in both_calls(posterior):
        with pytest.raises(ValueError, match=rf"type torch.float64, got .* and {dtype}"):
            call(x.to(dtype))


@implementations
def test_a_batch_of_another_size(who):
    posterior, x = make_problem(evaluation=who, batch=(3,))
    assert posterior(x).shape == (3,)
    for wrong in (x[:2], x[0], x[:, None]):
        for call in both_calls(posterior):
            with pytest.raises(ValueError, match=rf"shape \(\*S, 3, {x.shape[-1]}\)"):
                call(wrong)


# To torch -1 is the last one.
@pytest.mark.parametrize(("who", "row"), [*product(IMPLEMENTATIONS, (3, 100_000)), ("numba", -1)])
def test_rows_that_are_not_there(who, row):
    posterior, x = make_problem(evaluation=who, batch=(3,))
    with pytest.raises(IndexError):
        posterior.value_and_gradient(x[:1], torch.tensor([row]))
    with pytest.raises(ValueError, match=rf"shape \(\*S, 2, {x.shape[-1]}\)"):
        posterior.value_and_gradient(x[:1], torch.tensor([0, 1]))


def test_nothing_was_written_where_it_does_not_belong():
    posterior, x = make_problem(evaluation="numba")
    expected = by(posterior, "torch")(x)
    for _ in range(20):
        for call in (posterior, posterior.evaluation.value_and_gradient):
            with pytest.raises(ValueError, match="expected vectors"):
                call(torch.cat([x, x]))
    assert np.isclose(float(posterior(x)), float(expected), rtol=1e-12)
