"""Actions, angles and frequencies of the disk mock's stars against the truth, and their speed.

The stars of shared/data/disk_mock_stars.fits have exact J, theta and T. Ours and upstream's are
computed from fits to the same pixels (shared/data/disk_mock_upstream_binned.npz), and compared on
the same stars. The error of the *method* is that of exactly integrated contours of a fit; the error
of the *numerics* is what the integration adds: upstream's against ours on the same parameters, the
nodes of ours against sixteen times as many, the table against the exact path. Beside them stand
galpy and gala, who are told the potential that stars move in.

Run ``python benchmarks/actions.py``; ``--write`` puts the tables into benchmarks/RESULTS.md, and
``--figure`` draws docs/_static/actions_convergence.png. Times are the best of the repeats.
"""

from __future__ import annotations

import argparse
import os
import time
import warnings
from collections.abc import Callable
from typing import Any

import astropy.units as u
import numpy as np
import torch
from action_peers import PEERS
from astropy.table import QTable
from disk_mock import ORDERS, REPOSITORY, SETTINGS, SHARED, read_mock
from results_file import write_section
from upstream_mock import HAND_SET

from torusimaging_torch import TorusImaging1DSpline

TITLE = "Actions, angles and frequencies of the disk mock"
FIGURE = REPOSITORY / "docs" / "_static" / "actions_convergence.png"
FINE = 512
# Upstream 0.1 cannot compute actions with the JAX of today: its default options are a dictionary,
# no longer allowed as a static argument, and it turns a traced value into a float. Empty options in
# another form, and a `float` that leaves traced values alone, let it run as it was meant to.
NO_OPTIONS: Any = ()

Table = Any
Errors = dict[str, np.ndarray]


def bare_params(params: Any) -> dict[str, Any]:
    """Return parameters of either package as nested NumPy arrays."""
    return {
        key: bare_params(value) if isinstance(value, dict) else np.asarray(value, dtype=float)
        for key, value in params.items()
    }


def fit_ours(binned: Any, data: Any, **choices: Any) -> tuple[TorusImaging1DSpline, Any]:
    model, bounds, start = TorusImaging1DSpline.auto_init(binned, **SETTINGS, **choices)
    return model, model.optimize(start, "gaussian", bounds, **data).params


def fit_upstream(binned: Any, data: Any) -> tuple[Any, Any]:
    """Fit with upstream, from e values set by hand as its users do."""
    import jax

    jax.config.update("jax_enable_x64", True)
    import torusimaging.model

    torusimaging.model.float = lambda x: x
    model, bounds, start = torusimaging.TorusImaging1DSpline.auto_init(binned, **SETTINGS)
    for m, value in zip(ORDERS, HAND_SET[0], strict=True):
        start["e_params"][m] = {"vals": np.full(len(start["e_params"][m]["vals"]), value)}
    result = model.optimize(start, "gaussian", bounds, **data)
    return model, result.params


def twin(upstream: Any) -> TorusImaging1DSpline:
    """Return our model with the knots of upstream's."""
    return TorusImaging1DSpline(
        np.asarray(upstream._label_knots),
        {m: np.asarray(k) for m, k in upstream._e_knots.items()},
        upstream._e_signs,
        e_spline="quadratic",
    )


def errors(table: Table, truth: Table) -> Errors:
    """Return fractional errors of J and Omega, and those of theta in radian."""
    theta = (table["theta"] - truth["theta"]).to_value(u.rad)
    return {
        "J": (table["J"] / truth["J"]).to_value(u.one) - 1,
        "Omega": (truth["T"] / table["T"]).to_value(u.one) - 1,
        "theta": np.remainder(theta + np.pi, 2 * np.pi) - np.pi,
    }


def summarize(who: str, e: Errors, ok: np.ndarray) -> list[str]:
    """Return median and scatter (half the central 68 per cent) of each error."""
    cells = [who]
    for name, values in e.items():
        low, middle, high = np.percentile(values[ok], [16, 50, 84])
        scale, unit = (1, " rad") if name == "theta" else (100, " %")
        cells.append(f"{scale * middle:+.2g} ± {scale * (high - low) / 2:.2g}{unit}")
    return [*cells, f"{np.isfinite(e['J']).mean():.1%}"]


def best_time(run: Callable[[], Any], repeats: int) -> float:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


def as_table(header: list[str], rows: list[list[str]]) -> str:
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    lines = [
        " | ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)) for r in [header, *rows]
    ]
    rule = "-|-".join("-" * w for w in widths)
    return "\n".join(f"| {line} |" for line in [lines[0], rule, *lines[1:]])


