"""What is kept at home: it is nowhere in what is sent, and back in everything that comes back."""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import grpc
import pytest

from retraced import Client
from retraced.cli.app import run
from retraced.errors import ArchiveInvalid, OutputUnsafe, PassFailed, ProgramInvalid
from retraced.v1 import graph_transform_pb2 as pb
from retraced.v1 import node_metadata_pb2, passes_pb2
from tests.client.archives import MODEL_RECORD, SAMPLE_INPUTS, archive, changed, packed, records
from tests.client.fake_server import FakeServer, accepted, fails, output_chunks, read_upload, summary

EVERYTHING: Final = ("sample-inputs", "guards", "stack-traces")
SECRETS = (b"/home/someone", b"secret", b"return first", b"return second", b"size()[0]", b"own pickle")
WEIGHTS = bytes(range(256)) * 20_000


def held(data: bytes) -> dict[str, bytes]:
    """The records of an archive without the root."""
    with zipfile.ZipFile(io.BytesIO(data)) as read:
        assert read.testzip() is None
        return {name.partition("/")[2]: read.read(name) for name in read.namelist()}


def rewritten(upload: bytes) -> bytes:
    """What an honest server makes of an archive: a node that a pass made from another, with its stack trace, and all else as it was."""
    found = held(upload)
    model = json.loads(found[MODEL_RECORD])
    nodes = model["graph_module"]["graph"]["nodes"]
    made = json.loads(json.dumps(nodes[0]))
    made["name"], made["outputs"] = "relu_1", [{"as_tensor": {"name": "relu_1"}}]
    nodes.append(made)
    model["graph_module"]["graph"]["tensor_values"]["relu_1"] = model["graph_module"]["graph"]["tensor_values"]["relu"]
    return packed({**found, MODEL_RECORD: json.dumps(model).encode()})


class Echo(FakeServer):
    """Keeps what is uploaded, and answers with what `rewrite` makes of it, and with everything it knows in every text."""

    def __init__(self, *, modified: bool = True, drop_inputs: bool = False) -> None:
        self.upload = b""
        self.spec = pb.TransformSpec()

        def transform(
            requests: Iterator[pb.TransformGraphRequest], context: grpc.ServicerContext
        ) -> Iterator[pb.TransformGraphResponse]:
            self.spec, self.upload = read_upload(requests)
            model = json.loads(held(self.upload)[MODEL_RECORD])
            node, guard = model["graph_module"]["graph"]["nodes"][1], model["guards_code"][0]
            yield accepted()
            report = passes_pb2.PassReport(name="cse", text="cse", modified=modified, remarks=[f"looked at {guard}"])
            yield pb.TransformGraphResponse(pass_finished=pb.PassFinished(index=0, report=report))
            batch = node_metadata_pb2.NodeMetadataBatch(strings=["add", node["metadata"]["stack_trace"]])
            batch.nodes.add(name=1, stack_trace=2)
            if self.spec.options.node_metadata != pb.NODE_METADATA_SELECTION_NONE:
                yield pb.TransformGraphResponse(node_metadata=batch)
            output = rewritten(self.upload) if modified else self.upload
            if drop_inputs:
                output = _with_another_input(output)
            wanted = modified or self.spec.options.output == pb.OUTPUT_DELIVERY_ALWAYS
            if wanted:
                yield from output_chunks(output)
            told = summary(output=output if wanted else None, modified=modified, size=len(output))
            told.summary.input.guards.append(guard)
            yield told

        super().__init__(transform)


def _with_another_input(output: bytes) -> bytes:
    found = held(output)
    model = json.loads(found[MODEL_RECORD])
    module = model["graph_module"]
    module["graph"]["inputs"].append({"as_tensor": {"name": "y"}})
    module["graph"]["tensor_values"]["y"] = module["graph"]["tensor_values"]["x"]
    module["signature"]["input_specs"].append({"user_input": {"arg": {"as_tensor": {"name": "y"}}}})
    return packed({**found, MODEL_RECORD: json.dumps(model).encode()})


def test_nothing_of_it_is_in_any_byte_that_is_sent(call: Any) -> None:
    sent = archive(WEIGHTS)
    with Echo() as server:
        call(server.address, sent, "cse", keep_at_home=EVERYTHING)
    assert all(secret in sent for secret in SECRETS)
    assert not any(secret in server.upload for secret in SECRETS)
    assert server.spec.archive_size == len(server.upload)
    assert held(server.upload)[SAMPLE_INPUTS] == b""
    assert held(server.upload)["data/weights/weight_0"] == WEIGHTS


@pytest.mark.parametrize(("kept", "still"), [("sample-inputs", 5), ("guards", 5), ("stack-traces", 2)])
def test_only_what_is_named_is_kept(kept: str, still: int) -> None:
    with Echo() as server, Client(server.address) as client:
        client.transform(archive(), "cse", keep_at_home=[kept])  # type: ignore[list-item]
    assert sum(secret in server.upload for secret in SECRETS) == still


def test_the_output_is_what_it_would_have_been_without(call: Any, tmp_path: Path) -> None:
    source = tmp_path / "model.pt2"
    source.write_bytes(archive(WEIGHTS))
    with Echo() as server:
        without = held(call(server.address, source, "cse").to_bytes())
        result = call(server.address, source, "cse", keep_at_home=EVERYTHING)
    result.save(tmp_path / "out.pt2")
    kept = held((tmp_path / "out.pt2").read_bytes())
    assert json.loads(kept.pop(MODEL_RECORD)) == json.loads(without.pop(MODEL_RECORD))
    assert list(kept.items()) == list(without.items())
    assert result.summary.output_size == (tmp_path / "out.pt2").stat().st_size


