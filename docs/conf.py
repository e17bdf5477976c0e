"""Build the documentation site: `make docs`. Nothing is fetched, so that it builds without a network."""

from __future__ import annotations

import importlib.metadata
import re
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

project = "retraced"
release = importlib.metadata.version("retraced")
project_copyright = "the retraced authors"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
html_title = f"retraced {release}"
html_static_path = ["static"]
html_css_files = ["site.css"]

# Links to `page.md#heading`, as GitHub makes them.
myst_heading_anchors = 3

# Docstrings quote code with one backquote on either side, as Markdown does.
default_role = "literal"
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
autodoc_member_order = "bysource"
python_maximum_signature_line_length = 88
# It names a class of torch's, which the client does not import; `api/client.rst` says what it is.
autodoc_type_aliases = {"AnySource": "AnySource"}

nitpicky = True
nitpick_ignore_regex = [
    # Of other projects, whose inventories would have to be fetched: Python's, grpc's and torch's.
    (r"py:.*", r"(abc|collections|enum|os|types|typing|grpc|torch|fx)\..*|CodeGen|ExportedProgram"),
    # Names that signatures have and no caller needs: type variables, and parts of the engine that only its own code makes.
    (r"py:.*", r".*\._[PT]|retraced_server\.retrace\.\w+\.\w+"),
]

# Files of the repository's root that a page includes, or that pages link to, and the page that has each.
_PAGES = {"README": "index", "SECURITY": "security", "CHANGELOG": "changelog", "CONTRIBUTING": "contributing"}
_ROOT_PAGE = re.compile(rf"\]\((?:\.\./)?({'|'.join(_PAGES)})\.md([#)])")
_DOCS_PAGE = re.compile(r"\]\(docs/")
# What the site has no page of.
_FILE = re.compile(r"\[([^\]]+)\]\((?:\.\./)?(?:LICENSE|proto/[^)]*)\)")

_REPRESENTATION = re.compile(r"<(?:factory|(\w+\.\w+): [^>]*)>")


def _link(text: str) -> str:
    """Return a page with its links, which are right in the repository, as they are right on the site."""
    text = _ROOT_PAGE.sub(lambda found: f"]({_PAGES[found[1]]}.md{found[2]}", text)
    return _FILE.sub(r"\1", _DOCS_PAGE.sub("](", text))


def _link_source(_app: Sphinx, _name: str, source: list[str]) -> None:
    source[0] = _link(source[0])


def _link_included(_app: Sphinx, _path: Path, _parent: str, source: list[str]) -> None:
    source[0] = _link(source[0])


def _plain_defaults(_app: Sphinx, _what: str, _name: str, *details: Any) -> tuple[str | None, str | None]:
    """Write defaults whose representation is no Python, which Sphinx cannot parse: members of enumerations, and what a factory makes."""
    signature, returns = details[-2:]
    return signature and _REPRESENTATION.sub(lambda found: found[1] or "...", signature), returns


def setup(app: Sphinx) -> None:
    """Connect what is above."""
    app.connect("source-read", _link_source)
    app.connect("include-read", _link_included)
    app.connect("autodoc-process-signature", _plain_defaults)
