"""Layout: nested dictionaries to vectors and back, in an order that does not depend on filling."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from torusimaging_torch.numerics.params import (
    Layout,
    batch_shape,
    column,
    function_params,
    iter_leaves,
    map_leaves,
)


def params(batch=(), n_e=3, n_label=4, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def rand(*shape):
        return torch.rand((*batch, *shape), generator=generator, dtype=torch.float64)

    return {
        "vel0": rand(),
        "pos0": rand(),
        "ln_Omega0": rand(),
        "label_params": {"label_vals": rand(n_label)},
        "e_params": {4: {"vals": rand(1)}, 2: {"vals": rand(n_e)}},
    }


def shuffled(mapping, seed=1):
    """Return the same nested dictionary, filled in the opposite order."""
    return {
        k: shuffled(v) if isinstance(v, dict) else v for k, v in reversed(list(mapping.items()))
    }


def assert_same(one, other):
    left, right = dict(iter_leaves(one)), dict(iter_leaves(other))
    assert left.keys() == right.keys()
    for path, leaf in left.items():
        assert leaf.shape == right[path].shape, path
        assert torch.equal(leaf, right[path]), path


def test_names_are_sorted_at_every_level():
    assert Layout.of(params()).names == [
        "e_params[2].vals[0]",
        "e_params[2].vals[1]",
        "e_params[2].vals[2]",
        "e_params[4].vals[0]",
        "label_params.label_vals[0]",
        "label_params.label_vals[1]",
        "label_params.label_vals[2]",
        "label_params.label_vals[3]",
        "ln_Omega0",
        "pos0",
        "vel0",
    ]


def test_orders_sort_as_numbers_not_as_text():
    p = params() | {"e_params": {m: {"vals": torch.zeros(1)} for m in (10, 2, 0)}}
    names = [n for n in Layout.of(p).names if n.startswith("e_")]
    assert names == ["e_params[0].vals[0]", "e_params[2].vals[0]", "e_params[10].vals[0]"]


@given(st.lists(st.integers(1, 3), max_size=2), st.integers(1, 4), st.integers(1, 5))
def test_round_trip(batch, n_e, n_label):
    p = params(tuple(batch), n_e, n_label)
    layout = Layout.of(p)
    vector = layout.flatten(p)
    assert vector.shape == (*batch, layout.size)
    assert layout.size == n_e + 1 + n_label + 3 == len(layout.names)
    assert_same(layout.unflatten(vector), p)


def test_order_of_filling_does_not_matter():
    p = params()
    assert Layout.of(p) == Layout.of(shuffled(p))
    assert torch.equal(Layout.of(p).flatten(p), Layout.of(p).flatten(shuffled(p)))


def test_entries_stand_where_their_names_say():
    p = params((2,))
    layout = Layout.of(p)
    vector = layout.flatten(p)
    assert torch.equal(vector[:, layout.names.index("pos0")], p["pos0"])
    entry = layout.names.index("e_params[2].vals[1]")
    assert torch.equal(vector[:, entry], p["e_params"][2]["vals"][:, 1])


def test_a_vector_of_length_one_stays_a_vector():
    p = params()
    back = Layout.of(p).unflatten(Layout.of(p).flatten(p))
    assert back["e_params"][4]["vals"].shape == (1,)
    assert back["pos0"].shape == ()


def test_a_leaf_shared_by_the_batch_is_repeated():
    p = params((3,)) | {"vel0": torch.tensor(0.5, dtype=torch.float64)}
    vector = Layout.of(p).flatten(p)
    assert vector.shape == (3, 11)
    assert torch.equal(vector[:, -1], torch.full((3,), 0.5, dtype=torch.float64))


def test_gradients_pass():
    p = map_leaves(lambda leaf: leaf.requires_grad_(), params())
    (Layout.of(p).flatten(p) ** 2).sum().backward()
    for _, leaf in iter_leaves(p):
        assert torch.equal(leaf.grad, 2 * leaf.detach())


def test_fill_takes_the_default_elsewhere_and_spreads_numbers():
    layout = Layout.of(params())
    like = torch.empty(0, dtype=torch.float64)
    given_bounds = {"pos0": torch.tensor(1.0), "e_params": {2: {"vals": torch.tensor(-16.0)}}}
    filled = layout.fill(given_bounds, torch.inf, like)
    assert filled[:3].tolist() == [-16.0] * 3
    assert filled[layout.names.index("pos0")] == 1
    assert filled.isinf().sum() == layout.size - 4


def test_fill_refuses_unknown_names():
    layout, like = Layout.of(params()), torch.empty(0)
    with pytest.raises(ValueError, match=r"no parameter is called e_params\[6\]\.vals"):
        layout.fill({"e_params": {6: {"vals": torch.zeros(1)}}}, 0.0, like)


def test_fill_refuses_the_wrong_number_of_values():
    layout, like = Layout.of(params()), torch.empty(0)
    with pytest.raises(ValueError, match=r"e_params\[2\]\.vals must have 3 values"):
        layout.fill({"e_params": {2: {"vals": torch.zeros(2)}}}, 0.0, like)


def test_flatten_refuses_another_layout():
    layout = Layout.of(params())
    with pytest.raises(ValueError, match="parameters do not match"):
        layout.flatten({"pos0": torch.zeros(())})
    with pytest.raises(ValueError, match="must have 4 values"):
        layout.flatten(params(n_label=5))


def test_layout_refuses_two_dimensions_beyond_the_batch():
    with pytest.raises(ValueError, match=r"label_params\.label_vals has shape \(2, 2\)"):
        Layout.of(params() | {"label_params": {"label_vals": torch.zeros(2, 2)}})


def test_map_leaves_pairs_leaves_and_refuses_other_keys():
    p = params()
    doubled = map_leaves(torch.add, p, p)
    assert torch.equal(doubled["e_params"][2]["vals"], 2 * p["e_params"][2]["vals"])
    with pytest.raises(ValueError, match="must have the same keys"):
        map_leaves(torch.add, p, {"pos0": p["pos0"]})


def test_batch_shape_and_columns():
    assert batch_shape(params()) == ()
    assert batch_shape(params((4, 2))) == (4, 2)
    assert column(torch.zeros(())).shape == ()
    assert column(torch.zeros(4, 2)).shape == (4, 2, 1)


def test_scalars_of_functions_become_columns_in_a_batch():
    p = params((5,)) | {"label_params": {"a": torch.rand(5), "b": torch.rand(5, 2)}}
    got = function_params(p, "label_params")
    assert got["a"].shape == (5, 1)
    assert got["b"].shape == (5, 2)
    single = params() | {"label_params": {"a": torch.rand(())}}
    assert function_params(single, "label_params")["a"].shape == ()


def test_a_function_without_parameters_has_none_in_the_vector_either():
    p = params() | {"e_params": {}}
    layout = Layout.of(p)
    assert function_params(layout.unflatten(layout.flatten(p)), "e_params") == {}
