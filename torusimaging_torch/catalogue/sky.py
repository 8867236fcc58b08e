"""Catalogues on the sky turned into stars in the Galaxy, a part at a time, errors included."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import astropy.units as u
import numpy as np
from astropy.table import Column, Table

from torusimaging_torch.arrays import Array
from torusimaging_torch.catalogue.chunks import Stars, StarSource, Units, open_stars
from torusimaging_torch.catalogue.columns import kind_of, read_column
from torusimaging_torch.catalogue.conditions import select
from torusimaging_torch.catalogue.distances import ExponentialPrior, invert
from torusimaging_torch.catalogue.phase_space import PHASE_SPACE, galactocentric
from torusimaging_torch.catalogue.sentinels import Sentinels
from torusimaging_torch.catalogue.sky_columns import ROLES, SkyColumns, find_columns
from torusimaging_torch.catalogue.sky_errors import SkyErrors, needed_errors
from torusimaging_torch.catalogue.sun import CircularSpeed, Sun

__all__ = ["Sky", "add_columns", "assumed_in", "prepare"]


_ASSUMED = ("R_sun", "z_sun", "v_sun", "v_c", "distfrom", "plx_zp")
_CORRELATION = "z_v_z_corr"


@dataclass(frozen=True, eq=False)
class Sky:
    """How stars on the sky become stars in the Galaxy; call it with a table of some of them.

    Attributes
    ----------
    columns
        Where in the table what is.
    sun
        The Sun.
    speed
        Of circular orbits, which defines guiding radii.
    prior
        Of the distance; without one, parallaxes below five times their error give nan.
    zero_point
        In mas, subtracted from parallaxes.
    draws
        From how many draws of each star errors are computed; 0 for no errors.
    prefix
        Put before the names of the new columns.

    Raises
    ------
    KeyError
        If errors are asked for that the table does not have.
    ValueError
        If there are too few draws.
    """

    columns: SkyColumns
    sun: Sun = field(default_factory=Sun)
    speed: CircularSpeed = field(default_factory=CircularSpeed)
    prior: ExponentialPrior | None = None
    zero_point: float = 0.0
    draws: int = 0
    prefix: str = ""
    _sentinels: Sentinels = field(default_factory=Sentinels, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Check that what errors need is there."""
        if self.draws and self.draws < SkyErrors.fewest:
            raise ValueError(f"errors must be {SkyErrors.fewest} draws at least, got {self.draws}")
        if self.draws:
            needed_errors(self.columns)

    @property
    def needed(self) -> list[str]:
        """The names of the columns that are read."""
        return list(dict.fromkeys(self.columns.names[role] for role in self._roles))

    @property
    def _roles(self) -> list[str]:
        depth = "parallax" if self.columns.from_parallax else "distance"
        other = {"parallax", "distance"} - {depth}
        roles = [role for role in ROLES if role not in other]
        if self.columns.from_parallax:
            roles.append("parallax_error")
        if self.draws:
            roles += needed_errors(self.columns)
        return list(dict.fromkeys(roles))

    @property
    def new(self) -> dict[str, tuple[u.UnitBase, str]]:
        """Units and meanings of the new columns by name."""
        found = dict(PHASE_SPACE)
        if self.columns.from_parallax:
            found["distance"] = (u.kpc, f"distance from the Sun: {self._distances}")
        if self.draws:
            errors = {
                f"{name}_err": (unit, f"standard error of {name}, from draws of the star")
                for name, (unit, _) in PHASE_SPACE.items()
            }
            found |= errors
            found[_CORRELATION] = (u.dimensionless_unscaled, "correlation of the errors of z, v_z")
        return {self.prefix + name: about for name, about in found.items()}

    @property
    def _distances(self) -> str:
        if not self.columns.from_parallax:
            return f"column {self.columns.names['distance']}"
        if self.prior is None:
            return "1 / parallax, where that is five times its error"
        return f"median given the parallax and the prior: {self.prior}"

    def describe(self) -> dict[str, str]:
        """Return what was assumed, as texts by names that FITS headers can have."""
        zero = {"plx_zp": f"{self.zero_point:g} mas"} if self.columns.from_parallax else {}
        return {**self.sun.describe(), "v_c": str(self.speed), "distfrom": self._distances, **zero}

    def check(self, names: Collection[str]) -> None:
        """Raise a ValueError if a new column is among the names of a table."""
        if taken := [name for name in self.new if name in names]:
            raise ValueError(
                f"there is a column {taken[0]!r} already: choose a prefix for the new ones"
            )

    def __str__(self) -> str:
        """Return what was assumed in a line."""
        return ", ".join(f"{name} {text}" for name, text in self.describe().items())

    def __call__(self, part: Table) -> Table:
        """Return the new columns of some stars, in their order.

        Raises
        ------
        astropy.units.UnitConversionError
            If a column has a unit of the wrong kind.
        ValueError
            If correlations are not those of any covariance.
        """
        bare = {role: self._bare(part, role) for role in self._roles}
        self._sentinels.warn()
        with np.errstate(all="ignore"):  # what passes the largest number is infinite, or nan
            values = self._values(bare)
        columns = zip(self.new.items(), values.values(), strict=True)
        return Table(
            [Column(x, name, unit=unit, description=text) for (name, (unit, text)), x in columns],
            copy=False,
        )

    def _values(self, bare: Mapping[str, Array]) -> dict[str, Array]:
        """Return the numbers of the new columns, in their order."""
        depth = self._depth(bare)
        values = galactocentric(
            np.deg2rad(bare["ra"]),
            np.deg2rad(bare["dec"]),
            depth,
            bare["pmra"],
            bare["pmdec"],
            bare["radial_velocity"],
            self.sun,
            self.speed,
        )
        if self.columns.from_parallax:
            values["distance"] = depth
        if self.draws:
            spread = SkyErrors(self.draws, self.sun, self.speed, self.prior)
            values |= spread(bare, depth)
        return values

    def _bare(self, part: Table, role: str) -> Array:
        """Return a column in the unit that is computed with; what is no finite number is nan."""
        name, unit = self.columns.names[role], self.columns.units[role]
        values = read_column(part, name)
        if np.ndim(values) != 1 or kind_of(values) != "number":
            raise ValueError(f"{role}: column {name!r} must hold one number per star")
        if not isinstance(values, u.Quantity):
            values = np.asarray(values, dtype=float) * unit
        usual = ROLES.get(role, unit)
        try:
            bare = values.to_value(u.kpc if role.startswith("distance") else usual)
        except u.UnitConversionError:
            raise u.UnitConversionError(
                f"{role}: column {name!r} has the unit '{values.unit}', expected one like '{unit}'"
            ) from None
        bare = np.asarray(bare, dtype=float)
        bare = np.where(np.isfinite(bare), bare, np.nan)
        if role == "dec":
            self._sentinels.look(name, values)
            return np.where(np.abs(bare) <= 90, bare, np.nan)  # beyond the poles is no direction
        if role.startswith("distance"):
            return np.where(bare > 0, bare, np.nan)  # surveys mark missing ones with -999
        self._sentinels.look(name, values)
        return bare - self.zero_point if role == "parallax" else bare

    def _depth(self, bare: Mapping[str, Array]) -> Array:
        if not self.columns.from_parallax:
            return bare["distance"]
        parallax, error = bare["parallax"], bare["parallax_error"]
        if self.prior is None:
            return invert(parallax, error)
        return self.prior.quantiles(parallax, error, np.zeros(1))[:, 0]


