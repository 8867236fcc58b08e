"""Exact actions, angles and periods in a known potential, by quadrature.

An orbit in a symmetric potential is a circle in the plane of (y, v), where y = sign(z) sqrt(2 Phi)
is the speed at z = 0 that just reaches z: y = w sin(phi), v = w cos(phi), with w the star's own
speed at z = 0 and w^2/2 its energy. Since y dy = -a dz, time along the orbit is dt = G(y) dphi with
G = dz/dy = y/|a|, which is smooth and even: no singularity at the turning points, no cancellation
at small z. With its Fourier series G = sum_n c_n cos(2 n phi), which equal weights give with an
error that falls exponentially,

    T = 2 pi c_0,    J = w^2 (c_0/2 + c_1/4),    theta = phi + sum_n c_n sin(2 n phi) / (2 n c_0)

follow from T = oint dt, J = (1/2 pi) oint v^2 dt and theta = 2 pi t/T (Binney & Tremaine 2008,
section 3.5). They depend on w smoothly and are tabulated over it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator

import astropy.units as u
import numpy as np
from astropy.table import QTable
from numpy.typing import NDArray
from scipy.fft import dct
from scipy.interpolate import BSpline

from torusimaging_torch.simulate.potentials import (
    Z_LIMIT,
    SymmetricPotential,
    even_spline,
    from_bare,
    require_potential,
    to_bare,
)
from torusimaging_torch.units import Numbers

__all__ = ["VerticalOrbits", "exact_action_angle", "exact_phase_space"]

Array = NDArray[np.float64]

_KM_S = u.km / u.s
_TOLERANCE = 1e-11  # what the table aims at: relative in J and T, in radian for theta
_NEGLIGIBLE = 1e-13  # harmonics with smaller amplitudes are left out
_MAX_HARMONICS = 4096
_MAX_KNOTS = 4096
_CHUNK = 8192  # stars handled at once: their harmonics stay in the processor's cache


def _fourier(potential: SymmetricPotential, w: Array, n: int) -> Array:
    """Return the first n coefficients c of G for orbits with speed w (K,), with shape (K, n)."""
    phi = (np.arange(n) + 0.5) * np.pi / (2 * n)
    y = w[:, None] * np.sin(phi)
    c = dct(y / -potential.bare_acceleration(potential.height(y)), type=2, axis=1) / n
    c[:, 0] /= 2
    return c


def _harmonics_needed(potential: SymmetricPotential, w: float) -> int:
    n = 16
    while n < _MAX_HARMONICS:
        c = np.abs(_fourier(potential, np.array([w]), n)[0])
        if c[-n // 4 :].max() < _NEGLIGIBLE * c[0]:
            break
        n *= 2
    return n


def _orbit_numbers(c: Array) -> Array:
    """Return (J/w^2, T, b_1, b_2, ...), shape (K, n + 1); theta = phi + sum b_n sin(2 n phi)."""
    n = np.arange(1, c.shape[1])
    head = [c[:, :1] / 2 + c[:, 1:2] / 4, 2 * np.pi * c[:, :1]]
    return np.concatenate([*head, c[:, 1:] / (2 * n * c[:, :1])], axis=1)


class VerticalOrbits:
    """All orbits in a potential with speed at z = 0 up to a limit, as a table over that speed.

    Everything is in kpc, Myr and rad. The table is refined until it agrees, between its knots, with
    the quadrature to 1e-11 (relative in J and T, in rad for theta).

    Parameters
    ----------
    potential
        Where the stars move.
    speed_max
        The largest speed at z = 0, in kpc/Myr.

    Attributes
    ----------
    accuracy
        The largest error found between the knots.
    """

    def __init__(self, potential: SymmetricPotential, speed_max: float) -> None:
        self.potential = potential
        floor = float(potential.launch_speed(np.array(1e-6)))
        self.speed_max = max(float(speed_max), floor)
        n_harmonics = _harmonics_needed(potential, self.speed_max)
        n_knots = 128
        self._fill(n_knots, n_harmonics)
        while self.accuracy > _TOLERANCE and n_knots < _MAX_KNOTS:
            n_knots *= 2
            self._fill(n_knots, n_harmonics)
        if self.accuracy > _TOLERANCE:
            warnings.warn(
                f"orbits up to w = {self.speed_max:.3g} kpc/Myr, close to escape, are accurate to "
                f"{self.accuracy:.1g} only: leave out the fastest stars for more",
                stacklevel=3,
            )

    def _fill(self, n_knots: int, n_harmonics: int) -> None:
        step = float(self.speed_max) / (n_knots - 0.5)
        w = step * (np.arange(n_knots, dtype=np.float64) + 0.5)
        numbers = _orbit_numbers(_fourier(self.potential, w, n_harmonics))
        self._shape = even_spline(w, numbers[:, :2])
        self._series = even_spline(w, numbers[:, 2:])
        needed = np.sum(np.abs(numbers[:, 2:])[:, ::-1].cumsum(axis=1) > _NEGLIGIBLE, axis=1)
        self._w, self._needed = w, np.maximum.accumulate(np.maximum(needed, 1))
        self.accuracy = self._error(step * np.arange(1, n_knots, dtype=np.float64), n_harmonics)

    def _error(self, w: Array, n_harmonics: int) -> float:
        exact = _orbit_numbers(_fourier(self.potential, w, n_harmonics))
        shape = np.abs(self._shape(w) / exact[:, :2] - 1).max()
        angle = np.abs(self._series(w) - exact[:, 2:]).sum(axis=1).max()
        return float(max(shape, angle))

    @classmethod
    def up_to_action(cls, potential: SymmetricPotential, action_max: float) -> VerticalOrbits:
        """Tabulate all orbits with J up to ``action_max`` (kpc^2/Myr).

        Raises
        ------
        ValueError
            If the potential holds no such orbit within `Z_LIMIT`.
        """
        w = potential.launch_speed(np.geomspace(1e-6, Z_LIMIT, 128))
        actions = w**2 * _orbit_numbers(_fourier(potential, w, 256))[:, 0]
        if not action_max < actions[-1]:
            raise ValueError(
                f"J must be below {actions[-1]:.4g} kpc2/Myr, the largest action of an orbit "
                f"within {Z_LIMIT:g} kpc in this potential, got {action_max:.4g}"
            )
        return cls(potential, w[np.searchsorted(actions, action_max, side="right")])

    def action(self, w: Array) -> Array:
        """Return J in kpc^2/Myr of orbits with speed w at z = 0."""
        return w**2 * self._shape(w)[..., 0]

    def period(self, w: Array) -> Array:
        """Return T in Myr of orbits with speed w at z = 0."""
        return self._shape(w)[..., 1]

    def speed(self, action: Array) -> Array:
        """Return the speed at z = 0 of orbits with a given J, the inverse of `action`."""
        grid = np.concatenate([[0.0], self._w, [self.speed_max]])
        w = np.interp(np.sqrt(action), np.sqrt(self.action(grid)), grid)
        for _ in range(3):  # the table is good to 1e-4, and dJ/dw = w T / 2 pi
            shape = self._shape(w)
            slope = np.maximum(w, 1e-100) * shape[..., 1] / (2 * np.pi)
            w = w - (w**2 * shape[..., 0] - action) / slope
        return w

    def angle(self, w: Array, phi: Array) -> Array:
        """Return theta in [0, 2 pi) at phi = atan2(y, v) on orbits with speed w, shapes (N,)."""
        theta = np.empty_like(phi)
        for part, series in self._chunks(w):
            theta[part] = phi[part] + _sine_sum(series, phi[part])
        theta = np.mod(theta, 2 * np.pi)
        return np.where(theta < 2 * np.pi, theta, 0.0)  # mod rounds -1e-17 up to 2 pi

    def phase(self, w: Array, theta: Array) -> Array:
        """Return phi, the inverse of `angle`, shapes (N,)."""
        phi = np.empty_like(theta)
        for part, series in self._chunks(w):
            phi[part] = _invert_angle(series, theta[part])
        return phi

    def _chunks(self, w: Array) -> Iterator[tuple[NDArray[np.intp], Array]]:
        """Yield indices of stars on similar orbits and their b_n with shape (n, len(indices)).

        Small orbits need few harmonics, so stars are taken in order of w.
        """
        order = np.argsort(w)
        for start in range(0, w.size, _CHUNK):
            part = order[start : start + _CHUNK]
            last = np.searchsorted(self._w, w[part[-1]]).clip(max=self._w.size - 1)
            n = self._needed[last]
            series = BSpline.construct_fast(self._series.t, self._series.c[:, :n], self._series.k)
            yield part, np.ascontiguousarray(series(w[part]).T)


def _power_sum(coefficients: Array, phi: Array) -> NDArray[np.complex128]:
    """Return sum_n coefficients_n exp(2 i n phi), n = 1, 2, ..., by Horner's rule."""
    turn = np.exp(2j * phi)
    total = np.zeros_like(turn)
    for row in coefficients[::-1]:
        total += row
        total *= turn
    return total


