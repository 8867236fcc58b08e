"""Conditions on columns: what they select, with which units, and what they refuse to be."""

from __future__ import annotations

import astropy.units as u
import numpy as np
import pytest
from astropy.table import MaskedColumn, QTable, Table

from torusimaging_torch.catalogue.chunks import open_stars
from torusimaging_torch.catalogue.conditions import columns_of, read_column, select
from torusimaging_torch.catalogue.files import read_table
from torusimaging_torch.catalogue.tables import read_stars

R = np.array([2.0, 3.5, 8.0, np.nan, 9.0])
Z = np.array([100.0, -1600.0, 1400.0, 0.0, -200.0])
V = np.array([-80.0, 10.0, 30.0, 40.0, 69.0])


@pytest.fixture
def table():
    return Table(
        {
            "R": R * u.kpc,
            "z": Z * u.pc,
            "v_z": V * u.km / u.s,
            "FE_H": [-1.0, 0.0, 0.5, 0.1, -0.2],
            "good": [True, True, False, True, True],
            "survey": ["a", "b", "a", "c", "a"],
            "n": MaskedColumn([1, 2, 3, 4, 5], mask=[0, 0, 0, 0, 1]),
            "a name": [1.0, 2.0, 3.0, 4.0, 5.0],
        }
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("R > 3", R > 3),
        ("3 < R", R > 3),
        ("R > 3000 pc", R > 3),
        ("R>3.kpc", R > 3),
        ("abs(z) < 1.5 kpc", np.abs(Z) < 1500),
        ("abs(z) < 1.5kpc", np.abs(Z) < 1500),
        ("abs(z) < 150", np.abs(Z) < 150),
        ("-70 km/s <= v_z < 3.1e1", (V >= -70) & (V < 31)),
        ("v_z < 0.05 kpc / Myr", V < 0.05 * 977.8),
        ("v_z < 0.05 kpc Myr**-1", None),
        ("R > 3 and z > -500 and not v_z > 50", (R > 3) & (Z > -500) & ~(V > 50)),
        ("(R > 3) and (z > 0) or not good", ((R > 3) & (Z > 0)) | [0, 0, 1, 0, 0]),
        ("good or FE_H > 0.3", [1, 1, 1, 1, 1]),
        ("sqrt(z**2 + (1 kpc)**2) < 1.1 kpc", np.hypot(Z, 1000) < 1100),
        ("z + 0.02 kpc > 100", Z + 20 > 100),
        ("R * v_z > 200 kpc km/s", None),
        ("v_z / R > 3.7 km/s/kpc", V / R > 3.7),
        ("10 km/s * R > 3 kpc * v_z", 10 * R > 3 * V),
        ("survey == 'a'", [1, 0, 1, 0, 1]),
        ('survey != "a" and survey != "it is 3 kpc"', [0, 1, 0, 1, 0]),
        ("n > 0", [1, 1, 1, 1, 0]),
        ("n != 2", [1, 0, 1, 1, 0]),
        ("R != 3.5", [1, 0, 1, 0, 1]),
        ("col('a name') >= 3", [0, 0, 1, 1, 1]),
        ("FE_H > -0.5 + 2 * 0.1 ** 1", [0, 1, 1, 1, 1]),
    ],
)
def test_conditions_select_rows(table, text, expected):
    if expected is None:
        with pytest.raises(ValueError, match="cannot read"):  # a blank does not multiply
            select(table, text)
        return
    with np.errstate(invalid="ignore"):
        np.testing.assert_array_equal(select(table, text), np.asarray(expected, dtype=bool))
        np.testing.assert_array_equal(select(QTable(table), text), np.asarray(expected, dtype=bool))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "cannot read"),
        ("R >", "cannot read"),
        ("R > 3 parsnips", "not a unit"),
        ("R", "not a condition"),
        ("R + 1", "not a condition"),
        ("1 < 2", "needs a column"),
        ("True", "no meaning"),
        ("(R > 3) & (z < 1)", "has no meaning here: allowed are .* and, or, not"),
        ("~good", "has no meaning here"),
        ("R and z", "not a condition"),
        ("R > 'a'", "texts"),
        ("survey > 3", "texts"),
        ("abs(survey) > 3", "not a number"),
        ("R in [1, 2]", "no meaning"),
        ("R is 3", "no meaning"),
        ("[1, 2] > R", "no meaning"),
        ("R[0] > 3", "no meaning"),
        ("R.value > 3", "no meaning"),
        ("__import__('os').system('true') == R", "no meaning"),
        ("open('/etc/passwd') == R", "no meaning"),
        ("eval('1') == R", "no meaning"),
        ("(lambda: 1)() == R", "no meaning"),
        ("[x for x in R] == R", "no meaning"),
        ("(R := 3) == R", "no meaning"),
        ("f'{R}' == survey", "no meaning"),
        ("abs(R, key=3) > 1", "no meaning"),
        ("abs(*R) > 1", "no meaning"),
        ("10 ** (9 ** 9) ** R < v_z", "."),
        ("1" * 400 + " > R", "."),
        ("(" * 500 + "R > 3" + ")" * 500, "cannot read"),
        ("R > 3; import os", "cannot read"),
        ("R > 3\x00", "cannot read"),
        ("x" * 3000, "2000 characters"),
    ],
)
def test_anything_else_is_refused(table, text, message):
    with pytest.raises((ValueError, u.UnitConversionError), match=message):
        select(table, text)


def test_deep_nesting_is_an_error_not_a_crash(table):
    with pytest.raises(ValueError, match=r"recursion|cannot read"):
        select(table, "- " * 960 + "R > 3")


