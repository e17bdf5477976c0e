"""`python -m retraced_server`, which `retraced serve` becomes: starts a server. `--help` lists what can be set."""

from __future__ import annotations

import os


def main() -> None:
    """Start a server with the options of the command line."""
    # gRPC reads both when it is imported. Its handlers around fork() have nothing to do here: workers are forked from a process
    # without gRPC. What it has to say of sockets, the server says itself, in one line.
    os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")

    from retraced_server.service import command

    command.main(prog_name="retraced serve")


if __name__ == "__main__":
    main()