def compare(stars: QTable, models: dict[str, tuple[Any, Any]], upstream: Any) -> list[list[str]]:
    """Return rows on the errors of the method and of the numerics, on the same stars."""
    z, v = stars["z"], stars["v_z"]
    truth = {name: stars[name] for name in ("J", "theta", "T")}
    fine = {
        who: m.compute_action_angle(z, v, p, FINE, method="exact") for who, (m, p) in models.items()
    }
    found = {f"method: {who}": errors(table, truth) for who, table in fine.items()}
    for who, (model, p) in models.items():
        if who.startswith("upstream"):
            theirs = upstream.compute_action_angle(z, v, p, Bisection_kwargs=NO_OPTIONS)
            theirs = {
                name: u.Quantity(np.asarray(theirs[name].value), theirs[name].unit)
                for name in ("J", "theta", "T")
            }
            found["method and numerics: upstream"] = errors(theirs, truth)
            found["numerics: upstream, against ours on its fit"] = errors(theirs, fine[who])
        elif who.startswith("ours, its"):
            coarse = model.compute_action_angle(z, v, p, method="exact")
            found["numerics: ours, 32 nodes per quarter"] = errors(coarse, fine[who])
            found["numerics: ours, table"] = errors(
                model.compute_action_angle(z, v, p, method="table"), coarse
            )
    ok = np.all([np.isfinite(e["J"]) for e in found.values()], axis=0)
    print(f"{ok.sum()} of {len(stars)} stars have orbits in all fits")
    rows = [summarize(who, e, ok) for who, e in found.items()]
    print(*rows, sep="\n", flush=True)
    return rows


def told_the_potential(stars: QTable) -> tuple[list[list[str]], dict[str, float]]:
    """Return rows on the errors of galpy and gala, and their stars per second."""
    rows, rates = [], {}
    for who, compute in PEERS.items():
        begin = time.perf_counter()
        e = errors(compute(stars), stars)
        rates[f"{who}, {len(stars)} stars"] = len(stars) / (time.perf_counter() - begin)
        rows.append(summarize(who, e, np.isfinite(e["J"])))
    print(*rows, sep="\n", flush=True)
    return rows, rates


def speeds(
    stars: QTable,
    model: Any,
    params: Any,
    upstream: Any,
    theirs: Any,
    peers: dict[str, float],
    repeats: int,
) -> list[list[str]]:
    """Return rows of stars per second."""
    z, v = stars["z"], stars["v_z"]
    few, many, million = slice(0, 300), slice(0, 20_000), np.resize(np.arange(len(z)), 1_000_000)

    def rate(compute: Callable[..., Any], rows: Any, *args: Any, **kwargs: Any) -> float:
        pos, vel = z[rows], v[rows]
        return len(pos) / best_time(lambda: compute(pos, vel, *args, **kwargs), repeats)

    rows = {}
    if upstream is not None:
        theirs_too = {"Bisection_kwargs": NO_OPTIONS}
        upstream.compute_action_angle(z[few], v[few], theirs, **theirs_too)  # compiles
        rows["upstream, 300 stars"] = rate(upstream.compute_action_angle, few, theirs, **theirs_too)
    rows |= peers
    ours = model.compute_action_angle
    rows["ours, exact, 20,000 stars"] = rate(ours, many, params, method="exact")
    rows["ours, table (made anew), 1,000,000 stars"] = rate(ours, million, params)
    reference = next(iter(rows.values())) if upstream is not None else np.nan
    return [[who, in_short(rate), in_short(rate / reference)] for who, rate in rows.items()]


def in_short(x: float) -> str:
    """Return a number without digits that mean nothing."""
    return f"{x:,.0f}" if x >= 10 else f"{x:.2g}"


def follow(stars: QTable, model: Any, params: Any) -> str:
    """Compare paths in time with those in the model's own acceleration, by leapfrog."""
    from torusimaging_torch.torus.acceleration import acceleration

    p = model.border.params(params)
    table = model.compute_action_angle(stars["z"], stars["v_z"], params, method="exact")
    ok = np.flatnonzero(table["valid"])[:200]
    z = torch.as_tensor(stars["z"][ok].to_value(u.kpc).astype(float)) - p["pos0"]
    v = torch.as_tensor(stars["v_z"][ok].to_value(u.kpc / u.Myr).astype(float)) - p["vel0"]
    step, n, worst = 0.05, 2400, []
    times = np.arange(1, 13) * 10 * u.Myr
    path, _ = model.orbit(stars["z"][ok], stars["v_z"][ok], params, times)
    v = v + step / 2 * acceleration(model.torus, z + p["pos0"], p)
    for i in range(n):
        z = z + step * v
        v = v + step * acceleration(model.torus, z + p["pos0"], p)
        if (i + 1) % 200 == 0:
            k = (i + 1) // 200 - 1
            worst.append((z + p["pos0"]).numpy() - path[:, k].to_value(u.kpc))
    size = np.abs(path.to_value(u.kpc)).max(axis=1)
    off = np.abs(np.array(worst)).max(axis=0) / size
    return (
        "Paths over 120 Myr against those in the model's acceleration: largest distance, in units "
        f"of the largest height, {np.median(off):.3f} (median), {np.percentile(off, 84):.3f} (84 "
        "per cent)."
    )


