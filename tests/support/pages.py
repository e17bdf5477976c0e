"""The README and the pages of `docs/`, in the order in which somebody reads them."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
DOCS = ROOT / "docs"


def documents() -> list[Path]:
    """The pages of the site by its table of contents, and in the place of those that include a file of the root, the file."""
    listed = re.findall(r"^```\{toctree\}\n(.*?)^```$", (DOCS / "index.md").read_text(), re.MULTILINE | re.DOTALL)
    names = [line for block in listed for line in block.splitlines() if line and not line.startswith(":")]
    pages = [DOCS / f"{name}.md" for name in ["index", *names] if not name.startswith("api/")]
    return [_included(page) for page in pages]


def page(name: str) -> str:
    """The text of a page of `docs/`."""
    return (DOCS / f"{name}.md").read_text()


def table(text: str) -> list[list[str]]:
    """The cells of the first table in a text, without its head and without backquotes."""
    rows = re.search(r"^\|.*\n\|[-|]+\|\n((?:\|.*\n)+)", text, re.MULTILINE)
    assert rows is not None
    return [[cell.strip().strip("`") for cell in row.strip("|").split(" | ")] for row in rows[1].splitlines()]


def _included(page: Path) -> Path:
    found = re.search(r"^```\{include\} (\S+)$", page.read_text(), re.MULTILINE)
    return page if found is None else (page.parent / found[1]).resolve()
