r"""Samples of the posterior by the No-U-Turn sampler, in the whitened box.

Pyro's NUTS (Hoffman & Gelman 2014, JMLR 15, 1593) moves in the coordinates of the fit: the box has
no walls there, and the log-Jacobian of its bijection keeps the prior what it is. The Fisher matrix
at the optimum makes the coordinates round to begin with, where log slopes move like slopes, and
sheets of matter are their total and balances: else the posterior is bent. It is no Gaussian where
a penalty walls it in, so pilot runs measure its true covariance and the coordinates are made round
by that. What is left is curvature that changes from place to place: it decides the step size.
"""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from typing import Any

import numpy as np
import pyro
import torch
from pyro.infer.mcmc import MCMC, NUTS
from torch import Tensor
from torch.autograd.function import once_differentiable

from torusimaging_torch.inference.coordinates import Coordinates, Problems
from torusimaging_torch.inference.fisher import known
from torusimaging_torch.inference.fit import fit
from torusimaging_torch.inference.log_posterior import LogPosterior
from torusimaging_torch.numerics.box import Box
from torusimaging_torch.numerics.ranges import whole
from torusimaging_torch.numerics.whitening import Whitening

__all__ = ["Chains", "WhitenedPotential", "nuts"]

# Pilot runs: the share of the warm-up that tunes the step size, and that is drawn, in each.
_PILOTS = ((0.1, 0.2), (0.1, 0.45))
# Pyro's own diagnostics need this many draws.
_FEWEST = 4
# How far down log slopes are straightened: a chain goes where the fit does not.
_TAU = 3.0
# Pyro's handlers, and the generators of random numbers that it uses, belong to the process: of two
# threads that sample at once one waits.
_ONE_AT_A_TIME = threading.Lock()
# The first step size, in standard deviations; warm-up tunes it.
_STEP_SIZE = 0.25


