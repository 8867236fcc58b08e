"""The kernels for a GPU: what torch works out, here in Triton's interpreter where there is none."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch

from torusimaging_torch import TorusImaging1DPotential, TorusImaging1DSpline
from torusimaging_torch.inference.pixels import Pixels
from torusimaging_torch.inference.posterior import Posterior
from torusimaging_torch.likelihoods.objectives import make_likelihood
from torusimaging_torch.numerics.params import Layout

triton = pytest.importorskip("triton", minversion="3.5")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
if DEVICE == "cpu" and np.__version__ >= "2.4" and triton.__version__ < "3.7":
    pytest.skip("this interpreter does not know this NumPy", allow_module_level=True)
pytestmark = [
    pytest.mark.filterwarnings("ignore::RuntimeWarning:triton"),
    pytest.mark.filterwarnings("ignore:Conversion of an array:DeprecationWarning:triton"),
]
KNOTS = 1.2
N_PIXELS = 70
CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "vp, odd orders, cubic label": {
        "orders": {1: 3, 2: 4, 3: 3},
        "convention": "vp",
        "label_spline": "cubic",
    },
    "counts, quadratic": {"objective": "poisson", "e_spline": "quadratic"},
    "knots of each, orders 0 and 2": {"orders": {0: 4, 2: 5}, "own_knots": True},
    "one knot": {"orders": {2: 2}},
    "weights": {"weighted": True},
    "counts with a selection function": {"objective": "poisson", "selected": True},
    "selection terms of each": {"selected": True, "own_terms": True},
    "potential": {"orders": {}, "heights": [0.1, 0.4, 1.1]},
    "potential with corrections and own heights": {
        "orders": {2: 3},
        "heights": [0.2, 0.5],
        "own_knots": True,
        "weighted": True,
    },
    "potential, counts with a selection function": {
        "orders": {},
        "heights": [0.1, 0.2, 0.4, 0.6, 0.9, 1.5],
        "objective": "poisson",
        "selected": True,
    },
}
SOME = ("plain", "potential, counts with a selection function")


def make_model(case: dict[str, Any], stretch: np.ndarray, orders: dict[int, int]) -> Any:
    label, e = (
        np.linspace(0, KNOTS, 4) * stretch,
        {m: np.linspace(0, KNOTS, n) * stretch for m, n in orders.items()},
    )
    if heights := case.get("heights"):
        return TorusImaging1DPotential(label, stretch * np.array(heights), 0.07, e).to(DEVICE)
    return TorusImaging1DSpline(
        label,
        e,
        dict.fromkeys(orders, 1.0),
        elliptical_angle_convention=case.get("convention", "pv"),
        e_spline=case.get("e_spline", "cubic"),
        label_spline=case.get("label_spline", "quadratic"),
    ).to(DEVICE)


def make_params(case: dict[str, Any], rng: Any, orders: dict[int, int]) -> dict[str, Any]:
    params: dict[str, Any] = {name: rng.normal(0, 0.05, 3) for name in ("pos0", "vel0")}
    if heights := case.get("heights"):
        params["ln_rho"] = rng.normal(17.0, 0.5, (3, len(heights) + 1))
    else:
        params["ln_Omega0"] = rng.normal(0, 0.05, 3)
    if orders:
        params["e_params"] = {
            m: {"vals": rng.normal(-3, 0.3, (3, n - 1))} for m, n in orders.items()
        }
    if case.get("selected"):
        params["selection_params"] = {"vals": rng.normal(0, 0.3, (3, 2))}
    return params | {"label_params": {"label_vals": rng.normal(0, 0.3, (3, 4))}}


def posterior(evaluation: str, **case: Any) -> tuple[Posterior, torch.Tensor]:
    """Return three problems and a vector for each; some pixels lie in the centre and far out."""
    rng = np.random.default_rng(0)
    orders = case.get("orders", {2: 5, 4: 3})
    stretch = 1 + 0.1 * np.arange(3)[:, None] if case.get("own_knots") else np.ones(1)
    model = make_model(case, stretch, orders)
    tensors = model.border.params(make_params(case, rng, orders))
    layout, shape = Layout.of(tensors), (3, N_PIXELS)
    scale = 0.3 if "heights" in case else 1.0  # the plane's frequency is not one
    pos, vel = torch.from_numpy(rng.uniform(-1.5, 1.5, (2, *shape))).to(DEVICE)
    vel = vel * scale
    pos[:, 3], vel[:, 3] = tensors["pos0"], tensors["vel0"]
    objective = case.get("objective", "gaussian")
    seen = [rng.poisson(3.0, shape).astype(float)]
    if objective == "gaussian":
        seen = [rng.normal(size=shape), rng.uniform(0.5, 2.0, shape)]
    observed = tuple(torch.from_numpy(x).to(DEVICE) for x in seen)
    weight = (pos.abs() + 0.1) * (vel < 1.2 * scale) if case.get("weighted") else None
    offset = terms = None
    if case.get("selected"):
        n = 3 if case.get("own_terms") else 1
        offset, terms = -0.3 * pos.abs(), torch.stack([pos, pos.square()], -2)[:n]
    pixels = Pixels(pos, vel, observed, weight, torch.full((3,), N_PIXELS), 0, offset, terms)
    likelihood = make_likelihood(objective)
    found = Posterior(model, likelihood, layout, pixels, evaluation)
    return found, layout.flatten(tensors)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_kernels_agree_with_torch(name):
    (found, vector), (expected, _) = (posterior(e, **CASES[name]) for e in ("triton", "torch"))
    assert found.evaluation.name == "triton"
    for a, b in zip(
        found.value_and_gradient(vector), expected.value_and_gradient(vector), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12 * float(b.abs().max()))
    a, b = found.data_information(vector), expected.data_information(vector)
    torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12 * float(b.abs().max()))
    torch.testing.assert_close(found(vector), expected(vector), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", SOME)
def test_kernels_work_on_the_rows_that_are_asked_for(name):
    found, vector = posterior("triton", **CASES[name], own_knots=True)
    rows = torch.tensor([2, 0], device=DEVICE)
    for few, every in zip(
        found.value_and_gradient(vector[rows], rows), found.value_and_gradient(vector), strict=True
    ):
        torch.testing.assert_close(few, every[rows])


@pytest.mark.slow
@pytest.mark.parametrize("name", SOME)
def test_the_pixels_of_a_problem_can_be_shared(name, monkeypatch):
    from torusimaging_torch.evaluation import triton_form

    found, vector = posterior("triton", **CASES[name])
    value, gradient = found.value_and_gradient(vector)
    information = found.data_information(vector)
    monkeypatch.setattr(triton_form, "_BLOCKS", 1)
    for options in (triton_form._GRADIENT, triton_form._GRADIENT_OF_MORE):
        monkeypatch.setitem(options, "BLOCK", 16)
    torch.testing.assert_close(found.value_and_gradient(vector)[0], value)
    torch.testing.assert_close(found.value_and_gradient(vector)[1], gradient)
    torch.testing.assert_close(found.data_information(vector), information)


def test_second_derivatives_are_left_to_torch():
    (found, vector), (expected, _) = (posterior(e) for e in ("triton", "torch"))
    torch.testing.assert_close(found.hessian(vector), expected.hessian(vector))


@pytest.mark.skipif(DEVICE == "cuda", reason="there is a GPU")
def test_data_that_no_kernel_takes_are_refused(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET")
    with pytest.raises(ValueError, match='evaluation="triton" needs Triton.*on cpu'):
        _ = posterior("triton")[0].evaluation


_COMPILE = """
from triton import compile
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from torusimaging_torch.evaluation.kernels import _NUMBERS, gradient_kernel, information_kernel

fixed = dict(ORDERS=(2, 4), KNOTS=(8, 4, 9), T=96, SWAP=False, COUNTS=True, HAS_ROWS=True,
             SLOPES=True, ROWS=32, POWERS=8, SIZE=32, BLOCK=32)
kinds_of_pixels = [
    dict(F=3, FRAME=4, SHEETS=0, TERMS=0, HAS_OFFSET=False),
    dict(F=11, FRAME=16, SHEETS=7, TERMS=2, HAS_OFFSET=True),
]
for more in kinds_of_pixels:
    for kernel in (gradient_kernel, information_kernel):
        constants = {name: x for name, x in (fixed | more).items() if name in kernel.arg_names}
        if kernel is information_kernel:
            constants["FRAME"] = 16
        kinds = {name: "i32" if name in _NUMBERS else "*fp64" for name in kernel.arg_names}
        kinds |= {"rows": "*i64"} | {name: "constexpr" for name in constants}
        source = ASTSource(kernel, kinds, constants)
        made = compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": 4})
        assert made.asm["cubin"]
"""


def test_kernels_compile_for_a_gpu_that_is_not_there():
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-c", _COMPILE], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
