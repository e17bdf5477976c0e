"""Names: what torch does with them is to paste them into source that it executes, and to set attributes by them."""

from __future__ import annotations

import re
from collections.abc import Container
from keyword import iskeyword
from typing import Any, Final

from retraced.checks.refusal import Refused, shown

_LONGEST: Final = 16_384
# `_format_target` of torch/fx/graph.py puts what is no identifier between double quotes, as it is. Between them a backslash stands for
# itself only in front of what makes no escape of it. The server's `program/names.py` has the same rule; a test compares both with torch.
_QUOTABLE: Final = re.compile(r"""(?:[^"\\]|\\(?![\\'"abfnrtvxuUN0-7.]|$))*""")


def check_name(value: Any) -> None:
    """The name of a value: an identifier.

    Raises:
        Refused: It is none.
    """
    if type(value) is not str or not value.isidentifier() or iskeyword(value) or len(value) > _LONGEST:
        raise Refused(f"{shown(value)} is no identifier")


def is_quotable(text: str) -> bool:
    """Whether a text stands for itself between double quotes in source."""
    return text.isprintable() and _QUOTABLE.fullmatch(text) is not None


class Paths:
    """Judges names of parameters, buffers, constants and modules.

    Args:
        own: Those of the caller's own program, which may come back.
    """

    def __init__(self, own: Container[str]) -> None:
        self._baseline = own

    def check(self, value: Any) -> None:
        """A name, which may hold points.

        Raises:
            Refused: It is none, would end the text that it is quoted in, or names what every module of Python has.
        """
        if type(value) is not str or len(value) > _LONGEST:
            raise Refused(f"{shown(value)} is no name of a parameter, buffer, constant or module")
        if value in self._baseline:
            return
        if not is_quotable(value):
            raise Refused(f"the name {shown(value)} could end a quoted text in generated source")
        if "__" in value and any(part.startswith("__") and part.endswith("__") for part in value.split(".")):
            raise Refused(f"{shown(value)} names an attribute of Python's own")
