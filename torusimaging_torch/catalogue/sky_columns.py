"""Which columns of a catalogue say where stars are on the sky and how they move; known surveys."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from itertools import combinations

import astropy.units as u

__all__ = ["PRESETS", "ROLES", "Preset", "SkyColumns", "find_columns"]

_MOTION = u.mas / u.yr
_KMS = u.km / u.s

ROLES: dict[str, u.UnitBase] = {
    "ra": u.deg,
    "dec": u.deg,
    "distance": u.kpc,
    "parallax": u.mas,
    "pmra": _MOTION,
    "pmdec": _MOTION,
    "radial_velocity": _KMS,
}
"""What is measured, with the unit of columns that have none; pmra includes cos(dec)."""

_ASTROMETRY = ("ra", "dec", "parallax", "pmra", "pmdec")
_ERRORS: dict[str, u.UnitBase] = {
    **{f"{name}_error": unit for name, unit in ROLES.items()},
    "ra_error": u.mas,
    "dec_error": u.mas,
}
_CORRELATIONS: dict[str, u.UnitBase] = {
    f"{a}_{b}_corr": u.dimensionless_unscaled for a, b in combinations(_ASTROMETRY, 2)
}
_ENDS = {"distance_low": u.kpc, "distance_high": u.kpc}
UNITS = {**ROLES, **_ERRORS, **_CORRELATIONS, **_ENDS}


@dataclass(frozen=True)
class Preset:
    """What is known of a survey's tables.

    Attributes
    ----------
    columns
        Names of columns by role; where there are several the first that exists counts.
    units
        Units of columns that have none in the file, where they are not the usual ones.
    where
        Cuts on quality; see `torusimaging_torch.catalogue.conditions`.
    note
        What it is for, in a line.
    """

    columns: Mapping[str, tuple[str, ...]]
    units: Mapping[str, u.UnitBase] = field(default_factory=dict)
    where: tuple[str, ...] = ()
    note: str = ""


_GAIA_LIKE = {role: (role,) for role in UNITS}
_DISTANCES = ("r_med_photogeo", "r_med_geo")


def _apogee_names() -> dict[str, tuple[str, ...]]:
    astrometry = ("parallax", "pmra", "pmdec")
    gaia = [name for role in astrometry for name in (role, f"{role}_error")]
    return {
        "ra": ("RA",),
        "dec": ("DEC",),
        **{name: (f"GAIAEDR3_{name.upper()}", name) for name in gaia},
        "distance": tuple(f"GAIAEDR3_{name.upper()}" for name in _DISTANCES),
        "radial_velocity": ("VHELIO_AVG",),
        "radial_velocity_error": ("VERR",),
        **{name: (name,) for name in _CORRELATIONS},
    }


_PARSEC = {
    f"{prefix}R_{kind}_{how}": u.pc
    for prefix in ("GAIAEDR3_", "")
    for kind in ("MED", "LO", "HI")
    for how in ("PHOTOGEO", "GEO")
}
_PARSEC |= {name.lower(): unit for name, unit in _PARSEC.items() if name.startswith("R_")}

PRESETS = {
    "gaia-rvs": Preset(
        {
            **_GAIA_LIKE,
            "distance": _DISTANCES,
        },
        _PARSEC,
        ("ruwe < 1.4", "non_single_star == 0", "rv_expected_sig_to_noise >= 5"),
        "Gaia DR3 with radial velocities; distances of Bailer-Jones (2021) where they are joined",
    ),
    "apogee-gaia": Preset(
        _apogee_names(),
        _PARSEC,
        ("not flag(ASPCAPFLAG, 23)", "not flag(STARFLAG, 0, 3, 18, 22)", "not flag(EXTRATARG, 4)"),
        "the allStar table of APOGEE DR17, with Gaia EDR3: no bad star, spectrum or duplicate",
    ),
}
"""Known surveys by name."""

_ANY = {
    **_GAIA_LIKE,
    "ra": ("ra", "RA"),
    "dec": ("dec", "DEC"),
    "distance": ("distance", "dist", *_DISTANCES),
    "radial_velocity": ("radial_velocity", "rv"),
    "radial_velocity_error": ("radial_velocity_error", "rv_error"),
}


@dataclass(frozen=True)
class SkyColumns:
    """The columns that are used.

    Attributes
    ----------
    names
        Names of columns by role.
    units
        Units of columns that have none in the catalogue, by role.
    """

    names: Mapping[str, str]
    units: Mapping[str, u.UnitBase]

    @property
    def from_parallax(self) -> bool:
        """Whether distances are to be made from parallaxes."""
        return "distance" not in self.names

    def __str__(self) -> str:
        """Return what is taken from where, without errors."""
        used = (role for role in ROLES if role in self.names)
        return ", ".join(
            role if self.names[role] == role else f"{role} = {self.names[role]}" for role in used
        )


def find_columns(
    there: Collection[str],
    given: Mapping[str, str] | None = None,
    preset: str | None = None,
) -> SkyColumns:
    """Find the columns of a catalogue by their names.

    Without a preset Gaia's names are looked for. A distance goes before a parallax, unless only
    the parallax is given.

    Parameters
    ----------
    there
        The names of the catalogue's columns.
    given
        Names of columns by role, which go before all others.
    preset
        The name of a survey in `PRESETS`.

    Raises
    ------
    KeyError
        If a role, survey or column does not exist, or something needed is not found.

    Examples
    --------
    >>> names = ["ra", "dec", "parallax", "parallax_error", "pmRA", "pmdec", "radial_velocity"]
    >>> print(find_columns(names, {"pmra": "pmRA"}))
    ra, dec, parallax, pmra = pmRA, pmdec, radial_velocity
    """
    given = dict(given or {})
    for role, name in given.items():
        if role not in UNITS:
            every = ", ".join(UNITS)
            raise KeyError(f"columns: there is no {role!r} on the sky: expected one of {every}")
        if name not in there:
            raise KeyError(f"{role}: no column {name!r}; the table has {', '.join(there)}")
    if preset is not None and not (isinstance(preset, str) and preset in PRESETS):
        raise KeyError(f"preset: there is no {preset!r}: expected {' or '.join(PRESETS)}")
    known = _ANY if preset is None else PRESETS[preset].columns
    found = {role: _first(names, there) for role, names in known.items()}
    found = {role: name for role, name in found.items() if name}
    if "parallax" in given and "distance" not in given:
        found = {role: name for role, name in found.items() if not role.startswith("distance")}
    if "distance" in given:  # whose errors are not those of another column
        found.pop("distance_error", None)
    found = _ends(found | given, there) | given
    _check(found, there)
    special = {} if preset is None else PRESETS[preset].units
    special = {**_PARSEC, **special}
    return SkyColumns(found, {role: special.get(x, UNITS[role]) for role, x in found.items()})


def _ends(found: dict[str, str], there: Collection[str]) -> dict[str, str]:
    """Add the ends of the interval that Bailer-Jones' tables give with each distance."""
    name = found.get("distance", "")
    for role, ends in {"distance_low": ("lo", "LO"), "distance_high": ("hi", "HI")}.items():
        end = name.replace("r_med_", f"r_{ends[0]}_").replace("R_MED_", f"R_{ends[1]}_")
        if end != name and end in there:
            found[role] = end
    return found


def _first(names: tuple[str, ...], there: Collection[str]) -> str:
    return next((name for name in names if name in there), "")


def _check(found: Mapping[str, str], there: Collection[str]) -> None:
    missing = [name for name in ROLES if name not in (*found, "distance", "parallax")]
    if "distance" not in found and "parallax" not in found:
        missing.append("distance or parallax")
    if missing:
        raise KeyError(
            f"columns: there is none for {', '.join(missing)}: say which, as "
            f"{missing[0].split()[0]}=COLUMN; the table has {', '.join(there)}"
        )
    if "distance" not in found and "parallax_error" not in found:
        raise KeyError(
            "columns: parallaxes need their errors, to say which can be inverted: give "
            "parallax_error=COLUMN"
        )
