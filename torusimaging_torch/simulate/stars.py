"""Simulated stars with exact orbits: the truth that fits are judged by.

Stars are drawn from a distribution over the action J, spread evenly over the angle, put where the
potential says they are, and given a label that depends on J alone, with scatter and errors.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import astropy.units as u
import numpy as np
from astropy.table import QTable
from numpy.random import Generator
from numpy.typing import NDArray

from torusimaging_torch.numerics.ranges import whole
from torusimaging_torch.simulate.exact_orbits import VerticalOrbits
from torusimaging_torch.simulate.potentials import (
    SymmetricPotential,
    from_bare,
    milky_way,
    require_potential,
    to_bare,
)
from torusimaging_torch.units import Numbers, label_values, to_tensor

__all__ = [
    "ExponentialActions",
    "LognormalErrors",
    "SqrtActionLabel",
    "milky_way_disk",
    "simulate_stars",
]

Array = NDArray[np.float64]

_ACTION = u.kpc**2 / u.Myr
_KM_S = u.km / u.s
_MIN_EFFICIENCY = 1e-4


@dataclass(frozen=True, eq=False)
class ExponentialActions:
    """A distribution over J: sum_k weight_k exp(-J/scale_k) / scale_k.

    In a harmonic oscillator each part is Gaussian in z and v_z with <v_z^2> = scale Omega; in a
    disk it is close to isothermal. By default a thin and a thick disk like those of the Galaxy at
    the Sun, which together have a velocity dispersion of 23 km/s.

    Attributes
    ----------
    scales
        Mean action of each part, a scalar or with shape (K,).
    weights
        Fraction of the stars in each, any positive numbers, with the same shape.
    """

    scales: u.Quantity = field(default_factory=lambda: [0.008, 0.030] * _ACTION)
    weights: Numbers = (0.85, 0.15)

    def __post_init__(self) -> None:
        """Check the numbers."""
        scales, weights = self._parts()
        if scales.shape != weights.shape or not (np.all(scales > 0) and np.all(weights > 0)):
            raise ValueError(
                "scales and weights must be positive and of the same length, got "
                f"{self.scales} and {self.weights}"
            )

    def _parts(self) -> tuple[Array, Array]:
        scales = np.atleast_1d(to_bare(self.scales, "scales", "action"))
        return scales, np.atleast_1d(np.asarray(self.weights, dtype=np.float64))

    def __call__(self, n: int, rng: Generator) -> u.Quantity:
        """Draw n actions."""
        scales, weights = self._parts()
        part = rng.choice(len(scales), size=n, p=weights / weights.sum())
        return from_bare(scales[part] * rng.standard_exponential(n), "action")


@dataclass(frozen=True)
class SqrtActionLabel:
    """Mean label l0 + l1 sqrt(J / (kpc^2/Myr)): linear in the amplitude of small orbits."""

    l0: float = 0.02
    l1: float = 0.9

    def __call__(self, J: u.Quantity) -> Array:
        """Return the mean label of stars with action J, with shape (N,)."""
        return self.l0 + self.l1 * np.sqrt(to_bare(J, "J", "action"))


@dataclass(frozen=True)
class LognormalErrors:
    """Label errors that differ from star to star: ln(error) is normal about ln(median)."""

    median: float = 0.05
    sigma: float = 0.3

    def __call__(self, n: int, rng: Generator) -> Array:
        """Draw n errors."""
        return self.median * np.exp(self.sigma * rng.standard_normal(n))


Actions: TypeAlias = Callable[[int, Generator], Numbers] | Numbers
"""What draws n actions, or the mean of an exponential distribution of them."""

Errors: TypeAlias = Callable[[int, Generator], Numbers] | Numbers
"""What draws n errors, or the errors themselves."""

Selection: TypeAlias = Callable[[u.Quantity], Numbers] | Numbers
"""With what chance stars at some positions are in the sample, or up to which distance all are."""


def _describe(setting: object) -> str:
    """Return a setting as text for the table's header, without memory addresses."""
    return getattr(setting, "__qualname__", None) or str(setting)


def _offset(value: object, name: str, kind: str) -> float:
    bare = to_bare(value, name, kind)
    if bare.ndim != 0 or not np.isfinite(bare):
        raise ValueError(f"{name} must be one finite number, got {value}")
    return float(bare)


def _accept_probability(selection: Selection | None, pos: u.Quantity) -> Array:
    """Return the chance that a star at an observed position is in the sample, with shape (N,)."""
    if selection is None:
        return np.ones(pos.shape)
    if callable(selection):
        chance = np.asarray(selection(pos), dtype=np.float64)
    else:
        limit = to_bare(selection, "selection", "length")
        chance = np.asarray(np.abs(to_bare(pos, "pos", "length")) < limit, dtype=np.float64)
    if chance.shape != pos.shape or not np.all((chance >= 0) & (chance <= 1)):
        raise ValueError(
            "selection must return one probability between 0 and 1 per star: expected shape "
            f"{pos.shape}, got {chance.shape} with values in [{chance.min():g}, {chance.max():g}]"
        )
    return chance


