r"""Weak priors of the midplane, where stars do not tell where it is.

Stars on one side of the midplane alone, or near it alone, leave pos0 open: a midplane far away with
other labels describes them as well. But positions and velocities of a catalogue are counted from
the Sun, or from the plane: their zero is not far from the midplane. So where fewer than a tenth of
the stars are on one side of zero, or the grid reaches less than half as far in position as in
velocity (:math:`\mathrm{pos\_max}\,\Omega_0 < \mathrm{vel\_max}/2`), pos0 has a normal prior of
width 50 pc, or a twentieth of pos_max if that is more, and vel0 one of 10 km/s, or a tenth of
vel_max; both have the mean zero. The Sun is 20 pc above the plane and moves at 7 km/s.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import astropy.units as u
import numpy as np
from gala.units import galactic

from torusimaging_torch.model.known import by_path
from torusimaging_torch.model.known_applied import frame_known
from torusimaging_torch.model.low_order import low_order_fit
from torusimaging_torch.settings import Settings
from torusimaging_torch.units import BinnedData, Priors

__all__ = ["KnownHere", "known_here"]

# Fewer stars than this on one side of zero do not show the midplane.
_FEWEST = 0.1
# A grid that reaches less far in position than in velocity by this, in the plane of the orbits.
_NARROW = 0.5
# Widths of the priors: at least these, and as fractions of the grid.
_WIDTHS = {"pos0": (50 * u.pc, 0.05), "vel0": (10 * u.km / u.s, 0.1)}


@dataclass(frozen=True)
class KnownHere:
    """What is known beforehand in one analysis.

    Attributes
    ----------
    priors, hold
        By parameter, given or weak.
    weak
        Names of those with a weak prior.
    remarks
        What the data lack, in words.
    """

    priors: Priors = field(default_factory=dict)
    hold: Mapping[str, object] = field(default_factory=dict)
    weak: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """Return what is known, and what the data lack, as sentences."""
        said = list(self.remarks)
        for name, prior in self.priors.items():
            how = "weak prior, by default" if name in self.weak else "prior"
            said.append(f"{name} = {_describe(prior)} ({how})")
        return said + [f"{name} = {value} (held)" for name, value in self.hold.items()]


def _describe(prior: object) -> str:
    if not isinstance(prior, tuple):
        return str(prior)
    mean, sigma = (u.Quantity(x) for x in prior)
    return f"{mean.to_value(sigma.unit):g} \N{PLUS-MINUS SIGN} {sigma:g}"


def known_here(
    pos: u.Quantity,
    binned: BinnedData,
    half: Mapping[str, u.Quantity],
    settings: Settings,
) -> KnownHere:
    """Return what is known of an analysis: what was given, and weak priors where they are needed.

    Parameters
    ----------
    pos
        Positions of the stars on the grid.
    binned
        Their pixels.
    half
        How far the grid reaches, by the names "pos0" and "vel0".
    settings
        What was chosen.
    """
    priors, hold = settings.priors, settings.hold
    if settings.elliptical_angle_convention != "pv":
        return KnownHere(priors, hold)
    remarks = _lacking(pos, binned, half)
    named = {path[0] for some in (priors, hold) for path in by_path(some)}
    if not (remarks and settings.weak_priors):
        return KnownHere(priors, hold, remarks=remarks)
    weak = {
        name: (0 * least.unit, max(least, share * half[name].to(least.unit)))
        for name, (least, share) in _WIDTHS.items()
        if name not in named
    }
    return KnownHere({**weak, **priors}, hold, tuple(weak), remarks)


def _lacking(
    pos: u.Quantity, binned: BinnedData, half: Mapping[str, u.Quantity]
) -> tuple[str, ...]:
    """Return why stars do not tell where the midplane is, if they do not."""
    below = float(np.mean(pos < 0))
    if min(below, 1 - below) < _FEWEST:
        share, side = (below, "below") if below < 0.5 else (1 - below, "above")
        return (
            f"only {100 * share:.1f} % of the stars are {side} pos = 0: they do not hold both "
            "sides of the midplane",
        )
    centre = frame_known({}, {"pos0": 0.0, "vel0": 0.0}, galactic)
    omega = low_order_fit(binned, galactic, known=centre).ln_Omega0.exp().item() / u.Myr
    reach = float((half["pos0"] * omega / half["vel0"]).to_value(""))
    if reach < _NARROW:
        return (
            f"the stars reach {reach:.2f} times as far in position as in velocity: so near the "
            "midplane they hardly tell where it is",
        )
    return ()
