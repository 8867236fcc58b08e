"""What a column holds, what is missing in it, and what conditions and groups make of that."""

from __future__ import annotations

from decimal import Decimal

import astropy.units as u
import numpy as np
import pyarrow as pa
import pytest
from astropy.io import fits
from astropy.table import MaskedColumn, QTable, Table
from pyarrow import parquet

from torusimaging_torch.catalogue import open_stars
from torusimaging_torch.catalogue.columns import is_missing, kind_of, read_column
from torusimaging_torch.catalogue.conditions import read_number, select
from torusimaging_torch.catalogue.groups import Values
from torusimaging_torch.data import bin_many

HIDDEN = [False, True, False]


def in_memory():
    # What is hidden would fulfil each of the conditions below, if it were looked at.
    return Table(
        {
            "n": MaskedColumn([1, 5, 9], mask=HIDDEN),
            "x": MaskedColumn([1.0, 5.0, 9.0], mask=HIDDEN),
            "pop": MaskedColumn(["thin", "thin", "thick"], mask=HIDDEN),
            "ok": MaskedColumn([True, True, False], mask=HIDDEN),
        }
    )


def in_parquet(path):
    columns = {"n": [1, None, 9], "x": [1.0, None, 9.0]}
    columns |= {"pop": ["thin", None, "thick"], "ok": [True, None, False]}
    parquet.write_table(pa.table(columns), path)
    return next(open_stars(path).chunks(list(columns)))[1]


def as_objects():
    hidden = np.array(HIDDEN)
    columns = {name: np.ma.getdata(column) for name, column in in_memory().items()}
    return Table({name: np.where(hidden, None, x.astype(object)) for name, x in columns.items()})


@pytest.fixture(params=["memory", "parquet", "objects", "ecsv"])
def table(request, tmp_path):
    if request.param == "parquet":
        return in_parquet(tmp_path / "stars.parquet")
    if request.param == "ecsv":
        in_memory().write(tmp_path / "stars.ecsv")
        return Table.read(tmp_path / "stars.ecsv")
    return in_memory() if request.param == "memory" else as_objects()


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("n > 0", [1, 0, 1]),
        ("not n > 3", [1, 0, 0]),
        ("x != 1", [0, 0, 1]),
        ("pop == 'thin'", [1, 0, 0]),
        ("pop != 'thick'", [1, 0, 0]),
        ("not pop == 'thin'", [0, 0, 1]),
        ("ok", [1, 0, 0]),
        ("not ok", [0, 0, 1]),
        ("ok == 1", [1, 0, 0]),
        ("not (ok and n > 3)", [1, 0, 1]),
        ("ok or n > 3", [1, 0, 1]),
    ],
)
def test_what_is_missing_fulfils_no_condition(table, condition, expected):
    assert select(table, condition).tolist() == [bool(x) for x in expected]


def test_missing_is_known_to_be_missing(table):
    for name in table.colnames:
        assert is_missing(read_column(table, name)).tolist() == HIDDEN
    assert [kind_of(read_column(table, name)) for name in ("n", "pop", "ok")] == [
        "number",
        "text",
        "truth",
    ]


def test_false_and_unknown_is_false():
    table = in_memory()
    table["all"] = [1, 1, 1]
    assert select(table, "not (n > 3 and all > 1)").tolist() == [True, True, True]
    assert select(table, "n > 3 or all == 1").tolist() == [True, True, True]


@pytest.mark.parametrize("name", ["pop", "ok", "n"])
def test_what_is_missing_is_in_no_group(table, name):
    found = Values.of(open_stars(table), name)
    assert len(found.names) == 2
    rows = [place for _, some in found.members(table, 0) for place in some]
    assert sorted(rows) == [0, 2]


def test_texts_of_fits_have_no_blanks_at_their_end(tmp_path):
    # As fixed-width texts are filled up by programs that are not astropy.
    raw = np.array([b"thin      ", b"thick     ", b"          "], "S10")
    columns = [fits.Column("pop", "10A", array=raw.view("S1").reshape(3, 10).copy().view("S10"))]
    hdu = fits.BinTableHDU.from_columns([*columns, fits.Column("z", "D", array=[1.0, 2, 3])])
    hdu.data._get_raw_data().view(np.uint8).reshape(3, -1)[:, :10] = raw.view(np.uint8).reshape(
        3, 10
    )
    one, other = tmp_path / "a.fits", tmp_path / "b.fits"
    hdu.writeto(one)
    Table({"pop": ["thick", "thin"], "z": [4.0, 5.0]}).write(other)
    table = Table.read(one)
    assert select(table, "pop == 'thin'").tolist() == [True, False, False]
    assert select(table, "pop != 'thin'").tolist()[:2] == [False, True]
    assert select(table, "pop == 'thin  '").tolist() == [True, False, False]
    assert Values.of(open_stars([one, other]), "pop").names == ("thick", "thin")


@pytest.mark.parametrize(
    ("values", "text", "expected"),
    [
        (np.array([3, 9], np.uint8), "x - 5 > 0", [False, True]),
        (np.array([200, 10], np.int16), "x * x > 30000", [True, False]),
        (np.array([-128, 1], np.int8), "abs(x) > 100", [True, False]),
        (np.array([3, 0], np.uint16), "-x < 0", [True, False]),
        (np.array([300, 2], np.uint16), "x**4 > 1e9", [True, False]),
        (np.array([60000, 2], np.float16), "x * x > 1e9", [True, False]),
        (np.array([3, 9], np.uint8), "x > -1", [True, True]),
        (np.array([3, 9], np.uint8), "x == 259", [False, False]),
        # Names of stars have 19 digits.
        (np.array([2**60 + 1, 2**60]), "x == 1152921504606846977", [True, False]),
        (np.array([2**63 + 1, 5], np.uint64), "x > 9223372036854775807", [True, False]),
    ],
)
def test_whole_numbers_do_not_wrap_round(values, text, expected):
    assert select(Table({"x": values}), text).tolist() == expected


