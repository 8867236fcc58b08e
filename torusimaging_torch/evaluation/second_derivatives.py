r"""The information of pixels by the parameters: J^T W J, and what makes it exact.

With J the derivatives of the labels, w minus the second derivatives of ln L by the labels and g the
first, minus the second derivatives of ln L are

.. math:: \sum w J J^T - \sum g \nabla\nabla l

The second derivatives of a label :math:`l(r)` have three parts: :math:`l'' \nabla r \nabla r^T`;
the products of :math:`\nabla r` with the change by r of what the label's own table does; and
:math:`l' \nabla\nabla r`. Those of r by the coordinates are, in polar ones, with
:math:`E = \sum e_m'' T_m`, :math:`V = \sum m\,e_m' U_{m-1}` and :math:`Q = \sum m^2 e_m T_m`,

.. math::

    H_{rr} = 2 D + r_e E \quad H_{r\theta} = -s V \quad H_{\theta\theta} = (A - Q)/r_e

and those by a coordinate and a table are the change of :math:`r_e T_m t^d` with the coordinate.
"""

from __future__ import annotations

import torch
from torch import Tensor

from torusimaging_torch.evaluation.closed_form import Formulas, Pixels
from torusimaging_torch.evaluation.ellipse import Plane
from torusimaging_torch.evaluation.observations import Observations, Score
from torusimaging_torch.evaluation.tables import POWERS

__all__ = ["information"]


def information(
    form: Formulas,
    data: Observations,
    pixels: Pixels,
    score: Score,
    frame: Tensor,
    jacobian: Tensor,
    exact: bool,
) -> Tensor:
    """Return the information of pixels, with shape (R, P, P).

    Parameters
    ----------
    form, data, pixels, score
        The pixels, and ln L in them.
    frame
        Frames with shape (R, F).
    jacobian
        Derivatives of frame and table by the parameters, with shape (R, F + T, P).
    exact
        Whether it is minus the second derivatives, all but those that the tables have by the
        parameters; else J^T W J.
    """
    n, last = frame.shape[-1], POWERS * form.tables.first_rows[-2]
    of_frame, of_terms, of_e, of_label = jacobian.tensor_split([n - data.n_terms, n, n + last], -2)
    label, frame = pixels.label, frame[:, : n - data.n_terms]
    # Of both coordinates, of r and of the label by the parameters, (R, N, P) each.
    by_frame = form.transform.jacobian(pixels.at, frame)
    plane = Plane(by_frame.a.mT @ of_frame, by_frame.b.mT @ of_frame)
    along = pixels.gradient_of_r()
    dr = along.a.unsqueeze(-1) * plane.a + along.b.unsqueeze(-1) * plane.b
    dr = dr + _by_tables(form, pixels, {m: pixels.polar.r_e * T for m, T in pixels.T.items()}, of_e)
    own = form.spread(label, _powers(label.t), -1) @ of_label
    J = label.slope.unsqueeze(-1) * dr + own
    if data.terms is not None:
        J = J + data.terms.mT @ of_terms
    found = _product(J, score.curvature, J)
    if not exact:
        return found
    g = score.gradient
    change = form.spread(label, _slopes(label.t), -1) @ of_label
    found = found - _product(dr, g * label.bend, dr) - _twice(dr, g, change)
    return (
        found
        - _bend_of_r(form, pixels, g * label.slope, plane, of_e)
        - (of_frame.mT @ _bend_of_frame(form, pixels, g * label.slope, frame) @ of_frame)
    )


def _bend_of_r(form: Formulas, pixels: Pixels, pull: Tensor, plane: Plane, of_e: Tensor) -> Tensor:
    """Return the sum of the second derivatives of r by coordinates and tables, times ``pull``."""
    c, s = pixels.polar.along, pixels.polar.s
    aa, bb, ab = _hessian_of_r(pixels)
    a, b = plane.a, plane.b
    total = _product(a, pull * aa, a) + _product(b, pull * bb, b) + _twice(a, pull * ab, b)
    # The derivative of r_e T_m t^d along the radius has a part from t^d; that across has none.
    r_e = pixels.polar.r_e
    by_t = {m: r_e * T for m, T in pixels.T.items()}
    for d, along, across in ((a, c, s * s), (b, s, -s * c)):
        weight = {m: along * pixels.T[m] + across * pixels.U[m] for m in pixels.T}
        mixed = _by_tables(form, pixels, weight, of_e)
        weight = {m: along * by_t[m] for m in pixels.T}
        mixed = mixed + _by_tables(form, pixels, weight, of_e, slopes=True)
        total = total + _twice(d, pull, mixed)
    return total


def _bend_of_frame(form: Formulas, pixels: Pixels, pull: Tensor, frame: Tensor) -> Tensor:
    dr = pixels.gradient_of_r()
    return form.transform.bend(pull * dr.a, pull * dr.b, pixels.at, frame)


def _hessian_of_r(pixels: Pixels) -> tuple[Tensor, Tensor, Tensor]:
    """Return the second derivatives of r by a twice, by b twice, and by a and b."""
    zero = torch.zeros_like(pixels.S)
    D = sum((e.slope * pixels.T[m] for m, e in pixels.e.items()), zero)
    E = sum((e.bend * pixels.T[m] for m, e in pixels.e.items()), zero)
    V = sum((e.slope * pixels.U[m] for m, e in pixels.e.items()), zero)
    Q = sum((m * m * e.value * pixels.T[m] for m, e in pixels.e.items()), zero)
    polar = pixels.polar
    c, s = polar.along, polar.s
    rr, rt = 2 * D + polar.r_e * E, -s * V
    tt = (pixels.A - Q) * polar.inverse
    return (
        c * c * rr - 2 * c * s * rt + s * s * tt,
        s * s * rr + 2 * c * s * rt + c * c * tt,
        c * s * (rr - tt) + (c * c - s * s) * rt,
    )


def _by_tables(
    form: Formulas,
    pixels: Pixels,
    weight: dict[int, Tensor],
    of_e: Tensor,
    slopes: bool = False,
) -> Tensor:
    """Return the sum over m of weight_m t^d, or of its slopes, by the parameters, (R, N, P)."""
    total, start = pixels.S.unsqueeze(-1) * of_e.new_zeros(of_e.shape[-1]), 0
    for i, (m, e) in enumerate(pixels.e.items()):
        entries = weight[m].unsqueeze(-1) * (_slopes(e.t) if slopes else _powers(e.t))
        size = POWERS * (form.tables.n_knots[i] + 1)
        total = total + form.spread(e, entries, i) @ of_e[:, start : start + size]
        start += size
    return total


def _powers(t: Tensor) -> Tensor:
    """Return 1, t, t^2, t^3, with shape (R, N, 4)."""
    return torch.stack([torch.ones_like(t), t, t * t, t * t * t], -1)


def _slopes(t: Tensor) -> Tensor:
    """Return the derivatives of the powers of t, with shape (R, N, 4)."""
    return torch.stack([torch.zeros_like(t), torch.ones_like(t), 2 * t, 3 * t * t], -1)


def _product(left: Tensor, weight: Tensor, right: Tensor) -> Tensor:
    """Return the sum over pixels of left times right, (R, P, P), weighted."""
    return (weight.unsqueeze(-1) * left).mT @ right


def _twice(left: Tensor, weight: Tensor, right: Tensor) -> Tensor:
    """Return the sum over pixels of left times right and right times left."""
    product = _product(left, weight, right)
    return product + product.mT
