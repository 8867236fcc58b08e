r"""Contours of constant r as closed orbits: where they are sound, and how far out they run.

A contour is followed by :math:`\psi`, the angle from the position axis: :math:`y = r_e \cos\psi`,
:math:`x = r_e \sin\psi`. So :math:`\psi` is the elliptical angle in the "vp" convention, and
:math:`\pi/2` minus it in "pv". In both, time runs towards smaller :math:`\psi`.

Orbits neither cross nor leave the model where :math:`\partial r/\partial r_e > 0` and
:math:`r_e` is below the last knot of every e function: this is checked for the whole contour that a
star is on, not only where the star is.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from torusimaging_torch.numerics.params import Params, batch_shape, column, function_params
from torusimaging_torch.numerics.ranges import whole
from torusimaging_torch.numerics.roots import increasing_root
from torusimaging_torch.numerics.shapes import broadcast_shapes
from torusimaging_torch.torus.distortion import FourierDistortion, Harmonics, chebyshev
from torusimaging_torch.torus.elliptical import EllipticalTransform
from torusimaging_torch.torus.orbital_torus import OrbitalTorus
from torusimaging_torch.torus.piecewise import PiecewiseDistortion

__all__ = [
    "Contours",
    "Stars",
    "ValueAndSlope",
    "cos_theta_e",
    "edge",
    "last_knot",
    "locate_stars",
    "psi_nodes",
]

# Radii at which contours are looked at beforehand, so densely that a straight line between them is
# mostly good to 1e-7, whence one step of Newton's method: evenly in the root of r_e up to the last
# knot or, for functions without knots, over 128 octaves.
_N_RADII = 4096
_OCTAVES, _PER_OCTAVE = 64, 32
_MAX_STEPS = 20

_MARGIN = 1e-12


def last_knot(distortion: FourierDistortion) -> Tensor | None:
    """Return the elliptical radius where the first e function ends, with shape (*B,) or ().

    None if no function has knots.
    """
    knots = [f.knots for f in distortion.e_funcs.values()]
    ends = [k[..., -1] for k in knots if k is not None]
    if not ends:
        return None
    nearest = ends[0]
    for end in ends[1:]:
        nearest = torch.minimum(nearest, end)
    return nearest


def edge(torus: OrbitalTorus) -> Tensor | None:
    """Return the elliptical radius where a model ends: at its `last_knot`, with shape (*B,) or ().

    A potential without distortion ends where the label function does, with the data. None if there
    are no knots.
    """
    end = last_knot(torus.distortion)
    if end is None and not isinstance(torus.transform, EllipticalTransform):
        functions = torus.label_functions.values()
        last = [f.knots[..., -1] for f in functions if f.knots is not None]
        return torch.stack(last).amax(0) if last else None
    return end


def psi_nodes(torus: OrbitalTorus, n_grid: int, like: Tensor) -> tuple[Tensor, int]:
    """Return nodes that equally weighted integrate over a contour, and the step of its harmonics.

    By symmetry ``n_grid`` nodes on a quarter of the contour stand for 4 ``n_grid`` on all of it if
    all orders are even, when only even harmonics of psi occur (step 2); otherwise half the contour
    is needed (step 1).

    Raises
    ------
    ValueError
        If ``n_grid`` is not a positive integer.
    """
    n_grid = whole(n_grid, "N_grid", 1)
    even = all(m % 2 == 0 for m in torus.distortion.orders)
    index = torch.arange(n_grid if even else 2 * n_grid, dtype=like.dtype, device=like.device)
    psi = (index + 0.5) * (math.pi / (2 * n_grid))
    if not even and torus.convention == "pv":
        psi = psi - math.pi / 2  # odd cosines in "pv" are symmetric about the velocity axis
    return psi, 2 if even else 1


class ValueAndSlope:
    """A function and its slope that are cheapest computed together: the last point is remembered.

    Parameters
    ----------
    both
        Returns value and slope of one argument.
    """

    def __init__(self, both: Callable[[Tensor], tuple[Tensor, Tensor]]) -> None:
        self._both = both
        self._last: tuple[Tensor, bool, tuple[Tensor, Tensor]] | None = None

    def _at(self, x: Tensor) -> tuple[Tensor, Tensor]:
        graph = torch.is_grad_enabled()
        if self._last is None or self._last[0] is not x or self._last[1] != graph:
            self._last = (x, graph, self._both(x))
        return self._last[2]

    def value(self, x: Tensor) -> Tensor:
        """Return the value at ``x``."""
        return self._at(x)[0]

    def slope(self, x: Tensor) -> Tensor:
        """Return the slope at ``x``."""
        return self._at(x)[1]


@dataclass
class Contours:
    """The contours of one model, at fixed angles; everything with a batch shape (*B,) if any.

    Build with `Contours.of`. Q is the number of nodes, M that of the radii looked at beforehand.

    Attributes
    ----------
    torus, params
        The model.
    psi
        Nodes with shape (Q,).
    step
        Harmonics of psi that occur are multiples of this.
    levels
        The largest r whose contour stays below each radius that was looked at, (*B, M).
    limit
        The largest r with a sound contour, (*B,).
    r_e_limit
        The elliptical radius below which orbits do not cross, (*B,).
    """

    torus: OrbitalTorus
    params: Params
    psi: Tensor
    step: int
    cosines: dict[int, Tensor]  # cos(m theta_e) at the nodes, (Q,)
    radii: Tensor  # (*B, M)
    values: Tensor  # r at the radii and nodes, (*B, Q, M), increasing along the last axis
    levels: Tensor
    limit: Tensor
    r_e_limit: Tensor
    tabulated: PiecewiseDistortion | None = None  # the same distortion, cheap without gradients

    @classmethod
    def of(cls, torus: OrbitalTorus, params: Params, n_grid: int) -> Contours:
        """Look at the contours of a model at ``n_grid`` nodes per quarter."""
        psi, step = psi_nodes(torus, n_grid, params["pos0"])
        orders = torus.distortion.orders
        # The axes are looked at too: crossings begin there.
        axes = psi.new_tensor([-0.5, 0, 0.5, 1]) * math.pi
        cos = cos_theta_e(torus, torch.cat([psi, axes]))
        cosines = chebyshev(cos, orders)
        with torch.no_grad():
            radii, values, slopes = _survey(torus, params, cosines, cos.shape[0])
            sound = ((slopes > 0) & values.isfinite()).all(dim=-2)
            sound = sound.long().cumprod(dim=-1).bool()  # up to the first that is not
            values = torch.where(sound.unsqueeze(-2), values, torch.inf)
            levels = values.amin(dim=-2)
            limit = torch.where(sound, levels, 0).amax(dim=-1)
            r_e_limit = torch.where(sound, radii, 0).amax(dim=-1)
            tabulated = _tabulated(torus.distortion, params)
        nodes = slice(0, psi.shape[0])
        return cls(
            torus,
            params,
            psi,
            step,
            {m: c[nodes] for m, c in cosines.items()},
            radii.expand(*levels.shape).contiguous(),
            values[..., nodes, :].contiguous(),
            levels,
            limit,
            r_e_limit,
            tabulated,
        )

    @property
    def has_angles(self) -> bool:
        """Whether the time along a contour is defined: not for odd orders in "pv"."""
        return self.step == 2 or self.torus.convention == "vp"

    def stretch(self, r_e: Tensor) -> Tensor | float:
        """Return by how much areas are larger than in the plane, at radii (*B, N, Q)."""
        y = (r_e * self.psi.cos()).flatten(-2)
        transform = self.torus.transform
        found = transform.stretch(y, *transform.frame(self.params))
        return 1.0 if found is None else found.reshape(r_e.shape)

    def harmonics(self, r_e: Tensor) -> Harmonics:
        """Return e_m and its derivatives at radii with shape (*B, N, Q), in that shape."""
        terms = self._terms(r_e.flatten(-2))
        return {m: tuple(t.reshape(r_e.shape) for t in term) for m, term in terms.items()}  # type: ignore[misc]

    def distort(self, r_e: Tensor, cos: Tensor) -> Tensor:
        """Return r at elliptical radii and cosines of the elliptical angle, (*B, N) each."""
        cosines = chebyshev(cos, self.torus.distortion.orders)
        factor = torch.ones_like(r_e)
        for m, (e, _, _) in self._terms(r_e).items():
            factor = factor + e * cosines[m]
        return r_e * factor

    def _terms(self, r_e: Tensor) -> Harmonics:
        """Return e_m and its derivatives at radii (*B, N)."""
        if self.tabulated is None or torch.is_grad_enabled():
            e_params = function_params(self.params, "e_params")
            return self.torus.distortion.derivatives(r_e, e_params)
        n_problems = math.prod(batch_shape(self.params))
        terms = self.tabulated.derivatives(r_e.reshape(n_problems, -1), None)
        return {m: tuple(t.reshape(r_e.shape) for t in term) for m, term in terms.items()}  # type: ignore[misc]

    def _r_and_slope(self, r_e: Tensor) -> tuple[Tensor, Tensor]:
        factor, slope = torch.ones_like(r_e), torch.ones_like(r_e)
        for m, (e, e_slope, _) in self.harmonics(r_e).items():
            factor = factor + e * self.cosines[m]
            slope = slope + (e + r_e * e_slope) * self.cosines[m]
        return r_e * factor, slope

    def trace(self, r: Tensor) -> Tensor:
        """Return the elliptical radius of contours r (*B, N) at the nodes, (*B, N, Q).

        Differentiable to third order by r and the parameters. r must not exceed `limit`.
        """
        with torch.no_grad():
            root, spread = self._solve(r.detach())
        if not torch.is_grad_enabled():
            return root
        function = ValueAndSlope(self._r_and_slope)
        target = r.unsqueeze(-1).expand(root.shape)
        return increasing_root(
            function.value, target, root - spread, root + spread, fprime=function.slope
        )

    def _solve(self, r: Tensor) -> tuple[Tensor, Tensor]:
        """Return the roots and how wide a bracket to put around them, by safe Newton steps."""
        lower, upper, x = self._bracket(r)
        tolerance = torch.finfo(x.dtype).eps ** 0.42
        for _ in range(_MAX_STEPS):
            value, slope = self._r_and_slope(x)
            step = (r.unsqueeze(-1) - value) / slope
            x = (x + step).clamp(lower, upper)
            # A step of Newton's method squares the relative error: one so short is the last.
            if bool((step.abs() <= tolerance * x.abs()).all()):
                break
        return x, (upper - lower) / 16

    def _bracket(self, r: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the two radii between which each root lies, and a start, (*B, N, Q) each."""
        n_nodes, n_radii = self.values.shape[-2:]
        batch = broadcast_shapes(r.shape[:-1], self.levels.shape[:-1])
        wanted = r.unsqueeze(-2).expand(*batch, n_nodes, r.shape[-1]).contiguous()
        values = self.values.expand(*batch, n_nodes, n_radii).contiguous()
        index = torch.searchsorted(values, wanted).clamp(1, n_radii - 1)
        before, after = values.gather(-1, index - 1), values.gather(-1, index)
        radii = self.radii.expand(*batch, n_radii)
        lower, upper = (radii.gather(-1, i.flatten(-2)) for i in (index - 1, index))
        lower, upper = lower.reshape(index.shape), upper.reshape(index.shape)
        start = lower + (upper - lower) * ((wanted - before) / (after - before)).clamp(0, 1)
        # Rounding must not put a root outside its bracket.
        lower, upper = lower * (1 - _MARGIN), upper * (1 + _MARGIN)
        return lower.mT.contiguous(), upper.mT.contiguous(), start.mT.contiguous()


