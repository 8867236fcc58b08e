"""Configuration of the documentation; it builds without a network."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

import ziamath

import torusimaging_torch

project = "torusimaging_torch"
author = "the torusimaging_torch developers"
copyright = "2026, the torusimaging_torch developers"
version = release = torusimaging_torch.__version__

extensions = [
    "example_report",
    "homes",
    "myst_nb",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "mathml",
    "plain_text",
    "reference",
]
myst_heading_anchors = 2
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
exclude_patterns = ["_build"]

# The tutorials are notebooks: each is run anew for every build, and an error in one fails it.
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = -1  # a busy machine takes what it takes
nb_merge_streams = True
# Kernels draw into their pages, whatever the shell's backend is; they have a profile of their own,
# empty but for a word that they be quiet.
os.environ.pop("MPLBACKEND", None)
os.environ["PYTHONWARNINGS"] = "ignore:IProgress not found"  # tqdm's, of a browser's progress bars
os.environ["IPYTHONDIR"] = tempfile.mkdtemp(prefix="ipython")
profile = Path(os.environ["IPYTHONDIR"], "profile_default")
profile.mkdir()
(profile / "ipython_kernel_config.py").write_text("get_config().IPKernelApp.log_level = 40\n")
templates_path = ["_templates"]

autosummary_generate = True
autosummary_ignore_module_all = False
autodoc_member_order = "bysource"
autodoc_typehints = "signature"  # shapes and units are in the words below
autodoc_preserve_defaults = True
maximum_signature_line_length = 70
toc_object_entries_show_parents = "hide"
numpydoc_show_class_members = False
default_role = "py:obj"  # a `name` in a docstring links to it, as in astropy's
nitpicky = True
nitpick_ignore_regex = [
    (r"py:obj", r"[a-z_0-9]+"),  # arguments
    (r"py:class", r"integer -- .*"),  # of a tuple's own methods
    # Aliases, and annotations that numpydoc cuts at their commas.
    (
        r"py:class",
        r"Params|Nested|Numbers|Array|Knots|LabelKnots|Binned|BinnedData|Bins|Bounds|Priors|Hold",
    ),
    (r"py:class", r"Objective|PenaltyFunction|KilledWorker|linearPotential|RecordBatch|Schema"),
    (r"py:class", r"u\.Quantity.*|(str \| )?(tuple|dict|list|Mapping|Sequence)\[.*"),
]

html_theme = "pydata_sphinx_theme"
html_title = "torusimaging_torch"
html_math_renderer = "mathml"
# ziamath is here for its font alone, STIX Two Math, which browsers rarely have.
html_static_path = ["_static", str(Path(ziamath.__file__).parent / "fonts")]
html_css_files = ["custom.css"]
html_show_sourcelink = False
html_theme_options = {
    "navigation_with_keys": False,
    "show_toc_level": 2,
    "navbar_center": [],
    "navbar_persistent": [],
    "navbar_end": ["search-button", "theme-switcher"],
    "navbar_align": "left",
    "show_prev_next": True,
    "footer_start": ["copyright"],
    "footer_end": [],
}
html_sidebars = {"**": ["navigation.html"]}
