"""What a release says of itself: one version, what is cited, extras."""

from __future__ import annotations

import configparser
import re
from pathlib import Path

import yaml

import torusimaging_torch

ROOT = Path(__file__).parent.parent
CITED = yaml.safe_load((ROOT / "CITATION.cff").read_text())


def declared() -> configparser.ConfigParser:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    return config


def test_one_version():
    version = torusimaging_torch.__version__
    assert declared()["metadata"]["version"] == "attr: torusimaging_torch.__version__"
    assert CITED["version"] == version
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGES.md").read_text(), re.MULTILINE)
    assert newest is not None
    assert newest[1] == version


def test_the_papers_are_those_of_the_citation_file():
    papers = [paper for paper in CITED["references"] if paper["type"] == "article"]
    entries = torusimaging_torch.__citation__.split("@article")[1:]
    assert len(entries) == len(papers) == 3
    words = " ".join(torusimaging_torch.__citation__.split())
    for paper in papers:
        assert " ".join(paper["title"].split()) in words
        assert f"doi = {{{paper['doi']}}}" in words
        (entry,) = (entry for entry in entries if paper["doi"] in entry)
        assert f"volume = {{{paper['volume']}}}" in entry
        assert f"pages = {{{paper['start']}}}" in entry
        assert f"year = {{{paper['year']}}}" in entry


def test_all_is_all_that_users_may_want():
    extras = declared()["options.extras_require"]
    wanted = {line for name in ("io", "fast", "dask", "arviz") for line in extras[name].split("\n")}
    assert set(extras["all"].split("\n")) == wanted
