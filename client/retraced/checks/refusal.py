"""What a check raises, and what it says."""

from __future__ import annotations

from retraced_pt2.errors import Fault, FormatError

_LONGEST = 200


class Refused(FormatError):  # noqa: N818 - it is a verdict
    """Something in an output is refused, though it may be of the format."""

    def __init__(self, what: str) -> None:
        super().__init__(Fault.PROGRAM_UNSUPPORTED, what)


def shown(text: object) -> str:
    """Return a text of the server for a message: quoted, and no longer than a line."""
    shortened = str(text)
    return ascii(shortened if len(shortened) <= _LONGEST else f"{shortened[:_LONGEST]}...")
