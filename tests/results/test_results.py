"""A fit on disk: the same to the last bit when read again, and whole or not there at all."""

from __future__ import annotations

import functools
import pickle

import astropy.units as u
import numpy as np
import pytest
import torch
from astropy.table import QTable, Table
from gala.units import UnitSystem, galactic

from torusimaging_torch import TorusImaging1D, TorusImaging1DSpline
from torusimaging_torch.likelihoods.penalty import no_regularization, regularization_func_default
from torusimaging_torch.model.optstep import OptState
from torusimaging_torch.numerics.lbfgs import Status
from torusimaging_torch.numerics.params import Layout, iter_leaves
from torusimaging_torch.results import FitResult
from torusimaging_torch.results.atomic import replaced_file, replaced_folder
from torusimaging_torch.results.description import describe_penalty, find_penalty, plain
from torusimaging_torch.results.fit_result import FORMAT_VERSION, is_result

PENALTY = {
    "label_l2_sigma": 1 / 3,
    "label_smooth_sigma": 0.1,
    "e_l2_sigmas": {2: 1.0, 4: 1e-5},
    "e_smooth_sigmas": {2: 0.5, 4: 0.7},
    "dacc_strength": 1e2,
}
STATE = OptState(
    True, 0.1 + 0.2, 12, 15, Status.CONVERGED, 'all\'s well: "yes"', 1e-11, ("pos0",), 7
)


def own_penalty(model, params, strength):
    return strength * params["ln_Omega0"] ** 2


def make_result(dtype=torch.float64, **changes):
    rng = np.random.default_rng(3)
    options = {"units": galactic, "elliptical_angle_convention": "vp", "e_spline": "cubic"}
    options |= changes.pop("options", {})
    knots = {2: np.linspace(0, 1 / 3, 4), 4: np.linspace(0, 0.3, 3)}
    penalty = changes.pop("penalty", functools.partial(regularization_func_default, **PENALTY))
    model = TorusImaging1DSpline(
        np.linspace(0, 0.1 + 0.2, 3), knots, {2: 1.0, 4: -1.0}, penalty, **options
    ).to(dtype)
    params = {
        "pos0": torch.tensor(rng.normal(0, 0.02)),
        "vel0": torch.tensor(rng.normal(0, 0.002)),
        "ln_Omega0": torch.tensor(-2.4 + rng.normal(0, 0.1)),
        "e_params": {
            m: {"vals": torch.tensor(rng.normal(-2, 1, len(k) - 1))} for m, k in knots.items()
        },
        "label_params": {"label_vals": torch.tensor(rng.normal(0.5, 0.1, 3))},
    }
    params = Layout.of(params).unflatten(Layout.of(params).flatten(params).to(dtype))
    bounds = {"pos0": (-1.0, 1.0) * u.kpc, "vel0": (-100, 100) * u.km / u.s}
    bounds["e_params"] = {2: {"vals": (np.full(3, -16.0), np.full(3, 10.0))}}
    given = {"bounds": bounds, "state": STATE, "objective": "gaussian"}
    return FitResult(model, params, **(given | changes))


def leaves(params):
    return [torch.as_tensor(leaf) for _, leaf in iter_leaves(params)]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_round_trip_is_exact_to_the_last_bit(tmp_path, dtype):
    result = make_result(dtype)
    result.write(tmp_path / "fit.ecsv")
    again = FitResult.read(tmp_path / "fit.ecsv")
    for one, other in zip(leaves(result.params), leaves(again.params), strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)
    pos, vel = np.meshgrid(np.linspace(-1.2, 1.2, 9) * u.kpc, np.linspace(-70, 70, 7) * u.km / u.s)
    for values in (
        lambda r: r.model.get_label(pos, vel, r.params).numpy(),
        lambda r: r.model.get_density(pos[0], r.params).value,
        lambda r: r.model.regularization_func(r.model, r.params).numpy(),
    ):
        np.testing.assert_array_equal(values(result), values(again))
    assert again.state == result.state
    assert isinstance(again.state.status, Status)
    assert again.objective == "gaussian"
    assert again.model.elliptical_angle_convention == "vp"


def test_bounds_round_trip(tmp_path):
    result = make_result()
    result.write(tmp_path / "fit.ecsv")
    again = FitResult.read(tmp_path / "fit.ecsv")
    lower, upper = again.bounds["vel0"]
    assert (lower, upper) == tuple(([-100, 100] * u.km / u.s).to_value(u.kpc / u.Myr))
    assert [x.tolist() for x in again.bounds["e_params"][4]["vals"]] == [
        [-np.inf] * 2,
        [np.inf] * 2,
    ]
    for name in ("lower", "upper"):
        np.testing.assert_array_equal(again.to_table()[name], result.to_table()[name])


