"""The `retraced` command. It needs the extra `cli`: click and rich."""

from __future__ import annotations

import os
import sys

from retraced._install import install_advice


def main() -> None:
    """Run the command and exits with its status; says how to install what it needs where that is not there."""
    # gRPC reads it when it is imported. What it has to say of connections, the command says itself.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    try:
        from retraced.cli.app import run
    except ModuleNotFoundError as error:
        if error.name not in ("click", "rich"):
            raise
        print(f"retraced: the command line needs {error.name}: {install_advice('cli')}", file=sys.stderr)
        sys.exit(2)
    sys.exit(run(sys.argv[1:]))
