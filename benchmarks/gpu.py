"""What a GPU makes of it: the same answers as the CPU, fits per second, and what holds it up.

Star labels of a simulated disk are binned on 80 x 80 pixels and scattered anew by their errors, for
as many subsamples as are asked for. Each part is on its own: one that fails says so in its place.
Run as::

    python benchmarks/gpu.py [--parts speed agreement] [--budget 300] [--write]

and to see that it runs, where there is no GPU: ``--device cpu --quick``.
"""

from __future__ import annotations

import argparse
import os
import time
import traceback
import warnings
from collections.abc import Callable
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from disk_mock import SETTINGS
from mocks import bin_stars
from results_file import command_line, machine, table
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from torusimaging_torch import TorusImaging1DPotential, TorusImaging1DSpline
from torusimaging_torch.batch import fit_many
from torusimaging_torch.batch.reading import read_subsample
from torusimaging_torch.batch.stack import stack_columns
from torusimaging_torch.batch.store import data_fingerprint
from torusimaging_torch.catalogue.resampling import bootstrap
from torusimaging_torch.data import bin_many
from torusimaging_torch.inference.pixels import Pixels
from torusimaging_torch.inference.posterior import Posterior
from torusimaging_torch.likelihoods.objectives import make_likelihood
from torusimaging_torch.numerics.eigen import eigh
from torusimaging_torch.numerics.params import Layout
from torusimaging_torch.results.batch_result import BatchResult
from torusimaging_torch.simulate import milky_way_disk
from torusimaging_torch.units import galactic

RESULTS = Path(__file__).resolve().with_suffix(".md")
Rows = list[dict[str, Any]]


class Bench:
    """The machine, the sizes and the data of all parts."""

    def __init__(self, device: str, quick: bool) -> None:
        self.device, self.quick = torch.device(device), quick
        self.on_gpu = self.device.type == "cuda"
        self.making = 0.0  # CPU seconds that the last data took

    def size(self, *full: int) -> list[int]:
        """Return sizes, or two tiny ones to see that it runs."""
        return [2, 3][: len(full)] if self.quick else list(full)

    def wait(self) -> None:
        """Wait for the device."""
        if self.on_gpu:
            torch.cuda.synchronize()

    def clock(self, function: Callable[[], Any], repeat: int = 7, warm: int = 2) -> float:
        """Return the median milliseconds of a call, the device idle before and after."""
        for _ in range(warm):
            function()
        self.wait()
        seconds = []
        for _ in range(1 if self.quick else repeat):
            start = time.perf_counter()
            function()
            self.wait()
            seconds.append(time.perf_counter() - start)
        return 1e3 * float(np.median(seconds))

    @cache  # noqa: B019
    def binned(self) -> dict[str, Any]:
        """Return the binned disk."""
        n = 5_000 if self.quick else 200_000
        data = bin_stars(milky_way_disk(n, seed=1))
        step = 5 if self.quick else 1
        return {key: data[key][::step, ::step] for key in ("pos", "vel", "label", "label_err")}

    def subsamples(self, n: int) -> list[dict[str, Any]]:
        """Return binned data of n subsamples: labels scattered anew by their errors."""
        one, rng = self.binned(), np.random.default_rng(0)
        scatter = (one["label_err"] * rng.normal(size=one["label"].shape) for _ in range(n))
        return [one | {"label": one["label"] + noise} for noise in scatter]

    def fit(self, n: int, device: torch.device, **options: Any) -> tuple[BatchResult, float]:
        """Fit n subsamples from end to end; return the result and the seconds."""
        begin = time.process_time()
        data = self.subsamples(n)
        self.making = time.process_time() - begin
        self.wait()
        start = time.perf_counter()
        settings = options if "model" in options else SETTINGS | options
        result = fit_many(data, **settings, device=device, progress=False)
        self.wait()
        return result, time.perf_counter() - start

    def posterior(
        self, n: int, device: torch.device, evaluation: str | None = None, kind: str = "ellipses"
    ) -> Any:
        """Return the posterior of n subsamples and where their fits start, (n, P)."""
        if kind == "ellipses":
            model, _, start = TorusImaging1DSpline.auto_init(self.binned(), **SETTINGS)
        else:
            model, _, start = TorusImaging1DPotential.auto_init(self.binned())
        likelihood, data = make_likelihood("gaussian"), self.subsamples(n)
        rows = [
            Pixels.clean(likelihood, model.border.data(one, likelihood.observed)) for one in data
        ]
        place = {"device": device}
        pos, vel = (torch.stack([getattr(p, k) for p in rows]).to(**place) for k in ("pos", "vel"))
        seen = tuple(
            torch.stack(x).to(**place) for x in zip(*(p.observed for p in rows), strict=True)
        )
        pixels = Pixels(pos, vel, seen, None, torch.stack([p.n for p in rows]).to(**place), 0)
        layout = Layout.of(start)
        vector = layout.flatten(start).to(**place).expand(n, -1).contiguous()
        return Posterior(model.to(device), likelihood, layout, pixels, evaluation), vector


