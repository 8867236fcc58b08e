"""Many subsamples in one call give what each gives by itself."""

import numpy as np
import pytest

from disks import draw, make_model
from torusimaging_torch import TorusImaging1DSpline
from torusimaging_torch.batch import fit_many
from torusimaging_torch.batch_result import BatchResult

SETTINGS = {
    "label_knots": 4,
    "e_knots": {2: 5, 4: 3},
    "label_l2_sigma": 1.0,
    "label_smooth_sigma": 0.5,
    "e_l2_sigmas": {2: 1.0, 4: 1.0},
    "e_smooth_sigmas": {2: 0.5, 4: 0.5},
    "progress": False,
}
EMPTY = 2


@pytest.fixture(scope="module")
def subsamples():
    """Five subsamples of different sizes, the third without a single label."""
    model = make_model()
    datas = [draw(model, "gaussian", seed) for seed in range(5)]
    datas[1] = {k: v[:12] for k, v in datas[1].items()}
    datas[EMPTY] = datas[EMPTY] | {"label": np.full_like(datas[EMPTY]["label"], np.nan)}
    return datas


@pytest.fixture(scope="module")
def result(subsamples):
    with pytest.warns(RuntimeWarning):
        return fit_many(subsamples, **SETTINGS)


def same(one, other):
    """Compare all that two results have of every subsample."""
    a, b = one.to_table(), other.to_table()
    assert set(a.colnames) == set(b.colnames)
    assert len(a) == len(b)
    for name in a.colnames:
        np.testing.assert_array_equal(np.asarray(a[name]), np.asarray(b[name]), err_msg=name)


def test_each_fit_equals_a_single_one_and_the_empty_one_fails_alone(subsamples, result):
    assert result.success.tolist() == [i != EMPTY for i in range(5)]
    keywords = {k: v for k, v in SETTINGS.items() if k != "progress"}
    for i in (0, 1, 4):
        model, bounds, init = TorusImaging1DSpline.auto_init(subsamples[i], **keywords)
        single = model.optimize(init, "gaussian", bounds, **subsamples[i])
        ours, params = result[i].model, result[i].params
        assert float(result.fun_val[i]) == pytest.approx(single.state.fun_val, rel=1e-9)
        errors = model.get_crlb_uncertainties(single.params, subsamples[i], hessian="expected")
        for name in ("pos0", "vel0", "ln_Omega0"):
            off = float(params[name]) - float(single.params[name])
            assert abs(off) < 1e-4 * float(errors[name])
        np.testing.assert_allclose(ours._e_knots[2], model._e_knots[2], rtol=1e-9)


def test_a_store_is_resumed_and_equals_one_go(subsamples, result, tmp_path):
    pytest.importorskip("pyarrow")
    folder = tmp_path / "store"
    with pytest.warns(RuntimeWarning):
        first = fit_many(subsamples, store=folder, shard_size=5, **SETTINGS)
    written = {p.name: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}
    with pytest.warns(RuntimeWarning):
        again = fit_many(subsamples, store=folder, shard_size=5, **SETTINGS)
    assert {p.name: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()} == written
    same(first, again)
    same(first, result)


def test_a_store_made_with_other_settings_is_refused(subsamples, tmp_path):
    pytest.importorskip("pyarrow")
    fit_many(subsamples[:1], store=tmp_path / "s", **SETTINGS)
    with pytest.raises(ValueError, match="settings"):
        fit_many(subsamples[:1], store=tmp_path / "s", **(SETTINGS | {"label_l2_sigma": 2.0}))


def test_save_and_load(result, tmp_path):
    path = tmp_path / "fits.ecsv"
    result.save(path)
    same(BatchResult.load(path), result)
