"""Catalogues that say little: whether the command ends in honest numbers, or in a sentence.

Stars above the plane alone, stars within 100 pc, few stars, a tenth of halo stars, one sight line;
each in the Milky Way's disk, with the Sun 20 pc above the midplane. Each fit ends in numbers, of
which pulls (error over standard error) are counted, or says that stars do not determine it, or that
it is bad (both with exit status 1). Run as::

    python benchmarks/poor_data.py [--seeds 8] [--quick] [--write]
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable
from typing import Any

import astropy.units as u
import numpy as np
import torch
from astropy.table import QTable, vstack
from results_file import command_line, write_section

from torusimaging_torch.analysis.single import Analysis, analyse
from torusimaging_torch.catalogue.tables import read_stars
from torusimaging_torch.settings import Settings
from torusimaging_torch.simulate import milky_way, milky_way_disk

R, POS0, VEL0 = 8.3 * u.kpc, -20.8 * u.pc, -7.8 * u.km / u.s
BAD = 3.0


def disk(n: int, seed: int, seen: Callable[[u.Quantity], Any] | None = None) -> QTable:
    """Return stars of a disk as the Sun sees them."""
    table = milky_way_disk(n, R=R, seed=seed, pos0=POS0, vel0=VEL0, selection=seen)
    return table["z", "v_z", "label", "label_err"]


def one_sided(seed: int) -> QTable:
    """Return 3,300 giants above the plane."""
    return disk(3300, seed, lambda z: (z > 0) & (z < 2 * u.kpc))


def local(seed: int) -> QTable:
    """Return 4,000 stars within 100 pc of the plane."""
    return disk(4000, seed, lambda z: np.abs(z) < 0.1 * u.kpc)


def few(seed: int) -> QTable:
    """Return 500 stars."""
    return disk(500, seed)


def halo(seed: int) -> QTable:
    """Return 4,000 stars, a tenth of them of the halo, with labels of their own."""
    rng, n = np.random.default_rng(seed), 400
    others = QTable(
        {
            "z": rng.normal(0, 3, n) * u.kpc,
            "v_z": rng.normal(0, 100, n) * u.km / u.s,
            "label": rng.normal(0.8, 0.3, n),
            "label_err": np.full(n, 0.05),
        }
    )
    return vstack([disk(3600, seed), others], metadata_conflicts="silent")


def sight_line(seed: int) -> QTable:
    """Return 2,000 stars of a cone towards the north: the more, the farther, up to 1.5 kpc."""

    def in_cone(z: u.Quantity) -> Any:
        x = z.to_value(u.kpc) / 1.5
        return np.where((x > 0) & (x < 1), np.clip(x, 0, 1) ** 2, 0.0)

    return disk(2000, seed, in_cone)


KINDS: dict[str, tuple[Callable[[int], QTable], dict[str, Any]]] = {
    "above the plane": (one_sided, {}),
    "within 100 pc": (local, {}),
    "500 stars": (few, {}),
    "10 % halo stars": (halo, {}),
    "10 % halo stars, --outliers": (halo, {"outliers": True}),
    "one sight line": (sight_line, {}),
}


def pulls_of(analysis: Analysis, stars: QTable) -> dict[str, float]:
    """Return how far off numbers are, in standard errors: at half the height that holds 90 %."""
    result = analysis.result
    height = np.percentile(np.abs(stars["z"]), 90)[None] / 2
    found = result.profiles(result.quantity("pos0") + height)
    true = milky_way(R).acceleration(height)
    error = found["acceleration_err"]
    pulls = {"a_z": ((found["acceleration"] - true) / error)[0], "error": np.abs(error / true)[0]}
    for name, truth in (("pos0", POS0), ("vel0", VEL0)):
        value, error = result.measured(name)
        pulls[name] = (value - truth) / error
    return {name: float(x.to_value("")) for name, x in pulls.items()}


def rows_of(seeds: range) -> list[dict[str, Any]]:
    """Return a row for each kind and model."""
    rows = []
    for kind, (make, options) in KINDS.items():
        ends: dict[str, list[Any]] = {}
        for seed in seeds:
            stars = make(seed)
            first = analyse(
                read_stars(stars, "z", "v_z", "label", "label_err"), Settings(**options)
            )
            for analysis in (first, first.beside):
                name = type(analysis.result.model).__name__.removeprefix("TorusImaging1D")
                good = analysis.result.provenance["verdict"]["good"]
                end = analysis.undetermined or (pulls_of(analysis, stars) if good else "bad fit")
                if isinstance(end, dict):
                    end["holds"] = (
                        "do not hold" not in analysis.result.provenance["verdict"]["reading"]
                    )
                ends.setdefault(name, []).append(end)
        for name, found in ends.items():
            numbers = [end for end in found if isinstance(end, dict)]
            row = {
                "stars": kind,
                "model": name,
                "fits": len(found),
                "say what is open": sum(str(end).startswith("these stars") for end in found),
                "called bad": sum(end == "bad fit" for end in found),
                "with numbers": len(numbers),
            }
            error = np.median([x["error"] for x in numbers]) if numbers else np.nan
            row["error of a_z"] = f"{100 * error:.0f} %" if numbers else "-"
            hold = [x for x in numbers if x["holds"]]
            row["whose errors hold"] = len(hold)
            for what in ("a_z", "pos0", "vel0"):
                worst = max((abs(x[what]) for x in hold), default=np.nan)
                row[f"largest pull of {what}"] = f"{worst:.1f}" if hold else "-"
            others = [abs(x["a_z"]) for x in numbers if not x["holds"]]
            row["of a_z where they do not"] = f"{max(others):.1f}" if others else "-"
            print(*row.values(), sep="  ", flush=True)
            rows.append(row)
    return rows


def main() -> None:
    """Measure, and write the table if asked to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--quick", action="store_true", help="one seed")
    parser.add_argument("--write", action="store_true", help="write the results")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rows = rows_of(range(1 if options.quick else options.seeds))
    if options.write:
        summary = (
            "Fits of both models to mocks of each kind. "
            "Pulls are errors over standard errors, a_z at half the height below which 90 % of the "
            f"stars are; beyond {BAD:g} an error is not honest. Where the Gaussian of the bound is "
            "far from the posterior (k-hat from 5 on) the verdict says that errors do not hold."
        )
        write_section("Poor data", command_line(), summary, rows)


if __name__ == "__main__":
    main()