def on_device(function: Callable[[], Any]) -> tuple[int, float, float]:
    """Return how many kernels a call runs, their milliseconds, and those of the largest."""
    function()
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as recorded:
        function()
        torch.cuda.synchronize()
    kernels = [e for e in recorded.key_averages() if e.self_device_time_total > 0]
    spent = [e.self_device_time_total / 1e3 for e in kernels]
    return sum(e.count for e in kernels), sum(spent), max(spent)


def off(found: Tensor, expected: Tensor) -> float:
    """Return the largest difference by the largest number."""
    found, expected = found.cpu(), expected.cpu()
    return float((found - expected).abs().max() / expected.abs().max())


def hardware(bench: Bench) -> Rows:
    """Measure what the machine does at best: bytes, products, launches, waits and eigenvectors."""
    n = 10_000 if bench.quick else 2**27
    a = torch.rand(n, dtype=torch.float64, device=bench.device)
    square = torch.rand(64 if bench.quick else 4096, dtype=torch.float64).diag().to(bench.device)
    small = torch.zeros(8, dtype=torch.float64, device=bench.device)
    b = torch.empty_like(a)
    rows: Rows = [
        {"what": "copy, GB/s", "value": 16e-6 * n / bench.clock(lambda: b.copy_(a))},
        {
            "what": "float64 products, TFLOP/s",
            "value": 2e-9 * len(square) ** 3 / bench.clock(lambda: square @ square),
        },
        {
            "what": "small kernel, us",
            "value": bench.clock(lambda: [small.add_(1.0) for _ in range(100)]) * 10,
        },
        {"what": "look at a number, us", "value": bench.clock(lambda: bool(small[0] > 0)) * 1e3},
    ]
    for batch, size in ((1024, 22), (1024, 33)):
        x = torch.randn(batch if not bench.quick else 2, size, size, dtype=torch.float64)
        matrix = (x @ x.mT).to(bench.device)
        ms = bench.clock(lambda matrix=matrix: eigh(matrix), 3, 1)  # type: ignore[misc]
        rows.append({"what": f"eigenvectors of {batch} matrices {size} x {size}, ms", "value": ms})
    return rows


