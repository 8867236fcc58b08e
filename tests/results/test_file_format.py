"""Fits in a file: the same to the last bit when read again, and whole or not there at all."""

from __future__ import annotations

import io
import warnings

import astropy.units as u
import numpy as np
import pytest
import torch
from astropy.table import QTable, Table
from gala.units import UnitSystem, galactic
from test_fit_result import make_result

from torusimaging_torch.catalogue.files import write_in
from torusimaging_torch.numerics.minimum import Status
from torusimaging_torch.numerics.params import iter_leaves
from torusimaging_torch.results import BatchResult, FitResult
from torusimaging_torch.results.checksum import seal
from torusimaging_torch.results.file_format import FORMAT_VERSION, check_columns, is_result

FORMAT_OF = {"ecsv": "ascii.ecsv", "parquet": "parquet", "hdf5": "hdf5", "fits": "fits"}
ENDINGS = list(FORMAT_OF)


@pytest.fixture(params=ENDINGS)
def ending(request) -> str:
    for library in {"parquet": ["pyarrow", "pandas"], "hdf5": ["h5py"]}.get(request.param, []):
        pytest.importorskip(library)
    return request.param


def leaves(params):
    return [torch.as_tensor(leaf) for _, leaf in iter_leaves(params)]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_fit_is_the_same_to_the_last_bit(tmp_path, ending, dtype):
    result = make_result(dtype)
    result.write(tmp_path / f"fit.{ending}")
    again = FitResult.read(tmp_path / f"fit.{ending}")
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


def test_a_batch_is_the_same_to_the_last_bit(tmp_path, ending, batch):
    batch.write(tmp_path / f"batch.{ending}")
    again = BatchResult.read(tmp_path / f"batch.{ending}")
    assert (again.names, again.message) == (batch.names, batch.message)
    assert (again.layout, again.settings) == (batch.layout, batch.settings)
    assert again.values.keys() == batch.values.keys()
    for name, values in batch.values.items():
        assert torch.equal(again.values[name].nan_to_num(-1), values.nan_to_num(-1)), name
        assert again.values[name].dtype == values.dtype
    assert list(again.columns) == list(batch.columns)
    for name, values in batch.columns.items():
        assert again.columns[name].dtype == values.dtype
        assert np.array_equal(again.columns[name], values)
    pos = np.linspace(0.1, 0.5, 3) * u.kpc
    assert (batch[0].profiles(pos)["density"] == again[0].profiles(pos)["density"]).all()


def test_a_fit_of_a_batch_and_a_batch_of_one_fit_are_one(tmp_path, ending, batch):
    batch[2].write(tmp_path / f"fit.{ending}")
    one, again = FitResult.read(tmp_path / f"fit.{ending}"), batch[2]
    assert one.state == again.state
    assert one.provenance == again.provenance == {"subsample": "c'"}
    np.testing.assert_array_equal(one.covariance, again.covariance)
    many = BatchResult.read(tmp_path / f"fit.{ending}")
    assert torch.equal(many.values["x"][0], batch.values["x"][2])
    batch.write(tmp_path / f"batch.{ending}")
    with pytest.raises(ValueError, match=r"holds 3 fits, not one: read it with BatchResult\.read"):
        FitResult.read(tmp_path / f"batch.{ending}")


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


