"""Files of stars: what is read from them, and from nowhere else."""

from __future__ import annotations

import gzip

import pytest

from torusimaging_torch.catalogue.files import read_table

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
