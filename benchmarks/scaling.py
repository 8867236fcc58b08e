"""How the time of one evaluation grows with pixels, parameters and problems; a figure and a table.

CPU time of one thread for the posterior's value and gradient, by compiled loops and by torch, and
the least that the machine could do: the bytes of the pixels at its bandwidth, and a hundred
floating-point operations per pixel at its speed, both measured in the same run. Run as::

    python benchmarks/scaling.py [--quick] [--write] [--figure]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from results_file import command_line, write_section

from torusimaging_torch import TorusImaging1DSpline

FIGURE = Path(__file__).resolve().parent.parent / "docs" / "_static" / "scaling.png"
WHO = ("numba", "torch")
# Per pixel: position, velocity, label and weight in double precision; operations of the formulas.
_BYTES, _FLOPS = 32, 100
_LEAST = 0.2  # seconds spent on each point


def problem(n_pixels: int, n_knots: int, n_problems: int) -> tuple[Any, dict[str, Any], Any]:
    """Return a model with 3 n_knots + 1 parameters, pixels and parameters."""
    knots = np.linspace(0, 0.5, n_knots)
    model = TorusImaging1DSpline(knots, {2: knots, 4: knots}, {2: 1.0, 4: -1.0})
    rng = np.random.default_rng(0)
    shape = (n_pixels,) if n_problems == 1 else (n_problems, n_pixels)
    pixels = {
        "pos": rng.uniform(-1, 1, shape),
        "vel": rng.uniform(-0.08, 0.08, shape),
        "label": rng.normal(size=shape),
        "label_err": rng.uniform(0.1, 0.2, shape),
    }
    batch = shape[:-1]
    params = {
        "pos0": np.full(batch, 0.01),
        "vel0": np.full(batch, 0.001),
        "ln_Omega0": np.full(batch, -2.5),
        "e_params": {m: {"vals": np.full((*batch, n_knots - 1), -2.0)} for m in (2, 4)},
        "label_params": {"label_vals": np.full((*batch, n_knots), 0.5)},
    }
    return model, pixels, params


def seconds(run: Callable[[], Any]) -> float:
    """Return the median CPU time of a call."""
    run()
    times: list[float] = []
    while sum(times) < _LEAST or len(times) < 3:
        start = time.process_time()
        run()
        times.append(time.process_time() - start)
    return float(np.median(times))


def floor() -> tuple[float, float]:
    """Return what this machine does in a second on one core: bytes read, and operations."""
    x = torch.ones(32_000_000, dtype=torch.float64)
    bytes_per_s = 8 * len(x) / seconds(lambda: x.sum())
    a = torch.rand(1024, 1024, dtype=torch.float64)
    return bytes_per_s, 2 * 1024**3 / seconds(lambda: a @ a)


def measure(quick: bool) -> Iterator[dict[str, Any]]:
    """Yield a row for each size."""
    bytes_per_s, flops = floor()
    pixels = [1_000, 10_000] if quick else [1_000, 10_000, 100_000, 1_000_000]
    knots = [4, 8] if quick else [3, 6, 11, 16, 22]
    problems = [1, 16] if quick else [1, 8, 64, 512, 4096]
    sizes = [("pixels", n, (n, 8, 1)) for n in pixels]
    sizes += [("parameters", 3 * k + 1, (10_000, k, 1)) for k in knots]
    sizes += [("problems", b, (1_000, 6, b)) for b in problems]
    for what, x, size in sizes:
        model, data, params = problem(*size)
        total = size[0] * size[2]
        row = {"against": what, "size": x}
        for who in WHO:
            posterior, vector = model.posterior_at(params, data, evaluation=who)
            row[f"{who} [ms]"] = 1e3 * seconds(partial(posterior.value_and_gradient, vector))
        row["floor [ms]"] = 1e3 * max(total * _BYTES / bytes_per_s, total * _FLOPS / flops)
        print(*row.values(), sep="  ", flush=True)
        yield row


def draw(rows: list[dict[str, Any]]) -> None:
    """Draw the figure."""
    mpl.use("Agg")
    import matplotlib.pyplot as plt

    kinds = ("pixels", "parameters", "problems")
    fig, axs = plt.subplots(1, 3, figsize=(10.5, 3.4), layout="constrained", sharey=True)
    for ax, kind in zip(axs, kinds, strict=True):
        some = [row for row in rows if row["against"] == kind]
        x = [row["size"] for row in some]
        for who in WHO:
            y = np.array([row[f"{who} [ms]"] for row in some])
            slope = np.polyfit(np.log(x[-3:]), np.log(y[-3:]), 1)[0]
            ax.loglog(x, y, "o-", ms=4, label=f"{who}, slope {slope:.2f}")
        ax.loglog(x, [row["floor [ms]"] for row in some], "k:", label="bytes and operations")
        if kind == "parameters":
            ax.set_xscale("linear")
        ax.set_xlabel(f"number of {kind}")
        ax.legend(frameon=False, fontsize=8)
    axs[0].set_ylabel("value and gradient [ms]")
    fig.savefig(FIGURE, dpi=150)


def main() -> None:
    """Measure, and write table and figure if asked to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few and small sizes")
    parser.add_argument("--write", action="store_true", help="write the results")
    parser.add_argument("--figure", action="store_true", help=f"draw {FIGURE.name}")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = list(measure(options.quick))
    if options.figure:
        draw(rows)
    if options.write:
        summary = (
            "One thread; pixels: 25 parameters; parameters: 10,000 pixels; problems: 1,000 pixels "
            "and 19 parameters each, evaluated together."
        )
        write_section("How an evaluation scales", command_line(), summary, rows)


if __name__ == "__main__":
    main()
