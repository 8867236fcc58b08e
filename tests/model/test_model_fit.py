"""The model's fit: its state, bounds in every form, data, warnings, and what it leaves alone."""

from __future__ import annotations

import copy
import re
import warnings

import astropy.units as u
import numpy as np
import pytest
import torch
from model_inputs import POS

from disks import OMEGA0, bounds_of, draw, make_model, penalty, repeat, stack, start_of, truth
from torusimaging_torch.model import TorusImaging1D
from torusimaging_torch.numerics.minimum import Status


def freeze(value):
    """Return a deep copy that can be compared, to see whether someone touched the original."""
    if isinstance(value, dict):
        return {k: freeze(v) for k, v in value.items()}
    if isinstance(value, tuple):
        return tuple(freeze(v) for v in value)
    return copy.deepcopy(value)


def assert_untouched(now, before):
    if isinstance(before, dict):
        assert now.keys() == before.keys()
        for k, v in before.items():
            assert_untouched(now[k], v)
    elif isinstance(before, tuple):
        for one, other in zip(now, before, strict=True):
            assert_untouched(one, other)
    else:
        assert type(now) is type(before)
        np.testing.assert_array_equal(now, before)


def fitted(bounds="usual", start=None, data=None, **kwargs):
    model = make_model()
    chosen = bounds_of("gaussian") if isinstance(bounds, str) else bounds
    data = draw(model, "gaussian", n=10) if data is None else data
    p = start or start_of("gaussian") | {"e_params": {2: {"vals": np.full(4, -2.0)},
                                                      4: {"vals": np.full(2, -2.0)}}}  # fmt: skip
    return model.optimize(p, "gaussian", chosen, **kwargs, **data)


@pytest.fixture(scope="module")
def best():
    return fitted()


def test_state_of_a_single_fit(best):
    state = best.state
    assert state.success is True
    assert state.status is Status.CONVERGED
    assert state.message == Status.CONVERGED.message
    assert isinstance(state.iter_num, int)
    assert isinstance(state.num_fun_eval, int)
    assert 0 <= state.expected_gain <= 1e-9
    assert state.at_bound == ()
    assert state.num_masked == 0
    data = draw(make_model(), "gaussian", n=10)
    value = make_model().objective_gaussian(best.params, **data)
    assert state.fun_val == pytest.approx(value.item(), rel=1e-12)
    assert best.params["pos0"].shape == ()
    assert best.params["e_params"][2]["vals"].shape == (4,)
    assert not best.params["pos0"].requires_grad


def test_the_result_is_a_start_and_has_params_for_every_method(best):
    again = fitted(start=best.params)
    assert again.state.success
    assert again.state.fun_val <= best.state.fun_val + 1e-10
    assert make_model().get_acceleration(POS, best.params).shape == (4,)


def units_of(bounds):
    low, high = bounds["vel0"]
    return bounds | {"vel0": ((low, high) * u.kpc / u.Myr).to(u.km / u.s),
                     "pos0": (-300 * u.pc, 300 * u.pc)}  # fmt: skip


@pytest.mark.parametrize("form", ["units", "pair", "tensors", "partial", "none"])
def test_bounds_in_every_form(form, best):
    bounds = bounds_of("gaussian")
    chosen = {
        "units": units_of(bounds),
        "pair": make_model().unpack_bounds(bounds),
        "tensors": bounds | {"pos0": torch.tensor([-0.3, 0.3])},
        "partial": {"e_params": bounds["e_params"]},
        "none": None,
    }[form]
    assert fitted(bounds=chosen).state.fun_val == pytest.approx(best.state.fun_val, abs=1e-8)


def test_a_bound_that_holds_is_told():
    bounds = bounds_of("gaussian") | {"pos0": (0.1, 0.2)}
    start = start_of("gaussian") | {"pos0": 0.1}
    result = fitted(bounds=bounds, start=start | {"e_params": truth()["e_params"]})
    assert result.state.success
    assert "pos0" in result.state.at_bound


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pos0": (-1.0, -0.5)}, r"^pos0 \[0\.0\] lies outside its bounds"),
        ({"pos0": (1.0, -1.0)}, "^pos0 .*lower bound above"),
        ({"Omega": (0.0, 1.0)}, "no parameter is called Omega"),
        ({"e_params": {6: {"vals": (0, 1)}}}, r"no parameter is called e_params\[6\]\.vals"),
        (
            {"e_params": {2: {"vals": (np.zeros(3), np.ones(3))}}},
            r"e_params\[2\]\.vals must have 4",
        ),
        ({"pos0": 1.0}, "a bound must be a pair"),
    ],
)
def test_bounds_that_do_not_fit_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        fitted(bounds=bounds_of("gaussian") | change)


def test_the_callers_dictionaries_are_not_touched():
    start, bounds = start_of("gaussian"), bounds_of("gaussian")
    data = draw(make_model(), "gaussian", n=8)
    data["label"][0, 0] = np.nan
    before = [freeze(x) for x in (start, bounds, data)]
    fitted(bounds=bounds, start=start, data=data, max_iter=500)
    make_model().as_module(start, bounds)
    make_model().objective_gaussian(start, **data)
    for now, then in zip((start, bounds, data), before, strict=True):
        assert_untouched(now, then)


def test_masked_pixels_are_counted():
    data = draw(make_model(), "gaussian", n=10)
    data["label"][0, :3] = np.nan
    data["label_err"][5, 5] = 0
    result = fitted(data=data)
    assert result.state.success
    assert result.state.num_masked == 4
    assert "4 pixels" in result.state.message


