"""A spline torus as the formulas need it: its transform, tables, and places in the vector."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from torusimaging_torch.evaluation.closed_form import Formulas
from torusimaging_torch.evaluation.coefficients import Coefficients
from torusimaging_torch.evaluation.ellipse import Ellipse, Frame
from torusimaging_torch.evaluation.levels import Levels
from torusimaging_torch.evaluation.observations import Observations
from torusimaging_torch.evaluation.potential import Potential
from torusimaging_torch.evaluation.reasons import places_of
from torusimaging_torch.evaluation.tables import (
    PlacedSpline,
    coefficients_of,
    placed_splines,
    tables_of,
)
from torusimaging_torch.numerics.params import Layout, Path
from torusimaging_torch.torus.potential_ellipse import PotentialEllipse
from torusimaging_torch.torus.transform import Transform

__all__ = ["PlacedTorus", "placed_torus"]


@dataclass(frozen=True)
class PlacedTorus:
    """What is known of a torus and the layout of its parameters.

    Attributes
    ----------
    formulas
        Its labels in pixels.
    functions
        Its splines, that of the label last.
    coefficients
        From the vector to what they are linear in.
    frame
        Places of the transform's parameters in the vector, and behind them of the factors of terms,
        with shape (F,).
    """

    formulas: Formulas
    functions: list[PlacedSpline]
    coefficients: Coefficients
    frame: Tensor

    def with_levels(self, observations: Observations) -> Observations:
        """Return pixels with their positions, each once, if the transform makes use of that."""
        if not isinstance(self.formulas.transform, Potential):
            return observations
        return replace(observations, levels=Levels.of_pixels(observations.pos))


def placed_torus(torus: Any, layout: Layout, terms: bool = False) -> PlacedTorus:
    """Return a torus of splines with its places in a layout.

    Parameters
    ----------
    torus
        An `~torusimaging_torch.torus.OrbitalTorus` of which `why_not` has nothing to say.
    layout
        How its parameters are laid out.
    terms
        Whether the pixels add terms with factors of their own.
    """
    functions = placed_splines(
        torus.distortion.e_funcs, torus.label_func, places_of(layout), layout.size
    )
    coefficients = coefficients_of(functions, layout.size)
    tables = tables_of(functions, coefficients.size)
    own = [_range(layout, (name,)) for name in torus.transform.parameters_of_frame]
    own += [_range(layout, ("selection_params", "vals"))] if terms else []
    frame = torch.tensor(
        [i for part in own for i in part], device=functions[-1].spline.knots.device
    )
    formulas = Formulas(_frame(torus.transform), torus.distortion.orders, tables)
    return PlacedTorus(formulas, functions, coefficients, frame)


def _frame(transform: Transform) -> Frame:
    if isinstance(transform, PotentialEllipse):
        return Potential.of(transform)
    return Ellipse(transform.convention)


def _range(layout: Layout, path: Path) -> range:
    """Return the places of a leaf in the vector."""
    start, size = places_of(layout)[path], layout.sizes[layout.paths.index(path)]
    return range(start, start + (1 if size is None else size))
