"""Many subsamples at once: the same answers in whatever company, and what is told of failures."""

from __future__ import annotations

import warnings
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from typing import Any

import astropy.units as u
import numpy as np
import pytest
import torch

import disks
from torusimaging_torch import TorusImaging1DSpline
from torusimaging_torch.batch import fit_many
from torusimaging_torch.batch import memory as batch_memory
from torusimaging_torch.batch import shard as batch_shard
from torusimaging_torch.batch.many import make_shards
from torusimaging_torch.batch.memory import in_chunks, is_out_of_memory
from torusimaging_torch.data import get_binned_label
from torusimaging_torch.numerics.minimum import Status
from torusimaging_torch.results.batch_result import BatchResult
from torusimaging_torch.simulate import milky_way_disk

SETTINGS: dict[str, Any] = {
    "label_knots": 4,
    "e_knots": {2: 5, 4: 3},
    "label_l2_sigma": 1.0,
    "label_smooth_sigma": 0.5,
    "e_l2_sigmas": {2: 1.0, 4: 1.0},
    "e_smooth_sigmas": {2: 0.5, 4: 0.5},
}
MODEL = disks.make_model()
BROKEN = {
    "all nan": "no usable pixel",
    "one pixel": "all 1 usable pixels have the same position",
    "one row": "all 12 usable pixels have the same velocity",
    "no gradient": "it has no gradient",
}


def run(subsamples, **changes) -> BatchResult:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return fit_many(subsamples, **(SETTINGS | {"progress": False} | changes))


def broken(kind: str) -> dict[str, Any]:
    """Return a subsample that cannot be fitted."""
    data = {key: value.copy() for key, value in disks.draw(MODEL, "gaussian", seed=0, n=12).items()}
    if kind == "all nan":
        data["label"][:] = np.nan
    elif kind == "one pixel":
        data["label"].reshape(-1)[1:] = np.nan
    elif kind == "one row":
        data["label"][1:] = np.nan
    elif kind == "no gradient":
        data["label"][:] = 0.3
    return data


@pytest.fixture(scope="module")
def data() -> list[dict[str, Any]]:
    return [disks.draw(MODEL, "gaussian", seed=i, n=12 + i % 3) for i in range(6)]


@pytest.fixture(scope="module")
def result(data) -> BatchResult:
    return run(data)


def assert_equal(a: BatchResult, b: BatchResult) -> None:
    """Compare to the last bit."""
    assert (a.names, a.message) == (b.names, b.message)
    assert a.values.keys() == b.values.keys()
    for name, values in b.values.items():
        assert torch.equal(a.values[name].nan_to_num(-1), values.nan_to_num(-1)), name


def assert_same(a: BatchResult, b: BatchResult, rows=slice(None)) -> None:
    """Compare objectives within 1e-9 and parameters within 1e-6 of their errors."""
    torch.testing.assert_close(a.fun_val, b.fun_val[rows], rtol=0, atol=1e-9)
    sigma = a.covariance.diagonal(dim1=-2, dim2=-1).sqrt()
    pull = ((a.values["x"] - b.values["x"][rows]) / sigma).abs()
    assert pull[sigma.isfinite()].max() < 1e-6
    assert a.status.equal(b.status[rows])
    assert a.iterations.equal(b.iterations[rows])


def test_all_converge_to_the_optimum_that_optimize_finds(data, result):
    assert result.success.all()
    for i in (0, 1):
        model, bounds, init = TorusImaging1DSpline.auto_init(data[i], **SETTINGS)
        params, state = model.optimize(init, "gaussian", bounds, tol=1e-13, **data[i])
        assert torch.equal(model.label_knots, result[i].model.label_knots)
        assert state.fun_val == pytest.approx(float(result.fun_val[i]), abs=1e-9)
        sigma = model.get_crlb_uncertainties(params, data[i], hessian="expected", bounds=bounds)
        pull = (params["ln_Omega0"] - result.params["ln_Omega0"][i]) / sigma["ln_Omega0"]
        assert abs(pull) < 1e-6
        assert result.errors["ln_Omega0"][i] == pytest.approx(float(sigma["ln_Omega0"]), rel=1e-6)
        assert result.chi2_dof[i] == pytest.approx(1, abs=0.4)


