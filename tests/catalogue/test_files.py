"""Files of stars: what is read from them, and from nowhere else."""

from __future__ import annotations

import gzip
import warnings

import astropy.units as u
import numpy as np
import pyarrow as pa
import pytest
from astropy.io import fits
from astropy.table import Table
from pyarrow import parquet

from torusimaging_torch.catalogue import open_stars
from torusimaging_torch.catalogue.files import read_table
from torusimaging_torch.catalogue.tables import read_stars
from torusimaging_torch.command.main import main

VOTABLE = """<?xml version="1.0"?>
<VOTABLE version="1.3" xmlns="http://www.ivoa.net/xml/VOTable/v1.3"><RESOURCE><TABLE>
<FIELD name="z" datatype="double" unit="kpc"/><DATA>{data}</DATA></TABLE></RESOURCE></VOTABLE>"""
HERE = "<TABLEDATA><TR><TD>0.5</TD></TR></TABLEDATA>"
ELSEWHERE = """<BINARY>{}<STREAM
  href='{}' encoding="base64"/></BINARY>"""


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("padding", ["", "<!-- " + "x" * 70_000 + " -->"])
def test_tables_whose_data_are_elsewhere_are_refused(tmp_path, packed, padding):
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(8))
    path = tmp_path / ("stars.vot.gz" if packed else "stars.vot")
    write = gzip.compress if packed else bytes
    for url in (secret.as_uri(), "http://localhost:1/stars.bin"):
        path.write_bytes(write(VOTABLE.format(data=ELSEWHERE.format(padding, url)).encode()))
        with pytest.raises(
            ValueError, match=rf"data are elsewhere, at '{url}', which is not fetched"
        ):
            read_table(path)


def test_tables_with_their_data_are_read(tmp_path):
    (tmp_path / "stars.vot").write_text(VOTABLE.format(data=HERE))
    table = read_table(tmp_path / "stars.vot")
    assert table["z"].tolist() == [0.5]
    assert table["z"].unit == "kpc"


Z, V = np.array([0.5, -0.25, 0.125]), np.array([10.0, -20.0, 5.0])
LABELS = ["0.5", "{missing}", "1.5"]
STARS = Table({"z": Z * u.kpc, "v": V * u.km / u.s, "label": [0.5, 1.0, 1.5]})


def lines(separator, names="z,v,label", missing="null"):
    rows = [names.replace(",", separator)]
    labels = [label.format(missing=missing) for label in LABELS]
    rows += [separator.join(map(str, row)) for row in zip(Z, V, labels, strict=True)]
    return "\n".join(rows) + "\n"