def evaluation(bench: Bench) -> Rows:
    """Time one evaluation of the posterior: by kernels and by torch, and how far they are apart."""
    rows: Rows = []
    every = [(kind, n) for kind in ("ellipses", "potential") for n in bench.size(1, 64, 1024, 4096)]
    for kind, n in every:
        for wanted in (None, "torch") if n in bench.size(1, 64, 1024) else (None,):
            posterior, x = bench.posterior(n, bench.device, wanted, kind)
            row: dict[str, Any] = {"model": kind, "batch": n, "who": posterior.evaluation.name}
            row["ms value"] = bench.clock(lambda: posterior.evaluation.value(x))  # noqa: B023
            row["ms value and gradient"] = bench.clock(lambda: posterior.value_and_gradient(x))  # noqa: B023
            row["ms J^T W J"] = bench.clock(lambda: posterior.data_information(x), 3)  # noqa: B023
            if n <= 1024:
                row["ms Hessian"] = bench.clock(lambda: posterior.hessian(x), 3, 1)  # noqa: B023
            if bench.on_gpu:
                count, spent, largest = on_device(lambda: posterior.value_and_gradient(x))  # noqa: B023
                row |= {"kernels": count, "ms on the device": spent, "ms largest kernel": largest}
                bytes_read = 32 * posterior.pixels.pos.numel()
                row["GB/s of pixels"] = bytes_read / largest / 1e6
                row["ms largest kernel, J^T W J"] = on_device(
                    lambda: posterior.data_information(x)  # noqa: B023
                )[2]
            if n in bench.size(1, 64):
                here, vector = bench.posterior(n, torch.device("cpu"), "torch", kind)
                found, expected = posterior.value_and_gradient(x), here.value_and_gradient(vector)
                row["value off"], row["gradient off"] = map(off, found, expected)
                row["J^T W J off"] = off(
                    posterior.data_information(x), here.data_information(vector)
                )
            rows.append(row)
    return rows


def speed(bench: Bench) -> Rows:
    """Count fits per second from end to end: reading, start, fit and errors."""
    rows: Rows = []
    cpu, threads = torch.device("cpu"), torch.get_num_threads()
    potential = {"model": "potential"}
    runs: list[tuple[torch.device, int, dict[str, Any]]] = []
    for options in ({}, potential):
        runs += [(cpu, bench.size(16)[0], options)]
        runs += [(bench.device, n, options) for n in bench.size(1, 64, 1024, 4096)]
    runs += [(bench.device, n, {"shard_size": 1024}) for n in bench.size(4096)]
    for device in {cpu, bench.device}:  # loads libraries, compiles kernels
        for options in ({}, potential):
            bench.fit(min(64, runs[0][1]), device, **options)
    for device, n, options in runs:
        torch.set_num_threads(1 if device.type == "cpu" else threads)
        if bench.on_gpu:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        begin = time.process_time()
        result, seconds = bench.fit(n, device, **options)
        row = {
            "where": "1 CPU core" if device.type == "cpu" else "GPU",
            "model": options.get("model", "ellipses"),
            "fits": n,
            "at once": options.get("shard_size", "as it comes"),
            "fits/s": n / seconds,
            "ms per fit": 1e3 * seconds / n,
            "CPU ms per fit": 1e3 * (time.process_time() - begin - bench.making) / n,
            "converged": int(result.success.sum()),
            "median iterations": int(result.iterations.double().median()),
            "most evaluations": int(result.evaluations.max()),
        }
        if device.type == "cuda":
            row["peak MB per fit"] = torch.cuda.max_memory_allocated() / 1e6 / n
        rows.append(row)
    torch.set_num_threads(threads)
    return rows


def host(bench: Bench) -> Rows:
    """Time what the host does for each subsample before a device has it, the first time."""
    rows: Rows = []
    n = bench.size(1024)[0]
    data, kinds = bench.subsamples(n), {"": "gaussian"}
    stars, edges = milky_way_disk(20_000, seed=1), {}
    for name, column in (("pos", "z"), ("vel", "v_z")):
        end = np.percentile(np.abs(stars[column]), 98)
        edges[name] = np.linspace(-end, end, 81)
    names = {"pos": "z", "vel": "v_z", "label": "label", "label_err": "label_err", "s": 0.0}
    sums = bin_many(stars, None, edges, **names, resample=bootstrap(n - 1))

    def timed(what: str, function: Callable[[], Any]) -> Any:
        bench.wait()
        start, cpu = time.perf_counter(), time.process_time()
        found = function()
        bench.wait()
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
        row = {"what": what, "subsamples": n, "ms each": 1e3 * seconds / n}
        rows.append(row | {"CPU ms each": 1e3 * cpu / n})
        return found

    timed("taken from sums of bootstraps", lambda: list(sums))
    problems = timed("read", lambda: [read_subsample(one, kinds, galactic) for one in data])
    columns = [one.parts[""].pixels for one in problems]
    place: Any = {"dtype": torch.float64, "device": bench.device}
    timed("put side by side where they are fitted", lambda: stack_columns(columns, place))
    timed("known again by a store", lambda: data_fingerprint(data, [str(i) for i in range(n)]))
    return rows


