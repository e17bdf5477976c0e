"""Short text for people: a notebook or a debugger shows a whole result in one line."""

from __future__ import annotations

_LONGEST = 120


class ShortRepr:
    """Shows an object as its type and its `str`, in one line that is not long. A dataclass needs `repr=False` for it."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {shortened(str(self))}>"


def shortened(text: str) -> str:
    """Return a text on one line, cut after 120 characters."""
    line = " ".join(text[: 2 * _LONGEST].split())
    return line if len(line) <= _LONGEST and len(text) <= 2 * _LONGEST else f"{line[: _LONGEST - 3]}..."


def counted(number: int, one: str, many: str) -> str:
    """Return a number of things: `1 subgraph`, `2 subgraphs`."""
    return f"{number} {one if number == 1 else many}"
