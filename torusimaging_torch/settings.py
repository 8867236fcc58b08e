"""What can be chosen about a model and its fit: names, meanings, units and defaults, once.

`auto_init`, `fit_many`, an analysis and the command line say the same by the same names, which are
upstream's where it has them. Whoever has choices beside those of `ModelSettings` adds fields: an
analysis here, `fit_many` in `torusimaging_torch.batch.settings`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:  # the help of the command line needs no libraries
    import astropy.units as u

    from torusimaging_torch.units import Knots, LabelKnots, Priors

__all__ = [
    "LABEL_KNOTS",
    "MODELS",
    "ModelSettings",
    "Settings",
    "changed",
    "check_choices",
    "default_of",
    "described",
    "option_of",
    "setting",
]

MODELS = ("torus", "potential")
"""Ellipses with harmonics, or a potential in their place."""

LABEL_KNOTS = 4
"""Knots of the label of ellipses, unless somebody says so."""

Class = TypeVar("Class", bound=type)


def setting(
    default: object = None,
    *,
    help: str,
    option: str | None = None,
    metavar: str | None = None,
    choices: tuple[str, ...] | None = None,
    factory: Callable[[], object] | None = None,
) -> Any:
    """Return a field of settings, described.

    Parameters
    ----------
    default, factory
        The default, or what makes it.
    help
        What it means, in words; the default is added to them.
    option
        What it is called on the command line, if not by its name.
    metavar
        What stands for its value there: M:N,... and M:SIGN,... for numbers by order, LENGTH and
        SPEED for quantities, N for whole numbers, all else for numbers.
    choices
        Its values, if there are few.
    """
    metadata = {"help": help, "option": option, "metavar": metavar, "choices": choices}
    if factory is not None:
        return field(default_factory=factory, metadata=metadata)
    return field(default=default, metadata=metadata)


def changed(cls: type, name: str, default: object = None, **more: Any) -> Any:
    """Return a field of a class of settings with another default, or another description."""
    old = next(one for one in fields(cls) if one.name == name)
    return setting(default, **{**old.metadata, **more})


def option_of(one: Field[object]) -> str:
    """Return what a field is called on the command line."""
    return one.metadata["option"] or f"--{one.name.replace('_', '-')}"


def default_of(one: Field[object]) -> object:
    """Return the default of a field."""
    return one.default if one.default_factory is MISSING else one.default_factory()


def check_choices(settings: ModelSettings) -> None:
    """Raise a ValueError where a setting is none of its choices."""
    for one in fields(settings):
        choices, value = one.metadata["choices"], getattr(settings, one.name)
        if choices is not None and value not in choices:
            raise ValueError(f"{one.name} must be one of {choices}, got {value!r}")


def described(cls: Class) -> Class:
    """Add the descriptions of all fields to the docstring of a class of settings."""
    lines = [f"    {one.name}\n        {_in_words(one)}" for one in fields(cls)]
    text = "\n".join(lines)
    cls.__doc__ = f"{(cls.__doc__ or '').rstrip()}\n\n    Attributes\n    ----------\n{text}\n    "
    return cls


def _in_words(one: Field[object]) -> str:
    default = default_of(one)
    usual = "" if default is None else f" By default {default!r}."
    words = one.metadata["help"]
    return f"{words[0].upper()}{words[1:]}.{usual}"


@described
@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """Choices about a model and its fit, as `auto_init` and `optimize` take them.

    Examples
    --------
    >>> from dataclasses import fields
    >>> [one.name for one in fields(ModelSettings)][:3]
    ['model', 'label_knots', 'e_knots']
    """

    model: str = setting(
        "torus", help="ellipses with harmonics, or a potential in their place", choices=MODELS
    )
    label_knots: LabelKnots | None = setting(help="knots of the label", metavar="N")
    e_knots: Mapping[int, Knots] | None = setting(help="knots of each e_m", metavar="M:N,...")
    e_signs: Mapping[int, float] | None = setting(help="signs of each e_m", metavar="M:SIGN,...")
    label_knots_spacing_power: float = setting(
        1.0,
        help="knots of the label are evenly spaced in this power of the radius",
        option="--label-spacing-power",
        metavar="P",
    )
    e_knots_spacing_power: float = setting(
        1.0,
        help="the same for e_m: below 1 they are denser inside",
        option="--spacing-power",
        metavar="P",
    )
    elliptical_angle_convention: str = setting(
        "pv", help="convention of the elliptical angle", option="--convention", choices=("pv", "vp")
    )
    label_spline: str | None = setting(
        help="splines of the label; those of the model unless given: of ellipses quadratic, of a "
        "potential cubic",
        choices=("cubic", "quadratic"),
    )
    e_spline: str = setting("cubic", help="splines of e_m", choices=("cubic", "quadratic"))
    priors: Priors | None = setting(
        help="what is known of a parameter, as 'pos0 = 0 +- 20 pc' (normal)",
        option="--prior",
        metavar="TEXT",
    )
    hold: Mapping[Any, Any] | None = setting(
        help="a parameter that is known exactly, as 'vel0 = 0 km/s'", metavar="TEXT"
    )
    max_iter: int = setting(500, help="most iterations", metavar="N")
    uncertainty: str | None = setting(
        "crlb", help="errors: the Cramer-Rao bound, or none", choices=("crlb", "none")
    )


@described
@dataclass(frozen=True, kw_only=True)
class Settings(ModelSettings):
    """What can be chosen about an analysis; what is None is chosen from the data.

    Examples
    --------
    >>> Settings(n_bins=40, e_l2_sigmas=0.5).label_l2_sigma is None
    True
    """

    pos_max: u.Quantity | None = setting(
        help="grid from -LENGTH to LENGTH, as 1.2kpc; it holds 99 % of the stars unless given",
        metavar="LENGTH",
    )
    vel_max: u.Quantity | None = setting(help="the same in velocity, as '70 km/s'", metavar="SPEED")
    n_bins: int | None = setting(
        help="pixels along each direction; 20 to 80 unless given, with about eight stars in each",
        metavar="N",
    )
    s: Any = setting(
        help="intrinsic scatter of the label; estimated unless given",
        option="--scatter",
        metavar="S",
    )
    model: str = changed(ModelSettings, "model", "both", choices=("both", *MODELS))
    label_knots: int | None = changed(
        ModelSettings, "label_knots", help="knots of the label; 4, of a potential 6, unless given"
    )
    label_spline: str = changed(
        ModelSettings,
        "label_spline",
        "cubic",
        help="splines of the label; quadratic ones need twice the knots to bend as labels do",
    )
    e_knots: Mapping[int, int] = changed(
        ModelSettings, "e_knots", factory=lambda: {2: 8, 4: 4}, help="knots of each e_m of ellipses"
    )
    priors: Mapping[str, Any] = changed(ModelSettings, "priors", factory=dict)
    hold: Mapping[str, Any] = changed(ModelSettings, "hold", factory=dict)
    e_knots_spacing_power: float = changed(ModelSettings, "e_knots_spacing_power", 0.5)
    uncertainty: str = changed(
        ModelSettings,
        "uncertainty",
        "crlb",
        choices=("crlb", "nuts", "none"),
        help="errors: the Cramer-Rao bound, samples of the posterior (nuts, a minute), or none",
    )
    num_samples: int = setting(
        1000, help="number of samples, with nuts", option="--draws", metavar="N"
    )
    label_l2_sigma: float | None = setting(
        help="of the label at its knots; 5 times its root mean square unless given",
        option="--label-l2",
        metavar="X",
    )
    label_smooth_sigma: float | None = setting(
        help="of the change of its slope; its mean slope unless given",
        option="--label-smooth",
        metavar="X",
    )
    e_l2_sigmas: float = setting(
        1.0, help="of every e_m at its knots", option="--e-l2", metavar="X"
    )
    e_smooth_sigmas: float = setting(
        0.5, help="of the change of its log slope", option="--e-smooth", metavar="X"
    )
    dacc_strength: float = setting(
        30.0, help="height of the wall that keeps densities positive", metavar="X"
    )
    dacc_scale: float = setting(
        0.01, help="its softness, as a fraction of Omega0^2: of the midplane's density", metavar="X"
    )
    selection: Any = setting(
        help="selection function of star counts, as for `torusimaging_torch.data.with_selection`"
    )
    selection_error: float | None = setting(
        help="how wrong the selection function may be, a fraction of the counts; 0.05 unless "
        "given, 0 if it is exact",
        metavar="X",
    )
    weak_priors: bool = setting(
        True,
        help="weak priors of pos0 and vel0 where stars are on one side or near the plane alone",
    )
    outliers: bool = setting(
        False,
        help="seek stars whose label is wrong, with their number and scatter, and give them less "
        "weight",
    )
