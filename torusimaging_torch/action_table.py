"""Actions, angles and periods of millions of stars, from tables over r.

J/r^2, T and the coefficients of the angle's sine series depend on r alone and vary slowly. They are
computed at evenly spaced r and interpolated linearly, all columns of the table at once: with a
search and a gather for each column (as torchinterp1d does) this takes a hundred times longer. There
are no derivatives: for those there is `torusimaging_torch.actions`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torchinterp1d import interp1d

from torusimaging_torch.actions import (
    ActionAngle,
    angle_of,
    orbit_shape,
    polar_psi,
    star_radius,
)
from torusimaging_torch.contours import Contours, last_knot
from torusimaging_torch.params import Params, column
from torusimaging_torch.torus import OrbitalTorus

__all__ = ["OrbitTable", "can_be_tabulated"]

_N_NODES = 2048
_NEGLIGIBLE = 1e-8  # radian: the harmonics left out sum up to less
_CHUNK = 512  # contours traced at once: they stay in the processor's cache
_TINY = 1e-8  # stands for r = 0, where J/r^2 is a limit


def can_be_tabulated(torus: OrbitalTorus) -> bool:
    """Return whether the model has knots: they tell how far a table must go."""
    return last_knot(torus.distortion) is not None


@dataclass
class OrbitTable:
    """All orbits of a model, tabulated over r; build with `OrbitTable.of`.

    Attributes
    ----------
    contours
        The contours that were tabulated, with the model.
    columns
        J/r^2, T and the sine coefficients, with shape (*B, M, C). nan where there is no orbit.
    """

    contours: Contours
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
            Number of orbits M.

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
        r = limit.unsqueeze(-1) * fraction.clamp(min=_TINY)
        shapes = [orbit_shape(contours, part) for part in r.split(_CHUNK, dim=-1)]
        J, T = (torch.cat([getattr(s, name) for s in shapes], dim=-1) for name in "JT")
        columns = [(J / r**2).unsqueeze(-1)]
        if contours.has_angles:
            series = torch.cat([s.series for s in shapes], dim=-2)
            columns += [T.unsqueeze(-1), series[..., : _n_needed(series)]]
        # What was looked at beforehand is large and has served its purpose.
        contours = replace(contours, values=contours.values[..., :0].clone())
        return cls(contours, torch.cat(columns, dim=-1))

    def interpolate(self, r: Tensor) -> Tensor:
        """Return the columns at r (*B, N), with shape (*B, N, C), by straight lines."""
        *batch, n_nodes, n_columns = self.columns.shape
        r = r.expand(*batch, r.shape[-1])
        index = r / column(self.contours.limit) * (n_nodes - 1)
        before = index.long().clamp(0, n_nodes - 2)
        weight = (index - before).unsqueeze(-1)
        # All problems in one table: whole rows are read, which is what makes this fast.
        start = torch.arange(math.prod(batch), device=r.device).reshape(*batch, 1) * n_nodes
        before = (before + start).flatten()
        table = self.columns.reshape(-1, n_columns)
        low, high = table.index_select(0, before), table.index_select(0, before + 1)
        return low.lerp_(high, weight.reshape(-1, 1)).reshape(*r.shape, n_columns)

    @torch.no_grad()
    def period(self, J: Tensor) -> Tensor:
        """Return the period of orbits with actions J (n,), nan beyond the table, shape (*B, n)."""
        *batch, n_nodes, _ = self.columns.shape
        fraction = torch.linspace(0, 1, n_nodes, dtype=J.dtype, device=J.device)
        r = self.contours.limit.unsqueeze(-1) * fraction
        # Along the root of J, like r itself, the period is a straight line near the centre.
        root = (self.columns[..., 0].sqrt() * r).reshape(-1, n_nodes)
        wanted = J.sqrt().expand(root.shape[0], J.shape[-1])
        T = interp1d(root, self.columns[..., 1].reshape(-1, n_nodes), wanted)
        T = torch.where(wanted <= root[..., -1:], T, torch.nan)
        return T.reshape(*batch, J.shape[-1])

    @torch.no_grad()
    def __call__(self, pos: Tensor, vel: Tensor) -> ActionAngle:
        """Look up stars, with shape (*B, N) or (N,), as `torusimaging_torch.actions` would."""
        contours = self.contours
        r = star_radius(contours, pos, vel)
        inside = r <= column(contours.limit)
        r = torch.where(inside, r, 0)
        columns = self.interpolate(r)
        J = torch.where(inside, columns[..., 0] * r**2, torch.nan)
        valid = J.isfinite()
        if not contours.has_angles:
            nan = torch.full_like(J, torch.nan)
            return ActionAngle(J, nan, nan, valid)
        T = torch.where(valid, columns[..., 1], torch.nan)
        psi = polar_psi(contours.torus, pos, vel, contours.params)
        theta = angle_of(columns[..., 2:], contours.step, torch.where(valid, psi, torch.nan))
        return ActionAngle(J, theta, T, valid)


def _n_needed(series: Tensor) -> int:
    """Return how many of the coefficients (*B, M, n) are not negligible for some orbit."""
    size = series.nan_to_num(0).abs().flatten(0, -2).amax(0)
    rest = size.flip(0).cumsum(0).flip(0)
    return max(int((rest > _NEGLIGIBLE).sum()), 1)
