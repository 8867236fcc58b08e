r"""ln L, its gradient and its curvature by the entries of a model's tables, in plain torch.

Per pixel, with a and b the cosine-like and sine-like coordinates, :math:`c = a/r_e`,
:math:`s = b/r_e`, and :math:`T_m` and :math:`U_m` the Chebyshev polynomials of c:

.. math::

    S &= 1 + \sum e_m T_m \quad D = \sum e_m' T_m \quad W = \sum m\,e_m U_{m-1} \\
    r &= r_e S \quad A = S + r_e D \\
    \partial r/\partial a &= A c + W s^2 \quad \partial r/\partial b = A s - W s c \\
    \partial r/\partial e_m &= r_e T_m

A label changes by :math:`l'(r)` times that. Each function is a local polynomial in t, so the
gradient by its table is the sum of :math:`g\,t^d` over the pixels of each interval, with g that of
ln L by the function. At :math:`r_e = 0` there is no direction: c is 1 there, and r does not change
with the coordinates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from torusimaging_torch.evaluation.coefficients import of_rows
from torusimaging_torch.evaluation.ellipse import Frame, Plane
from torusimaging_torch.evaluation.observations import Observations, Score
from torusimaging_torch.evaluation.tables import POWERS, Tables

__all__ = ["Formulas", "Local", "Pixels", "Polar"]


class Local(NamedTuple):
    """Where points (R, N) lie in the table of a function, and the function there."""

    row: Tensor
    t: Tensor
    value: Tensor
    slope: Tensor
    c2: Tensor
    c3: Tensor

    @property
    def bend(self) -> Tensor:
        """The second derivative."""
        return 2 * self.c2 + 6 * self.t * self.c3


class Polar(NamedTuple):
    """The direction of pixels and their elliptical radius, (R, N) each."""

    r_e: Tensor
    c: Tensor
    s: Tensor
    along: Tensor  # c, but 0 in the origin, where nothing changes with the coordinates
    inverse: Tensor  # 1/r_e, and 0 in the origin


@dataclass(frozen=True)
class Pixels:
    """What the formulas are made of in each pixel, (R, N) or by order."""

    at: Plane
    polar: Polar
    T: dict[int, Tensor]
    U: dict[int, Tensor]  # m U_(m-1)
    e: dict[int, Local]
    S: Tensor
    A: Tensor
    W: Tensor
    label: Local

    def gradient_of_r(self) -> Plane:
        """Return dr/da and dr/db."""
        c, s = self.polar.along, self.polar.s
        return Plane(self.A * c + self.W * s * s, self.A * s - self.W * s * c)


@dataclass(frozen=True)
class Formulas:
    """The label of a spline torus in pixels, for any number of problems at once.

    A problem is told by its frame, (R, F), and by the entries of its functions' tables, one
    function after the other, (R, T). The frame has the transform's parameters first, and then the
    factors of what the observations add to the label.

    Attributes
    ----------
    transform
        From positions and velocities to coordinates.
    orders
        The orders m, in the order of the tables; the label's table is the last.
    tables
        Where the intervals of all functions are.
    """

    transform: Frame
    orders: Sequence[int]
    tables: Tables

    def pixels(
        self, data: Observations, frame: Tensor, table: Tensor, rows: Tensor | None
    ) -> Pixels:
        """Return what the formulas are made of.

        Parameters
        ----------
        data
            The pixels, with shape (R or 1, N).
        frame, table
            Frames (R, F) and tables (R, T).
        rows
            Which problem each is one of, with shape (R,); all of them in order if not given.
        """
        at = self.transform.coordinates(data, self.own(data, frame), rows)
        polar = _polar(at)
        T, U = _chebyshev(polar.c, self.orders)
        e = {m: self._look_up(i, polar.r_e, table, rows) for i, m in enumerate(self.orders)}
        S, D, W = torch.ones_like(polar.c), torch.zeros_like(polar.c), torch.zeros_like(polar.c)
        for m in self.orders:
            S = torch.addcmul(S, e[m].value, T[m])
            D = torch.addcmul(D, e[m].slope, T[m])
            W = torch.addcmul(W, e[m].value, U[m])
        label = self._look_up(len(self.orders), polar.r_e * S, table, rows)
        return Pixels(at, polar, T, U, e, S, S + polar.r_e * D, W, label)

    @staticmethod
    def own(data: Observations, frame: Tensor) -> Tensor:
        """Return the transform's part of frames: the factors of terms follow it."""
        return frame[:, : frame.shape[-1] - data.n_terms]

    def gradient(self, data: Observations, pixels: Pixels, score: Score, frame: Tensor) -> Tensor:
        """Return the gradient of ln L by frame and table, (R, F + T)."""
        by_r = score.gradient * pixels.label.slope
        dr = pixels.gradient_of_r()
        own = self.own(data, frame)
        by_frame = [self.transform.pull(by_r * dr.a, by_r * dr.b, pixels.at, own)]
        if data.terms is not None:
            by_frame.append((data.terms @ score.gradient.unsqueeze(-1)).squeeze(-1))
        by_e = by_r * pixels.polar.r_e
        moments = [
            self._moments(pixels.e[m], by_e * pixels.T[m], i) for i, m in enumerate(self.orders)
        ]
        moments.append(self._moments(pixels.label, score.gradient, len(self.orders)))
        return torch.cat([*by_frame, *moments], -1)

    def _look_up(self, i: int, x: Tensor, table: Tensor, rows: Tensor | None) -> Local:
        """Look up function i at points (R, N)."""
        n, k, first = self._place(i)
        starts = of_rows(self.tables.knots[:, k : k + n - 1], rows)
        left = of_rows(self.tables.left[:, first : first + n], rows).expand(len(x), -1)
        if len(starts) == 1:
            row = torch.bucketize(x, starts[0], right=True)
        else:
            row = torch.searchsorted(starts.contiguous(), x.contiguous(), right=True)
        own = table.reshape(len(table), -1, POWERS)[:, first : first + n]
        place = _flat(row, n)
        c0, c1, c2, c3 = (
            c.flatten().index_select(0, place).reshape(x.shape) for c in own.unbind(-1)
        )
        t = x - left.flatten().index_select(0, place).reshape(x.shape)
        value = torch.addcmul(c0, t, torch.addcmul(c1, t, torch.addcmul(c2, t, c3)))
        slope = torch.addcmul(c1, t, torch.addcmul(2 * c2, t, 3 * c3))
        return Local(row, t, value, slope, c2, c3)

    def _moments(self, local: Local, g: Tensor, i: int) -> Tensor:
        """Return the sums of g t^d over each interval of function i, (R, 4 (K + 1))."""
        n, row = self._place(i)[0], _flat(local.row, self._place(i)[0])
        sums = []
        for d in range(POWERS):
            g = g * local.t if d else g
            sums.append(g.new_zeros(n * len(g)).index_add(0, row, g.flatten()))
        return torch.stack(sums, -1).reshape(len(g), -1)

    def spread(self, local: Local, entries: Tensor, i: int) -> Tensor:
        """Put what belongs to each pixel's interval of function i, (R, N, 4), in its place there.

        The result has the shape (R, N, 4 (K + 1)), and zeros elsewhere.
        """
        n = self._place(i)[0]
        place = POWERS * local.row.unsqueeze(-1) + torch.arange(POWERS, device=entries.device)
        return entries.new_zeros(*entries.shape[:-1], POWERS * n).scatter(-1, place, entries)

    def _place(self, i: int) -> tuple[int, int, int]:
        """Return the number of intervals of function i, its first knot, and its first row."""
        return self.tables.n_knots[i] + 1, self.tables.first_knots[i], self.tables.first_rows[i]


def _flat(row: Tensor, n: int) -> Tensor:
    """Return rows (R, N) of tables with n rows each as rows of all tables, one after the other."""
    if len(row) == 1:
        return row.flatten()
    return (row + n * torch.arange(len(row), device=row.device).unsqueeze(-1)).flatten()


def _polar(at: Plane) -> Polar:
    square = at.a * at.a + at.b * at.b
    origin = square == 0
    r_e = square.sqrt()
    inverse = torch.where(origin, 0.0, 1 / r_e)
    along = at.a * inverse
    return Polar(r_e, torch.where(origin, 1.0, along), at.b * inverse, along, inverse)


def _chebyshev(c: Tensor, orders: Sequence[int]) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
    """Return T_m and m U_(m-1) for each order m."""
    T, U = [torch.ones_like(c), c], [torch.ones_like(c), 2 * c]
    for _ in range(2, max(orders, default=0) + 1):
        T.append(2 * c * T[-1] - T[-2])
        U.append(2 * c * U[-1] - U[-2])
    return (
        {m: T[m] for m in orders},
        {m: m * U[m - 1] if m else torch.zeros_like(c) for m in orders},
    )
