"""`-` in place of a file's name: standard input, or standard output."""

from __future__ import annotations

import sys
from typing import IO

import click

STANDARD = "-"
"""Names standard input where a file is read, and standard output where one is written."""


def source(path: str) -> str | IO[bytes]:
    """Return what a client reads a program from: the path, or standard input.

    Raises:
        click.UsageError: Standard input is a terminal.
    """
    if path != STANDARD:
        return path
    if sys.stdin.isatty():
        raise click.UsageError("- is standard input, which is a terminal here: give a file, or pipe an archive in")
    return sys.stdin.buffer


def check_outputs(archive: str | None, text: str | None) -> bool:
    """Say whether an output goes to standard output.

    Args:
        archive: Where an archive goes; None: nowhere.
        text: Where text goes.

    Raises:
        click.UsageError: Both go there, or the archive would, to a terminal.
    """
    if archive == text == STANDARD:
        raise click.UsageError("-o and --metadata are both -: standard output takes one of them")
    if archive == STANDARD and sys.stdout.isatty():
        raise click.UsageError("-o - writes an archive to standard output, which is a terminal here: redirect it")
    return STANDARD in (archive, text)
