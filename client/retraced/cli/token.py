"""`retraced token`: a token for a caller, and what a server has to know of it."""

from __future__ import annotations

import hashlib
import os
import re
import secrets

import click

from retraced.cli.session import Session, debug_option
from retraced.errors import OutputNotWritable

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_RANDOM_BYTES = 32


@click.command(short_help="Make a token for a caller of a server.")
@click.argument("name")
@click.option("--output", "-o", required=True, metavar="FILE", type=click.Path(), help="A new file, for the token.")
@debug_option
@click.pass_obj
def token(session: Session, name: str, output: str) -> None:
    """Make a token for the caller NAME, and print what the file of `retraced serve --callers` needs to know it.

    \b
    Example:
      retraced token nightly -o nightly.token >> callers.toml

    The token goes into FILE, which only its owner may read. What is printed is its digest: who has that cannot call.
    """
    if not _NAME.fullmatch(name):
        raise click.BadParameter(f"{name!r} is not 1 to 64 letters, digits, dots, dashes or @ signs", param_hint="NAME")
    made = secrets.token_urlsafe(_RANDOM_BYTES)
    try:
        with open(os.open(output, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(f"{made}\n")
    except OSError as error:
        raise OutputNotWritable(f"cannot make {output}: {error.strerror}") from error
    session.print(f'[callers."{name}"]\ntoken_sha256 = "{hashlib.sha256(made.encode()).hexdigest()}"')
