"""A model as plain values, and the same model again; penalties by name, imported when called."""

from __future__ import annotations

import functools
import json
import pickle

import pytest
import torch
from test_fit_result import PENALTY, make_result

from torusimaging_torch.likelihoods.penalty import no_regularization, regularization_func_default
from torusimaging_torch.results.description import build_model, describe_model, knots_of
from torusimaging_torch.results.penalty_description import (
    describe_penalty,
    find_penalty,
    plain,
    with_numbers,
)


def own_penalty(model, params, strength):
    return strength * params["ln_Omega0"] ** 2


@pytest.mark.parametrize(
    ("penalty", "name"),
    [
        (None, "none"),
        (no_regularization, "none"),
        (functools.partial(regularization_func_default, **PENALTY), "default"),
        (functools.partial(own_penalty, strength=2.5), "test_description:own_penalty"),
        (lambda model, params: 0.0, None),
    ],
)
def test_penalties_are_known_by_name(penalty, name):
    result = make_result(penalty=penalty)
    described = describe_penalty(result.model.regularization_func)
    assert described["name"] is None if name is None else described["name"].endswith(name)
    read = json.loads(json.dumps(describe_model(result.model)))
    again = build_model(read, knots_of(result.model))
    function = again.regularization_func
    assert describe_penalty(function) == described
    assert describe_penalty(pickle.loads(pickle.dumps(function))) == described
    if name is None:
        with pytest.raises(RuntimeError, match=r"set model\.regularization_func"):
            function(again, result.params)
    else:
        expected = result.model.regularization_func(result.model, result.params)
        assert function(again, result.params) == expected


def test_reading_imports_no_penalty():
    find_penalty({"name": "no_such_module:function", "keywords": {}})


def test_orders_that_became_texts_are_numbers_again():
    given = {2: [1.0, {4: None}], "a": "2", "0.5": True}
    assert with_numbers(json.loads(json.dumps(plain(given)))) == given
    assert plain(torch.tensor([1.0, 2.0])) == [1.0, 2.0]
