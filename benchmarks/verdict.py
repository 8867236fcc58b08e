"""How often a good fit is called bad, and bad ones are seen: one set of thresholds for all.

Good: disks of 10,000 to 300,000 stars at 6 to 10 kpc, both models. Bad kinds: a phase spiral in the
label, stars of two radii in one sample, a harmonic oscillator for the potential, star counts with a
selection function that nobody told, and the Gaia counts of shared/data. Run as::

    python benchmarks/verdict.py [--n 200] [--bad 20] [--quick] [--write]
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Iterator
from typing import Any

import astropy.units as u
import numpy as np
import torch
from astropy.table import Table, vstack
from disk_mock import SHARED
from results_file import command_line, write_section

from torusimaging_torch.analysis.report import are_apart
from torusimaging_torch.analysis.single import Analysis, analyse
from torusimaging_torch.analysis.verdict import judge
from torusimaging_torch.catalogue.tables import read_stars
from torusimaging_torch.settings import Settings
from torusimaging_torch.simulate import milky_way_disk, simulate_stars
from torusimaging_torch.simulate.potentials import HarmonicOscillator

HEIGHTS = np.array([0.25, 0.5, 0.75, 1.0]) * u.kpc
GAIA = SHARED / "gaia_dr2_100_200pc.fits"


def analysed(stars: Any, label: str | None = "label", **settings: Any) -> Analysis:
    """Fit stars as the command does, errors included."""
    err = "label_err" if label else None
    read = read_stars(stars, "z", "v_z", label, err)
    return analyse(read, Settings(**settings))


def differ(analysis: Analysis) -> bool:
    """Return whether the command says that both models differ by more than their errors."""
    both = [analysis, analysis.beside]
    if any(one is None or one.undetermined for one in both):
        return False
    return are_apart(analysis, analysis.beside, HEIGHTS)  # type: ignore[arg-type]


def good(seed: int) -> Analysis:
    """Return both fits of a disk with nothing wrong."""
    rng = np.random.default_rng(seed)
    n, R = int(10 ** rng.uniform(4, 5.5)), rng.uniform(6, 10)
    return analysed(
        milky_way_disk(n, R=R * u.kpc, seed=seed, pos0=-20 * u.pc, vel0=-7 * u.km / u.s)
    )


def spiral(seed: int) -> Analysis:
    """Return both fits of a disk whose label winds up with the frequency of its orbits."""
    stars = milky_way_disk(200_000, seed=seed)
    wound = 2 * np.pi * (400 * u.Myr / stars["T"]).to_value("")
    phase = stars["theta"].to_value(u.rad) - wound
    stars["label"] = stars["label"] + 0.02 * np.cos(phase)
    return analysed(stars)


def mixed(seed: int) -> Analysis:
    """Return both fits of stars from 6 and from 10 kpc, taken for one sample."""
    parts = [milky_way_disk(100_000, R=R * u.kpc, seed=seed + R) for R in (6, 10)]
    return analysed(vstack(parts, metadata_conflicts="silent"))


def oscillator(seed: int) -> Analysis:
    """Return the fit of a potential to stars of a harmonic oscillator."""
    stars = simulate_stars(HarmonicOscillator(0.08 * u.rad / u.Myr), 200_000, seed=seed)
    return analysed(stars, model="potential")


def selected(seed: int) -> Analysis:
    """Return both fits of counts of stars that are seen the less, the further they are."""
    stars = milky_way_disk(200_000, seed=seed)
    z = np.abs(stars["z"].to_value(u.kpc))
    seen = np.random.default_rng(seed).uniform(size=len(stars)) < np.exp(-z / 0.3)
    return analysed(stars[seen], None)


def gaia(seed: int) -> Analysis:
    """Return both fits of Gaia's star counts between 100 and 200 pc from the Sun."""
    return analysed(Table.read(GAIA), None)


KINDS = {
    "phase spiral": spiral,
    "mixed radii": mixed,
    "oscillator, for a potential": oscillator,
    "counts, selection unknown": selected,
    "Gaia's counts": gaia,
}


def rows_of(n_good: int, n_bad: int) -> Iterator[dict[str, Any]]:
    """Yield a row for each kind and model: how many were called bad, and why."""
    for kind, make in {"good": good, **KINDS}.items():
        if kind == "Gaia's counts" and not GAIA.exists():
            continue
        n = n_good if kind == "good" else 1 if kind == "Gaia's counts" else n_bad
        found: dict[str, list[Any]] = {}
        apart = []
        for seed in range(n):
            analysis = make(seed)
            apart.append(differ(analysis))
            for each in (analysis, analysis.beside):
                if each is not None:
                    name = type(each.result.model).__name__.removeprefix("TorusImaging1D")
                    found.setdefault(name, []).append(judge(each.result, each.binned))
        for model, verdicts in found.items():
            every = np.array([list(v.numbers.values()) for v in verdicts])
            row = {
                "kind": kind,
                "model": model,
                "fits": len(verdicts),
                "called bad": f"{100 * np.mean([not v.good for v in verdicts]):.1f} %",
                "models differ": f"{100 * np.mean(apart):.0f} %" if len(found) > 1 else "",
            }
            names = ("chi2 or deviance", "neighbours", "odd in position", "odd in velocity")
            row |= {
                f"{name}, mean": f"{x:+.1f}" for name, x in zip(names, every.mean(0), strict=True)
            }
            print(*row.values(), sep="  ", flush=True)
            yield row


def main() -> None:
    """Measure, and write the table if asked to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=200, help="good disks")
    parser.add_argument("--bad", type=int, default=20, help="disks of each bad kind")
    parser.add_argument("--quick", action="store_true", help="two disks of each kind")
    parser.add_argument("--write", action="store_true", help="write the results")
    options = parser.parse_args()
    torch.set_num_threads(1)
    n_good, n_bad = (2, 2) if options.quick else (options.n, options.bad)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rows = list(rows_of(n_good, n_bad))
    if options.write:
        summary = (
            "Numbers are in standard deviations of what chance does; beyond 4 a fit is bad. The "
            "last but four says how often the command tells that both models differ by more than "
            "their errors."
        )
        write_section("Is the fit good?", command_line(), summary, rows)


if __name__ == "__main__":
    main()
