"""Groups as texts, products of groups, and groups of selected stars, against masks by hand."""

from __future__ import annotations

import astropy.units as u
import numpy as np
import pytest
from astropy.table import QTable, Table
from numpy.testing import assert_allclose, assert_array_equal

from torusimaging_torch.catalogue.chunks import open_stars
from torusimaging_torch.catalogue.group_texts import read_groups
from torusimaging_torch.catalogue.groups import Crossed, Selected, Values, Windows, sliding_windows

N = 500


@pytest.fixture(scope="module")
def stars() -> QTable:
    rng = np.random.default_rng(3)
    return QTable(
        {
            "R_g": rng.uniform(4, 14, N) * u.kpc,
            "FE_H": rng.uniform(-1, 0.5, N),
            "population": rng.choice(["thin", "thick", "halo"], N),
            "n": rng.integers(0, 4, N),
            "a: b": rng.integers(0, 2, N),
        }
    )


def read(text, stars):
    return read_groups(text, open_stars(stars, chunk_rows=120))


def members(groups, stars) -> dict[str, set[int]]:
    """Return the rows of each group, read in chunks."""
    rows: dict[str, set[int]] = {str(name): set() for name in groups.names}
    for first, table in open_stars(stars, chunk_rows=120).chunks(groups.columns):
        for group, places in groups.members(table, first):
            rows[str(groups.names[group])] |= set((first + places).tolist())
    return rows


def where(mask) -> set[int]:
    return set(np.flatnonzero(mask).tolist())


@pytest.mark.parametrize(
    ("text", "centers", "width"),
    [
        ("R_g: 6..12 step 0.25 width 2 kpc", np.linspace(6, 12, 25), 2),
        ("R_g:6 .. 12  step 1 kpc", np.arange(6, 13), 1),
        ("R_g: 6000..7500 step 500 width 1e3 pc", [6, 6.5, 7, 7.5], 1),
        ("R_g: 6..12 step 4", [6, 10], 4),
        ("R_g: 6.5..6.5 step 1 width .5kpc", [6.5], 0.5),
    ],
)
def test_windows_slide_in_the_unit_given_or_that_of_the_column(stars, text, centers, width):
    groups = read(text, stars)
    described = groups.describe()
    assert_allclose(described["R_g"].to_value(u.kpc), centers, rtol=1e-14)
    assert_allclose((described["R_g_upper"] - described["R_g_lower"]).to_value(u.kpc), width)
    rows = members(groups, stars)
    x = stars["R_g"].to_value(u.kpc)
    for name, center in zip(groups.names, centers, strict=True):
        assert rows[name] == where((x >= center - width / 2) & (x < center + width / 2))


def test_windows_of_a_column_without_unit_may_be_negative(stars):
    groups = read("FE_H: -1..0.5 step 0.5 width 0.2", stars)
    assert_allclose(groups.describe()["FE_H"], [-1, -0.5, 0, 0.5], atol=1e-15)
    assert groups.names[1] == "FE_H = -0.6 to -0.4"


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("population in thin, 'halo'", ["halo", "thin"]),
        ("n in 3,1", [1, 3]),
        ("n", [0, 1, 2, 3]),
        ("a: b", [0, 1]),
    ],
)
def test_values_of_a_column(stars, text, values):
    groups = read(text, stars)
    assert_array_equal(groups.describe()[groups.column], values)
    rows = members(groups, stars)
    for value in values:
        assert rows[str(value)] == where(stars[groups.column] == value)


def test_several_texts_are_combined(stars):
    groups = read(["R_g: 6..8 step 2 kpc", "population in thin, thick", "n in 2"], stars)
    assert groups.names[:2] == (
        "R_g = 5 to 7 kpc, population = thick, n = 2",
        "R_g = 5 to 7 kpc, population = thin, n = 2",
    )
    described = groups.describe()
    assert_array_equal(described["R_g"].value, [6, 6, 8, 8])
    assert_array_equal(described["population"], ["thick", "thin"] * 2)
    rows = members(groups, stars)
    for i, name in enumerate(groups.names):
        inside = (stars["R_g"] >= described["R_g_lower"][i]) & (
            stars["R_g"] < described["R_g_upper"][i]
        )
        same = (stars["population"] == described["population"][i]) & (stars["n"] == 2)
        assert rows[name] == where(inside & same)
        assert rows[name]


def test_one_text_in_a_list_names_the_column_too(stars):
    assert read(["n in 0, 1"], stars).names == ("n = 0", "n = 1")


def test_conditions_leave_stars_out(stars):
    groups = Selected(read("n", stars), ("R_g > 6 kpc", "population != 'halo'"))
    keep = (stars["R_g"] > 6 * u.kpc) & (stars["population"] != "halo")
    rows = members(groups, stars)
    assert all(rows[str(n)] == where(keep & (stars["n"] == n)) for n in range(4))