def test_numbers_and_the_order_of_fields_come_through() -> None:
    strange = {"as_floats": ["Infinity", "-Infinity", "NaN", 1e22, 0.1, 5e-324, -0.0, 123456789012345678]}

    def change(model: Any) -> None:
        model["graph_module"]["graph"]["nodes"][0]["inputs"] += [
            {"name": "floats", "arg": strange, "kind": 2},
            {"name": "large", "arg": {"as_int": 2**63 - 1}, "kind": 2},
            {"name": "text", "arg": {"as_string": "\u00e9\u2028\U0001f600\ud800"}, "kind": 2},
        ]

    with Echo() as server, Client(server.address) as client:
        result = client.transform(changed(change), "cse", keep_at_home=EVERYTHING)
    found = held(result.to_bytes())[MODEL_RECORD]
    assert found == held(rewritten(changed(change)))[MODEL_RECORD]


@pytest.mark.parametrize("kind", ["bytes", "path", "file object", "stream"])
def test_a_program_that_no_pass_modified_is_the_callers_own_archive_byte_for_byte(call: Any, tmp_path: Path, kind: str) -> None:
    sent = archive(WEIGHTS)
    path = tmp_path / "model.pt2"
    path.write_bytes(sent)
    sources: dict[str, Any] = {"bytes": sent, "path": path, "file object": io.BytesIO(sent), "stream": path.open("rb")}
    with Echo(modified=False) as server, sources["stream"]:
        result = call(server.address, sources[kind], "cse", keep_at_home=EVERYTHING)
        assert result.to_bytes() == sent
    assert result.summary.output_size == len(sent)


def test_metadata_reports_and_summaries_have_it_too(call: Any) -> None:
    with Echo() as server:
        result = call(server.address, archive(), "cse", keep_at_home=EVERYTHING, node_metadata="all")
    (node,) = result.nodes
    assert node.stack_trace == '  File "/home/someone/secret/model.py", line 7, in forward\n    return second(x)'
    assert result.summary.input.guards == ("L['x'].size()[0] <= 64",)
    assert result.passes[0].remarks == ("looked at L['x'].size()[0] <= 64",)


def test_an_error_names_the_place_in_the_source(call: Any) -> None:
    def failing(
        requests: Iterator[pb.TransformGraphRequest], context: grpc.ServicerContext
    ) -> Iterator[pb.TransformGraphResponse]:
        _, upload = read_upload(requests)
        trace = json.loads(held(upload)[MODEL_RECORD])["graph_module"]["graph"]["nodes"][0]["metadata"]["stack_trace"]
        frame = re.fullmatch(r'File "([^"]+)", line (\d+)', trace)
        assert frame is not None
        source = f"{frame[1]}:{frame[2]}"
        metadata = {"pass": "cse", "source": source}
        yield from fails(
            grpc.StatusCode.FAILED_PRECONDITION, f"it failed, from {source}", reason="PASS_FAILED", metadata=metadata
        )(requests, context)

    with FakeServer(failing) as server, pytest.raises(PassFailed) as caught:
        call(server.address, archive(), "cse", keep_at_home=EVERYTHING)
    assert str(caught.value) == caught.value.message == "it failed, from /home/someone/secret/model.py:7"
    assert caught.value.metadata["source"] == "/home/someone/secret/model.py:7"


def test_sample_inputs_that_no_longer_fit_stay_away_and_the_summary_says_so(call: Any) -> None:
    with Echo(drop_inputs=True) as server:
        result = call(server.address, archive(), "cse", keep_at_home=EVERYTHING)
    assert held(result.to_bytes())[SAMPLE_INPUTS] == b""
    assert "the sample inputs were dropped, since the program takes other inputs now" in result.summary.remarks[1:]


def test_what_cannot_be_taken_apart_is_not_sent(call: Any) -> None:
    with Echo() as server:
        for sent in (b"no archive", packed({**records(), "models/other.json": b"{}"})):
            with pytest.raises(ArchiveInvalid):
                call(server.address, sent, "cse", keep_at_home=EVERYTHING)
        with pytest.raises(ProgramInvalid):
            call(server.address, packed({**records(), MODEL_RECORD: b"{"}), "cse", keep_at_home=["stack-traces"])
    assert server.upload == b""


def test_an_output_that_cannot_be_put_together_is_unsafe(call: Any) -> None:
    def lying(
        requests: Iterator[pb.TransformGraphRequest], context: grpc.ServicerContext
    ) -> Iterator[pb.TransformGraphResponse]:
        read_upload(requests)
        yield from output_chunks(b"no archive")
        yield summary(output=b"no archive")

    with FakeServer(lying) as server, pytest.raises(OutputUnsafe):
        call(server.address, archive(), "cse", keep_at_home=EVERYTHING)


def test_an_unknown_name_is_a_value_error(call: Any) -> None:
    with Echo() as server, pytest.raises(ValueError, match="keep_at_home"):
        call(server.address, archive(), "cse", keep_at_home=["weights"])


def test_the_command_keeps_it_too(tmp_path: Path) -> None:
    source, out = tmp_path / "model.pt2", tmp_path / "out.pt2"
    source.write_bytes(archive())
    kept = [argument for name in EVERYTHING for argument in ("--keep-at-home", name)]
    with Echo() as server:
        assert run(["transform", str(source), "-p", "cse", "-o", str(out), *kept, "--server", server.address, "--quiet"]) == 0
    assert not any(secret in server.upload for secret in SECRETS)
    assert held(out.read_bytes())[SAMPLE_INPUTS] == records()[SAMPLE_INPUTS]
