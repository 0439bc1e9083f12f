"""Sphinx: MyST pages, the furo theme, the reference from the docstrings. Warnings are errors (`make docs`)."""

from __future__ import annotations

from importlib.metadata import version as version_of

project = "Treadle"
author = "The Treadle developers"
copyright = "2026, The Treadle developers"
version = release = version_of("treadle")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

autodoc_typehints = "description"
autodoc_member_order = "bysource"
autodoc_class_signature = "separated"

html_theme = "furo"
html_title = f"Treadle {version}"
html_theme_options = {"navigation_with_keys": True}
