"""What a check raises, and what it says."""

from __future__ import annotations

_LONGEST = 200


class Refused(Exception):  # noqa: N818 - it is a verdict
    """Something in an output is refused.

    Attributes:
        what: What is wrong.
        where: The place, from the innermost field outwards.
    """

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.what = what
        self.where: list[str] = []


def shown(text: object) -> str:
    """A text of the server for a message: quoted, and no longer than a line."""
    shortened = str(text)
    return ascii(shortened if len(shortened) <= _LONGEST else f"{shortened[:_LONGEST]}...")