def prepare(
    stars: Stars,
    *,
    columns: Mapping[str, str] | None = None,
    preset: str | None = None,
    where: tuple[str, ...] | list[str] = (),
    units: Units | None = None,
    **options: Any,
) -> Table:
    """Turn a catalogue on the sky into stars in the Galaxy.

    Parameters
    ----------
    stars
        What `torusimaging_torch.catalogue.open_stars` takes: a table, columns, a file.
    columns
        Names of columns by what they hold: ra, dec, distance or parallax, pmra, pmdec,
        radial_velocity, the same with ``_error``; by default Gaia's names.
    preset
        "gaia-rvs" or "apogee-gaia": names of columns. Its cuts are
        ``torusimaging_torch.catalogue.sky_columns.PRESETS[preset].where``.
    where
        Conditions that all must hold; see `torusimaging_torch.catalogue.conditions`. They may be
        about new columns too.
    units
        Units of columns by name, in place of what the catalogue says.
    **options
        Of `Sky`: sun, speed, prior, zero_point, draws, prefix.

    Returns
    -------
    Table
        The catalogue with new columns, and in its ``meta`` what was assumed.

    Raises
    ------
    KeyError
        If columns are missing.
    ValueError
        If a new column is there already, or no star is left.

    Examples
    --------
    >>> import astropy.units as u
    >>> from torusimaging_torch.catalogue import prepare
    >>> stars = {
    ...     "ra": [10.0],
    ...     "dec": [-20.0],
    ...     "distance": [0.5] * u.kpc,
    ...     "pmra": [1.0],
    ...     "pmdec": [-2.0],
    ...     "radial_velocity": [15.0],
    ... }
    >>> found = prepare(stars)
    >>> print(f"{found['R'][0]:.3f}, {found['v_phi'][0]:.1f}, R_sun {found.meta['R_sun']}")
    8.290 kpc, 248.6 km / s, R_sun 8.275 kpc
    """
    if not isinstance(where, (tuple, list)):
        raise TypeError(f"where must be a list of conditions, got {where!r}")
    source = open_stars(stars, units=units)
    sky = Sky(find_columns(source.names, columns, preset), **options)
    sky.check(source.names)
    table = add_columns(source, sky)
    keep = np.ones(len(table), dtype=bool)
    for condition in where:
        keep &= select(table, condition)
        if not keep.any():
            raise ValueError(f"no star is left after the condition {condition!r}")
    return table[keep]


def assumed_in(meta: Mapping[str, object]) -> str:
    """Return in a line what was assumed when a table was prepared; empty if it was not.

    Parameters
    ----------
    meta
        The table's metadata; FITS has written its names in capitals.
    """
    there = {name.lower(): text for name, text in meta.items()}
    if "r_sun" not in there:
        return ""
    return ", ".join(f"{x} {there[x.lower()]}" for x in _ASSUMED if x.lower() in there)


def add_columns(source: StarSource, sky: Sky, progress: str = "") -> Table:
    """Return a catalogue in memory with new columns, and with what was assumed in its ``meta``.

    Parameters
    ----------
    source
        The catalogue, one table or file; it is not changed.
    sky
        What computes the columns.
    progress
        As for `torusimaging_torch.catalogue.chunks.progress_bar`.
    """
    table = source.read().copy(copy_data=False)
    parts = [sky(part) for _, part in source.chunks(sky.needed, progress)]
    for name, (unit, text) in sky.new.items():
        values = np.concatenate([part[name].value for part in parts])
        table[name] = Column(values, unit=unit, description=text)
    table.meta |= sky.describe()
    return table
