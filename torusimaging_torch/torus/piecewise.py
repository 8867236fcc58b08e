"""Distortions by table look-up, without gradients: for very many parameter sets, or stars.

A spline as a dense product is differentiable to any order, and costs as many operations as it has
intervals. To draw ten thousand posterior samples, or to trace the orbits of a million stars, no
derivative by the parameters is needed: there the polynomial of each point's interval is looked up.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from torusimaging_torch.numerics.params import Params
from torusimaging_torch.torus.at_knots import knots_of
from torusimaging_torch.torus.distortion import FourierDistortion
from torusimaging_torch.torus.orbital_torus import OrbitalTorus
from torusimaging_torch.torus.radial_function import RadialFunction

__all__ = ["PiecewiseDistortion", "PiecewiseTorus"]


class PiecewiseTorus:
    """The part of a torus that accelerations need, its splines tabulated for given parameters.

    Parameters
    ----------
    torus
        A torus whose e functions are splines with knots of shape (K,); see `fits`.
    params
        Parameters with shape (S,).
    """

    def __init__(self, torus: OrbitalTorus, params: Params) -> None:
        self.transform = torus.transform
        self.distortion = PiecewiseDistortion(torus.distortion, params.get("e_params", {}))

    @staticmethod
    def fits(torus: OrbitalTorus) -> bool:
        """Return whether a torus can be tabulated; see `PiecewiseDistortion.fits`."""
        return PiecewiseDistortion.fits(torus.distortion)


class PiecewiseDistortion:
    """A distortion, its splines tabulated for given parameters.

    Parameters
    ----------
    distortion
        A distortion whose e functions are splines with knots of shape (K,); see `fits`.
    e_params
        Parameters of the e functions with shape (S,).
    """

    def __init__(
        self, distortion: FourierDistortion, e_params: Mapping[int, Mapping[str, Tensor]]
    ) -> None:
        self.tables = {m: _table(f, e_params[m]) for m, f in distortion.e_funcs.items()}

    @staticmethod
    def fits(distortion: FourierDistortion) -> bool:
        """Return whether e functions are cubic at most, with knots that all samples share."""
        return all(f.can_be_tabulated for f in distortion.e_funcs.values())

    def derivatives(
        self, r_e: Tensor, e_params: object
    ) -> dict[int, tuple[Tensor, Tensor, Tensor]]:
        """Return e_m and its first two derivatives at ``r_e`` (S, N), by order."""
        return {m: _look_up(r_e, *table) for m, table in self.tables.items()}


def _table(e_func: RadialFunction, e_params: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Return left ends (K + 1,) of all pieces, and their Taylor coefficients (4, S, K + 1).

    The first piece lies before the first knot, the last beyond the last one.
    """
    knots = knots_of(e_func)
    width = knots[-1] - knots[0]
    # Half a width beyond either end, to learn how the spline goes on there.
    ends = torch.cat([knots[:1] - width, knots, knots[-1:] + width])
    middle = (ends[1:] + ends[:-1]) / 2
    own = {name: x.unsqueeze(-1) if x.ndim == 1 else x for name, x in e_params.items()}
    n_samples = len(next(iter(own.values())))
    points = torch.cat([ends, middle]).expand(n_samples, -1)
    value, slope, curvature = (x.split(len(ends), -1) for x in e_func.derivatives(points, **own))
    half = (ends[1:] - ends[:-1]) / 2
    # A piece is at most cubic: its slope at both ends and in the middle tells its second and third
    # derivative, whichever side the curvature at a knot belongs to.
    left, centre, right = slope[0][:, :-1], slope[1], slope[0][:, 1:]
    third = (left - 2 * centre + right) / half**2
    second = curvature[1] - third * half
    return ends[:-1].contiguous(), torch.stack([value[0][:, :-1], left, second, third])


def _look_up(r_e: Tensor, ends: Tensor, table: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    index = torch.bucketize(r_e, ends[1:], right=True)
    d = r_e - ends[index]
    f, slope, second, third = (row.gather(-1, index) for row in table)
    bend = d * third
    return (
        f + d * (slope + d * (second / 2 + bend / 6)),
        slope + d * (second + bend / 2),
        second + bend,
    )
