"""The report of a fit, made while the documentation is built: what ``fit --out`` writes."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx


def write_report(app: Sphinx, error: Exception | None) -> None:
    """Fit simulated stars by the command, and put its page beside the others."""
    if error is not None or app.builder.name != "html":
        return
    from torusimaging_torch.command.main import main
    from torusimaging_torch.simulate import milky_way_disk

    os.environ.setdefault("MPLBACKEND", "Agg")
    with tempfile.TemporaryDirectory() as folder:
        stars, out = Path(folder, "stars.fits"), Path(folder, "fit")
        milky_way_disk(100_000, seed=1).write(stars)
        command = f"fit {stars} --pos z --vel v_z --label label --label-err label_err --out {out}"
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            status = main([*command.split(), "--quiet"])
        if status != 0:
            raise RuntimeError(f"the fit for the example report failed: {said.getvalue()}")
        shutil.copy(out / "report.html", Path(app.outdir, "example_report.html"))


def setup(app: Sphinx) -> dict[str, Any]:
    """Write the report when all pages are there."""
    app.connect("build-finished", write_report)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
