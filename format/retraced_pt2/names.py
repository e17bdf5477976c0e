"""Names, which torch pastes into the source that it generates for graphs."""

from __future__ import annotations

import re
from keyword import iskeyword
from typing import Final

# `_format_target` of torch/fx/graph.py puts what is no identifier between double quotes, as it is. Between them a backslash stands for
# itself only in front of what makes no escape of it.
_QUOTABLE: Final = re.compile(r"""(?:[^"\\]|\\(?![\\'"abfnrtvxuUN0-7.]|$))*""")


def is_identifier(text: str) -> bool:
    """Return whether a text may be the name of a value, an argument or a subgraph."""
    return text.isidentifier() and not iskeyword(text)


def is_quotable(text: str) -> bool:
    """Return whether a text stands for itself between double quotes in source, as names of parameters and modules do there."""
    return text.isprintable() and _QUOTABLE.fullmatch(text) is not None