def _draw_actions(df: Actions, n: int, rng: Generator) -> Array:
    if not callable(df):
        scales = to_bare(df, "df", "action")
        if not scales.size or not np.all((scales > 0) & np.isfinite(scales)):
            raise ValueError(f"df must be positive actions, got {df}")
        df = ExponentialActions(from_bare(scales, "action"), np.ones(scales.shape))
    action = to_bare(df(n, rng), "df", "action")
    if action.shape != (n,) or not np.all(action >= 0):
        raise ValueError(
            f"df must return {n} actions, none negative or nan; got shape {action.shape}"
        )
    return action


class _Sky:
    """Draws stars from a distribution function; keeps the table of orbits between calls."""

    def __init__(self, potential: SymmetricPotential, df: Actions, rng: Generator) -> None:
        self.potential, self.df, self.rng = potential, df, rng
        self.orbits: VerticalOrbits | None = None

    def draw(self, n: int) -> dict[str, Array]:
        """Return J, theta, T, z and v of n stars in kpc and Myr, each with shape (n,)."""
        action = _draw_actions(self.df, n, self.rng)
        theta = self.rng.uniform(0, 2 * np.pi, n)
        largest = action.max(initial=0.0)
        if self.orbits is None or largest >= self.orbits.action(np.array(self.orbits.speed_max)):
            try:
                self.orbits = VerticalOrbits.up_to_action(self.potential, largest)
            except ValueError as error:
                raise ValueError(f"df draws actions without an orbit: {error}") from None
        w = self.orbits.speed(action)
        phi = self.orbits.phase(w, theta)
        z, v = self.potential.height(w * np.sin(phi)), w * np.cos(phi)
        return {"J": action, "theta": theta, "T": self.orbits.period(w), "z": z, "v": v}


def _draw_selected(
    sky: _Sky, n: int, pos0: float, selection: Selection | None
) -> tuple[dict[str, Array], int]:
    """Draw until n stars are selected; also return how many had to be drawn."""
    kept: list[dict[str, Array]] = []
    n_kept, n_drawn, missing = 0, 0, n
    while n_kept < n:
        if n_drawn > 1_000_000 and n_kept < _MIN_EFFICIENCY * n_drawn:
            raise ValueError(
                f"selection keeps too few stars, {n_kept} of {n_drawn}: at least one in "
                f"{1 / _MIN_EFFICIENCY:.0f} is needed; choose a wider one"
            )
        stars = sky.draw(missing)
        chance = _accept_probability(selection, from_bare(stars["z"] + pos0, "length"))
        keep = np.flatnonzero(sky.rng.uniform(size=missing) < chance)[: n - n_kept]
        kept.append({name: values[keep] for name, values in stars.items()})
        n_kept += len(keep)
        # The last star kept tells where drawing could have stopped.
        n_drawn += missing if n_kept < n else int(keep[-1]) + 1
        wanted = 1.05 * (n - n_kept) * n_drawn / max(n_kept, 1)
        missing = int(np.clip(wanted, 100, max(10 * n, 100_000)))
    return {name: np.concatenate([part[name] for part in kept]) for name in kept[0]}, n_drawn


def _draw_labels(
    label: Callable[[u.Quantity], Numbers],
    label_scatter: Numbers,
    label_err: Errors,
    J: u.Quantity,
    rng: Generator,
) -> tuple[Array | u.Quantity, Array | u.Quantity]:
    """Return labels and their errors, with shape (N,), in the unit of what ``label`` returns."""
    n = J.size
    labels = label(J)
    mean, _, unit = label_values(labels)
    errors = label_err(n, rng) if callable(label_err) else label_err
    scatter, errors = (
        to_tensor(label_values(labels, x, name)[1], name, None).numpy()
        for x, name in ((label_scatter, "label_scatter"), (errors, "label_err"))
    )
    if np.shape(mean) != (n,):
        raise ValueError(f"label must return one value per star, {n}; got shape {np.shape(mean)}")
    if np.ndim(scatter) != 0 or not 0 <= scatter < np.inf:
        raise ValueError(f"label_scatter must be one number, zero or positive, got {label_scatter}")
    if np.shape(errors) not in ((), (n,)) or not np.all((errors >= 0) & np.isfinite(errors)):
        raise ValueError("label_err must be one number, zero or positive, or give one per star")
    errors = np.broadcast_to(np.asarray(errors, dtype=np.float64), n).copy()
    noise = scatter * rng.standard_normal(n) + errors * rng.standard_normal(n)
    observed = mean + noise
    return (observed, errors) if unit is None else (observed * unit, errors * unit)


