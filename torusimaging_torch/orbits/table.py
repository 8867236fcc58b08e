"""Actions, angles and periods of millions of stars, from tables over r.

J/r^2, T and the coefficients of the angle's sine series depend on r alone and mostly vary slowly.
They are tabulated over r, more densely where a straight line is not good enough: where contours
begin to touch a knot, and before they cross. They are interpolated linearly, all columns of the
table at once: with a search and a gather for each column, as torchinterp1d does it, this would take
a hundred times longer. There are no derivatives: for those there is
`torusimaging_torch.orbits.actions`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torchinterp1d import interp1d

from torusimaging_torch.numerics.params import Params, column
from torusimaging_torch.orbits.actions import ActionAngle, angle_of, orbit_shape
from torusimaging_torch.orbits.contours import Contours, edge, locate_stars
from torusimaging_torch.torus.orbital_torus import OrbitalTorus

__all__ = ["OrbitTable", "can_be_tabulated"]

_N_NODES = 1024
_TOLERANCE = 2e-7  # of straight lines: relative in J and T, in radian for theta
_MAX_LEVELS = 24
_NEGLIGIBLE = 1e-8  # radian: the harmonics left out sum up to less
_CHUNK = 512  # contours traced at once: they stay in the processor's cache
_TINY = 1e-8  # stands for r = 0, where J/r^2 is a limit


def can_be_tabulated(torus: OrbitalTorus) -> bool:
    """Return whether the model has knots: they tell how far a table must go."""
    return edge(torus) is not None


@dataclass
class OrbitTable:
    """All orbits of a model, tabulated over r; build with `OrbitTable.of`.

    Attributes
    ----------
    contours
        The contours that were tabulated, with the model.
    r
        Nodes with shape (*B, M).
    columns
        J/r^2, T and the sine coefficients, with shape (*B, M, C). nan where there is no orbit.
    """

    contours: Contours
    r: Tensor
    columns: Tensor

    @classmethod
    @torch.no_grad()
    def of(
        cls, torus: OrbitalTorus, params: Params, n_grid: int = 32, n_nodes: int = _N_NODES
    ) -> OrbitTable:
        """Tabulate a model.

        Parameters
        ----------
        torus
            The model; its e functions must have knots.
        params
            Nested dictionary of tensors, with batch shape (*B,).
        n_grid
            Number of nodes per quarter of an orbit.
        n_nodes
            Number of orbits to begin with.

        Raises
        ------
        ValueError
            If the e functions have no knots.
        """
        if not can_be_tabulated(torus):
            raise ValueError(
                "a table needs e functions with knots, which tell where it ends: use "
                'method="exact" for this model'
            )
        contours = Contours.of(torus, params, n_grid)
        limit = contours.limit
        fraction = torch.linspace(0, 1, n_nodes, dtype=limit.dtype, device=limit.device)
        r, columns = _refine(contours, limit.unsqueeze(-1) * fraction)
        if contours.has_angles:
            columns = columns[..., : 2 + _n_needed(columns[..., 2:])]
        # What was looked at beforehand is large and has served its purpose.
        contours = replace(contours, values=contours.values[..., :0].clone())
        return cls(contours, r, columns.contiguous())

    def interpolate(self, r: Tensor) -> Tensor:
        """Return the columns at r (*B, N), with shape (*B, N, C), by straight lines."""
        *batch, n_nodes, n_columns = self.columns.shape
        r = r.expand(*batch, r.shape[-1]).contiguous()
        after = torch.searchsorted(self.r, r).clamp(1, n_nodes - 1)
        low, high = self.r.gather(-1, after - 1), self.r.gather(-1, after)
        weight = ((r - low) / (high - low)).reshape(-1, 1)
        # All problems in one table: whole rows are read, which is what makes this fast.
        start = torch.arange(math.prod(batch), device=r.device).reshape(*batch, 1) * n_nodes
        row, table = (after + start).flatten(), self.columns.reshape(-1, n_columns)
        before, after = table.index_select(0, row - 1), table.index_select(0, row)
        return before.lerp_(after, weight).reshape(*r.shape, n_columns)

    @torch.no_grad()
    def period(self, J: Tensor) -> Tensor:
        """Return the period of orbits with actions J (n,), nan beyond the table, shape (*B, n)."""
        *batch, n_nodes, _ = self.columns.shape
        # Along the root of J, like r itself, the period is a straight line near the centre.
        root = (self.columns[..., 0].sqrt() * self.r).reshape(-1, n_nodes)
        wanted = J.sqrt().expand(root.shape[0], J.shape[-1])
        T = interp1d(root, self.columns[..., 1].reshape(-1, n_nodes), wanted)
        T = torch.where(wanted <= root[..., -1:], T, torch.nan)
        return T.reshape(*batch, J.shape[-1])

    @torch.no_grad()
    def __call__(self, pos: Tensor, vel: Tensor) -> ActionAngle:
        """Look up stars, with shape (*B, N) or (N,), as `action_angle` would."""
        contours = self.contours
        stars = locate_stars(contours, pos, vel)
        inside = stars.r <= column(contours.limit)
        r = torch.where(inside, stars.r, 0)
        columns = self.interpolate(r)
        J = torch.where(inside, columns[..., 0] * r**2, torch.nan)
        valid = J.isfinite()
        if not contours.has_angles:
            nan = torch.full_like(J, torch.nan)
            return ActionAngle(J, nan, nan, valid)
        T = torch.where(valid, columns[..., 1], torch.nan)
        psi = torch.where(valid, stars.psi, torch.nan)
        theta = angle_of(columns[..., 2:], contours.step, psi)
        return ActionAngle(J, theta, T, valid)


def _n_needed(series: Tensor) -> int:
    """Return how many of the coefficients (*B, M, n) are not negligible for some orbit."""
    size = series.nan_to_num(0).abs().flatten(0, -2).amax(0)
    rest = size.flip(0).cumsum(0).flip(0)
    return max(int((rest > _NEGLIGIBLE).sum()), 1)


def _tabulate(contours: Contours, r: Tensor) -> Tensor:
    """Return all columns at r (*B, M), with shape (*B, M, C)."""
    # At the centre J/r^2 is a limit.
    r = r.clamp(min=_TINY * contours.limit.unsqueeze(-1))
    shapes = [orbit_shape(contours, part) for part in r.split(_CHUNK, dim=-1)]
    J, T = (torch.cat([getattr(s, name) for s in shapes], dim=-1) for name in "JT")
    columns = [(J / r**2).unsqueeze(-1)]
    if contours.has_angles:
        columns += [T.unsqueeze(-1), torch.cat([s.series for s in shapes], dim=-2)]
    return torch.cat(columns, dim=-1)


def _misses(guess: Tensor, columns: Tensor) -> Tensor:
    """Return which of the columns guessed at M nodes, (*B, M, C), are too wrong, (M,)."""
    off = (guess - columns).abs()
    worst = (off[..., :2] / columns[..., :2]).amax(-1)
    angle = off[..., 2:].sum(-1)
    misses = (worst > _TOLERANCE) | (angle > _TOLERANCE)
    return misses.reshape(-1, misses.shape[-1]).any(0)


def _refine(contours: Contours, r: Tensor) -> tuple[Tensor, Tensor]:
    """Halve intervals of r (*B, M) until straight lines between the columns are good enough.

    The problems of a batch are refined together. Returns nodes and columns.
    """
    columns = _tabulate(contours, r)
    left = torch.arange(r.shape[-1] - 1, device=r.device)
    for _ in range(_MAX_LEVELS):
        middle = (r[..., left] + r[..., left + 1]) / 2
        new = _tabulate(contours, middle)
        misses = _misses((columns[..., left, :] + columns[..., left + 1, :]) / 2, new)
        place = torch.cat([2 * torch.arange(r.shape[-1], device=r.device), 2 * left + 1])
        order = place.argsort()
        r = torch.cat([r, middle], dim=-1)[..., order]
        columns = torch.cat([columns, new], dim=-2)[..., order, :]
        # Where the middles that were missed have come to lie: halve the intervals on both sides.
        at = order.argsort()[-left.shape[0] :][misses]
        if at.numel() == 0:
            break
        left = torch.stack([at - 1, at], dim=-1).flatten()
    return r.contiguous(), columns
