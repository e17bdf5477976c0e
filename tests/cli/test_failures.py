"""How a command fails: its status, and a message that says what, where and what to do."""

from __future__ import annotations

import json
import os
from pathlib import Path

import grpc
import pytest

from retraced import errors
from retraced.cli.failure import ExitCode, exit_code
from tests.cli.support import Run, end, start
from tests.client.fake_server import FakeServer, accepted, answers, fails, output_chunks, replies, summary

INVALID = grpc.StatusCode.INVALID_ARGUMENT
FAILED = grpc.StatusCode.FAILED_PRECONDITION


def test_a_failing_pass_ends_with_1_and_names_pass_node_and_source_line(retraced: Run, archive: Path) -> None:
    where = {
        "pass": "cse",
        "pass_index": "1",
        "node": "relu_3",
        "target": "aten.relu.default",
        "source": "model.py:12",
        "completed_pipeline": "decompose",
        "remaining_pipeline": "cse,dce",
        "request_id": "from-the-server",
    }
    with FakeServer(fails(FAILED, "pass 2 of 3, `cse`: it broke", reason="PASS_FAILED", metadata=where)) as server:
        ended = retraced("transform", archive, "-p", "decompose,cse,dce", "-o", "o.pt2", "--server", server.address)
    assert (ended.code, ended.out) == (1, "")
    assert ended.err.splitlines() == [
        "retraced: PASS_FAILED: pass 2 of 3, `cse`: it broke",
        "  pass: cse",
        "  node: relu_3",
        "  target: aten.relu.default",
        "  source: model.py:12",
        "  done before: decompose",
        "  not done: cse,dce",
        "  request: from-the-server",
    ]


def test_an_unknown_pass_ends_with_2_and_says_how_to_find_the_right_one(retraced: Run, archive: Path) -> None:
    behaviour = fails(INVALID, "no pass csee; near: cse", reason="PASS_UNKNOWN", violation=("spec.pipeline", "at column 1"))
    with FakeServer(behaviour) as server:
        ended = retraced("transform", archive, "-p", "csee", "-o", "o.pt2", "--server", server.address)
    assert ended.code == 2
    assert "no pass csee; near: cse" in ended.err
    assert "spec.pipeline: at column 1" in ended.err
    assert "what to do: `retraced passes` lists the passes" in ended.err


def test_what_the_message_says_already_is_not_said_again(retraced: Run, archive: Path) -> None:
    message = "no pass csee (at column 1)"
    with FakeServer(fails(INVALID, message, reason="PASS_UNKNOWN", violation=("spec.pipeline", message))) as server:
        ended = retraced("transform", archive, "-p", "csee", "-o", "o.pt2", "--server", server.address)
    assert ended.err.count(message) == 1


def test_a_full_queue_ends_with_3_and_says_when_to_come_back(retraced: Run, archive: Path) -> None:
    with FakeServer(fails(grpc.StatusCode.RESOURCE_EXHAUSTED, "full", reason="QUEUE_FULL", retry_after=2.5)) as server:
        ended = retraced("transform", archive, "-p", "cse", "-o", "o.pt2", "--server", server.address, "--no-retry")
    assert ended.code == 3
    assert "retry after: 2.5 s" in ended.err


def test_a_call_that_takes_longer_than_its_timeout_ends_with_1(retraced: Run, archive: Path) -> None:
    with FakeServer(fails(grpc.StatusCode.DEADLINE_EXCEEDED)) as server:
        ended = retraced("transform", archive, "-p", "cse", "-o", "o.pt2", "--server", server.address, "--timeout", "9")
    assert ended.code == 1
    assert "give it longer with --timeout" in ended.err


def test_no_server_at_the_address_ends_with_3_and_names_the_address(retraced: Run, archive: Path) -> None:
    for command in (["transform", archive, "-p", "cse", "-o", "o.pt2"], ["passes"], ["info"]):
        ended = retraced(*command, "--server", "127.0.0.1:1")
        assert ended.code == 3
        assert "SERVER_UNREACHABLE" in ended.err
        assert "127.0.0.1:1" in ended.err
        assert "retraced serve" in ended.err


