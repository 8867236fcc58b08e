"""Are the errors right? The share of mocks whose truth lies in the 68 % and 95 % intervals.

First with the truth inside the model's family, in the two ways in which errors can be right:

* The truth is one disk and the stars are drawn anew. Intervals are those of the sandwich, the
  scatter of the estimate; beside them the bound, which takes the penalty for a prior.
* The truth is drawn from a prior, and the stars from it: what the bound and NUTS promise. That
  prior is the penalty and a first sample with a tenth of the weight, which the fit is given, too.

Then with stars in gala's Milky Way, where the truth lies outside the family.

    python benchmarks/calibration.py --write
    python benchmarks/calibration.py --mocks 0 --outside 0 --nuts 50 --steps 300 --write
"""

from __future__ import annotations

import argparse
import math
import time
import warnings
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from typing import Any

import astropy.units as u
import numpy as np
import torch
from results_file import command_line, write_section
from torch import Tensor

from torusimaging_torch import TorusImaging1DSpline
from torusimaging_torch.data import get_binned_label
from torusimaging_torch.inference.fisher import bound_at, on_bound
from torusimaging_torch.numerics import Layout
from torusimaging_torch.simulate import milky_way, milky_way_disk
from torusimaging_torch.torus.acceleration import acceleration

POS = torch.tensor([0.3, 0.5, 0.8, 1.1], dtype=torch.float64)
NAMES = ["ln_Omega0", "pos0", "vel0", "a_z(0.3)", "a_z(0.5)", "a_z(0.8)", "Sigma(1.1)"]
KNOTS: dict[str, Any] = {
    "label_knots": 4,
    "e_knots": {2: 6, 4: 4},
    "e_knots_spacing_power": 0.5,
}
PENALTY: dict[str, Any] = {
    "label_l2_sigma": 1.0,
    "label_smooth_sigma": 0.5,
    "e_l2_sigmas": {2: 1.0, 4: 1.0},
    "e_smooth_sigmas": {2: 0.5, 4: 0.5},
}
BINS = {"pos": np.linspace(-1.2, 1.2, 25) * u.kpc, "vel": np.linspace(-70, 70, 25) * u.km / u.s}
CHUNK = 25
PRIOR_WEIGHT = 0.1
"""What the first sample, from which truths are drawn, weighs beside a mock."""


def bin_disk(seed: int, n: int = 100_000, scatter: bool = True) -> dict[str, Any]:
    """Simulate and bin one disk; without ``scatter`` with upstream's errors of the means."""
    stars = milky_way_disk(n, seed=seed)
    kwargs = {} if scatter else {"s": 0.0}
    found = get_binned_label(
        stars["z"], stars["v_z"], stars["label"], BINS, label_err=stars["label_err"], **kwargs
    )
    return {key: found[key] for key in ("pos", "vel", "label", "label_err")}


def flat(data: dict[str, Any]) -> dict[str, np.ndarray]:
    units = {"pos": u.kpc, "vel": u.kpc / u.Myr}
    return {
        key: u.Quantity(value).to_value(units.get(key, u.Quantity(value).unit)).ravel()
        for key, value in data.items()
    }


def quantities(model: Any, layout: Layout, vector: Tensor) -> Tensor:
    """Return what is judged, in the order of `NAMES`, with shape (B, 7)."""
    p = layout.unflatten(vector)
    a = acceleration(model.torus, POS, p)
    Sigma = a[..., 3:].abs() / (2 * math.pi)
    scalars = torch.stack([p["ln_Omega0"], p["pos0"], p["vel0"]], -1)
    return torch.cat([scalars, a[..., :3], Sigma], -1)


