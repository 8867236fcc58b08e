"""Errors of stars in the Galaxy from the covariance of what was measured on the sky, by draws.

All stars get the same standard normal draws, whose means, variances and correlations are made
exact. So errors do not depend on where a star is in a catalogue, and are exact to first order,
however few the draws are; what the draws are for is the curvature of distances and angles.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import astropy.units as u
import numpy as np

from torusimaging_torch.arrays import Array
from torusimaging_torch.catalogue.distances import ExponentialPrior
from torusimaging_torch.catalogue.phase_space import PHASE_SPACE, galactocentric
from torusimaging_torch.catalogue.sky_columns import SkyColumns
from torusimaging_torch.catalogue.sun import CircularSpeed, Sun

__all__ = ["SkyErrors", "needed_errors", "standard_draws"]


# The parallax comes first: what a prior makes of it, the others follow.
_ORDER = ("parallax", "ra", "dec", "pmra", "pmdec")
_GAIA = ("ra", "dec", "parallax", "pmra", "pmdec")
_MAS = float(u.mas.to(u.rad))
# Draws of all stars of a block, which are in memory together.
_BLOCK = 1 << 18


def needed_errors(columns: SkyColumns) -> list[str]:
    """Return the roles of the columns that errors come from.

    Correlations, and errors of ra and dec, may be missing: they count as zero.

    Raises
    ------
    KeyError
        If others are missing.
    """
    there = columns.names
    needed = ["pmra_error", "pmdec_error", "radial_velocity_error"]
    if columns.from_parallax:
        needed.append("parallax_error")
    elif "distance_error" not in there and {"distance_low", "distance_high"} <= set(there):
        needed += ["distance_low", "distance_high"]
    else:
        needed.append("distance_error")
    if missing := [role for role in needed if role not in there]:
        raise KeyError(
            f"errors: they need {', '.join(missing)}: say which columns those are, or do without"
        )
    may = ["ra_error", "dec_error", *(_pair(*ab) for ab in _pairs(columns.from_parallax))]
    return needed + [role for role in may if role in there]


def _pair(a: str, b: str) -> str:
    """Return Gaia's name of a correlation."""
    first, second = sorted((a, b), key=_GAIA.index)
    return f"{first}_{second}_corr"


def _pairs(from_parallax: bool) -> list[tuple[str, str]]:
    names = _ORDER if from_parallax else _ORDER[1:]
    return [(a, b) for i, a in enumerate(names) for b in names[:i]]


def standard_draws(n: int, size: int) -> Array:
    """Return normal draws with shape (n, size): of mean zero, and exactly uncorrelated."""
    draws = np.random.default_rng(0).standard_normal((n, size))
    draws -= draws.mean(axis=0)
    root = np.linalg.cholesky(draws.T @ draws / n)
    return np.linalg.solve(root, draws.T).T


