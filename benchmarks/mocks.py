"""Fit fifty disks: whether every fit succeeds, and its optimum is the best there is.

Stars in gala's Milky Way between R = 5 and 11 kpc, 50,000 to 1,000,000 of them, with random
offsets. Each is fitted from `auto_init` alone. Then SciPy looks for something better from there: by
Newton steps with exact Hessians (trust-exact, in the box's coordinates), and by bounded L-BFGS-B in
the parameters themselves. Run as::

    python benchmarks/mocks.py [--n 50] [--write]
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import astropy.units as u
import numpy as np
import torch
from astropy.table import Table
from disk_mock import SETTINGS
from numpy.typing import NDArray
from results_file import write_section
from scipy.optimize import minimize

from torusimaging_torch import TorusImaging1DSpline
from torusimaging_torch.data import get_binned_label
from torusimaging_torch.evaluation.by_autograd import batched_hessian
from torusimaging_torch.inference.posterior import Posterior
from torusimaging_torch.numerics import Box
from torusimaging_torch.simulate import milky_way, milky_way_disk


def draw(rng: np.random.Generator) -> tuple[u.Quantity, int, dict[str, Any]]:
    """Return a radius, a number of stars and the settings of a mock."""
    radius = rng.uniform(5, 11) * u.kpc
    n = int(np.exp(rng.uniform(np.log(5e4), np.log(1e6))))
    offsets = {"pos0": rng.normal(0, 0.03) * u.kpc, "vel0": rng.normal(0, 5) * u.km / u.s}
    return radius, n, {"seed": int(rng.integers(2**31)), **offsets}


def bin_stars(stars: Table) -> dict[str, Any]:
    """Bin a mock on a grid that reaches out to the 98th percentile of its stars."""
    edges = {}
    for name, column in (("pos", "z"), ("vel", "v_z")):
        edge = np.percentile(np.abs(stars[column]), 98)
        edges[name] = np.linspace(-edge, edge, 81)
    return get_binned_label(
        stars["z"], stars["v_z"], stars["label"], bins=edges, label_err=stars["label_err"]
    )


def refine(posterior: Posterior, box: Box, x: torch.Tensor) -> float:
    """Return the nats that SciPy still finds from a point."""
    start = float(posterior(x))
    return max(newton(posterior, box, x), bounded(posterior, box, x)) - start


def newton(posterior: Posterior, box: Box, x: torch.Tensor) -> float:
    """Return the best ln L - R of a trust-region Newton method in the box's coordinates."""

    def energy(u_: torch.Tensor) -> torch.Tensor:
        return -posterior(box(u_))

    def value(u_: NDArray[Any]) -> tuple[float, NDArray[Any]]:
        v = torch.tensor(u_, requires_grad=True)
        e = energy(v)
        return e.item(), torch.autograd.grad(e, v)[0].numpy()

    def hessian(u_: NDArray[Any]) -> NDArray[Any]:
        return batched_hessian(energy, torch.tensor(u_)).detach().numpy()

    result = minimize(
        value,
        box.inv(x).numpy(),
        jac=True,
        hess=hessian,
        method="trust-exact",
        options={"maxiter": 300, "gtol": 1e-8},
    )
    return -float(result.fun)


def bounded(posterior: Posterior, box: Box, x: torch.Tensor) -> float:
    """Return the best ln L - R of SciPy's L-BFGS-B, each parameter in units of its error."""
    information = posterior.information(x)
    scale = information.diagonal().clamp(min=1e-6).rsqrt().numpy()

    def value(y: NDArray[Any]) -> tuple[float, NDArray[Any]]:
        v = torch.tensor(y * scale, requires_grad=True)
        e = -posterior(v)
        return e.item(), torch.autograd.grad(e, v)[0].numpy() * scale

    bounds = np.stack([box.lower.numpy(), box.upper.numpy()], -1) / scale[:, None]
    options = {"maxiter": 3000, "maxfun": 3000, "ftol": 1e-15, "gtol": 1e-9, "maxcor": 30}
    y0 = np.clip(x.numpy() / scale, bounds[:, 0], bounds[:, 1])
    result = minimize(
        value, y0, jac=True, method="L-BFGS-B", bounds=bounds.tolist(), options=options
    )
    return -float(result.fun)


def run(index: int, rng: np.random.Generator) -> dict[str, Any]:
    """Simulate, fit and refine one mock."""
    radius, n, settings = draw(rng)
    binned = bin_stars(milky_way_disk(n, R=radius, **settings))
    start = time.perf_counter()
    model, bounds, init = TorusImaging1DSpline.auto_init(binned, **SETTINGS)
    initialized = time.perf_counter()
    params, state = model.optimize(init, "gaussian", bounds, **binned)
    stop = time.perf_counter()
    posterior, vector = model.posterior_at(params, binned)
    box = model.border.box(bounds, posterior.layout)
    z = np.linspace(0.05, 0.9, 60) * binned["pos"].max()
    truth = milky_way(radius).acceleration(z)
    error = model.get_acceleration(z + params["pos0"].item() * u.kpc, params) / truth - 1
    return {
        "mock": index,
        "R": radius,
        "stars": n,
        "pixels": int(posterior.pixels.n),
        "success": state.success,
        "iterations": state.iter_num,
        "evaluations": state.num_fun_eval,
        "auto_init": (initialized - start) * u.s,
        "optimize": (stop - initialized) * u.s,
        "expected gain": state.expected_gain,
        "SciPy's gain": refine(posterior, box, vector),
        "rms a_z error": float(np.sqrt(np.mean(error**2))) * 100 * u.percent,
        "chi2/N": 2 * -float(posterior.ln_likelihood(params)) / int(posterior.pixels.n),
    }


def main() -> None:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=50, help="number of mocks")
    parser.add_argument("--write", action="store_true", help="write RESULTS.md's section")
    arguments = parser.parse_args()
    rng = np.random.default_rng(20250101)
    rows = []
    for index in range(arguments.n):
        rows.append(run(index, rng))
        print(*(f"{k}={v}" for k, v in rows[-1].items()), flush=True)
    gains = np.array([row["SciPy's gain"] for row in rows])
    errors = np.array([row["rms a_z error"].value for row in rows])
    summary = (
        f"{sum(row['success'] for row in rows)} of {len(rows)} fits succeed; SciPy finds at most "
        f"{gains.max():.1e} nats more; rms error of a_z (0.05-0.9 of the grid): median "
        f"{np.median(errors):.2f} %, largest {errors.max():.2f} %; iterations: median "
        f"{np.median([row['iterations'] for row in rows]):.0f}, largest "
        f"{max(row['iterations'] for row in rows)}."
    )
    print(summary)
    if arguments.write:
        write_section("Fifty disks", "python benchmarks/mocks.py --write", summary, rows)


if __name__ == "__main__":
    main()