def test_binned_data_are_passed_as_they_are(best):
    data = draw(make_model(), "gaussian", n=10) | {"counts": np.ones((10, 10))}
    assert fitted(data=data).state.fun_val == best.state.fun_val


def test_weights():
    data = draw(make_model(), "gaussian", n=10)
    weight = np.ones((10, 10))
    weight[:, 4] = 0
    some = {k: np.delete(v, 4, axis=1) for k, v in data.items()}
    one = fitted(data=data | {"weight": weight}).state
    assert one.fun_val == pytest.approx(fitted(data=some).state.fun_val, rel=1e-9)


def test_poisson_fits():
    model = make_model(regularization_func=penalty(label_l2_sigma=10, label_smooth_sigma=20))
    data = draw(model, "poisson")
    result = model.optimize(start_of("poisson"), "poisson", bounds_of("poisson"), **data)
    assert result.state.success
    assert result.params["pos0"].item() == pytest.approx(0.02, abs=0.05)
    assert result.params["ln_Omega0"].item() == pytest.approx(np.log(OMEGA0), abs=0.2)


def test_failures_warn_once_with_a_count():
    with pytest.warns(RuntimeWarning, match="1 of 1 fits did not converge") as caught:
        result = fitted(max_iter=2)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert result.state.success is False
    assert result.state.status is Status.MAX_ITER
    assert result.state.iter_num == 2


def test_a_batch_warns_once_and_has_a_state_for_each():
    model = make_model()
    datas = [draw(model, "gaussian", seed, n=8) for seed in range(3)]
    datas[1]["label"][:] = np.nan
    start = repeat(start_of("gaussian") | {"e_params": truth()["e_params"]}, 3)
    with pytest.warns(RuntimeWarning, match="1 of 3 fits did not converge") as caught:
        result = model.optimize(start, "gaussian", bounds_of("gaussian"), **stack(datas))
    assert len(caught) == 1
    assert result.state.success.tolist() == [True, False, True]
    assert len(result.state.message) == len(result.state.at_bound) == 3
    assert result.state.fun_val.shape == (3,)
    assert result.params["pos0"].shape == (3,)
    assert result.params["e_params"][4]["vals"].shape == (3, 2)
    one = model.objective_gaussian(
        {k: v[0] if torch.is_tensor(v) else None for k, v in result.params.items()}
        | {
            "e_params": {m: {"vals": e["vals"][0]} for m, e in result.params["e_params"].items()},
            "label_params": {"label_vals": result.params["label_params"]["label_vals"][0]},
        },
        **datas[0],
    )
    assert result.state.fun_val[0].item() == pytest.approx(one.item(), rel=1e-11)


def test_upstreams_options_are_taken_over_with_a_warning():
    with pytest.warns(DeprecationWarning, match="max_iter and tol") as caught:
        result = fitted(jaxopt_kwargs={"maxiter": 300, "tol": 1e-3})
    assert caught[0].filename == __file__
    assert result.state.success
    with pytest.warns() as caught:
        result = fitted(jaxopt_kwargs={"maxiter": 1})
    assert {w.category for w in caught} == {DeprecationWarning, RuntimeWarning}
    assert result.state.iter_num == 1


def test_other_options_of_upstream_name_the_replacement():
    with pytest.raises(ValueError, match=r"\['linesearch'\] have no counterpart.*max_iter, tol"):
        fitted(jaxopt_kwargs={"linesearch": "zoom"})
    data = draw(make_model(), "gaussian", n=4)
    for binned in (data, {"fe": data}):
        with pytest.raises(TypeError, match=r"binned data: pass data=binned, or \*\*binned"):
            make_model().optimize(truth(), "gaussian", None, binned)


def test_unknown_data_and_objectives_are_refused():
    with pytest.raises(TypeError, match=r"unknown \['labels'\]"):
        fitted(data=draw(make_model(), "gaussian", n=4) | {"labels": 1.0})
    with pytest.raises(TypeError, match=r"missing \['label_err'\]"):
        fitted(data={k: v for k, v in draw(make_model(), "gaussian", n=4).items()
                     if k != "label_err"})  # fmt: skip
    with pytest.raises(ValueError, match="objective must be one of"):
        make_model().optimize(truth(), "cauchy", **draw(make_model(), "gaussian", n=4))


def test_progress_is_reported_on_standard_error(capsys):
    fitted(progress=True)
    captured = capsys.readouterr()
    assert captured.out == ""
    line = r"iteration +\d+: ln L - R = -?[\d.]+, expected gain [-+.e\d]+ nats\n"
    assert re.fullmatch(f"({line})+", captured.err)
    numbers = re.findall(r"iteration +(\d+)", captured.err)
    assert len(numbers) == len(set(numbers))
    fitted()
    assert capsys.readouterr().err == ""


def test_progress_of_a_batch_is_of_all(capsys):
    model = make_model()
    datas = [draw(model, "gaussian", seed, n=8) for seed in range(2)]
    begin = repeat(start_of("gaussian") | {"e_params": truth()["e_params"]}, 2)
    model.optimize(begin, "gaussian", bounds_of("gaussian"), progress=True, **stack(datas))
    last = capsys.readouterr().err.splitlines()[-1]
    assert re.search(r": 0 running, mean ln L - R = .*, largest expected gain", last)


def test_a_fit_is_silent_about_what_is_well():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fitted()


def test_unpack_bounds():
    lower, upper = TorusImaging1D.unpack_bounds(bounds_of("gaussian"))
    assert lower["pos0"] == -0.3
    assert upper["e_params"][2]["vals"] == 10
    assert lower["label_params"]["label_vals"].tolist() == [-2, 0, 0, 0]