def test_an_input_that_is_not_there_ends_with_2_and_is_named(retraced: Run, tmp_path: Path) -> None:
    for path, why in ((tmp_path / "absent.pt2", "No such file"), (tmp_path, "Is a directory")):
        ended = retraced("transform", path, "-p", "cse", "-o", tmp_path / "o.pt2", "--server", "127.0.0.1:1")
        assert ended.code == 2
        assert "SOURCE_NOT_READABLE" in ended.err
        assert str(path) in ended.err
        assert why in ended.err


@pytest.mark.parametrize("option", ["--output", "--metadata"])
def test_a_path_that_cannot_be_written_ends_with_2_before_a_server_is_asked(retraced: Run, archive: Path, option: str) -> None:
    for path in (archive.parent / "absent" / "out", archive / "out", archive.parent):
        ended = retraced("transform", archive, "-p", "cse", option, path, "--server", "127.0.0.1:1")
        assert ended.code == 2
        assert f"OUTPUT_NOT_WRITABLE: {path} cannot be written" in ended.err
    assert list(archive.parent.iterdir()) == [archive]


def test_an_answer_that_breaks_off_leaves_what_the_output_held_before(retraced: Run, archive: Path) -> None:
    out = archive.with_name("out.pt2")
    out.write_bytes(b"before")
    for told in ([summary(output=b"another")], []):
        with FakeServer(replies(accepted(), *output_chunks(b"half of it"), *told)) as server:
            ended = retraced("transform", archive, "-p", "cse", "-o", out, "--server", server.address)
        assert ended.code == 1
        assert "RESPONSE_INVALID" in ended.err
        assert out.read_bytes() == b"before"
    assert {path.name for path in archive.parent.iterdir()} == {"model.pt2", "out.pt2"}


def test_with_json_an_error_is_an_object_on_standard_output(retraced: Run, archive: Path) -> None:
    behaviour = fails(FAILED, "it broke", reason="PASS_FAILED", metadata={"node": "relu_3"})
    with FakeServer(behaviour) as server:
        ended = retraced("transform", archive, "-p", "cse", "-o", "o.pt2", "--server", server.address, "--json")
    error = json.loads(ended.out)["error"]
    assert (error["reason"], error["message"], error["metadata"]["node"]) == ("PASS_FAILED", "it broke", "relu_3")
    assert "PASS_FAILED" in ended.err


def test_a_traceback_is_shown_when_it_is_asked_for_and_not_otherwise(retraced: Run, archive: Path) -> None:
    arguments = ("transform", archive, "-p", "cse", "-o", "o.pt2", "--server", "127.0.0.1:1")
    assert "Traceback" not in retraced(*arguments).err
    assert "Traceback" in retraced(*arguments, "--debug").err


def test_every_family_of_errors_has_its_status() -> None:
    assert exit_code(errors.ProgramInvalid("")) is ExitCode.USAGE
    assert exit_code(errors.OutputNotWritable("")) is ExitCode.USAGE
    assert exit_code(errors.StorageFull("")) is ExitCode.UNAVAILABLE
    assert exit_code(errors.EmbeddedServerFailed("")) is ExitCode.UNAVAILABLE
    assert exit_code(errors.WorkerKilled("")) is ExitCode.FAILED
    assert exit_code(errors.ServerError("")) is ExitCode.FAILED


@pytest.mark.parametrize("arguments", [["passes"], ["passes", "--json"], ["info"]])
def test_a_standard_output_that_is_full_ends_with_2_and_is_said(arguments: list[str]) -> None:
    with FakeServer(answers(b"")) as server, open("/dev/full", "wb") as full:
        process = start(*arguments, "--server", server.address, stdout=full.fileno())
        ended = end(process)
    assert ended.code == 2
    assert ended.err.startswith("retraced: OUTPUT_NOT_WRITABLE: standard output cannot be written: No space left on device")
    assert "Traceback" not in ended.err


@pytest.mark.parametrize("arguments", [["passes"], ["passes", "nothing", "--json"]])
def test_a_reader_that_has_gone_is_no_fault(arguments: list[str]) -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    with FakeServer(answers(b"")) as server:
        process = start(*arguments, "--server", server.address, stdout=write_end)
        os.close(write_end)
        ended = end(process)
    assert (ended.code, ended.err) == (1, "")
