"""`-` as standard input and output, and a report without any output."""

from __future__ import annotations

import json
import os
import pty
import subprocess
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from retraced.v1 import graph_transform_pb2 as pb
from tests.cli.support import Run, start, two_nodes
from tests.cli.test_transform import asked
from tests.client.archives import plain
from tests.client.fake_server import FakeServer, answers
from tests.support.models import by_name

# Every byte, line ends of all kinds among them.
OUTPUT = plain(bytes(range(256)) * 5_000)


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer(answers(OUTPUT, two_nodes())) as server:
        yield server


def sent(archives: list[bytes]) -> FakeServer:
    """A server that notes the archives that come."""
    behaviour = answers(OUTPUT)

    def transform(
        requests: Iterator[pb.TransformGraphRequest], context: grpc.ServicerContext
    ) -> Iterator[pb.TransformGraphResponse]:
        messages = list(requests)
        archives.append(b"".join(message.archive_chunk for message in messages))
        return behaviour(iter(messages), context)

    return FakeServer(transform)


def piped(given: bytes, *arguments: str | Path) -> tuple[int, bytes, str]:
    """Runs the command with something in a pipe as its standard input."""
    process = start(*arguments, stdin=subprocess.PIPE)
    out, err = process.communicate(given, timeout=60)
    return process.returncode, out, err.decode()


def test_a_program_comes_by_standard_input_and_goes_by_standard_output_byte_for_byte(archive: Path) -> None:
    archives: list[bytes] = []
    with sent(archives) as server:
        code, out, err = piped(archive.read_bytes(), "transform", "-", "-p", "cse", "-o", "-", "--server", server.address)
    assert (code, out) == (0, OUTPUT)
    assert archives == [archive.read_bytes()]
    assert "standard output, " in err
    assert [path.name for path in archive.parent.iterdir()] == ["model.pt2"]


def test_a_file_that_the_shell_opens_is_read_too(archive: Path) -> None:
    archives: list[bytes] = []
    with sent(archives) as server, archive.open("rb") as file:
        process = start("transform", "-", "-p", "cse", "-o", "-", "-q", "--server", server.address, stdin=file.fileno())
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (0, OUTPUT, b"")
    assert archives == [archive.read_bytes()]


def test_metadata_goes_by_standard_output_and_the_report_by_standard_error(server: FakeServer, archive: Path) -> None:
    code, out, err = piped(b"", "transform", archive, "-p", "cse", "--metadata", "-", "--server", server.address)
    assert code == 0
    assert [json.loads(line)["name"] for line in out.splitlines()] == ["x", "relu"]
    assert "standard output, 2 nodes" in err


def test_with_an_output_on_standard_output_json_is_all_that_standard_error_has(server: FakeServer, archive: Path) -> None:
    arguments = ("transform", archive, "-p", "cse", "-o", "-", "--json", "--server")
    code, out, err = piped(b"", *arguments, server.address)
    assert (code, out, json.loads(err)["output"]) == (0, OUTPUT, "-")
    code, out, err = piped(b"", *arguments, "127.0.0.1:1")
    assert (code, out, json.loads(err)["error"]["reason"]) == (3, b"", "SERVER_UNREACHABLE")


def test_two_outputs_to_standard_output_are_refused(retraced: Run, archive: Path) -> None:
    ended = retraced("transform", archive, "-p", "cse", "-o", "-", "--metadata", "-", "--server", "127.0.0.1:1")
    assert (ended.code, ended.out) == (2, "")
    assert "standard output takes one of them" in ended.err


def test_an_archive_is_neither_typed_nor_shown_on_a_terminal(archive: Path) -> None:
    leader, follower = pty.openpty()
    try:
        for arguments, said in (
            (["-", "-o", "out.pt2"], "- is standard input, which is a terminal"),
            ([archive, "-o", "-"], "-o - writes an archive to standard output, which is a terminal"),
        ):
            given = ("transform", *arguments, "-p", "cse", "--server", "127.0.0.1:1")
            process = start(*given, stdin=follower, stdout=follower)
            _, err = process.communicate(timeout=60)
            assert process.returncode == 2
            assert said in err.decode()
    finally:
        os.close(leader)
        os.close(follower)


@pytest.mark.parametrize("option", ["-o", "--metadata"])
def test_a_reader_that_has_gone_ends_an_output_without_a_word(server: FakeServer, archive: Path, option: str) -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    process = start("transform", archive, "-p", "cse", option, "-", "-q", "--server", server.address, stdout=write_end)
    os.close(write_end)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (1, b"")


def test_a_full_standard_output_is_said(server: FakeServer, archive: Path) -> None:
    with open("/dev/full", "wb") as full:
        process = start("transform", archive, "-p", "cse", "-o", "-", "--server", server.address, stdout=full.fileno())
        _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "OUTPUT_NOT_WRITABLE: standard output cannot be written: No space left on device" in err.decode()


def test_without_an_output_the_report_is_made_and_no_archive_is_asked_for(retraced: Run, archive: Path) -> None:
    specs: list[pb.TransformSpec] = []
    with FakeServer(asked(specs, answers(OUTPUT))) as server:
        ended = retraced("transform", archive, "-p", "cse", "--server", server.address)
    assert ended.code == 0
    assert ["cse", "yes", "2", "125", "ms", "5", "4"] in [line.split() for line in ended.out.splitlines()]
    assert specs[0].options.output == pb.OUTPUT_DELIVERY_NEVER
    assert [path.name for path in archive.parent.iterdir()] == ["model.pt2"]


def test_an_archive_on_standard_input_is_inspected(tmp_path: Path) -> None:
    data = by_name("everything").archive
    code, out, _ = piped(data, "inspect", "-")
    assert code == 0
    assert b"standard input, " in out
    code, _, err = piped(data[:-100], "inspect", "-")
    assert code == 2
    assert "standard input is a zip that was cut off or damaged" in err
