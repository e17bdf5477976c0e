"""The `retraced` command. It needs the extra `cli`: click and rich."""

from __future__ import annotations

import sys


def main() -> None:
    """Runs the command and exits with its status; says how to install what it needs where that is not there."""
    try:
        from retraced.cli.app import run
    except ModuleNotFoundError as error:
        if error.name not in ("click", "rich"):
            raise
        print(f"retraced: the command line needs {error.name}: pip install 'retraced[cli]'", file=sys.stderr)
        sys.exit(2)
    sys.exit(run(sys.argv[1:]))
