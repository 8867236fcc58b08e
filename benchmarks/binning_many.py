"""Time and memory of binning many groups and bootstraps at once, on one core.

Writes catalogues of simulated stars to parquet and FITS, and bins each in a process of its own:
parquet in chunks, which should take the same memory whatever the number of stars, FITS from memory.
Ten groups are windows of R that do not overlap, or of three times the width. The largest catalogue
has single precision and no errors, and a column of its ten groups.

Run ``OMP_NUM_THREADS=1 python benchmarks/binning_many.py``. CPU time is that of the process, so
other work on the machine does not count; peak memory is the largest resident size, with that of
Python and its libraries.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import astropy.units as u
import numpy as np
from astropy.io import fits
from astropy.table import Table
from results_file import write_section

BINS = {"pos": np.linspace(-1.2, 1.2, 81) * u.kpc, "vel": np.linspace(-70, 70, 81) * u.km / u.s}
UNITS = {"R": "kpc", "z": "kpc", "v": "km/s"}
GROUPS = {
    "apart": "R: 5.5..14.5 step 1 width 1 kpc",
    "overlapping": "R: 5.5..14.5 step 1 width 3 kpc",
    "of a column": "field",
}
COLUMNS: dict[str, Any] = {"pos": "z", "vel": "v", "label": "fe", "label_err": "err"}
DTYPE = [(name, "f8") for name in ("R", "z", "v", "fe", "err")]
BLOCK = 1_000_000


def simulate(n: int, seed: int) -> np.ndarray:
    rng, omega = np.random.default_rng(seed), 0.08
    stars = np.empty(n, DTYPE)
    stars["R"] = rng.uniform(5, 15, n)
    stars["z"] = rng.normal(0, 0.4, n)
    vel = rng.normal(0, 0.4 * omega, n)
    stars["v"] = (vel * u.kpc / u.Myr).to_value(u.km / u.s)
    stars["err"] = rng.lognormal(np.log(0.05), 0.3, n)
    truth = 0.02 + 0.9 * np.sqrt(0.5 * (omega * stars["z"] ** 2 + vel**2 / omega))
    stars["fe"] = truth + rng.normal(0, np.hypot(stars["err"], 0.04))
    return stars


def write_files(n: int, folder: Path) -> dict[str, Path]:
    """Write a catalogue block by block, so that this process stays small too."""
    import pyarrow as pa
    from pyarrow import parquet

    paths = {kind: folder / f"{n}.{kind}" for kind in ("parquet", "fits")}
    schema = pa.schema([(name, pa.float64()) for name, _ in DTYPE])
    header = fits.BinTableHDU(np.empty(0, DTYPE)).header
    header["NAXIS2"] = n
    stream = fits.StreamingHDU(paths["fits"], header)
    with parquet.ParquetWriter(paths["parquet"], schema) as file:
        for index, start in enumerate(range(0, n, BLOCK)):
            stars = simulate(min(BLOCK, n - start), index)
            file.write_table(pa.table({name: stars[name] for name, _ in DTYPE}, schema))
            stream.write(stars.astype([(name, ">f8") for name, _ in DTYPE]).view(np.uint8))
    stream.close()
    return paths


def write_large(n: int, folder: Path) -> Path:
    """Write a catalogue in single precision, with a column that tells groups apart."""
    import pyarrow as pa
    from pyarrow import parquet

    path = folder / f"{n}_single.parquet"
    names = ("z", "v", "fe")
    columns = [*((name, pa.float32()) for name in names), ("field", pa.int8())]
    with parquet.ParquetWriter(path, pa.schema(columns)) as file:
        for index, start in enumerate(range(0, n, BLOCK)):
            stars = simulate(min(BLOCK, n - start), index)
            arrays = {name: stars[name].astype("f4") for name in names}
            arrays["field"] = (stars["R"] - 5).astype("i1")
            file.write_table(pa.table(arrays, pa.schema(columns)))
    print(f"{path.name}: {path.stat().st_size / 2**30:.2f} GiB", flush=True)
    return path


def peak_memory() -> float:
    """Return the largest resident size of this process in MB.

    Linux's own record of it is asked where there is one: the one of ``getrusage`` goes on from the
    parent process, which is larger than a small task.
    """
    status = Path("/proc/self/status")
    if status.exists():
        line = next(x for x in status.read_text().splitlines() if x.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size / (1024**2 if sys.platform == "darwin" else 1024)


def measure(run: Callable[[], Any]) -> dict[str, float]:
    before = peak_memory()
    start = time.perf_counter(), time.process_time()
    run()
    return {
        "wall": time.perf_counter() - start[0],
        "cpu": time.process_time() - start[1],
        "before": before,
        "peak": peak_memory(),
    }


def read_all(path: str) -> Table:
    """Read a file into memory in chunks, so that reading is not what takes the most memory."""
    from torusimaging_torch.catalogue import open_stars

    source = open_stars(path)
    columns = {name: np.empty(source.n_rows) for name, _ in DTYPE}
    for start, chunk in source.chunks(list(columns)):
        for name, values in columns.items():
            values[start : start + len(chunk)] = chunk[name]
    return Table(columns, copy=False)


def task(path: str, groups: str, n_bootstraps: int, s: float | None, in_memory: bool) -> None:
    from torusimaging_torch.catalogue import bootstrap, open_stars
    from torusimaging_torch.data import bin_many

    stars: Any = path
    if in_memory:
        stars = read_all(path)
    names = open_stars(stars).names
    source = open_stars(stars, units={name: x for name, x in UNITS.items() if name in names})
    columns = dict(COLUMNS)
    if columns["label_err"] not in names:
        columns["label_err"] = 0.05
    resample = bootstrap(n_bootstraps, seed=1) if n_bootstraps else None
    numbers = measure(
        lambda: bin_many(source, GROUPS[groups], BINS, **columns, s=s, resample=resample)
    )
    print(json.dumps(numbers))


def run_task(**settings: Any) -> dict[str, Any]:
    command = [sys.executable, __file__, "--task", json.dumps(settings)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return json.loads(output.splitlines()[-1])


def row(n: int, source: str, path: Path, groups: str, bootstraps: int, s: Any) -> dict[str, Any]:
    numbers = run_task(
        path=str(path),
        groups=groups,
        n_bootstraps=bootstraps,
        s=s,
        in_memory=source == "memory",
    )
    result = {
        "stars": f"{n:,}",
        "read from": source,
        "10 groups": groups,
        "bootstraps": bootstraps,
        "s": "estimated" if s is None else "given",
        "CPU time [s]": numbers["cpu"],
        "wall time [s]": numbers["wall"],
        "memory before [MB]": round(numbers["before"]),
        "peak memory [MB]": round(numbers["peak"]),
    }
    print("  ".join(str(value) for value in result.values()), flush=True)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stars", type=int, default=10_000_000, help="in the largest catalogue")
    parser.add_argument(
        "--large", type=int, default=100_000_000, help="in one of single precision; 0 for none"
    )
    parser.add_argument("--bootstraps", type=int, default=20)
    parser.add_argument("--no-write", action="store_true", help="leave RESULTS.md as it is")
    parser.add_argument("--task", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.task:
        task(**json.loads(options.task))
        return
    n, boots, load = options.stars, options.bootstraps, os.getloadavg()[0]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for size in (n // 10, n // 3, n):
            paths = write_files(size, Path(folder))
            rows += [row(size, k, p, "apart", boots, None) for k, p in paths.items()]
        rows.append(row(n, "memory", paths["fits"], "apart", boots, None))
        rows.append(row(n, "memory", paths["fits"], "apart", boots, 0.04))
        rows.append(row(n, "memory", paths["fits"], "apart", 0, 0.04))
        rows.append(row(n, "memory", paths["fits"], "overlapping", boots, 0.04))
        for size in (options.large // 10, options.large) if options.large else ():
            path = write_large(size, Path(folder))
            some = ("parquet, single", path, "of a column", boots)
            rows += [row(size, *some, s) for s in (0.04, None)]
    if not options.no_write:
        write_section(
            "Many groups and bootstraps",
            "OMP_NUM_THREADS=1 python benchmarks/binning_many.py",
            "`bin_many`: 10 groups, 80 × 80 pixels, one core. Parquet is read in chunks of 262,144 "
            "stars, and memory does not grow with the catalogue: 100,000,000 take a few per cent "
            "more than a tenth of them. Wall times are those of a machine shared with other work, "
            "and CPU times about what it would take alone. Estimating the intrinsic scatters takes "
            "some five passes over the stars before that of the sums. "
            f"Load at the start {load:.1f}, at the end {os.getloadavg()[0]:.1f}.",
            rows,
        )


if __name__ == "__main__":
    main()
