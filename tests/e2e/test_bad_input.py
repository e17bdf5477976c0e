"""What is wrong with a request is said, with its place, and the server goes on."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]

from retraced import Client, EmbeddedServer, errors
from retraced.v1 import graph_transform_pb2 as pb
from retraced.v1.graph_transform_pb2_grpc import GraphTransformServiceStub
from tests.support.models import by_name


def _archive() -> bytes:
    return by_name("input_and_id").archive


def _rewritten(change: Callable[[str, bytes], bytes | None]) -> bytes:
    """The archive with each record replaced by what `change` gives for its name and bytes; None leaves it out."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(_archive())) as old, zipfile.ZipFile(buffer, "w") as new:
        for name in old.namelist():
            data = change(name, old.read(name))
            if data is not None:
                new.writestr(name, data)
    return buffer.getvalue()


def _without_program(name: str, data: bytes) -> bytes | None:
    return None if "/models/" in name else data


def _of_a_later_schema(name: str, data: bytes) -> bytes:
    if not name.endswith(".json") or "/models/" not in name:
        return data
    model = json.loads(data)
    model["schema_version"]["major"] += 1
    return json.dumps(model).encode()


def _not_of_the_schema(name: str, data: bytes) -> bytes:
    if not name.endswith(".json") or "/models/" not in name:
        return data
    model = json.loads(data)
    del model["graph_module"]["graph"]["nodes"]
    return json.dumps(model).encode()


