"""The L-BFGS finds minima: those of SciPy and closed forms, also near kinks, walls and nan."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.optimize
import torch
from minimized import LogisticRegression, converged, rosenbrock, starts
from torch import Tensor

from torusimaging_torch.numerics.lbfgs import minimize
from torusimaging_torch.numerics.minimum import Minimum, Status


def beale(x: Tensor) -> Tensor:
    a, b = x.unbind(-1)
    return (1.5 - a + a * b) ** 2 + (2.25 - a + a * b**2) ** 2 + (2.625 - a + a * b**3) ** 2


def booth(x: Tensor) -> Tensor:
    a, b = x.unbind(-1)
    return (a + 2 * b - 7) ** 2 + (2 * a + b - 5) ** 2


def quartic(x: Tensor) -> Tensor:
    shift = torch.arange(1, x.shape[-1] + 1, dtype=x.dtype, device=x.device)
    return ((x - shift) ** 4 + 0.5 * (x - 1) ** 2).sum(-1)


def scipy_minimize(fun, x0: Tensor, method: str = "L-BFGS-B"):
    def value_and_grad(x: np.ndarray) -> tuple[float, np.ndarray]:
        leaf = torch.tensor(x, requires_grad=True)
        value = fun(leaf)
        return value.item(), torch.autograd.grad(value, leaf)[0].numpy()

    # The stopping rule of `minimize` at gain_tol = 1e-8, as far as SciPy's maximum norm can say it.
    gtol = math.sqrt(2e-8 / x0.numel())
    options = {"gtol": gtol, "maxiter": 5000}
    if method == "L-BFGS-B":
        options |= {"ftol": 0, "maxfun": 20000}
    return scipy.optimize.minimize(
        value_and_grad, x0.numpy(), jac=True, method=method, options=options
    )


@pytest.mark.parametrize("n_dim", [2, 3, 7, 20])
def test_rosenbrock_reaches_a_minimum(n_dim: int) -> None:
    result = minimize(rosenbrock, starts(40, n_dim), gain_tol=1e-16, max_iter=500)
    assert (result.status == Status.CONVERGED).all()
    # From four dimensions on there is a second, local minimum near x_1 = -1, of value about 4.
    at_global = result.fun < 1
    assert at_global.double().mean() > 0.5
    np.testing.assert_allclose(result.x[at_global], 1, atol=1e-6)
    assert (result.x[~at_global][:, 0] + 1).abs().lt(0.1).all()


def test_steep_rosenbrock() -> None:
    heights = torch.logspace(0, 5, 11, dtype=torch.float64)
    result = minimize(
        lambda x: rosenbrock(x, heights), starts(11, 2), gain_tol=1e-14, max_iter=2000
    )
    assert (result.status == Status.CONVERGED).all()
    np.testing.assert_allclose(result.x, 1, atol=1e-5)


@pytest.mark.parametrize(("fun", "n_dim"), [(beale, 2), (booth, 2), (quartic, 5)])
@pytest.mark.parametrize("method", ["L-BFGS-B", "BFGS"])
def test_equals_scipy_on_classical_functions(fun, n_dim: int, method: str) -> None:
    x0 = starts(8, n_dim, scale=0.4)
    result = minimize(fun, x0, gain_tol=1e-14)
    assert converged(result)
    for b in range(8):
        reference = scipy_minimize(fun, x0[b], method)
        np.testing.assert_allclose(result.x[b], reference.x, atol=2e-3)
        np.testing.assert_allclose(result.fun[b], reference.fun, atol=1e-7)
        assert result.fun[b] <= reference.fun + 1e-12


def test_booth_solution_is_exact() -> None:
    result = minimize(booth, starts(5, 2), gain_tol=1e-18)
    np.testing.assert_allclose(result.x, np.tile([1.0, 3.0], (5, 1)), atol=1e-8)


def test_logistic_regression_equals_scipy_in_as_many_evaluations() -> None:
    fun = LogisticRegression(20)
    x0 = torch.zeros(20, 6, dtype=torch.float64)
    result = minimize(fun, x0)
    assert converged(result)
    references = [scipy_minimize(lambda x, b=b: fun(x, b), x0[b]) for b in range(20)]
    np.testing.assert_allclose(result.fun, [r.fun for r in references], atol=1e-7)
    np.testing.assert_allclose(result.x, np.stack([r.x for r in references]), atol=1e-3)
    assert result.nfev.sum() <= 1.1 * sum(r.nfev for r in references)


def test_rosenbrock_needs_no_more_evaluations_than_scipy() -> None:
    x0 = starts(20, 5)
    result = minimize(rosenbrock, x0)
    assert converged(result)
    assert result.nfev.sum() <= 1.1 * sum(scipy_minimize(rosenbrock, x).nfev for x in x0)


@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_ill_conditioned_quadratic(offset: float) -> None:
    curvature = torch.logspace(-3, 3, 8, dtype=torch.float64)
    centre = starts(8, seed=2)
    result = minimize(
        lambda x: offset + 0.5 * (curvature * (x - centre) ** 2).sum(-1),
        starts(30, 8),
        gain_tol=1e-14,
        max_iter=2000,
    )
    assert (result.status == Status.CONVERGED).all()
    # |g|^2/2 bounds the excess over the minimum by its value over the least curvature.
    np.testing.assert_allclose(result.fun, offset, rtol=0, atol=1e-14 / 1e-3 + 1e-12 * offset)


def test_slopes_lead_on_where_rounding_hides_the_decrease() -> None:
    curvature = torch.logspace(-1, 1, 6, dtype=torch.float64)
    # Values are multiples of 1.5e-8: the last four decades of the gain cannot be seen in them.
    result = minimize(
        lambda x: 1e8 + 0.5 * (curvature * x * x).sum(-1), starts(50, 6), gain_tol=1e-12
    )
    assert (result.status == Status.CONVERGED).all()


def test_flat_directions_are_left_alone() -> None:
    x0 = starts(10, 4)
    result = minimize(
        lambda x: (x[..., 0] + x[..., 1] - 1) ** 2 + x[..., 2] ** 4, x0, gain_tol=1e-14
    )
    assert (result.status == Status.CONVERGED).all()
    np.testing.assert_allclose(result.x[:, 0] + result.x[:, 1], 1, atol=1e-6)
    np.testing.assert_array_equal(result.x[:, 3], x0[:, 3])
    np.testing.assert_allclose(result.x[:, 0] - result.x[:, 1], x0[:, 0] - x0[:, 1], atol=1e-12)


def test_logarithmic_barrier() -> None:
    """For sum(x - c ln x) the minimum is at x = c; ln is nan for negative x."""
    c = torch.tensor([1e-4, 0.1, 1.0, 30.0], dtype=torch.float64)
    x0 = starts(20, 4).abs() + 0.1
    result = minimize(lambda x: (x - c * x.log()).sum(-1), x0, gain_tol=1e-16)
    assert (result.status == Status.CONVERGED).all()
    np.testing.assert_allclose(result.x, c.expand(20, 4), rtol=1e-5)


def test_nan_outside_a_ball() -> None:
    def fun(x: Tensor) -> Tensor:
        inside = (x * x).sum(-1) < 4
        return torch.where(inside, rosenbrock(x), torch.nan)

    result = minimize(fun, 0.5 * torch.nn.functional.normalize(starts(30, 3), dim=-1))
    assert converged(result)
    np.testing.assert_allclose(result.x, 1, atol=1e-3)


def test_gradient_that_is_nan_is_a_forbidden_point() -> None:
    """The value goes on falling below zero, where the root is masked, but the gradient is nan."""

    def fun(x: Tensor) -> Tensor:
        return (x - 0.2 * torch.where(x > 0, x.sqrt(), 0)).sum(-1)

    result = minimize(fun, torch.full((2, 1), 0.5, dtype=torch.float64), gain_tol=1e-14)
    assert converged(result)
    np.testing.assert_allclose(result.x, 0.01, rtol=1e-6)


def test_infinite_value_is_stepped_back_from() -> None:
    """The first steps, in search of an end to a long slope, land where the value overflows."""
    result = minimize(lambda x: ((x**8).exp() - 1e6 * x).sum(-1), torch.zeros(3, 1).double())
    assert converged(result)
    root = scipy.optimize.brentq(lambda x: 8 * x**7 * np.exp(x**8) - 1e6, 1, 2)
    np.testing.assert_allclose(result.x, root, rtol=1e-6)


def test_kink_is_approached() -> None:
    """No gradient vanishes at the minimum of |x|_1, but the line search closes in on it."""
    result = minimize(lambda x: x.abs().sum(-1), starts(20, 2), gain_tol=0.0)
    assert (result.fun < 1e-3).all()


def test_values_never_rise() -> None:
    seen: list[Minimum] = []
    minimize(lambda x: 1e6 + rosenbrock(x), starts(20, 3), callback=seen.append)
    values = torch.stack([m.fun for m in seen])
    # Where rounding dominates the slopes decide; a value may then rise by rounding errors.
    assert (values.diff(dim=0) <= 100 * 2.3e-16 * 1e6).all()
    assert (values[1:] <= values[0]).all()
