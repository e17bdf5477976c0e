"""Progress: shown to somebody who watches a terminal, and nobody else."""

from __future__ import annotations

import os
import pty
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from retraced.v1 import graph_transform_pb2 as pb
from tests.cli.support import Ended, end, start, two_nodes
from tests.client.archives import plain
from tests.client.fake_server import (
    FakeServer,
    accepted,
    answers,
    fails,
    one_pass,
    output_chunks,
    read_upload,
    replies,
    summary,
)

OUTPUT = plain(bytes(3 << 20))


@pytest.fixture
def server() -> Iterator[FakeServer]:
    queued = pb.TransformGraphResponse(progress=pb.Progress(stage=pb.STAGE_QUEUED, done=2))
    writing = pb.TransformGraphResponse(progress=pb.Progress(stage=pb.STAGE_WRITING, done=1 << 20))

    def transform(
        requests: Iterator[pb.TransformGraphRequest], context: grpc.ServicerContext
    ) -> Iterator[pb.TransformGraphResponse]:
        spec, _ = read_upload(requests)
        yield from (accepted("", 2), queued, *one_pass())
        if spec.options.node_metadata == pb.NODE_METADATA_SELECTION_ALL:
            yield two_nodes()
        yield from (writing, *output_chunks(OUTPUT), summary(output=OUTPUT))

    with FakeServer(transform) as server:
        yield server


def on_a_terminal(*arguments: str | Path) -> tuple[Ended, str]:
    """Runs the command with standard error on a terminal, and gives what the terminal got."""
    master, slave = pty.openpty()
    shown = bytearray()

    def read() -> None:
        # The terminal's end is an error on Linux.
        while data := _read(master):
            shown.extend(data)

    reader = threading.Thread(target=read)
    reader.start()
    process = start(*arguments, stderr=slave, env={"TERM": "xterm-256color", "COLUMNS": "120"})
    os.close(slave)
    ended = end(process)
    reader.join()
    os.close(master)
    return ended, shown.decode()


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 1 << 16)
    except OSError:
        return b""


def test_a_terminal_sees_upload_passes_nodes_and_download(server: FakeServer, archive: Path) -> None:
    arguments = ("transform", archive, "-p", "cse", "-o", archive, "--metadata", archive.with_name("nodes.jsonl"))
    ended, shown = on_a_terminal(*arguments, "--server", server.address)
    assert ended.code == 0
    for stage in (
        r"uploading .*250\.0 KiB of 250\.0 KiB",
        "writing the output",
        "receiving nodes .* 2 ",
        r"downloading .*3\.0 MiB",
    ):
        assert re.search(stage, re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown)), stage
    assert "\x1b" not in ended.out, "standard output is a pipe here"


def test_a_terminal_sees_why_the_command_waits_and_goes_on(archive: Path) -> None:
    refuses = fails(grpc.StatusCode.RESOURCE_EXHAUSTED, "8 wait", reason="QUEUE_FULL", retry_after=0.5)
    answer = answers(OUTPUT)
    calls: list[str] = []

    def once_refuses(
        requests: Iterator[pb.TransformGraphRequest], context: grpc.ServicerContext
    ) -> Iterator[pb.TransformGraphResponse]:
        calls.append("one")
        return (refuses if len(calls) == 1 else answer)(requests, context)

    with FakeServer(once_refuses) as server:
        ended, shown = on_a_terminal("transform", archive, "-p", "cse", "-o", archive, "--server", server.address)
    assert (ended.code, len(calls)) == (0, 2)
    assert re.search(r"QUEUE_FULL: again in \d+ ms", shown)


def test_a_terminal_sees_nothing_of_a_quiet_command(server: FakeServer, archive: Path) -> None:
    ended, shown = on_a_terminal("transform", archive, "-p", "cse", "-o", archive, "--server", server.address, "-q")
    assert (ended.code, ended.out, shown) == (0, "", "")


def test_a_pipe_gets_neither_progress_nor_colour(server: FakeServer, archive: Path) -> None:
    ended = end(start("transform", archive, "-p", "cse", "-o", archive, "--server", server.address))
    assert (ended.code, ended.err) == (0, "")
    assert "\x1b" not in ended.out


def test_an_error_after_progress_stands_on_a_line_of_its_own(archive: Path) -> None:
    with FakeServer(replies(accepted(), *one_pass())) as server:
        ended, shown = on_a_terminal("transform", archive, "-p", "cse", "-o", archive, "--server", server.address)
    assert ended.code == 1
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown)
    assert re.search(r"(?:\r|\n)retraced: RESPONSE_INVALID: ", text)
