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
import platform
import re
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import astropy.units as u
import numpy as np

HERE = Path(__file__).resolve().parent
SHARED = Path(os.environ.get("TORUSIMAGING_SHARED_DATA", HERE.parent.parent / "shared" / "data"))
RESULTS = HERE / "RESULTS.md"
TITLE = "The disk mock: upstream and ours"

ORDERS = (2, 4)
MODEL: dict[str, Any] = {
    "label_knots": 4,
    "e_knots": {2: 8, 4: 4},
    "e_knots_spacing_power": 0.5,
    "label_l2_sigma": 1.0,
    "label_smooth_sigma": 0.5,
    "e_l2_sigmas": dict.fromkeys(ORDERS, 1.0),
    "e_smooth_sigmas": dict.fromkeys(ORDERS, 0.5),
    "dacc_strength": 1e2,
}
# Log slopes of e_2 and e_4 that upstream is started from, besides those of its auto_init. Its users
# take -0.5 and ln(0.05 / last label knot).
HAND_SET = ((-0.5, -1.756), (-1.0, -3.0), (-3.0, -3.0))
BEST_KNOWN = 0.58014641


@dataclass
class Row:
    """One line of the table."""

    who: str
    objective: float
    rms: float
    worst: float
    ln_Omega0: float
    iterations: int
    evaluations: int
    status: str
    cold: float
    warm: float

    def cells(self, reference: float) -> list[str]:
        """Return the row as text; ``reference`` is the time that it is compared with."""
        ratio = reference / self.warm
        return [
            self.who,
            f"{self.objective:.8f}",
            f"{100 * self.rms:.1f} %",
            f"{100 * self.worst:.1f} %",
            f"{self.ln_Omega0:.4f}",
            f"{self.iterations}",
            f"{self.evaluations}",
            self.status,
            "" if np.isnan(self.cold) else f"{self.cold:.2f}",
            "" if np.isnan(self.warm) else f"{self.warm:.3f}",
            "" if np.isnan(ratio) else f"{ratio:.1f}",
        ]


HEADER = [
    "who, and where it started", "objective", "rms error of a_z", "largest", "ln Omega0",
    "iterations", "evaluations", "status", "cold [s]", "warm [s]", "times faster",
]  # fmt: skip


def read_mock() -> tuple[dict[str, Any], dict[str, Any], dict[str, np.ndarray]]:
    """Return the binned data, its usable pixels alone, and the true acceleration."""
    with np.load(SHARED / "disk_mock_upstream_binned.npz") as stored:
        raw = dict(stored)
    truth = {key: raw.pop(f"truth_{key}") for key in ("z", "az")}
    binned: dict[str, Any] = dict(raw)
    binned["pos"], binned["vel"] = raw["pos"] * u.kpc, raw["vel"] * u.kpc / u.Myr
    label, label_err = binned["label"], binned["label_err"]
    usable = np.isfinite(label) & np.isfinite(label_err) & (label_err > 0)
    keys = ("pos", "vel", "label", "label_err")
    return binned, {key: raw[key][usable] for key in keys}, truth


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
    error = np.asarray(a) / np.interp(z, truth["z"], truth["az"]) - 1
    row = Row(
        who,
        objective=float(model.objective_gaussian(params, **data)),
        rms=float(np.sqrt(np.mean(error**2))),
        worst=float(np.abs(error).max()),
        ln_Omega0=float(params["ln_Omega0"]),
        iterations=int(counts[0]),
        evaluations=int(counts[1]),
        status="converged" if counts[2] else "gave up",
        cold=times[0] if len(times) > 1 else np.nan,
        warm=min(times[1:] or times),
    )
    print(row, flush=True)
    return row


def outcome(state: Any) -> tuple[int, int, bool]:
    return state.iter_num, state.num_fun_eval, state.success


def run_upstream(binned: Any, data: Any, truth: Any, repeats: int) -> list[Row]:
    """Fit with upstream from its own start and from those set by hand."""
    import jax

    jax.config.update("jax_enable_x64", True)
    from torusimaging import TorusImaging1DSpline

    init = partial(TorusImaging1DSpline.auto_init, binned, **MODEL)
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
        init = partial(TorusImaging1DSpline.auto_init, binned, **MODEL, **choices)
        (model, bounds, start), seconds = timed(init, 1)
        print(f"{who}: auto_init {seconds[0]:.2f} s", flush=True)
        run = partial(model.optimize, start, "gaussian", bounds, **data)
        result, times = timed(run, 1 + max(repeats, 3))
        rows.append(describe(who, model, result.params, outcome(result.state), times, data, truth))
    return rows


def as_table(rows: list[Row]) -> str:
    """Return a Markdown table; ratios are to upstream's warm call from its own start."""
    reference = next((r.warm for r in rows if r.who.startswith("upstream, its auto")), np.nan)
    cells = [HEADER, *(row.cells(reference) for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(HEADER))]
    lines = [" | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) for row in cells]
    rule = "-|-".join("-" * w for w in widths)
    return "\n".join(f"| {line} |" for line in [lines[0], rule, *lines[1:]])


def as_section(rows: list[Row]) -> str:
    import torch

    packages = ", ".join(
        f"{name} {version(name)}" for name in ("torusimaging", "jax", "scipy", "torch")
    )
    return f"""## {TITLE}

`python benchmarks/upstream_mock.py --write`: {platform.machine()}, {os.cpu_count()} CPUs
({torch.get_num_threads()} threads in torch), load at the start {LOAD:.1f}; {packages}.
The best objective known with upstream's knots is {BEST_KNOWN}. Times are of `optimize` alone;
"times faster" is against upstream's warm call from its own start. Errors of a_z are fractional,
over 0.05-1.1 kpc.

{as_table(rows)}
"""


def write_section(text: str) -> None:
    """Put the section into RESULTS.md, in place of the one before."""
    before = RESULTS.read_text() if RESULTS.exists() else "# Measurements\n"
    pattern = re.compile(rf"^## {re.escape(TITLE)}\n.*?(?=^## |\Z)", re.DOTALL | re.MULTILINE)
    if pattern.search(before):
        after = pattern.sub(lambda _: text + "\n", before)
    else:
        after = f"{before.rstrip()}\n\n{text}"
    RESULTS.write_text(after.rstrip() + "\n")


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
    print(as_table(rows))
    if options.write:
        write_section(as_section(rows))


if __name__ == "__main__":
    main()