def with_errors(
    model: Any, data: dict[str, Any], p0: Any, bounds: Any, kinds: tuple[str, ...]
) -> list[Tensor]:
    """Fit a batch; return quantities (B, 7), success (B,), and errors (B, 7) for each Hessian."""
    n = len(data["label"])
    layout = Layout.of(model.border.params(p0))
    batch = layout.unflatten(layout.flatten(model.border.params(p0)).expand(n, -1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = model.optimize(batch, "gaussian", bounds, tol=1e-4, **data)
    posterior, vector = model.posterior_at(result.params, data)
    box = model.border.box(bounds, layout)
    held = on_bound(posterior, box, vector)
    jacobian = torch.func.vmap(torch.func.jacfwd(partial(quantities, model, layout)))(vector)
    errors = []
    for kind in kinds:
        bound = bound_at(posterior, vector, kind, held)
        errors.append((jacobian @ bound.root).square().sum(-1).sqrt())
    return [quantities(model, layout, vector), result.state.success, *errors]


def chunks(
    model: Any, data: dict[str, Any], p0: Any, bounds: Any, kinds: tuple[str, ...]
) -> list[Tensor]:
    parts = []
    for i in range(0, len(data["label"]), CHUNK):
        some = {k: v if v.ndim == 1 else v[i : i + CHUNK] for k, v in data.items()}
        parts.append(with_errors(model, some, p0, bounds, kinds))
        print(f"{i + CHUNK} mocks fitted", flush=True)
    return [torch.cat(part) for part in zip(*parts, strict=True)]


def coverage(value: Tensor, sigma: Tensor, truth: Tensor) -> dict[str, list[str]]:
    """Return the shares within 1 and 1.96 sigma, mean and scatter of the pulls, of all mocks."""
    pull = (value - truth) / sigma
    return cells([(pull.abs() < cut).double().mean(0) for cut in (1.0, 1.96)], pull)


def cells(within: list[Tensor], pull: Tensor) -> dict[str, list[str]]:
    """Return both shares (7,), mean and scatter of the pulls (M, 7), as text by quantity."""
    return {
        name: [f"{100 * within[0][i]:.1f}", f"{100 * within[1][i]:.1f}",
               f"{pull[:, i].mean():+.2f}", f"{pull[:, i].std():.2f}"]
        for i, name in enumerate(NAMES)
    }  # fmt: skip


def rows(title: str, found: dict[str, list[str]]) -> list[str]:
    return [f"| {title} | {name} | " + " | ".join(cells) + " |" for name, cells in found.items()]


def judge(
    title: str,
    model: Any,
    data: dict[str, Any],
    p0: Any,
    bounds: Any,
    truth: Tensor,
    kinds: tuple[str, ...],
) -> list[str]:
    """Fit all mocks, and return the rows that say how often the truth lies within each error."""
    value, ok, *errors = chunks(model, data, p0, bounds, kinds)
    print(f"{title}: {int(ok.sum())} of {len(ok)} fits converged", flush=True)
    lines = []
    for kind, sigma in zip(kinds, errors, strict=True):
        lines += rows(f"{title}, {kind}", coverage(value, sigma, truth))
    return lines


def inside(model: Any, p: Any, data: dict[str, Any], bounds: Any, n: int) -> list[str]:
    """Draw labels of one disk again and again, fit them and compare."""
    layout = Layout.of(model.border.params(p))
    truth = quantities(model, layout, layout.flatten(model.border.params(p)))
    label = model.get_label(data["pos"], data["vel"], p)
    err = torch.as_tensor(data["label_err"])
    noise = torch.randn(n, len(err), generator=torch.Generator().manual_seed(1)).double()
    mocks = {**data, "label": (label + err * noise).numpy(), "label_err": err.expand(n, -1).numpy()}
    kinds = ("sandwich", "full", "expected")
    return judge("one truth", model, mocks, p, bounds, truth, kinds)


def drawn(
    model: Any, p: Any, data: dict[str, Any], bounds: Any, n: int, seed: int = 0
) -> tuple[Tensor, dict[str, Any]]:
    """Return quantities of truths drawn from a prior, (n, 7), and data that include the prior."""
    weak = {**data, "label_err": data["label_err"] * PRIOR_WEIGHT**-0.5}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        draws = max(20 * n, 400)
        samples = model.sample(weak, p, bounds, num_samples=draws, num_warmup=400, seed=11 + seed)
    ess, rhat = float(samples.ess_bulk.min()), float(samples.rhat.max())
    print(f"prior: {draws} draws, least effective number {ess:.0f}, R-hat {rhat:.3f}", flush=True)
    layout, vector = samples.layout, samples.chains.x[0, :: draws // n][:n]
    label = torch.stack(
        [model.get_label(data["pos"], data["vel"], layout.unflatten(one)) for one in vector]
    )
    err = torch.as_tensor(data["label_err"])
    noise = torch.randn(n, len(err), generator=torch.Generator().manual_seed(2 + seed)).double()
    # Two measurements of a pixel are one, with the weights added.
    total = 1 + PRIOR_WEIGHT
    both = (label + err * noise + PRIOR_WEIGHT * torch.as_tensor(data["label"])) / total
    mocks = {**data, "label": both.numpy(), "label_err": (err * total**-0.5).expand(n, -1).numpy()}
    return quantities(model, layout, vector), mocks


def by_bound(model: Any, p: Any, data: dict[str, Any], bounds: Any, n: int) -> list[str]:
    """Coverage of the bound's intervals where the truth is drawn."""
    truth, mocks = drawn(model, p, data, bounds, n)
    return judge("drawn truths", model, mocks, p, bounds, truth, ("full", "expected"))


def ranked(
    model: Any, p: Any, bounds: Any, steps: int, mock: tuple[int, dict[str, Any], Tensor]
) -> tuple[Tensor, dict[str, float]]:
    """Sample one mock; return the share of draws below the truth, (7,), and how sampling went."""
    torch.set_num_threads(1)
    seed, data, truth = mock
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        samples = model.sample(data, p, bounds, num_samples=steps, num_warmup=steps, seed=seed)
    x = quantities(model, samples.layout, samples.chains.x.flatten(0, 1))
    went = {
        "gradients": float(samples.chains.n_gradients.sum()) / steps,
        "divergences": float(samples.chains.divergences.sum()),
        "ess": float(samples.ess_bulk.min()),
        "rhat": float(samples.rhat.max()),
    }
    print(f"nuts {seed}:", *(f"{value:.4g} {key}" for key, value in went.items()), flush=True)
    return (x < truth).double().mean(0), went


def by_nuts(
    model: Any, p: Any, data: dict[str, Any], bounds: Any, n: int, steps: int, seed: int, jobs: int
) -> tuple[str, list[str]]:
    """Coverage of the central intervals of NUTS samples where the truth is drawn."""
    truth, mocks = drawn(model, p, data, bounds, n, seed)
    each = [
        (i, {**mocks, "label": mocks["label"][i], "label_err": mocks["label_err"][i]}, truth[i])
        for i in range(n)
    ]
    with ProcessPoolExecutor(jobs, get_context("spawn")) as pool:
        done = list(pool.map(partial(ranked, model, p, bounds, steps), each))
    rank = torch.stack([ranks for ranks, _ in done])
    within = [((rank - 0.5).abs() < half).double().mean(0) for half in (0.34, 0.475)]
    # The normal quantile of a rank is a pull, of the truth from the samples.
    found = cells(within, -torch.special.ndtri(rank.clamp(0.5 / steps, 1 - 0.5 / steps)))
    median = {key: np.median([went[key] for _, went in done]) for key in done[0][1]}
    divergences = sum(went["divergences"] for _, went in done)
    text = (
        f"{steps} draws after {steps} steps of warm-up for each of {n} mocks. Medians of the "
        f"mocks: {median['gradients']:.1f} gradients a draw, least effective number "
        f"{median['ess']:.0f}, largest R-hat {median['rhat']:.3f}; {divergences:.0f} "
        f"divergences in all. A share of {n} is known to {100 * math.sqrt(0.68 * 0.32 / n):.0f} "
        f"per cent, a mean pull to {n**-0.5:.2f}, the scatter of pulls to {(2 * n) ** -0.5:.2f}."
        "\n\n"
    )
    return text, rows("drawn truths, NUTS", found)


def outside(model: Any, p: Any, bounds: Any, n: int) -> list[str]:
    """Fit stars in gala's Milky Way with knots placed once."""
    potential = milky_way(8.3 * u.kpc)
    pos = POS.numpy() * u.kpc
    a = potential.acceleration(pos).to_value(u.kpc / u.Myr**2)
    truth = torch.full((7,), torch.nan, dtype=torch.float64)
    truth[1:3] = 0.0
    truth[3:6] = torch.as_tensor(a[:3])
    truth[6] = abs(a[3]) / (2 * math.pi)
    slope = (potential.acceleration(1e-4 * u.kpc) / (1e-4 * u.kpc)).to_value(u.Myr**-2)
    truth[0] = 0.5 * math.log(-slope)
    lines = []
    for title, scatter in (("our errors", True), ("upstream's errors", False)):
        mocks = [flat(bin_disk(1000 + i, scatter=scatter)) for i in range(n)]
        data = {key: mocks[0][key] for key in ("pos", "vel")}
        for key in ("label", "label_err"):
            data[key] = np.stack([mock[key] for mock in mocks])
        kinds = ("sandwich", "expected")
        lines += judge(f"Milky Way, {title}", model, data, p, bounds, truth, kinds)
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mocks", type=int, default=200)
    parser.add_argument("--nuts", type=int, default=0)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0, help="of the mocks for NUTS")
    parser.add_argument("--jobs", type=int, default=2, help="processes that sample at once")
    parser.add_argument("--outside", type=int, default=100)
    parser.add_argument("--dacc-strength", type=float, default=1.0)
    parser.add_argument("--no-penalty", action="store_true", help="the likelihood alone")
    parser.add_argument("--write", action="store_true", help="put the section into RESULTS.md")
    args = parser.parse_args()
    start = time.time()
    first = bin_disk(1)
    penalty: dict[str, Any] = {**PENALTY, "dacc_strength": args.dacc_strength}
    if args.no_penalty:
        penalty = {"regularization_func": False}
    model, bounds, p0 = TorusImaging1DSpline.auto_init(first, **KNOTS, **penalty)
    p = model.optimize(p0, "gaussian", bounds, **first).params
    data = flat(first)
    good = np.isfinite(data["label"])
    data = {k: v[good] for k, v in data.items()}
    lines = ["| mocks | quantity | in 68 % [%] | in 95 % [%] | mean pull | std of pulls |",
             "| --- | --- | --- | --- | --- | --- |"]  # fmt: skip
    if args.mocks:
        lines += inside(model, p, data, bounds, args.mocks)
        print("\n".join(lines), f"{time.time() - start:.0f} s", flush=True)
    if args.mocks and not args.no_penalty:
        lines += by_bound(model, p, data, bounds, args.mocks)
    if args.outside:
        lines += outside(model, p, bounds, args.outside)
        print("\n".join(lines), f"{time.time() - start:.0f} s", flush=True)
    how = ""
    if args.nuts:
        how, nuts = by_nuts(model, p, data, bounds, args.nuts, args.steps, args.seed, args.jobs)
        lines += nuts
    print(how + "\n".join(lines))
    if args.write:
        kind = "without penalty" if args.no_penalty else f"dacc_strength {args.dacc_strength:g}"
        text = (
            f"{int(good.sum())} pixels, {Layout.of(p).size} parameters, {kind}, "
            f"{time.time() - start:.0f} s.\n\n"
        )
        title = "Calibration" + (" without penalty" if args.no_penalty else "")
        title += " of NUTS" if args.nuts else ""
        write_section(title, command_line(), text + how + "\n".join(lines))


if __name__ == "__main__":
    main()
