"""A caller that comes as far as a stage of a request and stays there: `python -m tests.e2e.leaver ADDRESS STAGE ARCHIVE`.

It says `there` when the server is at that stage of its request, and then does nothing until it is killed.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc

from retraced.v1 import graph_transform_pb2 as pb
from retraced.v1.graph_transform_pb2_grpc import GraphTransformServiceStub

STAGES = ("before its spec", "in its upload", "in the queue", "while a pass runs", "in the output")
_CHUNK = 1 << 20
_WAIT = "wait{seconds=1000.0}"

_Seen = Callable[[pb.TransformGraphResponse], bool]


class Leaver:
    """The caller.

    Args:
        channel: To a server with one worker.
        archive: What it sends.
    """

    def __init__(self, channel: grpc.Channel, archive: bytes) -> None:
        self._stub = GraphTransformServiceStub(channel)
        self._archive = archive
        self._never = threading.Event()
        # One that is forgotten is cancelled.
        self._calls: list[object] = []

    def go(self, stage: str) -> None:
        """Comes to a stage."""
        match stage:
            case "before its spec":
                self._calls.append(self._stub.TransformGraph(self._messages(_WAIT, 0)))
                # On the same connection, so that it is answered when the other call is there.
                self._stub.GetServerInfo(pb.GetServerInfoRequest())
            case "in its upload":
                self._until(self._messages(_WAIT, 3), lambda message: message.HasField("accepted"))
            case "in the queue":
                self.go("while a pass runs")
                self._until(self._messages(_WAIT), lambda message: message.progress.stage == pb.STAGE_QUEUED)
            case "while a pass runs":
                self._until(self._messages(_WAIT), lambda message: message.HasField("pass_started"))
            case "in the output":
                self._until(self._messages("retrace"), lambda message: message.HasField("output_chunk"))

    def _until(self, requests: Iterator[pb.TransformGraphRequest], seen: _Seen) -> None:
        call = self._stub.TransformGraph(requests)
        self._calls.append(call)
        for message in call:
            if seen(message):
                return
        raise AssertionError("the answer ended before it came so far")

    def _messages(self, pipeline: str, most: int | None = None) -> Iterator[pb.TransformGraphRequest]:
        """The request; where `most` is given, only that many of its messages, and then silence."""
        chunks = [self._archive[start : start + _CHUNK] for start in range(0, len(self._archive), _CHUNK)]
        spec = pb.TransformSpec(pipeline=pipeline, archive_size=len(self._archive))
        messages = [pb.TransformGraphRequest(spec=spec), *(pb.TransformGraphRequest(archive_chunk=chunk) for chunk in chunks)]
        yield from messages[:most]
        if most is not None:
            self._never.wait()


def main(address: str, stage: str, archive: Path) -> None:
    """Comes to a stage, says so, and stays."""
    with grpc.insecure_channel(address) as channel:
        leaver = Leaver(channel, archive.read_bytes())
        leaver.go(stage)
        print("there", flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
