"""The model as a module to train: any torch optimizer, inside the box, saved by state_dict."""

from __future__ import annotations

import copy

import astropy.units as u
import numpy as np
import pytest
import torch
from torch.nn.utils import parametrize

from disks import bounds_of, draw, make_model, repeat, start, truth
from torusimaging_torch.inference.layer import BoxParametrization
from torusimaging_torch.numerics.params import iter_leaves


def tensor(x):
    return torch.tensor(x, dtype=torch.float64)


def bare(model, data):
    return model.border.tensor(data["pos"], "pos", "length"), model.border.tensor(
        data["vel"], "vel", "velocity"
    )


def make(params=None, bounds="usual"):
    model = make_model()
    chosen = bounds_of("gaussian") if isinstance(bounds, str) else bounds
    return model, model.as_module(params or truth(), chosen)


def test_forward_is_the_models_label():
    model, module = make()
    data = draw(model, "gaussian")
    got = module(*bare(model, data))
    torch.testing.assert_close(got, model.get_label(data["pos"], data["vel"], truth()))


def test_acceleration_is_the_models_and_can_be_part_of_a_loss():
    model, module = make()
    pos = tensor([-0.5, 0.2, 0.7])
    got = module.acceleration(pos)
    expected = model.get_acceleration(pos, truth())
    np.testing.assert_allclose(got.detach(), expected.to_value(u.kpc / u.Myr**2), rtol=1e-10)
    measured = 1.1 * got.detach()
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-2)
    losses = []
    for _ in range(50):
        optimizer.zero_grad()
        loss = (module.acceleration(pos) / measured - 1).square().sum()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.05 * losses[0]


@pytest.mark.parametrize("bounds", [None, {}, "usual", ({"pos0": -1.0}, {"vel0": 1.0})])
def test_params_are_the_initial_values(bounds):
    _, module = make(bounds=bounds)
    expected = dict(iter_leaves(make_model().border.params(truth())))
    got = dict(iter_leaves(module.params()))
    assert got.keys() == expected.keys()
    for path, leaf in got.items():
        torch.testing.assert_close(leaf, expected[path], rtol=1e-9, atol=1e-12)


def test_what_is_trained_are_the_unconstrained_coordinates():
    _, module = make()
    sizes = {name: p.numel() for name, p in module.named_parameters()}
    assert sum(sizes.values()) == 13
    assert all(p.requires_grad and p.is_leaf for p in module.parameters())
    assert parametrize.is_parametrized(module)


@pytest.mark.parametrize("optimizer", [torch.optim.Adam, torch.optim.SGD, torch.optim.LBFGS])
def test_it_trains(optimizer):
    model, module = make(start() | {"e_params": truth()["e_params"]})
    data = draw(model, "gaussian")
    pos, vel = bare(model, data)
    label, err = tensor(data["label"]), tensor(data["label_err"])

    def loss():
        return ((module(pos, vel) - label) / err).square().mean()

    rate = {torch.optim.Adam: 0.05, torch.optim.SGD: 1e-4, torch.optim.LBFGS: 0.1}[optimizer]
    opt = optimizer(module.parameters(), lr=rate)

    def closure():
        opt.zero_grad()
        value = loss()
        value.backward()
        return value

    before = loss().item()
    for _ in range(3 if optimizer is torch.optim.LBFGS else 10):
        opt.step(closure)
    assert loss().item() < 0.9 * before


def test_it_stays_inside_the_box_whatever_the_step():
    model, module = make()
    lower, upper = (dict(iter_leaves(b)) for b in model.unpack_bounds(bounds_of("gaussian")))
    for size in (1e3, -1e3):
        with torch.no_grad():
            for p in module.parameters():
                p.add_(size)
        for path, leaf in iter_leaves(module.params()):
            assert (leaf >= lower[path]).all(), path
            assert (leaf <= upper[path]).all(), path