def test_written_again_the_file_is_the_same(tmp_path):
    make_result(provenance={"file": "x.fits"}).write(tmp_path / "a.ecsv")
    FitResult.read(tmp_path / "a.ecsv").write(tmp_path / "b.ecsv")
    assert (tmp_path / "a.ecsv").read_text() == (tmp_path / "b.ecsv").read_text()


@pytest.mark.parametrize(
    "units",
    [galactic, UnitSystem(u.pc, u.Gyr, u.Msun, u.rad)],
    ids=["galactic", "pc Gyr"],
)
def test_unit_system_round_trips_with_its_preferences(tmp_path, units):
    result = make_result(options={"units": units})
    result.write(tmp_path / "fit.ecsv")
    again = FitResult.read(tmp_path / "fit.ecsv")
    assert again.model.units.to_dict() == units.to_dict()
    assert again.quantity("pos0").unit == units["length"]


def test_provenance_of_any_plain_kind_round_trips(tmp_path):
    given = {
        "file": tmp_path / "stars.fits",
        "pos_max": 1.2 * u.kpc,
        "n": np.int64(5),
        "where": ("R > 3", "abs(z) < 1.5"),
        "grid": np.array([0.1, 0.2]),
        "nothing": None,
        "yes": np.True_,
        "knots": {2: 8},
    }
    make_result(provenance=given).write(tmp_path / "fit.ecsv")
    assert FitResult.read(tmp_path / "fit.ecsv").provenance == {
        "file": str(tmp_path / "stars.fits"),
        "pos_max": "1.2 kpc",
        "n": 5,
        "where": ["R > 3", "abs(z) < 1.5"],
        "grid": [0.1, 0.2],
        "nothing": None,
        "yes": True,
        "knots": {2: 8},
    }
    assert plain(torch.tensor([1.0, 2.0])) == [1.0, 2.0]


def test_table_has_a_row_for_each_parameter():
    table = make_result().to_table()
    assert list(table["name"]) == Layout.of(make_result().params).names
    assert list(table.colnames) == ["name", "value", "error", "lower", "upper", "at_bound", "unit"]
    row = {name: table[table["name"] == name][0] for name in ("pos0", "vel0", "ln_Omega0")}
    assert [row[name]["unit"] for name in row] == ["kpc", "kpc / Myr", ""]
    assert [bool(row[name]["at_bound"]) for name in row] == [True, False, False]
    assert np.isnan(table["error"]).all()


def test_covariance_gives_errors_and_round_trips(tmp_path):
    rng = np.random.default_rng(0)
    root = rng.normal(size=(11, 11)) * 1e-3
    covariance = root @ root.T
    covariance[3] = covariance[:, 3] = np.nan
    result = make_result(covariance=covariance)
    result.write(tmp_path / "fit.ecsv")
    again = FitResult.read(tmp_path / "fit.ecsv")
    np.testing.assert_array_equal(again.covariance, covariance)
    np.testing.assert_array_equal(again.to_table()["error"], np.sqrt(np.diag(covariance)))
    omega, error = again.measured("Omega0")
    assert float(error / omega) == pytest.approx(np.sqrt(covariance[8, 8]))
    assert np.all(again.profile_table([0.3, 0.5] * u.kpc)["density_err"] > 0)


def test_profile_table_is_the_models_own():
    result = make_result()
    pos = [0.1, 0.4, 3.0] * u.kpc
    table = result.profile_table(pos)
    for name in ("acceleration", "density", "surface_density", "potential"):
        expected = getattr(result.model, f"get_{name}")(pos, result.params)
        assert u.allclose(table[name], expected, rtol=1e-13)
    assert table["density"].unit == u.Msun / u.pc**3
    assert u.allclose(table["height"], pos - result.params["pos0"].item() * u.kpc)
    assert list(table["extrapolated"]) == [False, False, True]
    with pytest.raises(u.UnitConversionError, match="pos must be a length"):
        result.profile_table([1, 2] * u.km / u.s)


@pytest.mark.parametrize(
    ("penalty", "name"),
    [
        (None, "none"),
        (no_regularization, "none"),
        (functools.partial(regularization_func_default, **PENALTY), "default"),
        (functools.partial(own_penalty, strength=2.5), "test_results:own_penalty"),
        (lambda model, params: 0.0, None),
    ],
)
def test_penalties_are_known_by_name(tmp_path, penalty, name):
    result = make_result(penalty=penalty)
    described = describe_penalty(result.model.regularization_func)
    assert described["name"] is None if name is None else described["name"].endswith(name)
    result.write(tmp_path / "fit.ecsv")
    again = FitResult.read(tmp_path / "fit.ecsv")
    function = again.model.regularization_func
    assert describe_penalty(function) == described
    assert describe_penalty(pickle.loads(pickle.dumps(function))) == described
    if name is None:
        with pytest.raises(RuntimeError, match=r"set model\.regularization_func"):
            function(again.model, again.params)
    else:
        expected = result.model.regularization_func(result.model, result.params)
        assert function(again.model, again.params) == expected