def read(path, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        source = open_stars(path, units={"z": "kpc", "v": "km/s"}, **options)
        return read_stars(source, "z", "v", "label")


def assert_read(stars, missing=True):
    np.testing.assert_array_equal(stars.pos.value, Z)
    np.testing.assert_array_equal(stars.vel.value, V)
    label = [0.5, np.nan if missing else 1.0, 1.5]
    np.testing.assert_array_equal(np.asarray(stars.labels["label"]), label)


@pytest.mark.parametrize("missing", ["", "null", "N/A", "NA", "--", "nan", "None"])
@pytest.mark.parametrize(
    ("name", "separator"),
    [("a.csv", ","), ("a.tsv", "\t"), ("a.txt", ","), ("a.dat", ";"), ("a.csv", "|")],
)
def test_tables_as_people_write_them(tmp_path, name, separator, missing):
    path = tmp_path / name
    path.write_text(lines(separator, missing=missing))
    assert_read(read(path))


@pytest.mark.parametrize("name", ["a.txt", "a.dat", "A.DAT"])
@pytest.mark.parametrize("before", ["", "# ", "#", "# made by hand, on a Sunday\n# "])
def test_names_may_stand_behind_a_hash(tmp_path, name, before):
    path = tmp_path / name
    path.write_text(before + lines("  ", missing="nan"))
    assert_read(read(path))


@pytest.mark.parametrize("how", ["comments", "mark", "packed", "carriage", "quotes", "blank lines"])
def test_csv_in_all_its_forms(tmp_path, how):
    text = lines(",")
    if how == "comments":
        text = "# one\n# two, with a comma\n" + text.replace("-0.25", "# three\n-0.25")
    if how == "carriage":
        text = text.replace("\n", "\r\n")
    if how == "quotes":
        text = text.replace("z,v,label", '"z","v","label"')
    if how == "blank lines":
        text = "\n" + text.replace("\n", "\n\n")
    content = text.encode("utf-8-sig" if how == "mark" else "utf-8")
    path = tmp_path / ("a.csv.gz" if how == "packed" else "a.csv")
    path.write_bytes(gzip.compress(content) if how == "packed" else content)
    assert_read(read(path))


def test_names_that_are_there_twice_are_told_apart(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text(lines(",", "z,v,z"))
    assert read_table(path).colnames == ["z_1", "v", "z_2"]
    with pytest.raises(KeyError, match=r"no column 'z'; the table has z_1, v, z_2"):
        open_stars(path, units={"z": "kpc"})


def test_rows_of_other_lengths_are_told(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text(lines(",") + "1,2,3,4\n")
    with pytest.raises(ValueError, match="cannot read .*a.csv as a table of stars"):
        read_table(path)
    path.write_text("# only\n# comments\n")
    with pytest.raises(ValueError, match="it has no rows"):
        read_table(path)


def test_a_format_can_be_named(tmp_path):
    STARS.write(tmp_path / "stars.data", format="ascii.ipac")
    with pytest.raises(ValueError, match="Format could not be identified"):
        read_table(tmp_path / "stars.data")
    assert_read(read(tmp_path / "stars.data", table_format="ascii.ipac"), missing=False)


VIZIER = """#
#   VizieR Astronomical Server
#Name: J/ApJ/1/stars

z{0}v{0}label{0}Name
kpc{0}km/s{0}{0}
----{0}-----{0}---{0}----
 0.5 {0} 10.0{0}0.5{0}a b
-0.25{0}-20.0{0}   {0}---
0.125{0}  5.0{0}1.5{0}c
"""


@pytest.mark.parametrize("separator", ["\t", ";"])
def test_units_and_dashes_of_vizier_are_no_stars(tmp_path, separator):
    path = tmp_path / "asu.tsv"
    path.write_text(VIZIER.format(separator))
    assert_read(read_stars(open_stars(path), "z", "v", "label"))


@pytest.mark.parametrize("row", ["  {} \t{}   {}", "{} {}\t{}", "{}\t{}\t{}"])
def test_tabs_and_blanks_may_mix_below_names(tmp_path, row):
    path = tmp_path / "a.dat"
    rows = zip(Z, V, [0.5, 1.0, 1.5], strict=True)
    names = row.format("z", "v", "label") if row.count("\t") == 2 else "z   v   label"
    path.write_text("\n".join([f"# {names}", *(row.format(*x) for x in rows)]))
    assert_read(read(path), missing=False)


@pytest.mark.parametrize("mark", ["", "# "])
def test_decimal_commas_are_named(tmp_path, mark):
    path = tmp_path / "a.csv"
    path.write_text(mark + lines(";").replace(".", ","))
    with pytest.raises(ValueError, match="'z' must .*, got the text '0,5': write decimals with a"):
        read(path)


# -- FITS ------------------------------------------------------------------------------------------


def test_fits_that_is_packed_whatever_its_name(tmp_path):
    STARS.write(tmp_path / "a.fits")
    (tmp_path / "b.fits").write_bytes(gzip.compress((tmp_path / "a.fits").read_bytes()))
    assert_read(read(tmp_path / "b.fits"), missing=False)


def test_fits_that_is_cut_off_says_so(tmp_path):
    table = Table({"z": np.zeros(20_000), "v": np.zeros(20_000)})
    table.write(tmp_path / "a.fits")
    content = (tmp_path / "a.fits").read_bytes()
    for size in (len(content) // 2, len(content) - 2880):
        (tmp_path / "a.fits").write_bytes(content[:size])
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(ValueError, match=r"cannot read .*a.fits.* it is cut off"):
                read_table(tmp_path / "a.fits")


@pytest.fixture
def two_tables(tmp_path):
    meta = fits.BinTableHDU(Table({"x": [1.0]}), name="META")
    stars = fits.BinTableHDU(STARS, name="STARS")
    fits.HDUList([fits.PrimaryHDU(), meta, stars]).writeto(tmp_path / "two.fits")
    return tmp_path / "two.fits"


def test_which_of_several_tables_is_said_or_told(two_tables):
    for hdu in (2, "STARS"):
        assert_read(read(two_tables, hdu=hdu), missing=False)
    with pytest.warns(UserWarning, match=r"several tables, of which the first is read: say --hdu"):
        assert read_table(two_tables).colnames == ["x"]
    for hdu in ("NOTHING", 0, 7):
        with pytest.raises(ValueError, match=f"two.fits .* no table {hdu!r}: .* 1 'META' or 2 'ST"):
            read_table(two_tables, hdu=hdu)


def test_the_only_table_is_not_read_for_another(tmp_path):
    Table({"x": [1.0]}).write(tmp_path / "one.fits")
    for hdu in (7, "NOPE", ""):
        with pytest.raises(ValueError, match=rf"one\.fits .* it has no table {hdu!r}: expected 1$"):
            read_table(tmp_path / "one.fits", hdu=hdu)
    assert len(read_table(tmp_path / "one.fits", hdu=1)) == 1


def test_the_command_takes_a_table_by_its_number(two_tables, tmp_path, capsys):
    arguments = ["fit", str(two_tables), "--pos", "z", "--vel", "v", "--label", "label"]
    assert main([*arguments, "--hdu", "2", "--out", str(tmp_path / "o"), "--n-bins", "4"]) == 2
    told = capsys.readouterr().err
    assert "3 of 3 stars selected" in told
    assert "several tables" not in told


# -- parquet ---------------------------------------------------------------------------------------


def test_columns_of_any_kind_that_are_not_asked_for_do_no_harm(tmp_path):
    columns = {
        "z": Z,
        "v": V,
        "label": [0.5, None, 1.5],
        "category": pa.array(["a", None, "b"]).dictionary_encode(),
        "text": pa.array([None, "x", None]),
        "struct": pa.array([{"a": 1}] * 3),
        "list": pa.array([[1, 2]] * 3),
        "time": pa.array([1, 2, 3], pa.timestamp("ms")),
        "nothing": pa.nulls(3),
        "bytes": pa.array([b"a"] * 3),
    }
    parquet.write_table(pa.table(columns), tmp_path / "odd.parquet")
    assert_read(read(tmp_path / "odd.parquet"))


def test_damage_within_parquet_is_told_with_its_file(tmp_path):
    path = tmp_path / "damaged.parquet"
    rng = np.random.default_rng(0)
    parquet.write_table(pa.table({n: rng.normal(size=20_000) for n in ("z", "v", "label")}), path)
    content = bytearray(path.read_bytes())
    content[4:2000] = bytes(1996)
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"cannot read .*damaged\.parquet as parquet: "):
        read(path)


def test_a_folder_is_the_parquet_files_in_it(tmp_path):
    data = tmp_path / "dataset" / "Norder=1" / "Dir=0"
    data.mkdir(parents=True)
    for i in range(3):
        parquet.write_table(
            pa.table({"z": Z[i : i + 1], "v": V[i : i + 1], "label": [[0.5, None, 1.5][i]]}),
            data / f"Npix={i}.parquet",
        )
    (tmp_path / "hats.properties").write_text("obs_collection=x")
    (tmp_path / "dataset" / "_metadata.parquet").write_bytes(b"about the files")
    assert_read(read(tmp_path))
    assert_read(read(tmp_path / "dataset"))
    sample = pa.table({"z": Z[:1], "v": V[:1], "label": [0.5]})
    parquet.write_table(sample, tmp_path / "dataset" / "data_thumbnail.parquet")
    assert_read(read(tmp_path))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="has no parquet file"):
        open_stars(tmp_path / "empty")


def test_margins_of_a_collection_are_copies(tmp_path):
    whole = pa.table({"z": Z, "v": V, "label": [0.5, None, 1.5]})
    for name, table in (("gaia", whole), ("gaia_10arcs", whole[:1])):
        part = tmp_path / name / "dataset" / "Norder=0" / "Dir=0"
        part.mkdir(parents=True)
        parquet.write_table(table, part / "Npix=1.parquet")
    about = tmp_path / "collection.properties"
    about.write_text("#HATS Collection\nhats_primary_table_url = gaia\nall_margins=gaia_10arcs\n")
    assert_read(read(tmp_path))
    about.write_text("hats_primary_table_url=elsewhere\n")
    with pytest.raises(ValueError, match="names no folder of a catalogue"):
        open_stars(tmp_path)
    about.unlink()
    for name in ("gaia", "gaia_10arcs"):
        (tmp_path / name / "hats.properties").touch()
    with pytest.raises(ValueError, match="holds several catalogues, gaia, gaia_10arcs: give one"):
        open_stars(tmp_path)


def test_files_without_stars_say_nothing_of_columns(tmp_path):
    none = pa.array([], pa.string())
    parquet.write_table(pa.table({"z": none, "v": none, "label": none}), tmp_path / "a.parquet")
    parquet.write_table(
        pa.table({"z": Z, "v": V, "label": [0.5, None, 1.5]}), tmp_path / "b.parquet"
    )
    assert_read(read(tmp_path))
