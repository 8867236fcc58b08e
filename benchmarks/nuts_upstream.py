"""Effective samples by upstream's sampler and by ours, of the same posterior, and the bound's time.

    python benchmarks/nuts_upstream.py --write

Both sample the posterior of the disk mock with the same settings, penalty included, with a uniform
prior in our box, each with its own splines from our optimum. (Upstream's quadratic ones make the
penalty jump where pos0 is zero, on which any sampler with a step size stumbles.) Upstream's is
BlackJAX's NUTS with window adaptation, as its `mcmc_run_label` sets it up. That runs to its end,
which 1,000 + 1,000 steps did not find in 55 minutes; here the same calls are made step by step,
with fewer steps of warm-up, until the time is over, so that what they cost can be counted.
"""

from __future__ import annotations

import argparse
import time
import warnings
from typing import Any

import numpy as np
import torch
from disk_mock import SETTINGS, read_mock
from results_file import command_line, write_section

from torusimaging_torch import TorusImaging1DSpline
from torusimaging_torch.inference.convergence import ess_bulk, rhat
from torusimaging_torch.numerics import Layout

Row = dict[str, Any]


def row(who: str, draws: torch.Tensor, gradients: int, warmup: int, bad: int, cpu: float) -> Row:
    """Describe draws with shape (1, S, P), and print it."""
    ess = float(ess_bulk(draws).min())
    found = {
        "who": who,
        "draws": draws.shape[1],
        "gradients per draw": gradients / draws.shape[1],
        "gradients in warm-up": warmup,
        "min bulk ESS": ess,
        "max R-hat": f"{float(rhat(draws).max()):.4f}",
        "divergences": bad,
        "gradients per ESS": gradients / ess,
        "CPU ms per gradient": 1e3 * cpu / gradients,
        "CPU s per ESS": cpu / ess,
    }
    print(found, flush=True)
    return found


def ours(model: Any, params: Any, bounds: Any, data: Any, n: int) -> Row:
    start = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        samples = model.sample(data, params, bounds, num_samples=n, num_warmup=n)
    cpu = time.process_time() - start
    chains = samples.chains
    gradients, warmup = int(chains.n_gradients.sum()), int(chains.n_gradients_warmup)
    # Warm-up and draws cost the same per gradient.
    cpu *= gradients / (gradients + warmup)
    return row("ours", chains.x, gradients, warmup, int(chains.divergences.sum()), cpu)


def fitted(binned: Any, data: Any, **choices: Any) -> tuple[Any, Any, Any]:
    """Return our model, its optimum and its bounds."""
    model, bounds, start = TorusImaging1DSpline.auto_init(binned, **SETTINGS, **choices)
    return model, model.optimize(start, "gaussian", bounds, **data).params, bounds


def plain(nested: Any) -> Any:
    """Return parameters or bounds as numpy arrays, nested as they are."""
    if isinstance(nested, dict):
        return {key: plain(value) for key, value in nested.items()}
    if isinstance(nested, tuple):
        return tuple(plain(value) for value in nested)
    return np.asarray(getattr(nested, "value", nested), dtype=float)


def upstream(binned: Any, data: Any, params: Any, bounds: Any, warmup: int, limit: float) -> Row:
    import blackjax
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_enable_x64", True)
    import torusimaging

    model = torusimaging.TorusImaging1DSpline.auto_init(binned, **SETTINGS)[0]
    leaves = [jax.tree_util.tree_leaves(b) for b in model.unpack_bounds(bounds)]
    time_bound(model, params, data)

    def ln_posterior(p: Any) -> Any:
        inside = [
            jnp.all((x >= low) & (x <= high))
            for x, low, high in zip(jax.tree_util.tree_leaves(p), *leaves, strict=True)
        ]
        value = model.ln_gaussian_likelihood(p, **data) - model.regularization_func(model, p)
        return jnp.where(jnp.all(jnp.stack(inside)), value, -jnp.inf)

    key = jax.random.PRNGKey(0)
    adaptation = blackjax.window_adaptation(blackjax.nuts, ln_posterior)
    (state, tuned), history = adaptation.run(key, params, num_steps=warmup)
    spent = int(np.sum(history.info.num_integration_steps))
    print(f"upstream: warm-up of {warmup} steps took {spent} gradients", flush=True)
    step = jax.jit(blackjax.nuts(ln_posterior, **tuned).step)
    state, info = step(key, state)  # compiles
    draws, gradients, bad = [], 0, 0
    begin, start = time.monotonic(), time.process_time()
    while time.monotonic() - begin < limit:
        key, use = jax.random.split(key)
        state, info = step(use, state)
        flat = jax.tree_util.tree_leaves(state.position)
        draws.append(np.concatenate([np.atleast_1d(leaf) for leaf in flat]))
        gradients += int(info.num_integration_steps)
        bad += int(info.is_divergent)
    cpu = time.process_time() - start
    chain = torch.as_tensor(np.stack(draws)).unsqueeze(0)
    return row(f"upstream, {warmup} steps of warm-up", chain, gradients, spent, bad, cpu)


def time_bound(model: Any, params: Any, data: Any) -> None:
    """Print how long upstream's bound takes, and why it does not come with its own penalty."""
    penalty = model.regularization_func
    for what, function in (("penalty", penalty), ("no penalty", lambda model, params: 0.0)):
        model.regularization_func = function
        start = time.process_time()
        try:
            model.get_crlb(params, data)
            how = "done"
        except Exception as error:
            how = f"{type(error).__name__}: {error}"
        seconds = time.process_time() - start
        print(f"upstream's get_crlb with {what}, cold: {seconds:.1f} s, {how}", flush=True)
    model.regularization_func = penalty


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=1000, help="ours, and as much warm-up")
    parser.add_argument("--warmup", type=int, default=200, help="upstream's")
    parser.add_argument(
        "--limit", type=float, default=300.0, help="seconds for upstream's draws; 0: ours alone"
    )
    parser.add_argument("--write", action="store_true", help="put the section into RESULTS.md")
    args = parser.parse_args()
    binned, data, _ = read_mock()
    rows = []
    if args.limit:
        there = fitted(binned, data, knots="upstream", e_spline="quadratic")[1:]
        rows.append(upstream(binned, data, *map(plain, there), args.warmup, args.limit))
    model, params, bounds = fitted(binned, data)
    clock = time.process_time()
    model.get_crlb(params, data, bounds=bounds)
    bound = time.process_time() - clock
    print(f"our get_crlb, cold: {bound:.2f} s, {Layout.of(params).size} parameters", flush=True)
    rows.append(ours(model, params, bounds, data, args.samples))
    if not args.limit:
        return
    ratio = rows[0]["CPU s per ESS"] / rows[1]["CPU s per ESS"]
    text = (
        f"Ours draws effective samples {ratio:,.0f} times as fast by CPU time. Where upstream's "
        "R-hat is near 2 its draws have not mixed, and their effective number is an upper limit "
        "of what they are worth. The machine is shared: times are CPU times, and only the counts "
        "of gradients are exact."
    )
    print(text)
    if args.write:
        write_section("NUTS: upstream and ours", command_line(), text, rows)


if __name__ == "__main__":
    main()
