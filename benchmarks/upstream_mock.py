"""The disk mock, fitted by upstream and by us: time, objective and error of the acceleration.

Both fit the same pixels (shared/data/disk_mock_upstream_binned.npz, 200,000 simulated stars binned
by upstream) with the same knots, quadratic splines and penalty. Upstream starts from its own
auto_init, which puts every e value on its lower bound, and from e values set by hand; ours from
auto_init alone. Objectives are evaluated again at the parameters that come back, because SciPy's
L-BFGS-B may report another point's value when its line search gives up.

Run ``python benchmarks/upstream_mock.py`` in an environment with both; ``--write`` puts the table
into benchmarks/RESULTS.md. Cold is the first call of a process, imports left out; warm is the best
of the later ones. Upstream's `optimize` compiles anew at each call: the row "compiled once" runs
SciPy's L-BFGS-B on its compiled objective instead, which its interface does not offer.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import warnings
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from typing import Any

import astropy.units as u
import numpy as np
from disk_mock import ORDERS, SETTINGS, read_mock
from results_file import write_section

TITLE = "The disk mock: upstream and ours"
WHO = "who, and where it started"

Row = dict[str, Any]

# Log slopes of e_2 and e_4 that upstream is started from, besides those of its auto_init. Its users
# take -0.5 and ln(0.05 / last label knot).
HAND_SET = ((-0.5, -1.756), (-1.0, -3.0), (-3.0, -3.0))
BEST_KNOWN = 0.58014641


def timed(run: Callable[[], Any], calls: int) -> tuple[Any, list[float]]:
    """Return what the last call returns, and the time that each call took."""
    times = []
    for _ in range(calls):
        start = time.perf_counter()
        result = run()
        times.append(time.perf_counter() - start)
    return result, times


def describe(
    who: str,
    model: Any,
    params: Any,
    counts: tuple[int, int, bool],
    times: list[float],
    data: Any,
    truth: dict[str, np.ndarray],
) -> Row:
    """Return the row of a fit, and print it.

    ``counts`` are its iterations, its evaluations and whether it converged. The first of several
    times is the cold one.
    """
    z = np.linspace(0.05, 1.1, 200)
    a = model.get_acceleration(z * u.kpc, params).to_value(u.kpc / u.Myr**2)
    error = 100 * (np.asarray(a) / np.interp(z, truth["z"], truth["az"]) - 1)
    row = {
        WHO: who,
        "objective": f"{float(model.objective_gaussian(params, **data)):.8f}",
        "rms a_z error": np.sqrt(np.mean(error**2)) * u.percent,
        "largest": np.abs(error).max() * u.percent,
        "ln_Omega0": f"{float(params['ln_Omega0']):.4f}",
        "success": bool(counts[2]),
        "iterations": int(counts[0]),
        "evaluations": int(counts[1]),
        "cold": times[0] * u.s if len(times) > 1 else "",
        "warm": min(times[1:] or times) * u.s,
    }
    print(*row.values(), sep="  ", flush=True)
    return row


def outcome(state: Any) -> tuple[int, int, bool]:
    return state.iter_num, state.num_fun_eval, state.success


def run_upstream(binned: Any, data: Any, truth: Any, repeats: int) -> list[Row]:
    """Fit with upstream from its own start and from those set by hand."""
    import jax

    jax.config.update("jax_enable_x64", True)
    from torusimaging import TorusImaging1DSpline

    init = partial(TorusImaging1DSpline.auto_init, binned, **SETTINGS)
    (model, bounds, start), seconds = timed(init, 1)
    print(f"upstream: auto_init {seconds[0]:.2f} s, {len(data['pos'])} pixels", flush=True)
    run = partial(model.optimize, start, "gaussian", bounds, **data)
    result, times = timed(run, 1 + repeats)
    own = "upstream, its auto_init"
    rows = [describe(own, model, result.params, outcome(result.state), times, data, truth)]
    rows.append(compiled_once(model, bounds, start, data, truth, repeats))
    for values in HAND_SET:
        params = {**start, "e_params": {}}
        for m, value in zip(ORDERS, values, strict=True):
            n = len(start["e_params"][m]["vals"])
            params["e_params"][m] = {"vals": np.full(n, value)}
        result, times = timed(partial(model.optimize, params, "gaussian", bounds, **data), 1)
        who = f"upstream, e vals {values[0]}, {values[1]}"
        rows.append(describe(who, model, result.params, outcome(result.state), times, data, truth))
    return rows


def compiled_once(model: Any, bounds: Any, start: Any, data: Any, truth: Any, repeats: int) -> Row:
    """Time upstream's objective under SciPy's L-BFGS-B without what its optimize compiles anew."""
    import jax
    from jax.flatten_util import ravel_pytree
    from scipy.optimize import minimize

    floats = jax.tree_util.tree_map(lambda x: np.asarray(x, dtype=float), start)
    x0, unravel = ravel_pytree(floats)
    lower, upper = (np.asarray(ravel_pytree(b)[0]) for b in model.unpack_bounds(bounds))
    both = jax.jit(jax.value_and_grad(lambda x: model.objective_gaussian(unravel(x), **data)))

    def fun(x: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = both(x)
        return float(value), np.asarray(gradient)

    box = list(zip(lower, upper, strict=True))
    fit = partial(minimize, fun, np.asarray(x0), jac=True, method="L-BFGS-B", bounds=box)
    result, times = timed(fit, 2 + repeats)
    counts = result.nit, result.nfev, result.success
    return describe("the same, compiled once", model, unravel(result.x), counts, times, data, truth)


def run_ours(binned: Any, data: Any, truth: Any, repeats: int) -> list[Row]:
    """Fit with ours from auto_init, with upstream's knots and with our own."""
    from torusimaging_torch import TorusImaging1DSpline

    variants: dict[str, dict[str, Any]] = {
        "ours, upstream's knots": {"knots": "upstream", "e_spline": "quadratic"},
        "ours, knots that cover the data": {"e_spline": "quadratic"},
        "ours, the same, cubic splines": {},
    }
    rows = []
    for who, choices in variants.items():
        init = partial(TorusImaging1DSpline.auto_init, binned, **SETTINGS, **choices)
        (model, bounds, start), seconds = timed(init, 1)
        print(f"{who}: auto_init {seconds[0]:.2f} s", flush=True)
        run = partial(model.optimize, start, "gaussian", bounds, **data)
        result, times = timed(run, 1 + max(repeats, 3))
        rows.append(describe(who, model, result.params, outcome(result.state), times, data, truth))
        if not choices.get("knots"):
            continue
        run = partial(fit_in_the_box_alone, model, start, bounds, data)
        (params, counts), times = timed(run, 2)
        rows.append(describe("ours, not whitened", model, params, counts, times, data, truth))
    return rows


