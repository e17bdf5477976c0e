"""Texts of programs and passes, as messages can hold them."""

from __future__ import annotations

LONGEST_TEXT = 1 << 14
"""What is sent of an error's text or a remark, in characters: they are for people, and messages have a bound."""


def utf8(text: str) -> str:
    """Replace lone surrogates, which a program's JSON can spell but a message cannot hold, by their escapes."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def bounded_end(text: str) -> str:
    """Return the same of a text whose end matters most, such as a traceback."""
    return utf8(text if len(text) <= LONGEST_TEXT else f"...{text[-LONGEST_TEXT:]}")


def bounded(text: str) -> str:
    """Return the same of a text of any length, which is cut at `LONGEST_TEXT`."""
    return utf8(text if len(text) <= LONGEST_TEXT else f"{text[:LONGEST_TEXT]}...")