def test_a_column_is_not_taken_for_a_unit_of_the_same_name(stars):
    """R is the rayleigh to astropy."""
    renamed = QTable({"R": stars["R_g"], "n": stars["n"]})
    condition, expected = "10 km/s * R > 80", where(stars["R_g"] > 8 * u.kpc)
    groups = read({"far": condition}, renamed)
    assert groups.columns == ["R"]
    assert members(groups, renamed)["far"] == expected
    chosen = Selected(read(None, renamed), [condition], renamed.colnames)
    assert members(chosen, renamed)["all"] == expected


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("R_g: 6.. kpc", ValueError, r"cannot read the group 'R_g: 6.. kpc': expected 'COLUMN"),
        ("R_g +: 6..12 kpc", ValueError, r"in the group 'R_g \+: 6..12 kpc': cannot read"),
        ("abs(R_x): 6..12 kpc", KeyError, "no column 'R_x' for groups"),
        ("R_g > 8 kpc: 0..1", ValueError, "is not one number for each star"),
        ("3 + 4: 0..10", KeyError, "no column '3 \\+ 4'"),
        ("R_g: 12..6 kpc", ValueError, "lower below upper"),
        ("R_g: 6-12 step 1 kpc", ValueError, "as 'R_g: 6..12 step 0.25 width 2 kpc'"),
        ("R_g: 6..12 step 1 width kpc", ValueError, "cannot read the group"),
        ("R_g: 6..x step 1 kpc", ValueError, "cannot read the group"),
        ("R_g: 6..12 step 1 kpx", ValueError, "'kpx' is not a unit that astropy knows"),
        ("R_g: 6..12 step 0 kpc", ValueError, "step and width must be positive"),
        ("R_g: 12..6 step 1 kpc", ValueError, "stop not below start"),
        ("R_g: 6..12 step 1e-9 kpc", ValueError, "at most 100000 are read"),
        ("R_g: 6..12 step 1 km/s", u.UnitConversionError, "has the unit 'kpc', its windows have"),
        ("FE_H: 0..1 step 1 kpc", u.UnitConversionError, "only the windows have a unit"),
        ("population: 0..1 step 1", ValueError, "does not hold one number per star"),
        ("R_x: 6..12 step 1 kpc", KeyError, "no column 'R_x' for groups; the catalogue has R_g, "),
        ("population thin", KeyError, "no column 'population thin' .* in A, B"),
        ("n in 1,,2", ValueError, "between two commas there is nothing"),
        ("n in thin", ValueError, "column 'n' holds numbers, got 'thin'"),
        (["n", "n in 1"], ValueError, "column 'n' is in several of the groups"),
        (["n", 3], TypeError, "one text or several"),
        ([], TypeError, "one text or several"),
    ],
)
def test_errors_say_what_was_expected(stars, text, error, message):
    with pytest.raises(error, match=message):
        read(text, stars)


def test_too_many_combinations_are_refused():
    many = Values("a", np.arange(1000))
    with pytest.raises(ValueError, match="1000000 combinations"):
        Crossed((many, Values("b", np.arange(1000))))


def test_windows():
    windows = sliding_windows("R", 6 * u.kpc, 12 * u.kpc, 250 * u.pc, 2 * u.kpc)
    assert len(windows.names) == 25
    assert windows.names[0] == "R = 5 to 7 kpc"
    assert windows.names[-1] == "R = 11 to 13 kpc"
    assert_allclose(windows.describe()["R"].to_value(u.kpc), np.linspace(6, 12, 25))
    rows = dict(Windows("x", [0, 1], [2, 3]).members(Table({"x": [0, 1, 2.0, np.nan, 3]}), 0))
    assert_array_equal(rows[0], [0, 1])
    assert_array_equal(rows[1], [1, 2])


def test_one_interval_and_expressions(stars):
    R_g, FE_H = stars["R_g"].value, stars["FE_H"]
    one = read("R_g: 6..12 kpc", stars)
    assert one.names == ("R_g = 6 to 12 kpc",)
    assert members(one, stars)["R_g = 6 to 12 kpc"] == where((R_g >= 6) & (R_g < 12))
    several = read("R_g * 220 km/s / 2: 500..1500 step 500 kpc km/s", stars)
    assert several.columns == ["R_g"]
    found = list(members(several, stars).values())
    assert found == [where(np.abs(R_g * 110 - x) < 250) for x in (500, 1000, 1500)]
    crossed = read(["abs(FE_H): 0..0.2", "n in 1, 2"], stars)
    inside = np.abs(FE_H) < 0.2
    assert list(members(crossed, stars).values()) == [
        where(inside & (stars["n"] == n)) for n in (1, 2)
    ]