def test_units_that_do_not_fit_are_refused(table):
    for text in ("R > 3 km/s", "R == v_z", "FE_H < 1 kpc", "R + v_z > 1", "R > FE_H"):
        with pytest.raises(u.UnitConversionError, match="in the condition"):
            select(table, text)


def test_missing_columns_are_named_with_those_that_there_are(table):
    with pytest.raises(KeyError, match="no column 'MG_FE': the table has R, z, v_z"):
        select(table, "MG_FE > 0")


def test_columns_are_read_with_units_and_without_masks(table, tmp_path):
    assert read_column(table, "z").unit == u.pc
    assert np.isnan(read_column(table, "n")[4])
    table["survey", "R"].write(tmp_path / "t.fits")
    assert list(read_column(read_table(tmp_path / "t.fits"), "survey")) == list("abaca")
    table["R"].unit = u.Unit("furlongs", parse_strict="silent")
    with pytest.raises(ValueError, match="unknown unit 'furlongs'"):
        read_column(table, "R")


def test_stars_are_selected_and_remembered(table):
    stars = read_stars(table, "z", "v_z", "FE_H", where=["R > 3", "v_z < 50"])
    assert len(stars) == 2
    assert u.allclose(stars.pos, [-1.6, 1.4] * u.kpc)
    assert list(stars.labels) == ["FE_H"]
    assert not stars.label_errs
    assert not stars.counted
    assert stars.provenance == {
        "columns": {"pos": "z", "vel": "v_z", "label": "FE_H"},
        "where": ["R > 3", "v_z < 50"],
        "n_rows": 5,
        "n_selected": 2,
    }


@pytest.mark.parametrize(
    ("columns", "error", "message"),
    [
        (("zz", "v_z", "FE_H"), KeyError, "pos: no column 'zz'; the table has R, z"),
        (("z", "v_z", "MG_FE"), KeyError, "label: no column 'MG_FE'; the table has"),
        (("z", "v_z", "FE_H", "ERR"), KeyError, "label_err: no column 'ERR'"),
        (("FE_H", "v_z", "FE_H"), ValueError, "pos: column 'FE_H' has no unit; .*FE_H=kpc"),
        (("v_z", "v_z", "FE_H"), u.UnitConversionError, "pos: column 'v_z' has the unit"),
        (("z", "v_z", "survey"), ValueError, "label: column 'survey' must hold one number"),
    ],
)
def test_columns_that_cannot_be_are_refused(table, columns, error, message):
    with pytest.raises(error, match=message):
        read_stars(table, *columns)


def test_no_star_left_names_the_condition(table):
    with pytest.raises(ValueError, match="no star is left after the condition 'R > 100'"):
        read_stars(table, "z", "v_z", where=["R > 3", "R > 100"])


def test_units_are_given_to_columns(table):
    source = open_stars(table, units={"z": "kpc", "FE_H": ""})
    (_, part), *_ = source.chunks(["z"])
    assert part["z"].unit == u.kpc
    assert table["z"].unit == u.pc  # what was passed stays as it is
    with pytest.raises(KeyError, match="units: no column 'q'"):
        open_stars(table, units={"q": "kpc"})
    with pytest.raises(ValueError, match="'lightyearz', given for column 'z', is not a unit"):
        open_stars(table, units={"z": "lightyearz"})


def test_conditions_may_name_columns_that_are_not_read(table):
    stars = read_stars(open_stars(table, chunk_rows=2), "z", "v_z", where=["10 km/s * R > 80"])
    assert u.allclose(stars.pos, [-200] * u.pc)
    with pytest.raises(KeyError, match="in the condition 'q > 1': no column 'q'; the table has R"):
        read_stars(table, "z", "v_z", where=["q > 1"])


def test_files_that_are_no_tables_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no file"):
        read_table(tmp_path / "missing.fits")
    (tmp_path / "junk.fits").write_text("junk")
    with pytest.raises(ValueError, match=r"cannot read .*junk\.fits as a table"):
        read_table(tmp_path / "junk.fits")
    (tmp_path / "empty.csv").write_text("z,v\n")
    with pytest.raises(ValueError, match="no rows"):
        read_table(tmp_path / "empty.csv")


def test_flags_are_bits():
    bits = np.array([0, 1, 2, 1 << 23, -(1 << 63), 1 << 62])
    table = Table({"F": bits, "a b": bits.astype(np.int32), "x": np.ones(6)})
    table["M"] = MaskedColumn(bits, mask=[0, 1, 0, 0, 0, 0])
    assert select(table, "flag(F, 23)").tolist() == [False] * 3 + [True, False, False]
    assert select(table, "flag(F, 0, 1)").tolist() == [False, True, True] + [False] * 3
    assert np.flatnonzero(select(table, "flag(F, 63) or flag(F, 62)")).tolist() == [4, 5]
    assert select(table, "flag(col('a b'), 0)").tolist() == [False, True] + [False] * 4
    assert not select(table, "flag(M, 0)").any()
    assert columns_of("not flag(F, 23) and x > 0") == {"F", "x"}
    assert columns_of("flag(col('a b'), 3)") == {"a b"}
    for text, message in {
        "flag(x, 3)": "needs whole numbers, column 'x'",
        "flag(F, 64)": "'64' is not the number of a bit",
        "flag(F, x)": "'x' is not the number of a bit",
        "flag(F)": "numbers of bits",
        "flag(abs(F), 2)": "flag\\(\\) needs the name of a column",
        "flag(F, 2) + 1 > 0": "is not a number",
    }.items():
        with pytest.raises(ValueError, match=message):
            select(table, text)
    with pytest.raises(KeyError, match="no column 'G'"):
        select(table, "flag(G, 3)")
