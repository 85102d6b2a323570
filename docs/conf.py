"""Sphinx configuration."""

from __future__ import annotations

import distributed

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