def _tabulated(distortion: FourierDistortion, params: Params) -> PiecewiseDistortion | None:
    if not PiecewiseDistortion.fits(distortion):
        return None
    e_params = params.get("e_params", {})
    vals = {m: e_params[m]["vals"] for m in distortion.orders}
    flat = {m: {"vals": v.detach().reshape(-1, v.shape[-1])} for m, v in vals.items()}
    return PiecewiseDistortion(distortion, flat)


def cos_theta_e(torus: OrbitalTorus, psi: Tensor) -> Tensor:
    """Return the cosine of the elliptical angle at an angle from the position axis."""
    return psi.cos() if torus.convention == "vp" else psi.sin()


def _survey(
    torus: OrbitalTorus, params: Params, cosines: dict[int, Tensor], n_angles: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return radii (*B, M), and r and its slope there at angles with given cosines, (*B, Q, M)."""
    like = params["pos0"]
    end = edge(torus)
    if end is None:
        n = 2 * _OCTAVES * _PER_OCTAVE
        octaves = torch.arange(n + 1, dtype=like.dtype, device=like.device) / _PER_OCTAVE
        radii = torch.cat([octaves.new_zeros(1), (octaves - _OCTAVES).exp2()])
    else:
        fraction = torch.linspace(0, 1, _N_RADII + 1, dtype=like.dtype, device=like.device)
        radii = end.to(like).unsqueeze(-1) * fraction**2
    radii = radii.expand(*like.shape, radii.shape[-1])
    factor = radii.new_ones(*radii.shape[:-1], n_angles, radii.shape[-1])
    slope = factor.clone()
    e_params = function_params(params, "e_params")
    for m, (e, e_slope, _) in torus.distortion.derivatives(radii, e_params).items():
        cos = cosines[m].unsqueeze(-1)
        factor += e.unsqueeze(-2) * cos
        slope += (e + radii * e_slope).unsqueeze(-2) * cos
    return radii, radii.unsqueeze(-2) * factor, slope


class Stars(NamedTuple):
    """Where stars are: r (nan where there is no sound contour) and psi, shape (*B, N) each."""

    r: Tensor
    psi: Tensor


def locate_stars(contours: Contours, pos: Tensor, vel: Tensor) -> Stars:
    """Return the contour of each star, and its angle from the position axis.

    At the very centre, where there is no angle, psi is pi/2, whose theta is 0.
    """
    torus, params = contours.torus, contours.params
    # Stars that are not finite must not spoil the derivatives of the others.
    finite = (pos.detach() ** 2 + vel.detach() ** 2).isfinite()
    pos, vel = torch.where(finite, pos, 0), torch.where(finite, vel, 0)
    r_e, cos = torus.polar(pos, vel, params)
    inside = finite & (r_e <= column(contours.r_e_limit))
    r_e, cos = torch.where(inside, r_e, 0), torch.where(inside, cos, 1)
    r = contours.distort(r_e, cos)
    psi = _psi_of(torus, pos, vel, params)
    return Stars(torch.where(inside, r, torch.nan), torch.where(inside, psi, torch.nan))


def _psi_of(torus: OrbitalTorus, pos: Tensor, vel: Tensor, params: Params) -> Tensor:
    x, y = torus.transform.plane(pos, vel, *torus.transform.frame(params))
    centre = (x == 0) & (y == 0)
    return torch.atan2(torch.where(centre, 1.0, x), torch.where(centre, 0.0, y))