def _sine_sum(series: Array, phi: Array) -> Array:
    return _power_sum(series, phi).imag


def _invert_angle(series: Array, theta: Array) -> Array:
    """Solve phi + sum_n b_n sin(2 n phi) = theta by Newton's method inside a bracket."""
    # Symmetry keeps theta and phi in the same quadrant.
    low = np.floor(theta / (np.pi / 2)) * (np.pi / 2)
    high = low + np.pi / 2
    slopes = series * (2 * np.arange(1, len(series) + 1))[:, None]
    phi = theta.copy()
    for _ in range(60):
        miss = phi + _sine_sum(series, phi) - theta
        low, high = np.where(miss < 0, phi, low), np.where(miss > 0, phi, high)
        step = phi - miss / (1 + _power_sum(slopes, phi).real)
        new = np.where((step >= low) & (step <= high), step, (low + high) / 2)
        change = np.max(np.abs(new - phi), initial=0.0)
        phi = new
        if change < 1e-14:
            break
    return phi


def _broadcast(first: Array, second: Array, names: str) -> tuple[Array, Array, tuple[int, ...]]:
    try:
        first, second = np.broadcast_arrays(first, second)
    except ValueError:
        raise ValueError(
            f"{names} must have shapes that broadcast, got {first.shape} and {second.shape}"
        ) from None
    return first.ravel(), second.ravel(), first.shape or (1,)