ARCHIVES: dict[str, tuple[Callable[[], bytes], type[errors.RetracedError], str]] = {
    "zero bytes": (lambda: b"", errors.ArchiveInvalid, "empty"),
    "not a zip": (lambda: b"these are not the bytes of a program" * 100, errors.ArchiveInvalid, "not a zip"),
    "truncated": (lambda: _archive()[: len(_archive()) // 2], errors.ArchiveInvalid, "truncated"),
    "damaged": (lambda: _archive().replace(b"graph_module", b"graph_nodule"), errors.ArchiveInvalid, "models/model.json"),
    "no program": (lambda: _rewritten(_without_program), errors.ProgramMissing, "no exported program"),
    "another schema": (lambda: _rewritten(_of_a_later_schema), errors.SchemaUnsupported, "schema version 9"),
    "not of the schema": (lambda: _rewritten(_not_of_the_schema), errors.ProgramInvalid, "nodes"),
}


@pytest.mark.parametrize("what", ARCHIVES)
def test_bad_archive_is_a_typed_error_and_the_server_goes_on(client: Client, what: str) -> None:
    make, kind, said = ARCHIVES[what]
    with pytest.raises(kind) as raised:
        client.transform(make(), "retrace")
    assert said in raised.value.message
    assert raised.value.request_id
    assert client.transform(_archive(), "retrace").modified is False


PIPELINES = {
    "dcee": (errors.PassUnknown, "dce"),
    "decompose{tabel=aten}": (errors.OptionUnknown, "table"),
    "decompose{table=core}": (errors.OptionInvalid, "core-aten"),
    "cse,,dce": (errors.PipelineSyntax, "column 5"),
    "": (errors.PipelineSyntax, "empty"),
}


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_bad_pipeline_names_the_place_and_the_nearest_name(client: Client, pipeline: str) -> None:
    kind, said = PIPELINES[pipeline]
    with pytest.raises(kind) as raised:
        client.transform(_archive(), pipeline)
    assert said in raised.value.message
    assert [violation.field for violation in raised.value.violations] == ["spec.pipeline"]


def test_bad_pipeline_is_refused_before_the_upload(client: Client) -> None:
    sent: list[int] = []
    with pytest.raises(errors.PassUnknown):
        client.transform(bytes(64 << 20), "nothing", on_event=lambda event: sent.append(getattr(event, "done", 0)))
    assert max(sent, default=0) < 64 << 20


def test_pass_that_raises_is_named_with_node_and_source_line(client: Client) -> None:
    with pytest.raises(errors.PassFailed) as raised:
        client.transform(by_name("bert").archive, 'cse,raise-at{message="no luck"},dce')
    error = raised.value
    assert "no luck" in error.message
    assert error.metadata["pass"] == "raise-at"
    assert error.metadata["pass_index"] == "1"
    assert error.metadata["remaining_pipeline"].endswith(",dce")
    assert error.metadata["node"] in error.message
    assert ".py:" in error.metadata["source"]


@pytest.mark.slow
def test_program_over_the_size_limit_is_refused_before_the_upload(narrow: EmbeddedServer) -> None:
    with Client(narrow.address) as client:
        with pytest.raises(errors.ProgramTooLarge) as raised:
            client.transform(bytes(1_000_001), "retrace")
        assert "1000000" in "".join([raised.value.message.replace(",", ""), *raised.value.metadata.values()])
        assert not client.transform(_archive(), "retrace").modified


def test_unwritable_output_path_leaves_nothing(client: Client, tmp_path: Path) -> None:
    result = client.transform(_archive(), "decompose")
    with pytest.raises(errors.OutputNotWritable):
        result.save(tmp_path / "missing" / "out.pt2")
    (tmp_path / "folder.pt2").mkdir()
    with pytest.raises(errors.OutputNotWritable):
        result.save(tmp_path / "folder.pt2")
    assert [path.name for path in tmp_path.rglob("*")] == ["folder.pt2"]


def _spec(size: int) -> pb.TransformGraphRequest:
    return pb.TransformGraphRequest(spec=pb.TransformSpec(pipeline="retrace", archive_size=size))


def _chunk(data: bytes) -> pb.TransformGraphRequest:
    return pb.TransformGraphRequest(archive_chunk=data)


STREAMS: dict[str, tuple[list[pb.TransformGraphRequest], str]] = {
    "nothing at all": ([], "PROTOCOL_VIOLATION"),
    "a message with nothing in it": ([pb.TransformGraphRequest()], "PROTOCOL_VIOLATION"),
    "a chunk before the spec": ([_chunk(b"abc")], "PROTOCOL_VIOLATION"),
    "a second spec": ([_spec(3), _spec(3)], "PROTOCOL_VIOLATION"),
    "an empty chunk": ([_spec(3), _chunk(b"")], "PROTOCOL_VIOLATION"),
    "a chunk over 1 MiB": ([_spec(2 << 20), _chunk(bytes((1 << 20) + 1))], "PROTOCOL_VIOLATION"),
    "more than announced": ([_spec(3), _chunk(b"abcd")], "ARCHIVE_MISMATCH"),
    "less than announced": ([_spec(3), _chunk(b"ab")], "ARCHIVE_MISMATCH"),
    "another sha256": (
        [
            pb.TransformGraphRequest(spec=pb.TransformSpec(pipeline="retrace", archive_size=3, archive_sha256=bytes(32))),
            _chunk(b"abc"),
        ],
        "ARCHIVE_MISMATCH",
    ),
}


@pytest.mark.parametrize("what", STREAMS)
def test_stream_that_breaks_the_protocol_is_a_typed_error(client: Client, server: EmbeddedServer, what: str) -> None:
    messages, reason = STREAMS[what]

    def requests() -> Iterator[pb.TransformGraphRequest]:
        yield from messages

    with grpc.insecure_channel(server.address) as channel:
        call = GraphTransformServiceStub(channel).TransformGraph(requests(), metadata=(("x-request-id", "mine"),))
        with pytest.raises(grpc.RpcError):
            list(call)
        assert call.code() is grpc.StatusCode.INVALID_ARGUMENT
        status = status_pb2.Status.FromString(dict(call.trailing_metadata())["grpc-status-details-bin"])
    details = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(details)
    assert (details.reason, details.domain, details.metadata["request_id"]) == (reason, "retraced.dev", "mine")
    assert not client.transform(_archive(), "retrace").modified
