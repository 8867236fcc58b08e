"""How often the truth lies within the errors of both models: the bound's, and those of NUTS.

Disks as in accuracy.py. Of the bound a pull is the error of an estimate over its standard error;
of samples it is the same of their mean and scatter, and the shares are those of central intervals.
Samples are slow: the bound of the same disks stands beside them. Run as::

    python benchmarks/pulls.py [--mocks 200] [--nuts 25] [--seed 1000] [--write]
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from typing import Any, NamedTuple

import astropy.units as u
import numpy as np
import torch
from accuracy import WAYS, Fit, binned
from results_file import command_line, write_section

from torusimaging_torch.results import FitResult
from torusimaging_torch.simulate import milky_way

HEIGHTS = [0.3, 0.5, 0.8, 1.1] * u.kpc
RADIUS = 8.3 * u.kpc
STARS = 200_000
TITLE = "Calibration of both models"


class Judged(NamedTuple):
    """A pull, and whether the truth lies within the intervals of 68 and 95 per cent."""

    pull: float
    within_68: bool
    within_95: bool


def judge_error(value: Any, error: Any, truth: Any) -> Judged:
    """Judge a value with a standard error."""
    pull = float(((value - truth) / error).to_value(""))
    return Judged(pull, abs(pull) < 1, abs(pull) < 1.96)


def judge_draws(draws: Any, truth: Any) -> Judged:
    """Judge draws of a posterior."""
    rank = float(np.mean(draws < truth))
    pull = float(((draws.mean() - truth) / draws.std()).to_value(""))
    return Judged(pull, abs(rank - 0.5) < 0.34, abs(rank - 0.5) < 0.475)


def by_bound(fit: Fit) -> dict[str, Judged]:
    """Judge the errors of the bound, by quantity."""
    model, bounds, (params, state), data, objective = fit
    covariance = model.get_crlb(params, data, objective=objective, bounds=bounds)
    result = FitResult(model, params, bounds, state, objective, {}, covariance)
    found = result.profiles(HEIGHTS + result.quantity("pos0"))
    true = milky_way(RADIUS).acceleration(HEIGHTS)
    judged = {
        f"a_z({where:g})": judge_error(value, error, truth)
        for where, value, error, truth in zip(
            HEIGHTS, found["acceleration"], found["acceleration_err"], true, strict=True
        )
    }
    for name in ("pos0", "vel0"):  # zero in these disks
        value, error = result.measured(name)
        judged[name] = judge_error(value, error, 0 * error)
    return judged


def by_nuts(steps: int, seed: int, fit: Fit) -> dict[str, Judged]:
    """Judge samples of the posterior, by quantity."""
    model, bounds, (params, _), data, objective = fit
    samples = model.sample(
        data, params, bounds, objective=objective, num_samples=steps, num_warmup=steps, seed=seed
    )
    went = f"R-hat {float(samples.rhat.max()):.3f}, ESS {float(samples.ess_bulk.min()):.0f}"
    print(f"seed {seed}: {int(samples.chains.n_gradients.sum())} gradients, {went}", flush=True)
    draws = {name: samples.params[name].numpy() * u.one for name in ("pos0", "vel0")}
    judged = {name: judge_draws(one, 0.0) for name, one in draws.items()}  # zero in these disks
    where = float(samples.params["pos0"].mean()) * u.kpc + HEIGHTS
    force = model.get_acceleration(where, samples.params)
    true = milky_way(RADIUS).acceleration(HEIGHTS)
    for i, z in enumerate(HEIGHTS):
        judged[f"a_z({z:g})"] = judge_draws(force[:, i], true[i])
    return judged


def one_mock(ways: list[str], steps: int, seed: int) -> dict[tuple[str, str], Judged]:
    """Fit one disk in each way, and judge its errors; ``steps`` of NUTS, or none."""
    torch.set_num_threads(1)
    both, judged = binned(STARS, RADIUS, seed), {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        for way in ways:
            fit = WAYS[way](*both)
            kinds: dict[str, Callable[[Fit], dict[str, Judged]]] = {"bound": by_bound}
            if steps:
                kinds["NUTS"] = partial(by_nuts, steps, seed)
            for kind, judge in kinds.items():
                judged |= {(f"{way}, {kind}", key): one for key, one in judge(fit).items()}
    return judged


def rows_of(mocks: list[dict[tuple[str, str], Judged]]) -> list[dict[str, Any]]:
    """Return the rows of the table: shares, mean and scatter of the pulls, by way and quantity."""
    rows = []
    for key in mocks[0]:
        all_of = [mock[key] for mock in mocks]
        pulls = np.array([one.pull for one in all_of])
        row = {
            "errors": key[0],
            "of": key[1],
            "mocks": len(mocks),
            "in 68 %": f"{100 * np.mean([one.within_68 for one in all_of]):.0f} %",
            "in 95 %": f"{100 * np.mean([one.within_95 for one in all_of]):.0f} %",
            "mean pull": f"{np.mean(pulls):+.2f}",
            "scatter": f"{np.std(pulls):.2f}",
        }
        print(*row.values(), sep="  ", flush=True)
        rows.append(row)
    return rows


def main() -> None:
    """Measure, and write the tables if asked to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mocks", type=int, default=200, help="judged by the bound")
    parser.add_argument("--nuts", type=int, default=0, help="judged by NUTS and the bound")
    parser.add_argument("--steps", type=int, default=500, help="draws, and steps of warm-up")
    parser.add_argument("--seed", type=int, default=1000, help="of the first disk")
    parser.add_argument("--jobs", type=int, default=2, help="processes at once")
    parser.add_argument("--ways", nargs="*", default=list(WAYS)[:3], choices=list(WAYS))
    parser.add_argument("--write", action="store_true", help="write the results")
    options = parser.parse_args()
    for n, steps in ((options.mocks, 0), (options.nuts, options.steps)):
        if not n:
            continue
        with ProcessPoolExecutor(options.jobs, get_context("spawn")) as pool:
            seeds = range(options.seed, options.seed + n)
            rows = rows_of(list(pool.map(partial(one_mock, options.ways, steps), seeds)))
        if options.write:
            title = TITLE + (" by NUTS" if steps else "")
            text = f"{n} mocks of {STARS:,} stars at R = {RADIUS:g}."
            text += f" {steps} draws after {steps} steps of warm-up." if steps else ""
            write_section(title, command_line(), text, rows)


if __name__ == "__main__":
    main()