def damage(path, how):
    if how == "cut":
        path.write_text(path.read_text()[:900])
        return
    table = QTable.read(path)
    if how == "a value":
        table["ln_Omega0"] = np.nan
    elif how == "another model":
        table.meta["SETTINGS"] = table.meta["SETTINGS"].replace('"4": -1.0', '"6": -1.0')
    elif how == "no knots":
        del table["label_knots"]
    elif how == "no settings":
        del table.meta["SETTINGS"]
    elif how == "newer":
        table.meta["VERSION"] += 1
    elif how == "nonsense":
        settings = table.meta["SETTINGS"]
        table.meta["SETTINGS"] = settings.replace('"gaussian"', '"nonsense"')
    elif how == "another type":
        table.meta["SETTINGS"] = table.meta["SETTINGS"].replace('"float64"', '"float16"')
    elif how == "no state":
        table["status"] = ["MAYBE"]
    if how != "not sealed":
        seal(table)
    table.write(path, overwrite=True)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("cut", "holds no fits, or is damaged"),
        ("a value", "damaged: a parameter is not finite"),
        ("another model", "damaged: 'e6_knots' is missing"),
        ("no knots", "damaged: 'label_knots' is missing"),
        ("no settings", "damaged: 'SETTINGS' is missing"),
        ("nonsense", "damaged: objective must be .*nonsense"),
        ("another type", "damaged: dtype must be one of .*, got 'float16'"),
        ("no state", "damaged: 'MAYBE' is missing"),
        ("newer", f"format version {FORMAT_VERSION + 1} .* update"),
    ],
)
def test_damaged_files_are_refused_by_name(tmp_path, how, message):
    path = tmp_path / "fit.ecsv"
    make_result().write(path)
    damage(path, how)
    with pytest.raises(ValueError, match=message) as error:
        FitResult.read(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("what", ["a number", "a unit", "the header"])
def test_what_was_changed_by_hand_is_refused(tmp_path, ending, what):
    path = tmp_path / f"fit.{ending}"
    make_result().write(path)
    options = {"path": "fits"} if ending == "hdf5" else {}
    table = QTable.read(path, format=FORMAT_OF[ending], **options)
    if what == "a number":
        table["ln_Omega0"] = np.nextafter(table["ln_Omega0"], 0)
    elif what == "a unit":
        table["pos0"] = table["pos0"].value * u.pc
    else:
        key = next(key for key in table.meta if key.upper() == "SETTINGS")
        table.meta[key] = table.meta[key].replace('"vp"', '"pv"')
    path.unlink()
    write_in(table, path, FORMAT_OF[ending], **options)
    with pytest.raises(ValueError, match=r"fit.* is damaged: its numbers, units or header are not"):
        FitResult.read(path)


@pytest.mark.slow
def test_no_bit_that_is_flipped_changes_a_fit(tmp_path, ending):
    path = tmp_path / f"fit.{ending}"
    result = make_result(covariance=np.eye(11))
    result.write(path)
    content, expected = path.read_bytes(), result.to_table()
    rng = np.random.default_rng(1)
    n_refused = 0
    for at, bit in zip(rng.integers(0, len(content), 60), rng.integers(0, 8, 60), strict=True):
        harmed = bytearray(content)
        harmed[at] ^= 1 << bit
        path.write_bytes(harmed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of astropy, about its file
            try:
                found = FitResult.read(path)
            except ValueError as error:
                assert str(path) in str(error)  # noqa: PT017
                n_refused += 1
                continue
        # What nobody reads, such as what fills a block up, is free to change.
        assert repr(found) == repr(result)
        for name in expected.colnames:
            np.testing.assert_array_equal(found.to_table()[name], expected[name])
        np.testing.assert_array_equal(found.covariance, result.covariance)
    assert n_refused > 0


def test_hdf5_is_made_in_memory(tmp_path, monkeypatch):
    """Its library ends the process where a disk is full; an error comes of Python's own writing."""
    h5py = pytest.importorskip("h5py")
    named = []

    class Watched(h5py.File):
        def __init__(self, name, *args):
            named.append(name)
            super().__init__(name, *args)

    monkeypatch.setattr(h5py, "File", Watched)
    make_result().write(tmp_path / "fit.hdf5")
    assert [type(name) for name in named] == [io.BytesIO]


def code(model, params):
    """Stand for a penalty of one's own, in a module that is not of the package."""
    return torch.zeros(())


def test_code_that_a_file_names_is_not_run_unless_it_is_trusted(tmp_path, ending, batch):
    result = make_result(penalty=code)
    path = tmp_path / f"fit.{ending}"
    result.write(path)
    for read in (FitResult.read, lambda path: BatchResult.read(path)[0]):
        found = read(path)
        with pytest.raises(RuntimeError, match=r"code that a file has named: read .* trust=True"):
            found.model.regularization_func(found.model, found.params)
    trusted = FitResult.read(path, trust=True)
    assert trusted.model.regularization_func(trusted.model, trusted.params) == 0
    # Being trusted is not written down.
    trusted.write(path)
    found = FitResult.read(path)
    with pytest.raises(RuntimeError, match="trust=True"):
        found.model.regularization_func(found.model, found.params)


def test_other_files_are_refused_by_name(tmp_path):
    QTable({"x": [1.0]}).write(tmp_path / "table.ecsv")
    (tmp_path / "text.ecsv").write_text("hello\n")
    (tmp_path / "bytes.fits").write_bytes(bytes(range(256)))
    for name in ("table.ecsv", "text.ecsv", "bytes.fits"):
        assert not is_result(tmp_path / name)
        with pytest.raises(ValueError, match=f"{name} holds no fits, or is damaged"):
            FitResult.read(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        FitResult.read(tmp_path / "missing.ecsv")
    make_result().write(tmp_path / "fit.ecsv")
    assert is_result(tmp_path / "fit.ecsv")
    with pytest.raises(ValueError, match=r"end in one of \.parquet, .*, got 'fit\.txt'"):
        make_result().write("fit.txt")


def test_folders_say_what_to_read_in_them(tmp_path):
    with pytest.raises(FileNotFoundError, match="no file or folder '.*nofit'"):
        FitResult.read(tmp_path / "nofit")
    with pytest.raises(ValueError, match="is a folder, expected a file .* none in it"):
        BatchResult.read(tmp_path)
    make_result().write(tmp_path / "fit.ecsv")
    with pytest.raises(ValueError, match=r"is a folder, .*: read .*fit\.ecsv$"):
        FitResult.read(tmp_path)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"lower": np.zeros(2)}, "the results have a column 'lower' of their own"),
        ({"n_masked": np.zeros(2)}, "the results have a column 'n_masked' of their own"),
        ({"a": np.zeros((2, 2))}, "a number or a text for each subsample, got 'a'"),
        ({"a": np.zeros(2), "b": np.zeros(3)}, "the same length"),
    ],
)
def test_columns_are_checked(columns, message):
    with pytest.raises(ValueError, match=message):
        check_columns(columns)