@dataclass(frozen=True)
class SkyErrors:
    """Compute standard errors of stars.

    Attributes
    ----------
    draws
        The number of draws of each star.
    sun, speed
        As for `torusimaging_torch.catalogue.phase_space.galactocentric`.
    prior
        Of the distance, if parallaxes are not just inverted.
    """

    draws: int
    sun: Sun
    speed: CircularSpeed
    prior: ExponentialPrior | None = None
    fewest: ClassVar[int] = 16

    def __call__(self, bare: Mapping[str, Array], distance: Array) -> dict[str, Array]:
        """Return the standard errors of all of `PHASE_SPACE`, and the correlation of z and v_z.

        Parameters
        ----------
        bare
            What was measured by role, with shape (N,): angles in deg, their errors in mas,
            distances in kpc, parallaxes in mas, motions in mas/yr, speeds in km/s.
        distance
            In kpc with shape (N,).

        Returns
        -------
        dict
            Arrays with shape (N,); nan for a star with an error that is not known.
        """
        normal = standard_draws(self.draws, 6)
        size = max(_BLOCK // self.draws, 1)
        parts = [
            self._block(
                {role: x[i : i + size] for role, x in bare.items()}, distance[i : i + size], normal
            )
            for i in range(0, len(distance), size)
        ]
        names = [*(f"{name}_err" for name in PHASE_SPACE), "z_v_z_corr"]
        return {
            name: np.concatenate([part[name] for part in parts]) if parts else np.empty(0)
            for name in names
        }

    def _block(self, bare: Mapping[str, Array], distance: Array, normal: Array) -> dict[str, Array]:
        sigma = self._sigma(bare, distance)
        known = np.isfinite(np.sum(list(sigma.values()), axis=0)) & np.isfinite(distance)
        root = _root(bare, known)
        first = np.broadcast_to(normal[:, 0], (len(distance), self.draws))
        if "parallax" in bare and self.prior is not None:
            drawn = self.prior.quantiles(bare["parallax"], bare["parallax_error"], normal[:, 0])
            first = (1 / drawn - bare["parallax"][:, None]) / bare["parallax_error"][:, None]
        # (N, draws, 5): each variable follows from itself and those before it.
        unit = np.concatenate(
            [first[..., None], np.broadcast_to(normal[:, 1:5], (*first.shape, 4))], axis=-1
        )
        shift = dict(zip(_ORDER, np.moveaxis(unit @ np.swapaxes(root, 1, 2), -1, 0), strict=True))
        moved = {name: sigma[name][:, None] * shift[name] for name in _ORDER}
        ra, dec = np.deg2rad(bare["ra"])[:, None], np.deg2rad(bare["dec"])[:, None]
        places = galactocentric(
            ra + moved["ra"] / np.cos(dec),
            dec + moved["dec"],
            self._distances(bare, distance, moved["parallax"]),
            bare["pmra"][:, None] + moved["pmra"],
            bare["pmdec"][:, None] + moved["pmdec"],
            bare["radial_velocity"][:, None] + sigma["radial_velocity"][:, None] * normal[:, 5],
            self.sun,
            self.speed,
        )
        # Azimuths have a seam opposite to the Sun.
        places["phi"] = np.angle(np.exp(1j * (places["phi"] - places["phi"][:, :1])))
        found = {
            f"{name}_err": np.where(known, np.std(x, axis=1), np.nan) for name, x in places.items()
        }
        found["z_v_z_corr"] = np.where(known, _correlation(places["z"], places["v_z"]), np.nan)
        return found

    def _sigma(self, bare: Mapping[str, Array], distance: Array) -> dict[str, Array]:
        """Return standard errors by what they are of; those of distances are relative."""
        zero = np.zeros(len(distance))
        found = {
            "parallax": self._depth_error(bare, distance),
            "ra": bare.get("ra_error", zero) * _MAS,
            "dec": bare.get("dec_error", zero) * _MAS,
        }
        others = ("pmra", "pmdec", "radial_velocity")
        return found | {name: bare[f"{name}_error"] for name in others}

    @staticmethod
    def _depth_error(bare: Mapping[str, Array], distance: Array) -> Array:
        if "parallax" in bare:
            return bare["parallax_error"]
        error = bare.get("distance_error")
        if error is None:
            error = (bare["distance_high"] - bare["distance_low"]) / 2
        return error / distance

    def _distances(self, bare: Mapping[str, Array], distance: Array, moved: Array) -> Array:
        if "parallax" not in bare:  # no draw is negative, however large the error
            return distance[:, None] * np.exp(moved)
        parallax = bare["parallax"][:, None] + moved
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(parallax > 0, 1 / parallax, np.nan)


def _root(bare: Mapping[str, Array], known: Array) -> Array:
    """Return lower triangular roots (N, 5, 5) of the correlations; those not known are zero."""
    n = len(known)
    matrix = np.tile(np.eye(5), (n, 1, 1))
    for i, a in enumerate(_ORDER):
        for j, b in enumerate(_ORDER[:i]):
            if (values := bare.get(_pair(a, b))) is not None:
                matrix[:, i, j] = matrix[:, j, i] = np.where(known, np.nan_to_num(values), 0)
    try:
        return np.linalg.cholesky(matrix)
    except np.linalg.LinAlgError:
        raise ValueError(
            "the correlations of a star are not those of any covariance: check the columns _corr"
        ) from None


def _correlation(a: Array, b: Array) -> Array:
    a, b = (x - x.mean(axis=1, keepdims=True) for x in (a, b))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.mean(a * b, axis=1) / np.sqrt(np.mean(a**2, axis=1) * np.mean(b**2, axis=1))