def draw_convergence(cubic: tuple[Any, Any], quadratic: tuple[Any, Any], stars: QTable) -> None:
    """Draw the error of T and J against the number of nodes."""
    from matplotlib.figure import Figure

    from torusimaging_torch import TorusImaging1D

    def smooth_e(r_e: torch.Tensor, a: torch.Tensor) -> torch.Tensor:
        return a * r_e**2 / (r_e**2 + 0.09)

    smooth = TorusImaging1D(lambda r: r, {2: smooth_e, 4: smooth_e})
    _, p = cubic
    smooth_params = {**p, "e_params": {2: {"a": 0.25}, 4: {"a": -0.03}}}
    nodes = [2, 4, 8, 16, 32, 64, 128]
    fig = Figure(figsize=(8, 3.6), layout="constrained")
    axes = fig.subplots(1, 2, sharey=True)
    cases = {
        "analytic $e_m$": (smooth, smooth_params),
        "cubic splines": cubic,
        "quadratic splines": quadratic,
    }
    for k, (label, (model, params)) in enumerate(cases.items()):

        def table(n: int, model: Any = model, params: Any = params) -> Table:
            return model.compute_action_angle(stars["z"], stars["v_z"], params, n, method="exact")

        exact = table(1024)
        found = [table(n) for n in nodes]
        for ax, name in zip(axes, ("J", "T"), strict=True):
            error = [np.nanmax(np.abs((t[name] / exact[name]).to_value(u.one) - 1)) for t in found]
            ax.loglog(nodes, np.maximum(error, 1e-16), "os^"[k] + "-", label=label)
    for ax, name in zip(axes, ("J", "T"), strict=True):
        ax.set(xlabel="nodes per quarter, N_grid", title=f"largest fractional error of ${name}$")
        ax.axvline(32, color="0.7", lw=1, zorder=0)
        ax.set_xticks(nodes, [str(n) for n in nodes], minor=False)
        ax.minorticks_off()
        ax.set_ylim(3e-17, 1)
    axes[0].legend(frameon=False, loc="lower left")
    FIGURE.parent.mkdir(exist_ok=True)
    fig.savefig(FIGURE, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n-stars", type=int, default=400, help="stars to compare")
    parser.add_argument("--n-peers", type=int, default=40, help="of them, for galpy and gala")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--no-upstream", action="store_true", help="ours alone")
    parser.add_argument("--write", action="store_true", help="write benchmarks/RESULTS.md")
    parser.add_argument("--figure", action="store_true", help="draw the convergence")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    load = os.getloadavg()[0]
    binned, data, _ = read_mock()
    stars = QTable.read(SHARED / "disk_mock_stars.fits")
    inside = (np.abs(stars["z"]) < 1.2 * u.kpc) & (np.abs(stars["v_z"]) < 70 * u.km / u.s)
    stars = stars[inside]
    models = {
        "ours, its own knots, cubic splines": fit_ours(binned, data),
        "ours, upstream's knots": fit_ours(binned, data, knots="upstream", e_spline="quadratic"),
    }
    upstream, theirs = None, None
    if not options.no_upstream:
        upstream, theirs = fit_upstream(binned, data)
        theirs = bare_params(theirs)
        models["upstream's fit"] = (twin(upstream), theirs)
    header = ["what", "J", "Omega", "theta", "stars with an orbit"]
    rows = compare(stars[: options.n_stars], models, upstream)
    others, rates = told_the_potential(stars[: options.n_peers])
    accuracy = as_table(header, rows + others)
    model, params = models["ours, its own knots, cubic splines"]
    paths = follow(stars[: options.n_stars], model, params)
    speed = speeds(stars, model, params, upstream, theirs, rates, options.repeats)
    speed_table = as_table(["who", "stars per second", "times upstream"], speed)
    print(accuracy, paths, speed_table, sep="\n\n")
    if options.figure:
        draw_convergence(
            (model, params), models["ours, upstream's knots"], stars[: min(200, len(stars))]
        )
    if options.write:
        summary = f"""{options.n_stars} stars with |z| < 1.2 kpc and |v_z| < 70 km/s, those with an
orbit in every fit: median and scatter (half the central 68 per cent) of the errors, fractional for
J and Omega. "Method": contours of the fit integrated with {FINE} nodes per quarter, against the
truth. galpy and gala take {options.n_peers} of the stars, and are told the potential: galpy moves
them in one dimension, gala on nearly circular orbits in three, whose vertical action and frequency
are not quite the same. {torch.get_num_threads()} threads in torch, load at the start {load:.1f}.

{accuracy}

{paths}

{speed_table}"""
        write_section(TITLE, "python benchmarks/actions.py --write --figure", summary)


if __name__ == "__main__":
    main()
