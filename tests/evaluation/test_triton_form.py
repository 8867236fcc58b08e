"""The kernels for a GPU: what torch works out, here in Triton's interpreter where there is none."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch

from torusimaging_torch import TorusImaging1DSpline
from torusimaging_torch.inference.pixels import Pixels
from torusimaging_torch.inference.posterior import Posterior
from torusimaging_torch.likelihoods.objectives import make_likelihood
from torusimaging_torch.numerics.params import Layout

pytest.importorskip("triton", minversion="3.3")
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning:triton")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
KNOTS = 1.2
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
}


def posterior(evaluation: str, **case: Any) -> tuple[Posterior, torch.Tensor]:
    """Return three problems and a vector for each; some pixels lie in the centre and far out."""
    rng = np.random.default_rng(0)
    orders, convention = case.get("orders", {2: 5, 4: 3}), case.get("convention", "pv")
    stretch = 1 + 0.1 * np.arange(3)[:, None] if case.get("own_knots") else np.ones(1)
    model = TorusImaging1DSpline(
        np.linspace(0, KNOTS, 4) * stretch,
        {m: np.linspace(0, KNOTS, n) * stretch for m, n in orders.items()},
        dict.fromkeys(orders, 1.0),
        elliptical_angle_convention=convention,
        e_spline=case.get("e_spline", "cubic"),
        label_spline=case.get("label_spline", "quadratic"),
    ).to(DEVICE)
    params = {
        **{name: rng.normal(0, 0.05, 3) for name in ("pos0", "vel0", "ln_Omega0")},
        "e_params": {m: {"vals": rng.normal(-3, 0.3, (3, n - 1))} for m, n in orders.items()},
        "label_params": {"label_vals": rng.normal(0, 0.3, (3, 4))},
    }
    tensors = model.border.params(params)
    layout = Layout.of(tensors)
    pos, vel = torch.from_numpy(rng.uniform(-1.5, 1.5, (2, 3, 70))).to(DEVICE)
    pos[:, 3], vel[:, 3] = tensors["pos0"], tensors["vel0"]
    objective = case.get("objective", "gaussian")
    seen = [rng.poisson(3.0, (3, 70)).astype(float)]
    if objective == "gaussian":
        seen = [rng.normal(size=(3, 70)), rng.uniform(0.5, 2.0, (3, 70))]
    observed = tuple(torch.from_numpy(x).to(DEVICE) for x in seen)
    weight = (pos.abs() + 0.1) * (vel < 1.2) if case.get("weighted") else None
    pixels = Pixels(pos, vel, observed, weight, torch.full((3,), 70), 0)
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


def test_kernels_work_on_the_rows_that_are_asked_for():
    found, vector = posterior("triton", own_knots=True)
    rows = torch.tensor([2, 0], device=DEVICE)
    for few, every in zip(
        found.value_and_gradient(vector[rows], rows), found.value_and_gradient(vector), strict=True
    ):
        torch.testing.assert_close(few, every[rows])


@pytest.mark.slow
def test_the_pixels_of_a_problem_can_be_shared(monkeypatch):
    from torusimaging_torch.evaluation import triton_form

    found, vector = posterior("triton")
    value, gradient = found.value_and_gradient(vector)
    information = found.data_information(vector)
    monkeypatch.setattr(triton_form, "_BLOCKS", 1)
    monkeypatch.setitem(triton_form._GRADIENT, "BLOCK", 32)
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
from torusimaging_torch.evaluation.kernels import gradient_kernel, information_kernel

numbers = {"N": "i32", "P": "i32", "pixel_step": "i32", "knot_step": "i32", "left_step": "i32"}
fixed = dict(ORDERS=(2, 4), KNOTS=(8, 4, 9), F=3, T=96, SWAP=False, COUNTS=True, HAS_ROWS=True,
             SLOPES=True, FRAME=4, ROWS=32, POWERS=8, SIZE=32, BLOCK=32)
for kernel in (gradient_kernel, information_kernel):
    kinds = {name: numbers.get(name, "*fp64") for name in kernel.arg_names} | {"rows": "*i64"}
    kinds |= {name: "constexpr" for name in fixed if name in kinds}
    source = ASTSource(kernel, kinds, {name: fixed[name] for name in fixed if name in kinds})
    assert compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": 4}).asm["cubin"]
"""


def test_kernels_compile_for_a_gpu_that_is_not_there():
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-c", _COMPILE], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
