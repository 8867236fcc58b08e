"""What penalty and knots do to the surface density, where the truth is known.

The stars of `published.py`, at 25 radii of gala's Milky Way, are fitted without resampling with
several strengths and scales of the penalty on negative densities, and numbers of knots. A bias is
the mean error over the radii of a third of the disk; each radius has stars of its own. Run::

    python benchmarks/penalty.py [--write]
"""

from __future__ import annotations

import argparse
import os
import time
import warnings
from typing import Any

import numpy as np
from disk_mock import ORDERS
from published import BINS, DENSITY, GRID, HEIGHT, MODEL, RADII, catalogue
from results_file import write_section

VARIANTS: dict[str, dict[str, Any]] = {
    "as in the 650 fits": {},
    "dacc_dpos_scale 1e-5": {"dacc_dpos_scale": 1e-5},
    "dacc_strength 1, the default": {"dacc_strength": 1.0},
    "scale 1e-5, e_knots {2: 4, 4: 2}": {"dacc_dpos_scale": 1e-5, "e_knots": {2: 4, 4: 2}},
    "scale 1e-5, e_smooth_sigmas 2": {
        "dacc_dpos_scale": 1e-5,
        "e_smooth_sigmas": dict.fromkeys(ORDERS, 2.0),
    },
}


def truth(radii: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return true surface densities at 1.1 kpc (R,), and accelerations on the grid (R, N)."""
    import astropy.units as u

    from torusimaging_torch.simulate import milky_way

    potentials = [milky_way(radius * u.kpc) for radius in radii]
    sigma = [p.surface_density(HEIGHT).to_value(DENSITY) for p in potentials]
    return np.array(sigma), np.array([p.acceleration(GRID).value for p in potentials])


def run(name: str, sums: Any, true: tuple[np.ndarray, np.ndarray]) -> dict[str, Any]:
    """Fit all radii with one variant; return its row."""
    from torusimaging_torch.batch import fit_many

    start = time.process_time()
    result = fit_many(sums, **(MODEL | VARIANTS[name]), progress=False)
    cpu = (time.process_time() - start) / len(result)
    found = result.profiles(GRID, errors=True, from_midplane=True)
    sigma, bound = (
        found[key][:, -1].to_value(DENSITY) for key in ("surface_density", "surface_density_err")
    )
    error = 100 * (sigma / true[0] - 1)
    pull = (sigma - true[0]) / bound
    rms = 100 * np.sqrt(np.mean((found["acceleration"].value / true[1] - 1) ** 2, axis=1))
    radii = np.linspace(*RADII, len(sigma))
    row = {"what": name, "succeeded": f"{int(result.success.sum())} of {len(result)}"}
    for low, high in ((6, 8), (8, 10), (10, 12.1)):
        some = error[(radii >= low) & (radii < high)]
        mean, err = some.mean(), some.std(ddof=1) / np.sqrt(len(some))
        row[f"Sigma off, {low}-{high:.0f} kpc"] = f"{mean:+.1f} ± {err:.1f} %"
    row["pulls by the bound"] = f"{pull.mean():+.2f}, {pull.std(ddof=1):.2f}"
    row["its bar"] = f"{100 * np.median(bound / sigma):.1f} %"
    row["rms a_z error"] = f"{np.median(rms):.1f} %, largest {rms.max():.1f} %"
    row["chi2/dof"] = f"{float(result.chi2_dof.mean()):.4f}"
    row["CPU [s] per fit"] = f"{cpu:.2f}"
    print(*row.values(), sep="  ", flush=True)
    return row


def main() -> None:
    """Run the benchmark and print its rows."""
    from torusimaging_torch.data import bin_many

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--radii", type=int, default=25)
    parser.add_argument("--write", action="store_true", help="write RESULTS.md's section")
    options = parser.parse_args()
    radii, load = np.linspace(*RADII, options.radii), os.getloadavg()[0]
    columns: dict[str, Any] = {"pos": "z", "vel": "v_z", "label": "label", "label_err": "label_err"}
    sums = bin_many(catalogue(radii), "R_g", BINS, **columns)
    true = truth(radii)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        rows = [run(name, sums, true) for name in VARIANTS]
    if options.write:
        summary = (
            "The stars of the 650 fits, without resampling. Errors of Sigma(1.1 kpc), by thirds of "
            "the disk, with the standard error of their mean; mean and standard deviation of the "
            "pulls by each fit's bound, and the bound (median over the radii). The penalty has "
            "softplus((da/dz)/dacc_dpos_scale) at each knot: at 12 kpc and 1.1 kpc da/dz is "
            "-3.2e-4 / Myr^2, so with the scale of 1e-4 and the strength of 100 it costs 4 nats a "
            "knot though the density is positive, and pulls densities up; at 6 kpc it hardly "
            f"does. Load at the start {load:.1f}."
        )
        command = "OMP_NUM_THREADS=1 python benchmarks/penalty.py --write"
        write_section("What the penalty does to the surface density", command, summary, rows)


if __name__ == "__main__":
    main()