def agreement(bench: Bench) -> Rows:
    """Compare the same fits on the CPU and on the device, in company and alone, once and again."""
    rows: Rows = []
    n = bench.size(64)[0]
    (here, _), (there, _) = bench.fit(n, torch.device("cpu")), bench.fit(n, bench.device)
    (again, _), (fewer, _) = bench.fit(n, bench.device), bench.fit(max(1, n // 8), bench.device)
    sigma = here.covariance.diagonal(dim1=-2, dim2=-1).sqrt()

    def pull(a: Tensor, b: Tensor) -> float:
        return float(((a - b).abs() / sigma[: len(a)]).nan_to_num(0.0).max())

    x = [result.values["x"] for result in (here, there, again, fewer)]
    nats = (here.fun_val - there.fun_val) * here.values["n_pixels"]
    sigmas = there.covariance.diagonal(dim1=-2, dim2=-1).sqrt() / sigma - 1
    rows.append(
        {
            "fits": n,
            "same status": bool((here.status == there.status).all()),
            "same iterations": int((here.iterations == there.iterations).sum()),
            "largest difference of ln P, nats": float(nats.abs().max()),
            "of a parameter, errors": pull(x[0], x[1]),
            "of an error, relative": float(sigmas.abs().nan_to_num(0.0).max()),
            "same bits again": bool(torch.equal(x[1], x[2])),
            "fewer at once, errors": pull(x[3], x[1][: len(x[3])]),
        }
    )
    return rows


def orbits(bench: Bench) -> Rows:
    """Time actions, angles and periods of stars."""
    rows: Rows = []
    data = bench.binned()
    model, bounds, start = TorusImaging1DSpline.auto_init(data, **SETTINGS)
    params = model.optimize(start, "gaussian", bounds, **data).params
    rng = np.random.default_rng(0)
    sizes = {"exact": bench.size(4096)[0], "table": bench.size(2_000_000)[0]}
    for device in (torch.device("cpu"), bench.device):
        model = model.to(device)
        for method, n in sizes.items():
            z, v = rng.normal(0, 0.3, n), rng.normal(0, 0.025, n)
            model.compute_action_angle(z, v, params, method=method)
            begin = time.perf_counter()
            model.compute_action_angle(z, v, params, method=method)
            seconds = time.perf_counter() - begin
            rows.append({"where": device, "method": method, "stars": n, "stars/s": n / seconds})
    return rows


def layer(bench: Bench) -> Rows:
    """Time a layer's forward and backward pass: as it is, compiled, and exported."""
    rows: Rows = []
    model, bounds, start = TorusImaging1DSpline.auto_init(bench.binned(), **SETTINGS)
    module = model.as_module(start, bounds).to(bench.device)
    n = bench.size(1_000_000)[0]
    pos, vel = (0.3 * torch.randn(2, n, dtype=torch.float64)).to(bench.device)

    def step(function: Callable[..., Tensor]) -> Tensor:
        module.zero_grad()
        label = function(pos, vel)
        label.sum().backward()
        return label.detach()

    expected = step(module)
    exported = torch.export.export(module, (pos, vel)).module()
    kinds: dict[str, Callable[..., Tensor]] = {"as it is": module, "exported": exported}
    if not bench.quick:
        kinds["compiled, one graph"] = torch.compile(module, fullgraph=True)
    for name, function in kinds.items():
        begin = time.perf_counter()
        found = step(function)
        bench.wait()
        first = time.perf_counter() - begin
        ms = bench.clock(lambda: step(function), 5, 1)  # noqa: B023
        rows.append({"how": name, "ms": ms, "s first": first, "off": off(found, expected)})
    return rows


def memory(bench: Bench) -> Rows:
    """Fit a batch that does not fit into memory: it is halved, and the answer stays."""
    n = bench.size(256)[0]
    expected, _ = bench.fit(n, bench.device, max_iter=5)
    torch.cuda.empty_cache()
    limit = torch.cuda.memory_reserved() + 0.25e9
    whole = torch.cuda.get_device_properties(bench.device).total_memory
    torch.cuda.set_per_process_memory_fraction(limit / whole)
    try:
        found, _ = bench.fit(n, bench.device, max_iter=5, max_memory=1e13)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    return [{"fits": n, "GB more than before": 0.25, "off": off(found.fun_val, expected.fun_val)}]


def waits(bench: Bench) -> Rows:
    """Count where the host waits for the device in one `fit_many` of 64 fits, by line."""
    places: dict[str, int] = {}
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            bench.fit(64, bench.device)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for warning in caught:
        if "synchroniz" in str(warning.message):
            place = f"{Path(warning.filename).name}:{warning.lineno}"
            places[place] = places.get(place, 0) + 1
    most = sorted(places.items(), key=lambda item: -item[1])
    total = {"place": "all", "times": sum(places.values())}
    return [total] + [{"place": place, "times": times} for place, times in most[:15]]


PARTS: dict[str, tuple[str, Callable[[Bench], Rows]]] = {
    part.__name__: (str(part.__doc__), part)
    for part in (hardware, host, evaluation, agreement, speed, memory, orbits, layer, waits)
}
_ON_A_GPU_ALONE = ("memory", "waits")


def run(bench: Bench, names: list[str], budget: float) -> list[str]:
    """Run parts while there is time, and return their sections."""
    sections, start = [], time.perf_counter()
    for name in names:
        title, part = PARTS[name]
        if name in _ON_A_GPU_ALONE and not bench.on_gpu:
            continue
        begin = time.perf_counter()
        if begin - start > budget:
            sections.append(f"## {name.capitalize()}\n\nNot run: no time was left.\n")
            continue
        try:
            with warnings.catch_warnings():
                if name != "waits":
                    warnings.simplefilter("ignore")
                text = table(part(bench))
        except Exception as error:
            traceback.print_exc()
            text = f"Failed: {type(error).__name__}: {str(error)[:300]}\n"
            if bench.quick:
                raise
        sections.append(f"## {name.capitalize()}\n\n{title}\n\n{text}")
        print(f"{sections[-1]}\n[{time.perf_counter() - begin:.1f} s]\n", flush=True)
        if bench.on_gpu:
            torch.cuda.empty_cache()
    return sections


def describe(bench: Bench) -> str:
    """Return when, how and on what this was measured."""
    what = [f"`{command_line()}`, {machine()}"]
    if bench.on_gpu:
        gpu = torch.cuda.get_device_properties(bench.device)
        what.append(f"{gpu.name}, {gpu.total_memory / 2**30:.0f} GiB, CUDA {torch.version.cuda}")
    for package in ("triton", "numba"):
        try:
            what.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            what.append(f"no {package}")
    return ", ".join(what) + f"; commit {os.environ.get('COMMIT', 'unknown')}."


def main() -> None:
    """Run the benchmark and print its tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--budget", type=float, default=600.0, help="seconds")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it runs")
    parser.add_argument("--write", nargs="?", type=Path, const=RESULTS, help="a Markdown file")
    arguments = parser.parse_args()
    bench = Bench(arguments.device, arguments.quick)
    header = f"# On a GPU\n\n{describe(bench)}\n"
    print(header, flush=True)
    sections = run(bench, arguments.parts, arguments.budget)
    if arguments.write:
        arguments.write.write_text("\n".join([header, *sections]).rstrip() + "\n")


if __name__ == "__main__":
    main()
