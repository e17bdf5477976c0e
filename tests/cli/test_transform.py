"""`retraced transform`: what it writes and what it says, against a server that answers as told."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from retraced.v1 import graph_transform_pb2 as pb
from tests.cli.support import Run, two_nodes
from tests.client.archives import plain
from tests.client.fake_server import Behaviour, FakeServer, accepted, answers, replies, summary

OUTPUT = plain(b"transformed" * 200_000)


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer(answers(OUTPUT)) as server:
        yield server


def asked(specs: list[pb.TransformSpec], behaviour: Behaviour) -> Behaviour:
    """The behaviour, with the specs that come noted."""

    def transform(
        requests: Iterator[pb.TransformGraphRequest], context: grpc.ServicerContext
    ) -> Iterator[pb.TransformGraphResponse]:
        def noted() -> Iterator[pb.TransformGraphRequest]:
            for request in requests:
                if request.HasField("spec"):
                    specs.append(request.spec)
                yield request

        return behaviour(noted(), context)

    return transform


def test_the_output_goes_to_its_path_and_nothing_else_is_left(retraced: Run, server: FakeServer, archive: Path) -> None:
    out = archive.with_name("out.pt2")
    ended = retraced("transform", archive, "-p", "cse", "-o", out, "--server", server.address)
    assert (ended.code, ended.err) == (0, "")
    assert out.read_bytes() == OUTPUT
    assert {path.name for path in archive.parent.iterdir()} == {"model.pt2", "out.pt2"}


def test_the_input_may_be_the_output(retraced: Run, server: FakeServer, archive: Path) -> None:
    assert retraced("transform", archive, "-p", "cse", "-o", archive, "--server", server.address).code == 0
    assert archive.read_bytes() == OUTPUT


def test_an_output_that_is_overwritten_keeps_its_permissions(retraced: Run, server: FakeServer, archive: Path) -> None:
    archive.chmod(0o640)
    assert retraced("transform", archive, "-p", "cse", "-o", archive, "--server", server.address).code == 0
    assert stat.S_IMODE(archive.stat().st_mode) == 0o640


def test_the_tables_say_what_each_pass_did_and_how_the_program_was_before_and_after(
    retraced: Run, server: FakeServer, archive: Path
) -> None:
    out = archive.with_name("out.pt2")
    ended = retraced("transform", archive, "-p", "cse", "-o", out, "--server", server.address)
    rows = [line.split() for line in ended.out.splitlines()]
    assert ["cse", "yes", "2", "125", "ms", "5", "4"] in rows
    assert ["nodes", "5", "4", "-1"] in rows
    assert ["mm", "2", "1", "-1"] in rows
    assert ["relu", "0", "1", "+1"] in rows
    assert "add" not in [row[0] for row in rows if row], "an operator that is called as often as before is not listed"
    for told in ("merged two", "new guard: s0 > 3", "the sample inputs were dropped", f"{out}, 2.1 MiB"):
        assert told in ended.out


def test_a_program_that_no_pass_modified_is_said_to_be_the_input(retraced: Run, archive: Path) -> None:
    out = archive.with_name("out.pt2")
    with FakeServer(answers(archive.read_bytes(), modified=False)) as server:
        ended = retraced("transform", archive, "-p", "cse", "-o", out, "--server", server.address)
    assert ended.code == 0
    assert out.read_bytes() == archive.read_bytes()
    assert "not modified" in ended.out
    assert "change" not in ended.out


def test_quiet_prints_nothing(retraced: Run, server: FakeServer, archive: Path) -> None:
    out = archive.with_name("out.pt2")
    ended = retraced("transform", archive, "-p", "cse", "-o", out, "--server", server.address, "--quiet")
    assert (ended.code, ended.out, ended.err) == (0, "", "")
    assert out.exists()


def test_json_is_one_object_with_reports_and_summary(retraced: Run, server: FakeServer, archive: Path) -> None:
    out = archive.with_name("out.pt2")
    ended = retraced("transform", archive, "-p", "cse", "-o", out, "--server", server.address, "--json")
    told = json.loads(ended.out)
    assert ended.code == 0
    assert told["passes"][0]["nodes_before"] == 5
    assert told["summary"]["output"]["targets"] == {"mm": 1, "add": 1, "relu": 1}
    assert (told["request_id"], told["modified"], told["output"]) == ("from-the-server", True, str(out))
    assert told["bytes_received"] > len(OUTPUT)


def test_metadata_is_one_json_object_a_line_and_without_o_no_output_is_asked_for(retraced: Run, archive: Path) -> None:
    specs: list[pb.TransformSpec] = []
    nodes = archive.with_name("nodes.jsonl")
    with FakeServer(asked(specs, answers(OUTPUT, two_nodes()))) as server:
        ended = retraced("transform", archive, "-p", "cse", "--metadata", nodes, "--server", server.address)
    assert ended.code == 0
    assert [json.loads(line) for line in nodes.read_text().splitlines()] == [
        {"graph": "", "name": "x", "op": "placeholder", "target": "x", "args": [], "users": ["relu"]},
        {
            "graph": "",
            "name": "relu",
            "op": "call_function",
            "target": "aten.relu.default",
            "args": [{"node": "x"}],
            "made_by": "cse",
        },
    ]
    assert f"{nodes}, 2 nodes" in ended.out
    assert specs[0].options.output == pb.OUTPUT_DELIVERY_NEVER
    assert specs[0].options.node_metadata == pb.NODE_METADATA_SELECTION_ALL


@pytest.mark.parametrize(
    ("arguments", "option", "value"),
    [
        ([], "node_metadata", pb.NODE_METADATA_SELECTION_NONE),
        (["--metadata", "nodes.jsonl", "--node-metadata", "changed"], "node_metadata", pb.NODE_METADATA_SELECTION_CHANGED),
        (["--mode", "full"], "mode", pb.RETRACE_MODE_FULL),
        ([], "mode", pb.RETRACE_MODE_UNSPECIFIED),
        (["--refuse-new-guards"], "refuse_new_guards", True),
    ],
)
def test_what_is_asked_for_reaches_the_server(
    retraced: Run, archive: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], option: str, value: object
) -> None:
    monkeypatch.chdir(archive.parent)
    specs: list[pb.TransformSpec] = []
    with FakeServer(asked(specs, answers(OUTPUT))) as server:
        ended = retraced("transform", archive, "-p", " cse , dce", "-o", "o.pt2", "--server", server.address, *arguments)
    assert ended.code == 0
    assert specs[0].pipeline == " cse , dce"
    assert getattr(specs[0].options, option) == value


def test_validating_runs_no_pass_and_says_that_the_program_is_valid(retraced: Run, archive: Path) -> None:
    specs: list[pb.TransformSpec] = []
    valid = summary(output=None, modified=False)
    valid.summary.ClearField("output")
    with FakeServer(asked(specs, replies(accepted(), valid))) as server:
        ended = retraced("transform", archive, "-p", "cse", "--validate-only", "--server", server.address)
    assert ended.code == 0
    assert "valid: cse can run on this program of 5 nodes" in ended.out
    assert specs[0].options.validate_only


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["-o", "o.pt2", "--validate-only"], "--validate-only makes no output"),
        (["-o", "o.pt2", "--node-metadata", "all"], "--metadata FILE.jsonl, which is missing"),
        (["-o", "same", "--metadata", "./same"], "the same file"),
        (["-o", "o.pt2", "--timeout", "0"], "--timeout"),
        (["-o", "o.pt2", "--mode", "fast"], "'fast' is not"),
        (["-o", "o.pt2", "--outptu", "x"], "--output"),
    ],
)
def test_a_command_line_that_makes_no_sense_is_refused_before_anything_happens(
    retraced: Run, archive: Path, arguments: list[str], told: str
) -> None:
    ended = retraced("transform", archive, "-p", "cse", "--server", "127.0.0.1:1", *arguments)
    assert ended.code == 2
    assert told in ended.err
    assert "retraced transform --help" in ended.err


def test_text_of_others_cannot_command_the_terminal(retraced: Run, archive: Path) -> None:
    evil = summary(output=OUTPUT)
    evil.summary.remarks[:] = ["\x1b]0;owned\x07[bold]"]
    chunk = pb.TransformGraphResponse(output_chunk=OUTPUT[: 1 << 20])
    rest = pb.TransformGraphResponse(output_chunk=OUTPUT[1 << 20 :])
    with FakeServer(replies(accepted(), chunk, rest, evil)) as server:
        ended = retraced("transform", archive, "-p", "cse", "-o", archive, "--server", server.address)
    assert "\x1b" not in ended.out
    assert r"\x1b]0;owned\x07[bold]" in ended.out