def _spread(good: NDArray[np.bool_], shape: tuple[int, ...]) -> Callable[[Array], Array]:
    """Return a function that puts values of the good stars back in place, nan elsewhere."""

    def place(values: Array) -> Array:
        full = np.full(good.shape, np.nan)
        full[good] = values
        return full.reshape(shape)

    return place


def exact_action_angle(pos: Numbers, vel: Numbers, potential: SymmetricPotential) -> QTable:
    """Compute exact actions, angles and periods of stars in a known potential.

    Parameters
    ----------
    pos, vel
        Height and vertical velocity, measured from the midplane (subtract ``pos0`` and ``vel0``
        first), shapes that broadcast to (N,) or to a grid.
    potential
        Where the stars move.

    Returns
    -------
    astropy.table.QTable
        ``J`` (kpc^2/Myr), ``theta`` (rad, in [0, 2 pi), 0 at z = 0 moving up), ``T`` (Myr),
        ``Omega`` (rad/Myr), good to 1e-10. nan for a star that does not return from within
        `Z_LIMIT` (a warning gives their number) and for one whose position or velocity is nan.

    Raises
    ------
    astropy.units.UnitConversionError
        If ``pos`` is not a length or ``vel`` not a speed.
    ValueError
        If their shapes do not fit.
    """
    require_potential(potential)
    z, v, shape = _broadcast(
        to_bare(pos, "pos", "length"), to_bare(vel, "vel", "velocity"), "pos and vel"
    )
    inside = np.abs(z) <= Z_LIMIT
    y = np.where(inside, potential.launch_speed(np.where(inside, z, 0.0)), np.nan)
    w, phi = np.hypot(y, v), np.arctan2(y, v)
    good = w <= potential.launch_speed(np.array(Z_LIMIT))
    if n_lost := int(np.sum(~good & np.isfinite(z) & np.isfinite(v))):
        warnings.warn(f"{n_lost} stars are unbound: their J, theta and T are nan", stacklevel=2)
    place = _spread(good, shape)
    w, phi = w[good], phi[good]
    orbits = VerticalOrbits(potential, np.max(w, initial=0.0))
    period = orbits.period(w)
    return QTable(
        {
            "J": from_bare(place(orbits.action(w)), "action"),
            "theta": from_bare(place(orbits.angle(w, phi)), "angle"),
            "T": from_bare(place(period), "time"),
            "Omega": from_bare(place(2 * np.pi / period), "frequency"),
        }
    )


def exact_phase_space(J: Numbers, theta: Numbers, potential: SymmetricPotential) -> QTable:
    """Compute where stars with given actions and angles are: the inverse of `exact_action_angle`.

    Parameters
    ----------
    J, theta
        Action and angle (any real number of radians), shapes that broadcast.
    potential
        Where the stars move.

    Returns
    -------
    astropy.table.QTable
        ``z`` (kpc), ``v_z`` (km/s), ``T`` (Myr).

    Raises
    ------
    astropy.units.UnitConversionError
        If ``J`` is not an action or ``theta`` not an angle.
    ValueError
        If an action is negative, not finite, or larger than the potential holds.
    """
    require_potential(potential)
    action, angle, shape = _broadcast(
        to_bare(J, "J", "action"), to_bare(theta, "theta", "angle"), "J and theta"
    )
    if not (np.all(np.isfinite(angle)) and np.all(np.isfinite(action)) and np.all(action >= 0)):
        raise ValueError("J and theta must be finite and J must not be negative")
    orbits = VerticalOrbits.up_to_action(potential, np.max(action, initial=0.0))
    w = orbits.speed(action)
    phi = orbits.phase(w, angle)
    z, v = potential.height(w * np.sin(phi)), w * np.cos(phi)
    return QTable(
        {
            "z": from_bare(z.reshape(shape), "length"),
            "v_z": from_bare(v.reshape(shape), "velocity").to(_KM_S),
            "T": from_bare(orbits.period(w).reshape(shape), "time"),
        }
    )