def test_expressions_of_whole_numbers_do_not_wrap_round_either():
    found = read_number(Table({"x": np.array([3, -128], np.int8)}), "2 * abs(x)")
    assert found.tolist() == [6.0, 256.0]


# -- several files ---------------------------------------------------------------------------------


def files(tmp_path, *tables, ending="fits"):
    paths = [tmp_path / f"{i}.{ending}" for i in range(len(tables))]
    for table, path in zip(tables, paths, strict=True):
        Table(table).write(path)
    return paths


def stars(n=40, seed=0):
    rng = np.random.default_rng(seed)
    return {"z": rng.normal(0, 0.3, n) * u.kpc, "v": rng.normal(0, 20, n) * u.km / u.s}


@pytest.mark.parametrize("ending", ["fits", "parquet"])
def test_a_file_without_a_unit_is_named(tmp_path, ending):
    bare = {name: column.value for name, column in stars().items()}
    for tables in ((stars(), bare), (bare, stars())):
        paths = files(tmp_path, *tables, ending=ending)
        with pytest.raises(ValueError, match=r"column 'z' has a unit in .* and none in .* z=kpc"):
            next(open_stars(paths).chunks(["z"]))
        whole = list(open_stars(paths, units={"z": "pc"}).chunks(["z"]))
        assert {table["z"].unit for _, table in whole} == {u.pc}
        for path in paths:
            path.unlink()


@pytest.mark.parametrize("ending", ["fits", "parquet"])
def test_files_come_in_the_units_of_the_first(tmp_path, ending):
    others = {"z": stars()["z"].to(u.pc), "v": stars()["v"].to(u.kpc / u.Myr)}
    paths = files(tmp_path, stars(), others, ending=ending)
    (_, one), (_, other) = open_stars(paths).chunks(["z", "v"])
    for name in ("z", "v"):
        assert other[name].unit == one[name].unit == stars()[name].unit
        np.testing.assert_allclose(other[name], one[name], rtol=1e-13)
    grid = {"pos": np.linspace(-1, 1, 5) * u.kpc, "vel": np.linspace(-60, 60, 5) * u.km / u.s}
    twice = bin_many(open_stars(paths), None, grid, pos="z", vel="v")
    once = bin_many(open_stars(paths[:1]), None, grid, pos="z", vel="v")
    assert (next(iter(twice))["counts"] == 2 * next(iter(once))["counts"]).all()


def test_units_that_do_not_convert_are_named(tmp_path):
    paths = files(tmp_path, {"z": [1.0] * u.kpc}, {"z": [1.0] * u.km / u.s})
    with pytest.raises(u.UnitConversionError, match=r"column 'z' has the unit 'kpc' in .*'km / s'"):
        next(open_stars(paths).chunks(["z"]))


def test_files_that_hold_other_things_are_named(tmp_path):
    paths = files(tmp_path, {"pop": [1, 2]}, {"pop": ["thin", "thick"]})
    with pytest.raises(ValueError, match=r"'pop' holds numbers in .*0.fits and texts in .*1.fits"):
        next(open_stars(paths).chunks(["pop"]))


@pytest.mark.parametrize("values", [["thin", "thick"], [1.5, 2.5], [True, False]])
def test_a_column_without_a_value_in_one_file_is_that_of_the_others(tmp_path, values):
    paths = [tmp_path / "0.parquet", tmp_path / "1.parquet"]
    for first in (0, 1):
        parquet.write_table(pa.table({"a": pa.nulls(2)}), paths[first])
        parquet.write_table(pa.table({"a": values}), paths[1 - first])
        source = open_stars(paths)
        assert Values.of(source, "a").names == tuple(sorted(values))
        condition = {str: "a == 'thin'", float: "a < 2", bool: "a"}[type(values[0])]
        found = np.concatenate([select(table, condition) for _, table in source.chunks(["a"])])
        assert np.flatnonzero(found).tolist() == [2 * (1 - first)]


def test_rows_of_quantities_convert_too():
    tables = [QTable({"z": [1.0] * u.kpc}), QTable({"z": [1000.0] * u.pc})]
    from torusimaging_torch.catalogue.rows import ManyFiles, TableStars

    source = ManyFiles(tuple(TableStars(table) for table in tables))
    values = [table["z"] for _, table in source.chunks(["z"], 10)]
    assert u.allclose(u.Quantity(values), 1 * u.kpc)


def test_decimals_are_numbers():
    table = Table({"z": np.array([Decimal("0.5"), None, Decimal("-2")], dtype=object)})
    np.testing.assert_array_equal(read_column(table, "z"), [0.5, np.nan, -2.0])


@pytest.mark.parametrize("kind", ["float64", "Float64", "double[pyarrow]"])
def test_frames_of_pandas_are_tables(kind):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"z": [0.5, None, 9.0], 1: [1, 2, 3]}, index=[7, 8, 9])
    frame["z"] = frame["z"].astype(kind)
    for stars in (frame, dict(frame)):
        ((_, table),) = open_stars(stars, units={"z": "kpc"}).chunks(["z", "1"])
        np.testing.assert_array_equal(read_column(table, "z").value, [0.5, np.nan, 9.0])
        assert list(table["1"]) == [1, 2, 3]
