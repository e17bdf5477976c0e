"""Running the command: in the test's process, or in one of its own that can be sent signals."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from retraced.v1 import graph_transform_pb2 as pb
from retraced.v1 import node_metadata_pb2

_SECONDS = 60.0


@dataclass(frozen=True)
class Ended:
    """How a command ended: its status, and what it wrote."""

    code: int
    out: str
    err: str


# Runs the command with some arguments in the test's process.
Run = Callable[..., Ended]


def start(
    *arguments: str | Path,
    env: Mapping[str, str] | None = None,
    stdin: int = subprocess.DEVNULL,
    stdout: int = subprocess.PIPE,
    stderr: int = subprocess.PIPE,
) -> subprocess.Popen[bytes]:
    """Starts the command in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "retraced", *map(str, arguments)],
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        env={**os.environ, **(env or {})},
    )


def end(process: subprocess.Popen[bytes]) -> Ended:
    """Waits for a command that was started."""
    try:
        out, err = process.communicate(timeout=_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise
    return Ended(process.returncode, (out or b"").decode(), (err or b"").decode())


def two_nodes() -> pb.TransformGraphResponse:
    """Metadata of a placeholder `x` and a call `relu` of it."""
    strings = ["x", "relu", "aten.relu.default", "cse"]
    x = node_metadata_pb2.NodeMetadata(name=1, op=node_metadata_pb2.NODE_OP_PLACEHOLDER, target=1, users=[2])
    relu = node_metadata_pb2.NodeMetadata(
        name=2, op=node_metadata_pb2.NODE_OP_CALL_FUNCTION, target=3, args=[node_metadata_pb2.Argument(node=1)], made_by=4
    )
    return pb.TransformGraphResponse(node_metadata=node_metadata_pb2.NodeMetadataBatch(strings=strings, nodes=[x, relu]))
