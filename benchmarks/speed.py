"""The table of speeds: each thing that a user waits for, by us and by others, in one run.

CPU seconds of one process (medians of several calls; cold is the first call of a process after the
imports), with what was reached beside them. Upstream runs in a Python of its own: ``make bench``
makes one, or name it by --upstream. Run as::

    python benchmarks/speed.py [--quick] [--upstream .venv-upstream/bin/python] [--write]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import astropy.units as u
import numpy as np
import torch
from results_file import command_line, write_section
from speed_problem import MODEL, MODELS, POSITIONS, Problem, simulated

from torusimaging_torch import TorusImaging1DPotential, TorusImaging1DSpline
from torusimaging_torch.batch import fit_many
from torusimaging_torch.data import get_binned_counts, get_binned_label
from torusimaging_torch.results import profiles
from torusimaging_torch.simulate import milky_way_disk

HERE = Path(__file__).resolve().parent
Row = dict[str, Any]


def cpu(run: Callable[[], Any], repeats: int) -> tuple[Any, float, float]:
    """Return what a call returns, the CPU time of the first, and the median of the later ones."""
    times = []
    for _ in range(1 + repeats):
        start = time.process_time()
        result = run()
        times.append(time.process_time() - start)
    return result, times[0], float(np.median(times[1:]))


def evaluations(problem: Problem, repeats: int) -> Iterator[Row]:
    """Time the posterior and its gradient by each implementation that runs here."""
    for splines, settings in MODELS.items():
        model, _, start = TorusImaging1DSpline.auto_init(problem.binned, **settings)
        for who in ("numba", "torch", "autograd"):
            posterior, x = model.posterior_at(start, problem.pixels, evaluation=who)
            (value, _), cold, warm = cpu(partial(posterior.value_and_gradient, x), repeats)
            who = f"ours, {splines}, {who}"
            reading = f"objective {-float(value) / len(problem.pixels['pos']):.8f}"
            yield row("value and gradient, 17 parameters", who, cold, warm, reading)


def analysis(problem: Problem, repeats: int) -> Iterator[Row]:
    """Time the steps of one analysis."""
    for splines, settings in MODELS.items():
        who, pixels = f"ours, {splines}", problem.pixels
        init = partial(TorusImaging1DSpline.auto_init, problem.binned, **settings)
        (model, bounds, start), cold, warm = cpu(init, repeats)
        yield row("auto_init", who, cold, warm, "")
        fit = partial(model.optimize, start, "gaussian", bounds, **pixels)
        (params, state), cold, warm = cpu(fit, repeats)
        yield row("optimize", who, cold, warm, reached(problem, model, params, state))
        bound = partial(model.get_crlb, params, pixels, bounds=bounds)
        covariance, cold, warm = cpu(bound, repeats)
        size = int(covariance.diagonal().isfinite().sum())
        yield row("get_crlb", who, cold, warm, f"{size} parameters have a bound")
        at = partial(profiles, model, params, POSITIONS, covariance)
        _, cold, warm = cpu(at, repeats)
        yield row("profiles with errors at 100 heights", who, cold, warm, "")
        if splines == "quadratic":
            yield scipy_fit(problem, model, bounds, start, repeats)


def potential(n_stars: int, repeats: int) -> Iterator[Row]:
    """Time the potential, of labels alone and with star counts."""
    stars, half = milky_way_disk(n_stars, R=8.3 * u.kpc, seed=1), np.linspace(-1, 1, 81)
    bins = {"pos": 2 * half * u.kpc, "vel": 90 * half * u.km / u.s}
    where = stars["z"], stars["v_z"]
    labels = get_binned_label(*where, stars["label"], bins, label_err=stars["label_err"])
    both = {"label": labels, "counts": get_binned_counts(*where, bins)}
    kinds = {"label": "gaussian", "counts": "poisson"}
    for what, data, objective in (
        ("potential", labels, "gaussian"),
        ("potential, labels and counts", both, kinds),
    ):
        init = partial(TorusImaging1DPotential.auto_init, data)
        (model, bounds, start), cold, warm = cpu(init, repeats)
        yield row(f"auto_init, {what}", "ours", cold, warm, "")
        fit = partial(model.optimize, start, objective, bounds, data=data)
        (params, state), cold, warm = cpu(fit, repeats)
        reading = f"objective {state.fun_val:.8f}, {state.num_fun_eval} evaluations"
        yield row(f"optimize, {what}", "ours", cold, warm, reading)
        for who in ("numba", "torch", "autograd"):
            posterior, x = model.posterior_at(params, data, objective, who)
            _, cold, warm = cpu(partial(posterior.value_and_gradient, x), 5 * repeats)
            pixels = f"{len(x)} parameters, {int(posterior.pixels.n)} pixels"
            yield row(f"value and gradient, {what}", f"ours, {who}", cold, warm, pixels)
        bound = partial(model.get_crlb, params, data, objective, bounds=bounds)
        _, cold, warm = cpu(bound, repeats)
        yield row(f"get_crlb, {what}", "ours", cold, warm, "")
        check = partial(model.check_laplace, params, data, objective, bounds=bounds, size=500)
        found, cold, warm = cpu(check, 1)
        yield row(f"check_laplace, {what}", "ours", cold, warm, f"k-hat {found.khat:.2f}")


def reached(problem: Problem, model: Any, params: Any, state: Any) -> str:
    """Return the objective and the error of the acceleration."""
    objective = float(model.objective_gaussian(params, **problem.pixels))
    a = np.asarray(model.get_acceleration(problem.z * u.kpc, params).to_value(u.kpc / u.Myr**2))
    error = 100 * np.sqrt(np.mean((a / problem.truth - 1) ** 2))
    return f"objective {objective:.8f}, a_z {error:.2g} %, success {bool(state.success)}"


def scipy_fit(problem: Problem, model: Any, bounds: Any, start: Any, repeats: int) -> Row:
    """Time SciPy's L-BFGS-B with our value and gradient, in the box, without our coordinates."""
    from scipy.optimize import minimize

    posterior, x0 = model.posterior_at(start, problem.pixels)
    box = model.border.box(bounds, posterior.layout)
    n = float(posterior.pixels.n)

    def fun(x: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = posterior.value_and_gradient(torch.from_numpy(x))
        return -float(value) / n, -gradient.numpy() / n

    limits = np.stack([box.lower.numpy(), box.upper.numpy()], -1)
    run = partial(minimize, fun, x0.numpy(), jac=True, method="L-BFGS-B", bounds=limits)
    found, cold, warm = cpu(run, repeats)
    params = posterior.layout.unflatten(torch.from_numpy(found.x))
    reading = reached(problem, model, params, found)
    return row("optimize", "SciPy's L-BFGS-B with our gradient", cold, warm, reading)


def many(n_fits: int) -> Iterator[Row]:
    """Time fits of the published shape of work, all in: reading, start, fit and errors."""
    stars = milky_way_disk(20_000, R=8.3 * u.kpc, seed=1)
    edges = {"pos": np.linspace(-1.5, 1.5, 101) * u.kpc, "vel": np.linspace(-90, 90, 101)}
    edges["vel"] = edges["vel"] * u.km / u.s
    rng, binned = np.random.default_rng(0), []
    for _ in range(n_fits):
        some = stars[rng.integers(0, len(stars), len(stars))]
        binned.append(
            get_binned_label(
                some["z"], some["v_z"], some["label"], edges, label_err=some["label_err"]
            )
        )
    fit_many(binned[:2], progress=False, **MODEL)  # compiles
    start, wall = time.process_time(), time.perf_counter()
    result = fit_many(binned, progress=False, **MODEL)
    spent, wall = time.process_time() - start, time.perf_counter() - wall
    good = int(np.asarray(result.success).sum())
    good = f"{good} of {n_fits} converge, {1e3 * wall / n_fits:.3g} ms of wall time"
    yield row("fit_many, published shape, per fit", "ours", None, spent / n_fits, good)


def sampler(problem: Problem, n_draws: int) -> Iterator[Row]:
    """Time NUTS on the mock."""
    model, bounds, start = TorusImaging1DSpline.auto_init(problem.binned, **MODELS["cubic"])
    best = model.optimize(start, "gaussian", bounds, **problem.pixels).params
    begin = time.process_time()
    samples = model.sample(
        problem.pixels, best, bounds, num_samples=n_draws, num_warmup=n_draws, seed=1
    )
    spent = time.process_time() - begin
    chains = samples.chains
    gradients = int(chains.n_gradients.sum()) + int(chains.n_gradients_warmup)
    yield row("NUTS, per gradient", "ours", None, spent / gradients, f"{gradients} gradients")
    ess = float(min(samples.ess_bulk.min(), samples.ess_tail.min()))
    rate = f"{ess / spent:.3g} effective draws a second, least of all parameters"
    yield row("NUTS, per effective draw", "ours", None, spent / ess, rate)


def large(n_pixels: int, repeats: int) -> Iterator[Row]:
    """Time one evaluation of a large problem, and the memory it takes."""
    model, pixels, params = simulated(n_pixels)
    for who in ("numba", "torch"):
        posterior, x = model.posterior_at(params, pixels, evaluation=who)
        _, cold, warm = cpu(partial(posterior.value_and_gradient, x), repeats)
        what = f"value and gradient, {len(x)} parameters, {n_pixels} pixels"
        yield row(what, f"ours, {who}", cold, warm, "")


def row(what: str, who: str, cold: float | None, warm: float, reading: str) -> Row:
    """Return a row of the table, and print it."""
    found = {"what": what, "who": who, "cold [ms]": "", "warm [ms]": 1e3 * warm, "reached": reading}
    if cold is not None:
        found["cold [ms]"] = 1e3 * cold
    print(
        f"{what:60s} {who:36s} {1e3 * (cold or 0):10.3g} {1e3 * warm:10.3g}  {reading}", flush=True
    )
    return found


def upstream_rows(python: str, repeats: int) -> list[Row]:
    """Return upstream's rows, of a process in its own environment."""
    command = [python, str(HERE / "speed_upstream.py"), "--repeats", str(repeats)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [row(*found) for found in json.loads(done.stdout.splitlines()[-1])]


def compared(rows: list[Row]) -> list[Row]:
    """Say how many times faster than upstream ours is, step by step, and sort by steps."""
    theirs = {r["what"]: r["warm [ms]"] for r in rows if r["who"] == "upstream"}
    for r in rows:
        if r["what"] in theirs and r["who"] != "upstream":
            r["times faster than upstream"] = theirs[r["what"]] / r["warm [ms]"]
    steps = list(dict.fromkeys(r["what"] for r in rows))
    return sorted(rows, key=lambda r: steps.index(r["what"]))


def main() -> None:
    """Measure, and write the table if asked to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few repeats, small sizes")
    parser.add_argument("--upstream", metavar="PYTHON", help="a Python that has torusimaging")
    parser.add_argument("--write", action="store_true", help="write the results")
    options = parser.parse_args()
    torch.set_num_threads(1)
    repeats, problem = (3, Problem.quick()) if options.quick else (11, Problem.mock())
    rows: list[Row] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for found in (
            evaluations(problem, 5 * repeats),
            analysis(problem, repeats),
            potential(20_000 if options.quick else 200_000, repeats),
            many(4 if options.quick else 64),
            sampler(problem, 20 if options.quick else 1000),
            large(10_000 if options.quick else 1_000_000, repeats),
        ):
            rows += found
        if options.upstream:
            rows += upstream_rows(options.upstream, 2 if options.quick else 3)
    if options.write:
        write_section("Speed", command_line(), SUMMARY, compared(rows))


SUMMARY = """CPU time of one thread: cold is the first call of a process after the imports, warm the
median of later ones. The disk mock (200,000 simulated stars, binned by upstream: 5,921 pixels) with
upstream's knots and penalty; quadratic splines are upstream's own, cubic ones our default. The
optimum of the quadratic model is 0.58014641. Upstream's `get_crlb` raises with its own penalty, so
it is timed without. The potential is fitted to 200,000 stars in 80 x 80 pixels of their own, which
upstream has no model for. Upstream's gradient is compiled by hand; its `optimize` compiles anew at
each call."""

if __name__ == "__main__":
    main()
