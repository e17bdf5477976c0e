"""Names: what torch does with them is to paste them into source that it executes, and to set attributes by them."""

from __future__ import annotations

from collections.abc import Container
from typing import Any

from retraced.checks.refusal import Refused, shown
from retraced_pt2.limits import LONGEST_NAME
from retraced_pt2.names import is_identifier, is_quotable


def check_name(value: Any) -> None:
    """Check the name of a value: an identifier.

    Raises:
        Refused: The text is no identifier.
    """
    if type(value) is not str or not is_identifier(value) or len(value) > LONGEST_NAME:
        raise Refused(f"{shown(value)} is no identifier")


class Paths:
    """Judges names of parameters, buffers, constants and modules.

    Args:
        own: Those of the caller's own program, which may come back.
    """

    def __init__(self, own: Container[str]) -> None:
        self._baseline = own

    def check(self, value: Any) -> None:
        """Check a name, which may hold points.

        Raises:
            Refused: The text is no such name, would end the text that it is quoted in, or names what every module of Python has.
        """
        if type(value) is not str or len(value) > LONGEST_NAME:
            raise Refused(f"{shown(value)} is no name of a parameter, buffer, constant or module")
        if value in self._baseline:
            return
        if not is_quotable(value):
            raise Refused(f"the name {shown(value)} could end a quoted text in generated source")
        if "__" in value and any(part.startswith("__") and part.endswith("__") for part in value.split(".")):
            raise Refused(f"{shown(value)} names an attribute of Python's own")
