"""Sphinx configuration: `python -m sphinx -W docs docs/_site` builds the site, and ends with an error where a link leads nowhere."""

from __future__ import annotations

import re

import graphalign

project = "graphalign"
author = copyright = "The graphalign authors"
version = release = graphalign.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.mathjax", "sphinx.ext.napoleon"]
exclude_patterns = ["_site"]
html_theme = "furo"
html_title = f"graphalign {release}"
html_static_path: list[str] = []
html_copy_source = False
html_show_sphinx = False

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4
default_role = "literal"  # docstrings have names in single backticks, as Markdown has
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"
autodoc_default_options = {"members": True, "show-inheritance": False}
napoleon_use_rtype = False
suppress_warnings = ["myst.xref_ambiguous"]


def _escape(app: object, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Escapes what docstrings mean literally and reStructuredText does not: |x|, x_, *args."""
    for i, line in enumerate(lines):
        parts = re.split(r"(``?[^`]+``?)", line)
        lines[i] = "".join(part if part.startswith("`") else re.sub(r"([|*]|_\b)", r"\\\1", part) for part in parts)


def setup(app: object) -> None:
    """Connects the reading of docstrings; before napoleon, which writes markup of its own."""
    app.connect("autodoc-process-docstring", _escape, priority=100)  # type: ignore[attr-defined]
