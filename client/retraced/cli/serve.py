"""`retraced serve`: becomes the server."""

from __future__ import annotations

import os
import sys

import click

from retraced._install import install_advice
from retraced.embedded import missing_server_modules


@click.command(
    add_help_option=False,
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
    options_metavar="[SERVER OPTIONS]",
    short_help="Run a server.",
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="")
def serve(arguments: tuple[str, ...]) -> None:
    """Run a server in this process: `python -m retraced_server` with the same options."""
    if missing := missing_server_modules():
        raise click.ClickException(
            f"the server is not installed here ({', '.join(missing)} missing): {install_advice('server')} "
            "(for a CPU-only torch see pytorch.org first)"
        )
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", "retraced_server", *arguments])
