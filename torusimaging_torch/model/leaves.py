"""Whether parameters are those of a model: leaves of the shapes that its functions need."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from torusimaging_torch.model.border import Fronted
from torusimaging_torch.numerics.params import Nested, Params, Path, batch_shape
from torusimaging_torch.torus.orbital_torus import LabelFunctions, OrbitalTorus
from torusimaging_torch.torus.spline_functions import SplineEFunction, SplineLabelFunction

__all__ = ["checked_params"]


def checked_params(
    model: Fronted, params: Params | Sequence[Params], one_by_one: bool = False
) -> Nested:
    """Return parameters as tensors in model units, of the shapes that the model needs.

    Parameters
    ----------
    model
        The model.
    params
        Nested dictionary.
    one_by_one
        Whether they may be a list of samples, which become a batch.

    Raises
    ------
    ValueError
        If a leaf has another shape; the message names it.
    KeyError
        If a function has no parameters.
    """
    single: Any = params
    p = model.border.samples(params) if one_by_one else model.border.params(single)
    batch_shape(p)
    orders = model.torus.distortion.e_funcs
    own = p.get("e_params", {})
    if isinstance(own, Mapping) and (unknown := sorted(str(m) for m in own if m not in orders)):
        raise ValueError(
            f"params['e_params'] has the orders {', '.join(unknown)}, the model has {list(orders)}"
        )
    for path, size in _sizes(model.torus).items():
        leaf: Any = p
        for i, key in enumerate(path):
            name = "".join(f"[{k!r}]" for k in path[: i + 1])
            if not isinstance(leaf, Mapping):
                raise ValueError(f"params{name} is needed, got a number in place of a dictionary")
            if key not in leaf and i > 0:
                raise KeyError(f"params{name} is missing")
            if key not in leaf:  # as of the label, where none is asked for
                break
            leaf = leaf[key]
        else:
            _check(leaf, name, size)
    return p


def _check(leaf: Any, name: str, size: int) -> None:
    if isinstance(leaf, Mapping) or leaf.ndim == 0 or leaf.shape[-1] != size:
        got = "a dictionary" if isinstance(leaf, Mapping) else tuple(leaf.shape)
        raise ValueError(f"params{name} must have {size} values, shape (*B, {size}), got {got}")


def _sizes(torus: OrbitalTorus) -> dict[Path, int]:
    """Return the number of values of each leaf of splines."""
    found: dict[Path, int] = {
        ("e_params", m, "vals"): f.knots.shape[-1] - 1
        for m, f in torus.distortion.e_funcs.items()
        if type(f) is SplineEFunction
    }
    label: nn.Module = torus.label_func
    if not isinstance(label, LabelFunctions) and type(label) is SplineLabelFunction:
        found["label_params", "label_vals"] = label.knots.shape[-1]
    return found