def test_state_dict_round_trip():
    _, module = make()
    _, other = make(truth() | {"pos0": 0.1, "ln_Omega0": -3.0})
    other.load_state_dict(module.state_dict())
    pos, vel = tensor([0.3, -0.5]), tensor([0.02, 0.0])
    torch.testing.assert_close(other(pos, vel), module(pos, vel), rtol=1e-13, atol=1e-13)


def test_deepcopy_and_types():
    _, module = make()
    pos, vel = tensor([0.3, -0.5]), tensor([0.02, 0.0])
    copied = copy.deepcopy(module)
    assert torch.equal(copied(pos, vel), module(pos, vel))
    single = copied.to(torch.float32)
    got = single(pos.float(), vel.float())
    assert got.dtype == torch.float32
    torch.testing.assert_close(got.double(), module(pos, vel), rtol=1e-3, atol=1e-4)


def test_the_model_itself_stays_as_it_is():
    model, module = make()
    module.to(torch.float32)
    assert model.label_knots.dtype == torch.float64
    assert not list(model.parameters())


def test_fixed_parameters_do_not_move():
    bounds = bounds_of("gaussian") | {"pos0": (0.02, 0.02)}
    _, module = make(bounds=bounds)
    module(tensor([0.3]), tensor([0.01])).sum().backward()
    optimizer = torch.optim.SGD(module.parameters(), lr=10.0)
    optimizer.step()
    assert module.params()["pos0"].item() == 0.02
    assert module.params()["ln_Omega0"].item() != pytest.approx(truth()["ln_Omega0"])


def test_starts_on_and_outside_bounds():
    _, module = make(start())
    assert (module.params()["e_params"][2]["vals"] > -16).all()
    with pytest.raises(ValueError, match="^pos0 "):
        make(truth() | {"pos0": 2.0})


def test_a_batch_of_models():
    model = make_model()
    module = model.as_module(repeat(truth(), 3), bounds_of("gaussian"))
    pos, vel = tensor(np.full((3, 5), 0.3)), tensor(np.full((3, 5), 0.01))
    got = module(pos, vel)
    assert got.shape == (3, 5)
    expected = model.as_module(truth(), bounds_of("gaussian"))(pos[0], vel[0])
    torch.testing.assert_close(got[1], expected)


def test_quantities_and_arrays_are_refused_in_words():
    _, module = make()
    for pos in ([0.3, 0.1] * u.kpc, np.array([0.3, 0.1]), [0.3, 0.1]):
        with pytest.raises(TypeError, match=f"pos must be a tensor .*, got {type(pos).__name__}"):
            module(pos, tensor([0.01, 0.0]))
        with pytest.raises(TypeError, match="pos must be a tensor in model units"):
            module.acceleration(pos)
    with pytest.raises(TypeError, match=r"torch\.as_tensor\(vel\.to_value"):
        module(tensor([0.3]), [0.01] * u.km / u.s)
    assert module(0.3, 0.01) == module(tensor(0.3), tensor(0.01))


def test_as_a_layer_in_a_larger_network():
    _, module = make()
    network = torch.nn.ModuleDict({"torus": module, "head": torch.nn.Linear(1, 1).double()})
    label = network["torus"](tensor([[0.3], [0.1]]), tensor([[0.0], [0.02]]))
    network["head"](label).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


def test_box_parametrization_of_scalars_and_vectors():
    for shape in ((), (3,), (2, 3)):
        lower, upper = torch.zeros(shape).double(), torch.full(shape, 2.0).double()
        box = BoxParametrization(lower, upper)
        x = torch.full(shape, 0.5).double()
        torch.testing.assert_close(box(box.right_inverse(x)), x)
        assert box(torch.zeros(shape).double()).shape == shape


@pytest.mark.skipif(torch.__version__ < "2.5", reason="PyTorch 2.4 breaks the graph")
def test_it_compiles_as_one_graph_and_is_exported():
    model, module = make()
    where = bare(model, draw(model, "gaussian"))
    expected = module(*where)
    whole = torch.compile(module, fullgraph=True, backend="eager")
    torch.testing.assert_close(whole(*where), expected)
    torch.testing.assert_close(torch.export.export(module, where).module()(*where), expected)