class WhitenedPotential:
    """The potential energy of NUTS: minus the log-density of whitened coordinates ``z["w"]``.

    Parameters
    ----------
    posterior
        Log-density of parameters, ln L - R.
    coordinates
        From whitened coordinates to the parameters. The log-Jacobian of the box is added; that of
        the rest is constant, and left out. Coordinates of parameters that equal bounds hold change
        nothing: they get a normal density, so that none wanders off.
    """

    def __init__(self, posterior: LogPosterior, coordinates: Coordinates) -> None:
        self.posterior = posterior
        self.coordinates = coordinates
        self.calls = 0

    def __call__(self, z: Mapping[str, Tensor]) -> Tensor:
        """Return the energy in nats, a scalar; it can be differentiated once."""
        self.calls += 1
        energy: Tensor = _WithGradient.apply(z["w"], self)
        return energy

    def value_and_gradient(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """Return the energy, a scalar, and its gradient, (P,), at ``w`` (P,)."""
        box, u = self.coordinates.box, self.coordinates.in_box(w)
        x, slope, log_slope, bend = box.jet(u)
        value, gradient = self.posterior.value_and_gradient(x)
        idle = torch.where(known(box), u, 0.0)
        energy = 0.5 * idle.dot(idle) - value - log_slope.sum()
        return energy, self.coordinates.pull(idle - slope * gradient - bend, w)


class _WithGradient(torch.autograd.Function):
    """An energy and its gradient, found together: PyTorch takes one step instead of a hundred."""

    @staticmethod
    def forward(ctx: Any, w: Tensor, potential: WhitenedPotential) -> Tensor:
        value, gradient = potential.value_and_gradient(w)
        ctx.save_for_backward(gradient)
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (gradient,) = ctx.saved_tensors
        return grad * gradient, None


def _idle(box: Box, u: Tensor) -> Tensor:
    """Return the energy of coordinates (*S, P) that change nothing, with shape (*S,)."""
    return 0.5 * torch.where(known(box), u, 0.0).square().sum(-1)


class _CountingNUTS(NUTS):
    """NUTS that remembers energies, and how many gradients each stage has cost."""

    def __init__(self, potential: WhitenedPotential, **kwargs: object) -> None:
        super().__init__(potential_fn=potential, **kwargs)
        self._energies: list[float] = []
        self._calls_in_warmup = 0

    def sample(self, params: dict[str, Tensor]) -> dict[str, Tensor]:
        """Draw the next sample."""
        warmup = self._warmup_steps or 0
        if self._t == warmup:
            self._calls_in_warmup = self.potential_fn.calls
        z = super().sample(params)
        if self._t > warmup:
            energy: Any = self._potential_energy_last
            self._energies.append(float(energy))
        return z

    def diagnostics(self) -> dict[str, Any]:
        """Return what Pyro reports, and what is counted here: it travels between processes."""
        calls = self.potential_fn.calls
        return super().diagnostics() | {
            "step size": self.step_size,
            "mean acceptance": self._mean_accept_prob,
            "energies": self._energies,
            "gradients": (self._calls_in_warmup, calls - self._calls_in_warmup),
        }


@dataclass(frozen=True)
class Chains:
    """What NUTS found.

    Attributes
    ----------
    x
        Parameters with shape (C, S, P): chains, samples, parameters.
    log_density
        ln L - R of each, with shape (C, S).
    step_size, acceptance
        Of each chain, with shape (C,), the step in standard deviations.
    divergences
        Number of divergent trajectories of each chain, with shape (C,).
    n_gradients
        Evaluations of the gradient while sampling, with shape (C,).
    n_gradients_warmup
        Those before, of all chains and the pilot runs.
    """

    x: Tensor
    log_density: Tensor
    step_size: Tensor
    acceptance: Tensor
    divergences: Tensor
    n_gradients: Tensor
    n_gradients_warmup: int


def nuts(
    posterior: LogPosterior,
    box: Box,
    x0: Tensor,
    *,
    num_samples: int = 1000,
    num_warmup: int = 1000,
    num_chains: int = 1,
    seed: int = 0,
    target_accept: float = 0.9,
    max_tree_depth: int = 6,
    progress: bool = False,
    mp_context: str | None = None,
) -> Chains:
    """Sample a posterior inside a box.

    Parameters
    ----------
    posterior
        ln L - R of one problem.
    box
        The bounds. All points within are equally probable beforehand, but for the penalty R.
    x0
        Start with shape (P,), inside the bounds; the sampler goes to the optimum near it first.
    num_samples, num_warmup, num_chains
        Number of samples of each chain, of steps that tune the sampler, and of chains. The pilot
        runs are shared: chains start from different draws of the last one.
    seed
        Seed of the random numbers. The state of all global generators is left as it was.
    target_accept, max_tree_depth
        Acceptance that the step size is tuned for, and the largest number of doublings. In round
        coordinates half an orbit is pi standard deviations long: 7 to 15 gradients. Bent places
        need shorter steps than that: with an acceptance of 0.8 some trajectories diverge there.
    progress
        Whether to show a progress bar.
    mp_context
        "spawn" or "fork": run chains in parallel processes, started that way, as many at a time as
        there are cores. Otherwise they run one after another, to the same result.

    Raises
    ------
    ValueError
        If there is more than one problem, the log-density is not finite at the start, all
        parameters are held, there are fewer than four samples, or another number is out of its
        range.
    BrokenProcessPool
        If a process of a chain died.
    """
    if x0.ndim != 1:
        raise ValueError(
            "the sampler takes one problem at a time, got a batch with shape "
            f"{tuple(x0.shape[:-1])}"
        )
    num_samples = whole(num_samples, "num_samples", _FEWEST)
    num_warmup, num_chains = whole(num_warmup, "num_warmup", 0), whole(num_chains, "num_chains", 1)
    max_tree_depth, seed = whole(max_tree_depth, "max_tree_depth", 1), whole(seed, "seed", 0)
    if bool(known(box).all()):
        raise ValueError("all parameters are held: there is nothing to sample")
    if not 0 < target_accept < 1:
        raise ValueError(f"target_accept must be between 0 and 1, got {target_accept!r}")
    start = box.nudge_inside(x0)
    if not bool(posterior(start).isfinite()):
        raise ValueError("the log-density is not finite at the start: give parameters where it is")
    optimum = box.nudge_inside(fit(posterior, box, start, tol=1e-3).x, fraction=1e-3)
    u, problems = box.inv(optimum), Problems(posterior, None)
    coordinates = Coordinates.around(problems, box, u, _TAU, halved=True)
    options = {"target_accept_prob": target_accept, "max_tree_depth": max_tree_depth}
    warmup_calls = 0
    starts, left = torch.zeros_like(u).unsqueeze(0), num_warmup
    with _ONE_AT_A_TIME, _own_random_state(seed, u.device):
        for stage, share in enumerate(_PILOTS):
            n_tune, n_draw = (int(part * num_warmup) for part in share)
            if n_draw < _FEWEST:
                continue
            potential = WhitenedPotential(posterior, coordinates)
            pilot = _run(potential, starts, n_tune, n_draw, seed + stage, options, progress)[0]
            is_last = stage == len(_PILOTS) - 1
            coordinates, starts = _rounded(coordinates, pilot.w, num_chains if is_last else 1)
            warmup_calls, left = warmup_calls + potential.calls, left - n_tune - n_draw
        starts = starts.expand(num_chains, -1)
        potential = WhitenedPotential(posterior, coordinates)
        seed += len(_PILOTS)
        runs = _run(potential, starts, left, num_samples, seed, options, progress, mp_context)
    return _chains(runs, potential, warmup_calls)


@contextmanager
def _own_random_state(seed: int, device: torch.device) -> Iterator[None]:
    """Seed all that Pyro seeds, and leave it as it was found."""
    # Pyro seeds NumPy's global generator, so that is the one to put back.
    python_state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            pyro.set_rng_seed(seed)
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)  # noqa: NPY002


