"""The wall at fixed positions, whose elliptical radii move with pos0 and the frequency.

It is upstream's, for splines whose curvature jumps at the knots: a position lies on one piece or on
the other by the sign of pos0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from torusimaging_torch.evaluation.coefficients import AtVector, of_rows
from torusimaging_torch.evaluation.tables import POWERS, Tables
from torusimaging_torch.evaluation.wall import Motion, WallAt, wall_at

__all__ = ["MovingWall"]


@dataclass(frozen=True)
class MovingWall:
    """The wall at positions ``radii``/sqrt(Omega0), from the survey's origin and not from pos0.

    Attributes
    ----------
    radii
        With shape (B or 1, K).
    scale, strength
        Its softness and height, with shape (B or 1, 1).
    ln_Omega0, pos0
        Their places in the vector.
    orders, axis
        The orders m of the e functions, in the order of their tables, and cos(m theta_e) on the
        position axis at positions above pos0.
    tables
        The tables of the functions.
    """

    radii: Tensor
    scale: Tensor
    strength: Tensor
    ln_Omega0: int
    pos0: int
    orders: Sequence[int]
    axis: Sequence[float]
    tables: Tables

    def at(self, point: AtVector, vector: Tensor, rows: Tensor | None) -> WallAt:
        """Return the wall at vectors (R, P)."""
        r, side, dr, d2r = self._radii(vector, rows)
        n, d = self._maps(r, side, rows)
        factor = -(2 * vector[:, self.ln_Omega0]).exp().unsqueeze(-1) / of_rows(self.scale, rows)
        maps, slopes, bends = (torch.stack([*n[j : j + 2], *d[j : j + 2]], 1) for j in range(3))
        c, strength = point.value, of_rows(self.strength, rows)
        slope, bend = ((x @ c[:, None, :, None]).squeeze(-1) for x in (slopes, bends))
        at = wall_at(r, maps, c, factor, strength, self.ln_Omega0)
        return at.moving(Motion(slopes, slope, bend, dr, d2r))

    def _radii(self, vector: Tensor, rows: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return radii (R, K), the side of pos0, and derivatives of radii by the vector."""
        i, j = self.pos0, self.ln_Omega0
        root = (0.5 * vector[:, j]).exp().unsqueeze(-1)
        offset = vector[:, i].unsqueeze(-1) * root
        y = of_rows(self.radii, rows) - offset
        side = y.sign()
        dr = vector.new_zeros(*y.shape, vector.shape[-1])
        dr[..., i], dr[..., j] = -side * root, -0.5 * side * offset
        d2r = vector.new_zeros(*dr.shape, vector.shape[-1])
        d2r[..., i, j] = d2r[..., j, i] = 0.5 * dr[..., i]
        d2r[..., j, j] = 0.5 * dr[..., j]
        return y.abs(), side, dr, d2r

    def _maps(
        self, r: Tensor, side: Tensor, rows: Tensor | None
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Return the maps to n - 1 and its three derivatives by r, and to d - 1 and its own."""
        zero = r.new_zeros(())
        n, d = [zero] * 4, [zero] * 4
        for i, (m, axis) in enumerate(zip(self.orders, self.axis, strict=True)):
            e = [*self._function(i, r, rows), zero]
            cosine = (axis * side if m % 2 else axis * torch.ones_like(side)).unsqueeze(-1)
            for j in range(4):
                growth = (1 + j) * e[j] + r.unsqueeze(-1) * e[j + 1]
                n[j] = n[j] + cosine * growth
                d[j] = d[j] + cosine * (growth - m**2 * e[j])
        return n, d

    def _function(self, i: int, r: Tensor, rows: Tensor | None) -> list[Tensor]:
        """Return the maps to e function i at radii and to its three derivatives, (R, K, C)."""
        tables, k = self.tables, self.tables.n_knots[i]
        first_knot, first_row = tables.first_knots[i], tables.first_rows[i]
        starts = of_rows(tables.knots, rows)[:, first_knot : first_knot + k].expand(len(r), -1)
        row = torch.searchsorted(starts.contiguous(), r.contiguous(), right=True)
        left = of_rows(tables.left, rows)[:, first_row : first_row + k + 1].expand(len(r), -1)
        t = r - left.gather(-1, row)
        table = of_rows(tables.map, rows).unflatten(1, (-1, POWERS))
        if len(table) == 1:
            pieces = table[0, first_row + row]
        else:
            pieces = table[torch.arange(len(r), device=r.device).unsqueeze(-1), first_row + row]
        c0, c1, c2, c3 = pieces.unbind(-2)
        t = t.unsqueeze(-1)
        value = c0 + t * (c1 + t * (c2 + t * c3))
        return [value, c1 + t * (2 * c2 + 3 * t * c3), 2 * c2 + 6 * t * c3, 6 * c3]
