"""How Sphinx builds the pages of this folder: `make docs` writes them to build/docs/html."""

import re

from sphinx.application import Sphinx

import autoseg

project = "autoseg"
author = "the autoseg developers"
version = release = autoseg.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]

# Links may name a heading, of any page, as a git host does.
myst_heading_anchors = 4
# A block without a language is what a program printed.
highlight_language = "none"

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the docstrings tell the types, with shapes and units
napoleon_google_docstring = False
napoleon_use_rtype = False

# Types in docstrings are words for people ("ndarray of float, shape (Z, Y, X)") and are not links, so a missing target
# is an error in what pages link to only.
nitpick_ignore_regex = [("py:(class|obj|exc)", ".*")]

html_theme = "furo"
html_title = f"autoseg {version}"
html_copy_source = False

# Pages whose lists of links are the site's contents, in the same order. So they read the same on a git host.
CONTENTS = ("index", "explanation/index")


def _add_contents(app: Sphinx, page: str, source: list[str]) -> None:
    """Give a page of contents a hidden table of contents for each section that lists pages."""
    if page not in CONTENTS:
        return
    sections = re.split(r"^## (.+)$", source[0], flags=re.MULTILINE)[1:]
    for title, text in zip(sections[::2], sections[1::2], strict=True):
        links = re.findall(r"^- \[(.+?)\]\((?!http)(.+?)\.md\)", text, flags=re.MULTILINE)
        if links:
            pages = "\n".join(f"{name} <{target}>" for name, target in links)
            source[0] += f"\n\n```{{toctree}}\n:hidden:\n:caption: {title}\n\n{pages}\n```\n"


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("source-read", _add_contents)