@dataclass(frozen=True)
class _Run:
    """Draws of one chain in its whitened coordinates (S, P), and what Pyro and we counted."""

    w: Tensor
    diagnostics: dict[str, Any]


def _run(
    potential: WhitenedPotential,
    starts: Tensor,
    n_tune: int,
    n_draw: int,
    seed: int,
    options: Mapping[str, object],
    progress: bool,
    mp_context: str | None = None,
) -> list[_Run]:
    """Run a chain from each start (C, P), with the seeds ``seed``, ``seed + 1``, ..."""
    chain = partial(_chain, potential, n_tune, n_draw, options, progress)
    seeds = range(seed, seed + len(starts))
    if mp_context is None or len(starts) == 1:
        return list(map(chain, starts, seeds))
    # Pyro's own parallel chains wait for ever for a process that died.
    n_workers = min(len(starts), os.cpu_count() or 1)
    with ProcessPoolExecutor(n_workers, mp_context=get_context(mp_context)) as pool:
        return list(pool.map(chain, starts, seeds))


def _chain(
    potential: WhitenedPotential,
    n_tune: int,
    n_draw: int,
    options: Mapping[str, object],
    progress: bool,
    start: Tensor,
    seed: int,
) -> _Run:
    """Run one chain from a start (P,)."""
    pyro.set_rng_seed(seed)
    potential.calls = 0
    # The mass matrix stays one: the coordinates are round already.
    kernel = _CountingNUTS(potential, step_size=_STEP_SIZE, adapt_mass_matrix=False, **options)
    mcmc = MCMC(
        kernel,
        num_samples=n_draw,
        warmup_steps=n_tune,
        initial_params={"w": start},
        disable_progbar=not progress,
    )
    mcmc.run()
    found = mcmc.diagnostics()
    counted = ("divergences", "step size", "mean acceptance", "energies", "gradients")
    return _Run(mcmc.get_samples()["w"], {key: found[key]["chain 0"] for key in counted})


def _rounded(coordinates: Coordinates, w: Tensor, num_chains: int) -> tuple[Coordinates, Tensor]:
    """Return coordinates in which pilot draws (S, P) are round, and starts for chains, (C, P)."""
    n, size = w.shape
    eye = torch.eye(size, dtype=w.dtype, device=w.device)
    # As many draws' worth of belief in the Fisher matrix as there are parameters: few draws make a
    # covariance with directions that are much too narrow.
    covariance = (n * torch.cov(w.mT) + size * eye) / (n + size)
    root = torch.linalg.cholesky(covariance)
    whitening = coordinates.whitening
    rounder = Whitening(whitening(w.mean(0)), whitening.scale @ root)
    pick = torch.linspace(n - 1, n // 2, num_chains).round().long()
    return replace(coordinates, whitening=rounder), rounder.inverse(whitening(w[pick]))


def _chains(runs: list[_Run], potential: WhitenedPotential, calls: int) -> Chains:
    coordinates = potential.coordinates
    u, box = coordinates.in_box(torch.stack([run.w for run in runs])), coordinates.box
    found = [run.diagnostics for run in runs]
    energy = u.new_tensor([d["energies"] for d in found])
    return Chains(
        x=box(u),
        # Energies are those of the coordinates: take the Jacobian out again.
        log_density=_idle(box, u) - energy - box.log_abs_det_jacobian(u, u),
        step_size=u.new_tensor([d["step size"] for d in found]),
        acceptance=u.new_tensor([d["mean acceptance"] for d in found]),
        divergences=torch.tensor([len(d["divergences"]) for d in found]),
        n_gradients=torch.tensor([d["gradients"][1] for d in found]),
        n_gradients_warmup=calls + sum(d["gradients"][0] for d in found),
    )