def test_company_order_and_chunks_do_not_matter(data, result):
    assert_same(run([data[2]]), result, slice(2, 3))
    assert_same(run(data[::-1]), result, list(range(len(data)))[::-1])
    assert_same(run(data, max_memory=1.0), result)
    assert_same(run(iter(data), shard_size=4), result)


def test_a_generator_may_use_its_arrays_again(data, result, device):
    same = [data[0], disks.draw(MODEL, "gaussian", seed=5, n=12)]

    def one_by_one():
        buffer = {key: value.copy() for key, value in same[0].items()}
        for one in same:
            for key, value in one.items():
                buffer[key][...] = value
            yield buffer

    found, expected = (run(x, shard_size=1, device=device) for x in (one_by_one(), same))
    torch.testing.assert_close(found.values["x"], expected.values["x"], rtol=1e-6, atol=1e-8)


def test_the_same_again_gives_equal_bits(data, result):
    assert_equal(run(data), result)


def test_broken_ones_have_a_status_and_leave_others_alone(data):
    mixed = run([data[0], *map(broken, BROKEN), data[1]])
    alone = run([data[0], data[1]])
    torch.testing.assert_close(mixed.values["x"][[0, -1]], alone.values["x"], rtol=1e-6, atol=1e-8)
    assert mixed.success.tolist() == [True, *[False] * len(BROKEN), True]
    for i, reason in enumerate(BROKEN.values(), start=1):
        assert mixed.status[i] == Status.NON_FINITE
        assert reason in mixed.message[i]
        assert mixed.values["x"][i].isnan().all()
        assert mixed.fun_val[i].isnan()
        assert mixed[i].params["pos0"].isnan()


def test_a_failure_is_warned_of_with_count_and_reason():
    with pytest.warns(RuntimeWarning, match=r"1 of 1 fits did not converge \(1: .*no usable"):
        fit_many([broken("all nan")], **SETTINGS, progress=False)


def test_one_that_breaks_the_algebra_fails_alone(data, result, monkeypatch):
    real, shape = batch_shard.fit_chunk, data[1]["pos"].size

    def fragile(settings, problems, *rest):
        if any(p.parts[""].pixels.n == shape for p in problems):
            raise torch.linalg.LinAlgError("eigh failed to converge")
        return real(settings, problems, *rest)

    monkeypatch.setattr(batch_shard, "fit_chunk", fragile)
    some = run(data[:3])
    assert some.success.tolist() == [True, False, True]
    assert some.message[1] == "not started: eigh failed to converge"
    torch.testing.assert_close(some.fun_val[[0, 2]], result.fun_val[[0, 2]], rtol=0, atol=1e-9)


def test_stops_at_max_iter_and_goes_on_over_compactions(data):
    short = run(data[:2], max_iter=3)
    assert (short.status == Status.MAX_ITER).all()
    assert (short.iterations == 3).all()
    assert run(data[2:4], max_iter=35).iterations.max() <= 36


def test_star_counts_are_fitted():
    counts = [disks.draw(MODEL, "poisson", seed=i, n=12) for i in range(2)]
    penalty = {"label_l2_sigma": 50.0, "label_smooth_sigma": 20.0}
    fitted = run(counts, objective="poisson", **penalty)
    assert fitted.success.all()
    assert ((fitted.chi2_dof > 0.5) & (fitted.chi2_dof < 2)).all()


def test_several_starts_are_no_worse_and_do_not_depend_on_shards(data, result):
    many = run(data[:2], multistart=2)
    assert (many.fun_val <= result.fun_val[:2] + 1e-9).all()
    assert (many.starts_agree >= 1).all()
    assert (many.start_spread >= 0).all()
    other = run(data[:2], multistart=2, shard_size=1, shard=(1, 2))
    torch.testing.assert_close(many.fun_val[1:], other.fun_val, rtol=0, atol=1e-9)
    assert many.starts_agree[1:].equal(other.starts_agree)
    assert result.start_spread.isnan().all()


@pytest.mark.slow
@pytest.mark.parametrize("pool", ["threads", "processes"])
def test_any_executor_gives_the_same(pool, data, result):
    data = data[:2]
    with (
        ThreadPoolExecutor(2)
        if pool == "threads"
        else ProcessPoolExecutor(1, mp_context=get_context("spawn"))
    ) as executor:
        assert_same(run(data, shard_size=1, executor=executor), result, slice(0, 2))