def fit_in_the_box_alone(model: Any, start: Any, bounds: Any, data: Any) -> Any:
    """Run our L-BFGS in the coordinates of the box, without whitening: what would become of it."""
    from torusimaging_torch.numerics import Status
    from torusimaging_torch.numerics import minimize as lbfgs

    posterior, vector = model.posterior_at(start, data)
    layout = posterior.layout
    box = model.border.box(bounds, layout)
    u0 = box.inv(vector)
    found = lbfgs(lambda u: -posterior(box(u)), u0, gain_tol=1e-9, max_iter=500, history=20)
    counts = int(found.nit), int(found.nfev), int(found.status) == Status.CONVERGED
    return layout.unflatten(box(found.x)), counts


def summarize(rows: list[Row]) -> str:
    """Add how much faster each fit is than upstream's warm call from its own start; explain."""
    reference = rows[0]["warm"]
    for row in rows:
        row["times faster"] = float(reference / row["warm"])
    packages = ", ".join(f"{name} {version(name)}" for name in ("torusimaging", "jax", "jaxopt"))
    return f"""Against {packages}; load average {LOAD:.1f} at the start, {os.getloadavg()[0]:.1f} at
the end. With upstream's knots the best objective known is {BEST_KNOWN}. Upstream's own objective is
evaluated at what it returns. Times are of `optimize` alone: upstream's compiles at each call, and
"compiled once" is SciPy's L-BFGS-B on its objective without that. The last column compares with
upstream's warm call from its own start. Errors of a_z are over 0.05-1.1 kpc."""


LOAD = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=2, help="warm calls of each fit")
    parser.add_argument("--no-upstream", action="store_true", help="ours alone")
    parser.add_argument("--write", action="store_true", help="write benchmarks/RESULTS.md")
    options = parser.parse_args()
    if options.no_upstream and options.write:
        sys.exit("--write needs both; leave --no-upstream out")
    binned, data, truth = read_mock()
    rows = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # upstream's failures are in the table
        if not options.no_upstream:
            rows += run_upstream(binned, data, truth, options.repeats)
        rows += run_ours(binned, data, truth, options.repeats)
    if options.no_upstream:
        return
    summary = summarize(rows)
    print(summary, *(f"{row['times faster']:8.2f}  {row[WHO]}" for row in rows), sep="\n")
    if options.write:
        write_section(TITLE, "python benchmarks/upstream_mock.py --write", summary, rows)


if __name__ == "__main__":
    main()
