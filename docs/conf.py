"""Sphinx configuration."""

from __future__ import annotations

import sys
from pathlib import Path

import distributed

sys.path.insert(0, str(Path(__file__).parents[1]))

from continuous_integration.figures.pages import register

register()

project = "distributed, root-ish by data flow"
author = "the distributed-rootish developers"
copyright = author
version = release = distributed.__version__

extensions = ["numpydoc", "sphinx.ext.autodoc"]
exclude_patterns = ["_build"]
html_theme = "dask_sphinx_theme"
html_static_path: list[str] = []
nitpicky = False
numpydoc_show_class_members = False
autodoc_typehints = "none"
