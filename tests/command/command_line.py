"""Options of a quick fit, the files that it writes, and commands that must fail."""

from __future__ import annotations

from torusimaging_torch.command.main import main

FILES = {
    "report.html",
    "fit.ecsv",
    "profiles.ecsv",
    "pixels.ecsv",
    "data.png",
    "splines.png",
    "profiles.png",
}
PIXELS = ["--n-bins", "16", "--pos-max", "1kpc", "--vel-max", "60 km/s"]
COARSE = [*PIXELS, "--e-knots", "2:4,4:3", "--model", "torus"]
OF_BOTH = {"potential.ecsv", "profiles_potential.ecsv"}
OF_BOTH |= {"data_potential.png", "splines_potential.png"}
TABLES = {name for name in FILES if not name.endswith(".png")}
NO_FIGURES = ["--figure-format", "none"]  # which take most of the time of a fit
COLUMNS = ["--pos", "z", "--vel", "v_z", "--label", "label"]


def names(folder):
    return {file.name for file in folder.iterdir()}


def fails(capsys, *arguments):
    """Run a command that must fail with one line on standard error; return that line."""
    assert main([str(a) for a in arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert lines[-1].startswith("torusimaging-torch: error: ")
    assert "Traceback" not in captured.err
    return lines[-1]