def test_progress_goes_to_standard_error(data, capsys):
    run(data[:1], progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("shard 0: 1 of 1 subsamples converged")


def test_names_come_from_a_dictionary(data):
    named = run({"6 kpc": data[0], "7 kpc": data[1]})
    assert named.names == ("6 kpc", "7 kpc")
    assert named[1].provenance == {"subsample": "7 kpc"}


SECONDS = {"pos": 1 * u.s, "vel": 1, "label": 1, "label_err": 1}


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"subsamples": []}, ValueError, "at least one"),
        ({"subsamples": broken("")}, TypeError, "put it into a list"),
        ({"shard": (2, 2)}, ValueError, r"pair \(i, n\)"),
        ({"shard_size": 0}, ValueError, "at least 1"),
        ({"objective": "student"}, ValueError, "objective"),
        ({"uncertainty": "nuts"}, ValueError, "uncertainty"),
        ({"multistart": 0}, ValueError, "multistart"),
        ({"label_l2": 1.0}, TypeError, "label_l2"),
        ({"bounds": {"pos": (0, 1)}}, ValueError, "pos"),
        ({"subsamples": [SECONDS]}, u.UnitConversionError, "subsample '0': pos"),
        ({"names": ["a"]}, ValueError, "zip"),
    ],
)
def test_bad_arguments_are_named(changes, error, message, data):
    changes = {"subsamples": data[:2]} | changes
    with pytest.raises(error, match=message):
        run(changes.pop("subsamples"), **changes)


def test_shards_number_their_subsamples():
    shards = list(make_shards(((str(i), {}) for i in range(7)), 2, (1, 2)))
    assert [(s.number, s.first, s.names) for s in shards] == [(1, 2, ("2", "3")), (3, 6, ("6",))]


def test_out_of_memory_halves_and_goes_on():
    sizes = []

    def work(chunk):
        sizes.append(len(chunk))
        if len(chunk) > 3:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return list(chunk)

    assert [i for chunk in in_chunks(work, range(10), 8) for i in chunk] == list(range(10))
    assert sizes == [8, 4, 2, 2, 2, 2, 2]
    with pytest.raises(MemoryError, match="one subsample alone"):
        list(in_chunks(lambda chunk: work([0] * 4), range(2), 2))


def test_out_of_memory_in_a_fit_changes_no_number(data, result, monkeypatch):
    real = batch_shard.fit_chunk

    def small(settings, problems, *rest):
        if len(problems) > 1:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return real(settings, problems, *rest)

    monkeypatch.setattr(batch_shard, "fit_chunk", small)
    assert_same(run(data[:2]), result, slice(0, 2))


def test_other_runtime_errors_are_not_taken_for_memory():
    def bad(chunk):
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes"):
        list(in_chunks(bad, range(3), 2))


def test_chunks_shrink_with_pixels_and_grow_with_memory():
    cpu = torch.device("cpu")
    size = batch_memory.chunk_size(10_000, 20, cpu, 4e9)
    assert size > batch_memory.chunk_size(10_000, 20, cpu, 1e9) >= 1
    assert size > batch_memory.chunk_size(40_000, 20, cpu, 4e9)
    assert batch_memory.chunk_size(10**9, 20, cpu, 1.0) == 1


def test_fits_end_where_the_penalty_bends_more_than_the_data() -> None:
    # The Fisher matrix does not know how a strong penalty bends: what steps have learned of it must
    # not be forgotten too soon, or the last decades of the gain take hundreds of steps.
    stars = milky_way_disk(40_000, R=12 * u.kpc, seed=2)
    bins = {"pos": np.linspace(-1.5, 1.5, 31) * u.kpc, "vel": np.linspace(-75, 75, 31) * u.km / u.s}
    data = get_binned_label(
        stars["z"], stars["v_z"], stars["label"], bins=bins, label_err=stars["label_err"]
    )
    result = run([data], e_knots={2: 8, 4: 4}, e_knots_spacing_power=0.5, dacc_strength=1e4)
    assert result.success.all()
    assert result.iterations.max() < 200


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.cuda.OutOfMemoryError("CUDA out of memory"), True),
        (MemoryError(), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried 8 bytes"), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), True),
        (RuntimeError("cusolver error: CUSOLVER_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED"), False),
        (ValueError("out of memory"), False),
    ],
    ids=str,
)
def test_what_says_that_memory_ran_out(error, expected):
    assert is_out_of_memory(error) is expected