def test_reading_imports_no_penalty():
    find_penalty({"name": "no_such_module:function", "keywords": {}})


def test_writing_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "fit.ecsv"
    make_result().write(path)
    before = path.read_bytes()

    def fail(self, name, **kwargs):
        with open(name, "w") as file:
            file.write("# %ECSV")
        raise OSError("disk full")

    monkeypatch.setattr(Table, "write", fail)
    with pytest.raises(OSError, match="disk full"):
        make_result().write(path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["fit.ecsv"]


def test_folder_appears_complete_or_not_at_all(tmp_path):
    def fail_halfway():
        with replaced_folder(tmp_path / "out" / "run", "z") as folder:
            (folder / "a").write_text("1")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_halfway()
    assert list((tmp_path / "out").iterdir()) == []
    for text in ("1", "2"):
        with replaced_folder(tmp_path / "out" / "run", "a") as folder:
            (folder / "a").write_text(text)
        assert (tmp_path / "out" / "run" / "a").read_text() == text
        (tmp_path / "out" / "run" / "mine").write_text("stays")
    assert sorted(file.name for file in tmp_path.rglob("*")) == ["a", "mine", "out", "run"]


def test_new_files_have_the_usual_permissions(tmp_path):
    (tmp_path / "plain").write_text("")
    with replaced_file(tmp_path / "ours") as temporary:
        temporary.write_text("")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "plain").stat().st_mode


def damage(path, how):
    lines = path.read_text().splitlines()
    data = next(i for i, line in enumerate(lines) if line.startswith("name "))
    if how == "truncated":
        lines = lines[: data + 4]
    elif how == "header only":
        lines = lines[: data // 2]
    elif how == "a value":
        lines[data + 2] = lines[data + 2].replace(lines[data + 2].split()[1], "nan")
    elif how == "another model":
        lines = [line.replace("4: -1.0", "6: -1.0") for line in lines]
    elif how == "no knots":
        lines = [line for line in lines if "label_knots" not in line]
    elif how == "newer":
        new = f"format_version: {FORMAT_VERSION + 1}"
        lines = [line.replace(f"format_version: {FORMAT_VERSION}", new) for line in lines]
    path.write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("truncated", "damaged: expected one row for each"),
        ("header only", "is not a fit result, or is damaged"),
        ("a value", "damaged: a parameter is not finite"),
        ("another model", "damaged: e_knots and e_signs"),
        ("no knots", "damaged: 'label_knots' is missing"),
        ("newer", f"format version {FORMAT_VERSION + 1} .* update it"),
    ],
)
def test_damaged_files_are_refused_by_name(tmp_path, how, message):
    path = tmp_path / "fit.ecsv"
    make_result().write(path)
    damage(path, how)
    with pytest.raises(ValueError, match=message) as error:
        FitResult.read(path)
    assert str(path) in str(error.value)


def test_other_files_are_refused_by_name(tmp_path):
    QTable({"x": [1.0]}).write(tmp_path / "table.ecsv")
    (tmp_path / "text").write_text("hello\n")
    (tmp_path / "bytes").write_bytes(bytes(range(256)))
    for name in ("table.ecsv", "text", "bytes"):
        assert not is_result(tmp_path / name)
        with pytest.raises(ValueError, match=f"{name} is not a fit result"):
            FitResult.read(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        FitResult.read(tmp_path / "missing.ecsv")
    make_result().write(tmp_path / "fit.ecsv")
    assert is_result(tmp_path / "fit.ecsv")


def test_what_a_file_cannot_hold_is_refused():
    result = make_result()
    batch = {**result.params, "pos0": torch.zeros(2)}
    with pytest.raises(ValueError, match=r"batch with shape \(2,\)"):
        FitResult(result.model, batch, None, STATE, "gaussian")
    model = TorusImaging1D(result.model.label_func, result.model.e_funcs)
    with pytest.raises(TypeError, match="TorusImaging1DSpline"):
        FitResult(model, result.params, None, STATE, "gaussian")
    with pytest.raises(TypeError, match="state"):
        FitResult(result.model, result.params, None, {}, "gaussian")
    with pytest.raises(ValueError, match="covariance must have shape"):
        make_result(covariance=np.eye(3))
