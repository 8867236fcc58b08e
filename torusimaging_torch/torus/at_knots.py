"""The model's functions at their own knots, where penalties look at them.

Knots never move, so all that can be known about them is found once. To find the intervals of
splines again at every step of every fit would cost a penalty more than half of its time, and on a
GPU hundreds of small kernels.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate, pairwise

from torch import Tensor, nn

from torusimaging_torch.numerics.params import Params, function_params, join
from torusimaging_torch.torus.acceleration import gradient_at_radius
from torusimaging_torch.torus.distortion import Harmonics
from torusimaging_torch.torus.orbital_torus import OrbitalTorus
from torusimaging_torch.torus.radial_function import RadialFunction
from torusimaging_torch.torus.transform import Transform

__all__ = ["AtKnots", "KnotMaps", "knots_of"]


@dataclass(frozen=True)
class AtKnots:
    """What a penalty needs: the label and each e_m at their knots; tensors in model units.

    Attributes
    ----------
    label
        The label function at its knots, with shape (*B, K).
    radii
        The knots of all e_m but their first, where they are zero, one order after the other, with
        shape (*B, N).
    harmonics
        By order m, the value, slope and curvature of e_m at all ``radii``, (*B, N) each.
    transform, frame
        The transform, and its parameters.
    own
        By order m, which of ``radii`` are the knots of e_m itself.
    """

    label: Tensor
    radii: Tensor
    harmonics: Harmonics
    transform: Transform
    frame: tuple[Tensor, ...]
    own: dict[int, slice]

    def e(self, m: int) -> Tensor:
        """Return e_m at its own knots but the first, with shape (*B, K-1)."""
        if not isinstance(m, int) or m not in self.own:
            raise KeyError(f"m must be one of {sorted(self.own)}, got {m!r}")
        return self.harmonics[m][0][..., self.own[m]]

    def acceleration_deriv(self) -> Tensor:
        """Return da/dq where r_e on the position axis is one of ``radii``, with shape (*B, N).

        A density is negative where this is positive.
        """
        return gradient_at_radius(self.transform, self.radii, self.harmonics, self.frame)


class KnotMaps(nn.Module):
    """What gives the functions of a torus at their knots, for any parameters.

    Parameters
    ----------
    torus
        A torus whose functions have knots; see `fits`.

    Attributes
    ----------
    label
        What the label function keeps of its K knots. For a spline that is
        `~torusimaging_torch.torus.spline_functions.PointMaps`: ``label.maps`` is a buffer with
        shape (*B, 3, K, K).
    e
        The same of e_m by ``str(m)``, at all ``radii``: ``maps`` have shape (*B, 3, N, K_m).
    radii
        The knots of all e_m but their first, one order after the other, with shape (*B, N).
    own
        By order m, which of ``radii`` are the knots of e_m itself.
    """

    radii: Tensor

    def __init__(self, torus: OrbitalTorus) -> None:
        super().__init__()
        label_knots, e_funcs = knots_of(torus.label_func), torus.distortion.e_funcs
        outer = [knots_of(f)[..., 1:] for f in e_funcs.values()]
        self.register_buffer("radii", join(outer) if outer else label_knots[..., :0])
        self.label = torus.label_func.fix(label_knots)
        self.e = nn.ModuleDict({str(m): f.fix(self.radii) for m, f in e_funcs.items()})
        ends = [0, *accumulate(x.shape[-1] for x in outer)]
        self.own = {m: slice(*pair) for m, pair in zip(e_funcs, pairwise(ends), strict=True)}

    @staticmethod
    def fits(torus: OrbitalTorus) -> bool:
        """Return whether all functions of a torus have knots."""
        functions = [torus.label_func, *torus.distortion.e_funcs.values()]
        return all(f.knots is not None for f in functions)

    @property
    def n_batch(self) -> int:
        """Number of batch dimensions of the knots."""
        return self.radii.ndim - 1

    def forward(self, torus: OrbitalTorus, params: Params) -> AtKnots:
        """Return the functions of a torus at its knots.

        Parameters
        ----------
        torus
            The torus that these maps were made for.
        params
            Nested dictionary of tensors.
        """
        label = torus.label_func.at(self.label, **function_params(params, "label_params"))[0]
        e_params = function_params(params, "e_params")
        terms = {
            m: f.at(self.e[str(m)], **e_params[m]) for m, f in torus.distortion.e_funcs.items()
        }
        frame = torus.transform.frame(params)
        return AtKnots(label, self.radii, terms, torus.transform, frame, self.own)


def knots_of(function: RadialFunction) -> Tensor:
    """Return the knots of a function, with shape (*B, K).

    Raises
    ------
    ValueError
        If it has none.
    """
    if function.knots is None:
        raise ValueError(f"{type(function).__name__} has no knots: {function.without_knots}")
    return function.knots
