"""The report as one page, and options from a file."""

from __future__ import annotations

import hashlib
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from command_line import COLUMNS, NO_FIGURES, PIXELS, fails, names

from torusimaging_torch.command.arguments import make_parser
from torusimaging_torch.command.config import expand_config, to_config
from torusimaging_torch.command.main import main
from torusimaging_torch.results import FitResult
from torusimaging_torch.simulate import milky_way_disk

VOID = {"meta", "br", "hr", "img", "input", "link"}


class Checked(HTMLParser):
    """Reads a page; tags that are not closed in order are an error."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.ids += [found["id"]] if "id" in found else []
        self.links += [found[k] for k in ("href", "src", "xlink:href") if k in found]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture(scope="module")
def star_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("stars") / "stars & others.fits"
    milky_way_disk(8000, seed=5)["z", "v_z", "label", "label_err"].write(path)
    return str(path)


@pytest.fixture(scope="module")
def made(star_file, tmp_path_factory):
    """The folder of a fit of both models, and what was printed."""
    out = tmp_path_factory.mktemp("fit") / "out"
    command = ["fit", star_file, *COLUMNS, *PIXELS, "--e-knots", "2:4,4:3", "--out", str(out)]
    assert main([*command, "--quiet", "--where", "abs(z) < 1.1 kpc"]) == 0
    return out


def test_the_page_stands_alone(made, star_file):
    page = (made / "report.html").read_text()
    read = Checked()
    read.feed(page)
    assert read.open == []
    assert len(read.ids) == len(set(read.ids))
    # Links lead into the page itself, pictures are in it.
    assert all(x.startswith(("#", "data:image/")) for x in read.links)
    assert {x[1:] for x in read.links if x.startswith("#")} <= set(read.ids)
    assert not re.search(r"<script|<link|@import", page)
    text = " ".join(" ".join(read.text).split())
    for part in ("Ellipses and harmonics", "Potential, of the same pixels", "Difference between"):
        assert part in text
    assert page.count("<svg") == 5
    digest = hashlib.sha256(Path(star_file).read_bytes()).hexdigest()
    for part in (digest, "stars & others.fits", "abs(z) < 1.1 kpc", "@article", "torch "):
        assert part in text


def test_its_numbers_are_those_of_the_fit(made):
    page = (made / "report.html").read_text()
    for name in ("fit", "potential"):
        result = FitResult.read(made / f"{name}.ecsv")
        value, error = (x.to_value("pc") for x in result.measured("pos0"))
        shown = re.findall(r"midplane pos0</td><td>(.*?)</td>", page)
        numbers = [[float(x.replace("\N{MINUS SIGN}", "-")) for x in t.split(" ± ")] for t in shown]
        assert any(found == pytest.approx([value, error], rel=0.06, abs=0.06) for found in numbers)
        reading = result.provenance["verdict"]["reading"]
        assert reading.partition(" (in")[0] in page


def test_it_says_how_to_repeat_it(made, star_file, tmp_path, capsys):
    page = (made / "report.html").read_text()
    config = re.findall(r"<pre>(.*?)</pre>", page, re.S)[1]
    path = tmp_path / "again.toml"
    path.write_text(config.replace("&quot;", '"').replace("&amp;", "&").replace("&lt;", "<"))
    again = tmp_path / "again"
    assert main(["fit", "--config", str(path), "--out", str(again), "--quiet", *NO_FIGURES]) == 0
    first, second = (FitResult.read(folder / "potential.ecsv") for folder in (made, again))
    assert (first.to_table()["value"] == second.to_table()["value"]).all()


@pytest.mark.slow
def test_figures_as_pdf(star_file, tmp_path):
    command = ["fit", star_file, *COLUMNS, *PIXELS, "--model", "potential", "--quiet"]
    out = tmp_path / "out"
    main([*command, "--out", str(out)])
    assert {"data.png", "profiles.png"} <= names(out)
    main([*command, "--figure-format", "pdf", "--out", str(out)])
    assert {"data.pdf", "profiles.pdf"} <= names(out)
    assert not {"data.png", "profiles.png"} & names(out)


def expanded(tmp_path, text, *typed):
    (tmp_path / "options.toml").write_text(text)
    parser, commands = make_parser()
    argv = ["fit", *typed, f"--config={tmp_path / 'options.toml'}"]
    return parser.parse_args(expand_config(argv, commands))


def test_options_come_from_a_file(tmp_path):
    text = """
stars = "stars.fits"
pos = "z"
vel = "v_z"
label = ["MG_FE", "FE_H"]
counts = true
where = ["R > 7 kpc", "abs(z) < 1"]
e-knots = {2 = 8, 4 = 4}
units = {z = "kpc"}
n_bins = 60
dacc-strength = 1e2
hold = "vel0 = 0 km/s"
"""
    args = expanded(tmp_path, text, "--out", "there", "--n-bins", "70", "--where", "R < 9 kpc")
    assert (args.stars, args.pos, args.counts, args.n_bins) == ("stars.fits", "z", True, 70)
    assert args.label == ["MG_FE", "FE_H"]
    assert args.where == ["R > 7 kpc", "abs(z) < 1", "R < 9 kpc"]
    assert args.e_knots == {2: 8, 4: 4}
    assert args.units == {"z": "kpc"}
    assert args.dacc_strength == 100.0
    # What is written of it means the same.
    again = expanded(tmp_path, to_config(make_parser()[1]["fit"], args))
    assert vars(again) | {"config": None} == vars(args) | {"config": None}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("n-pixels = 3", "there is no option 'n-pixels'; there are"),
        ("n-bins = [3, 4]", "n-bins takes one value"),
        ("counts = 1", "counts must be true or false, got 1"),
        ("pos = [[1]]", "pos must be a text or a number"),
        ("n-bins", "is not TOML"),
        ("config = 'x'", "there is no option 'config'"),
    ],
)
def test_files_of_options_are_checked(tmp_path, capsys, text, message):
    path = tmp_path / "options.toml"
    path.write_text(text)
    assert message in fails(capsys, "fit", "--config", path, "--out", tmp_path / "out")


def test_a_missing_file_of_options_is_told(tmp_path, capsys):
    assert "cannot read" in fails(capsys, "fit", "--config", tmp_path / "none.toml")