def simulate_stars(
    potential: SymmetricPotential,
    n: int,
    *,
    df: Actions | None = None,
    label: Callable[[u.Quantity], Numbers] | None = None,
    label_scatter: Numbers = 0.04,
    label_err: Errors | None = None,
    pos0: Numbers = 0 * u.kpc,
    vel0: Numbers = 0 * _KM_S,
    selection: Selection | None = None,
    seed: int | None = None,
) -> QTable:
    """Draw stars in equilibrium in a potential, with labels that depend on their actions.

    Parameters
    ----------
    potential
        Where the stars move.
    n
        Number of stars returned, after the selection.
    df
        Distribution over actions: a callable of (n, rng) that returns n actions, or the mean of an
        exponential distribution; `ExponentialActions` by default.
    label
        Mean label of stars with actions J (a Quantity with shape (N,)): a callable,
        `SqrtActionLabel` by default. If it returns a Quantity, the label columns have its unit.
    label_scatter
        Standard deviation of the true labels at given J.
    label_err
        Standard deviation of the errors: one number for all, or a callable of (n, rng) that returns
        n; `LognormalErrors` by default.
    pos0, vel0
        Position and velocity of the midplane as seen by the observer; added to z and v_z.
    selection
        The distance abs(z) within which stars are seen, or a callable that takes observed positions
        z (pos0 included) as a Quantity with shape (N,) and returns the probability, 0 to 1, that a
        star there is in the sample. All stars by default.
    seed
        Of the random numbers: the same seed gives the same stars. None takes one from the system;
        either way it is in ``meta``.

    Returns
    -------
    astropy.table.QTable
        n rows in random order; ``z`` (kpc) and ``v_z`` (km/s) as observed, ``label``,
        ``label_err``, and the truth: ``J`` (kpc^2/Myr), ``theta`` (rad, in [0, 2 pi), 0 at the
        midplane moving up), ``T`` (Myr). ``meta`` holds the settings, and as ``n_drawn`` how many
        stars were drawn to select n.

    Raises
    ------
    astropy.units.UnitConversionError
        If an argument has the wrong dimension; the message names it.
    ValueError
        If an argument makes no sense, an action is larger than the potential holds, or the
        selection keeps fewer than one star in ten thousand.

    Examples
    --------
    >>> from torusimaging_torch.simulate import HarmonicOscillator, simulate_stars
    >>> table = simulate_stars(HarmonicOscillator(0.08 * u.rad / u.Myr), 1000, seed=1)
    >>> table.colnames
    ['z', 'v_z', 'label', 'label_err', 'J', 'theta', 'T']
    """
    require_potential(potential)
    n = whole(n, "n", 1)
    df = ExponentialActions() if df is None else df
    label = SqrtActionLabel() if label is None else label
    label_err = LognormalErrors() if label_err is None else label_err
    seed = int(np.random.SeedSequence().generate_state(1)[0]) if seed is None else seed
    rng = np.random.default_rng(whole(seed, "seed", 0))
    z0, v0 = _offset(pos0, "pos0", "length"), _offset(vel0, "vel0", "velocity")
    stars, n_drawn = _draw_selected(_Sky(potential, df, rng), n, z0, selection)
    J = from_bare(stars["J"], "action")
    labels, errors = _draw_labels(label, label_scatter, label_err, J, rng)
    return QTable(
        {
            "z": from_bare(stars["z"] + z0, "length"),
            "v_z": from_bare(stars["v"] + v0, "velocity").to(_KM_S),
            "label": labels,
            "label_err": errors,
            "J": J,
            "theta": from_bare(stars["theta"], "angle"),
            "T": from_bare(stars["T"], "time"),
        },
        # Names of at most eight letters and plain values: they survive in any file format.
        meta={
            "model": _describe(potential),
            "df": _describe(df),
            "labelfun": _describe(label),
            "scatter": _describe(label_scatter),
            "errors": _describe(label_err),
            "pos0": _describe(pos0),
            "vel0": _describe(vel0),
            "select": _describe(selection),
            "n_drawn": n_drawn,
            "seed": seed,
        },
    )


def milky_way_disk(
    n: int = 200_000, R: Numbers = 8.3 * u.kpc, *, seed: int | None = 0, **settings: Any
) -> QTable:
    """Draw stars of a thin and a thick disk in gala's Milky Way, at one distance from the centre.

    Parameters
    ----------
    n
        Number of stars.
    R
        Distance from the Galactic centre; `torusimaging_torch.simulate.milky_way` with
        the same R is the potential, for the true acceleration and density.
    seed
        Of the random numbers.
    **settings
        Other arguments of `simulate_stars`, such as ``pos0`` and ``vel0``.

    Returns
    -------
    astropy.table.QTable
        See `simulate_stars`.

    Examples
    --------
    >>> from torusimaging_torch.simulate import milky_way_disk
    >>> table = milky_way_disk(1000, R=8.3 * u.kpc, seed=1)
    >>> len(table), table["z"].unit
    (1000, Unit("kpc"))
    """
    return simulate_stars(milky_way(R), n, seed=seed, **settings)
