"""The consoles that everything is printed through: what they print cannot command a terminal.

Names in a program, remarks, errors: most of what is printed are texts of others. None of them is escaped where it is printed. The console
writes out control characters in all of it, and lets through only the control codes that rich makes itself: styles, the cursor of progress.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

# For `grep` and its like a row is a line, however long.
_WIDTH_OF_A_FILE = 1_000_000


class EscapingConsole(Console):
    """A console on which only rich itself makes control characters: those in texts are written out."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        """Render anything as segments. All that a console prints comes through here."""
        for segment in super().render(renderable, options):
            yield segment if segment.is_control else Segment(printable(segment.text), segment.style)

    def render_str(self, text: str, **options: Any) -> Text:
        """Render a string. It is escaped before it is measured, so that tables have room for it."""
        return super().render_str(printable(text), **options)


def console(*, stderr: bool) -> EscapingConsole:
    """Return a console of standard output or standard error, on which a text is neither markup nor emoji."""
    made = EscapingConsole(stderr=stderr, markup=False, emoji=False, highlight=False)
    if not made.is_terminal and "COLUMNS" not in os.environ:
        made.width = _WIDTH_OF_A_FILE
    return made


def printable(text: str) -> str:
    """Return a text with its control characters written out, and all that Unicode does not call printable; lines and tabs stay."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() or character in "\n\t" else ascii(character)[1:-1] for character in text
    )
