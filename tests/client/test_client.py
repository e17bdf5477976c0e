"""Both clients against a server that does what it should: sources, events, outputs, options."""

from __future__ import annotations

import asyncio
import inspect
import io
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from retraced import AsyncClient, Client, events
from retraced.errors import AddressMissing, OutputMissing, SourceNotReadable
from retraced.server_info import IrLevel, OptionType, PassOption, SandboxLayer, SandboxLayerState
from retraced.v1 import graph_transform_pb2 as pb
from tests.client.archives import plain
from tests.client.fake_server import (
    FakeServer,
    accepted,
    answers,
    output_chunks,
    summary,
)

ARCHIVE = os.urandom(2_500_000)
OUTPUT = plain(os.urandom(3_300_000))


class SpecServer(FakeServer):
    """Answers, and keeps the spec, the chunk sizes and the archive that came."""

    def __init__(self, *, modified: bool = True) -> None:
        self.spec = pb.TransformSpec()
        self.chunks: list[int] = []
        self.archive = b""
        answer = answers(OUTPUT, modified=modified)

        def transform(
            requests: Iterator[pb.TransformGraphRequest], context: grpc.ServicerContext
        ) -> Iterator[pb.TransformGraphResponse]:
            self.archive, self.chunks = b"", []
            return answer(self._noted(requests), context)

        super().__init__(transform)

    def _noted(self, requests: Iterator[pb.TransformGraphRequest]) -> Iterator[pb.TransformGraphRequest]:
        for request in requests:
            if request.HasField("spec"):
                self.spec = request.spec
            else:
                self.chunks.append(len(request.archive_chunk))
                self.archive += request.archive_chunk
            yield request


@pytest.fixture
def server() -> Iterator[SpecServer]:
    with SpecServer() as server:
        yield server


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "model.pt2"
    path.write_bytes(ARCHIVE)
    return path


def test_a_path_is_sent_in_chunks_of_1_mib_and_the_output_comes_back(call: Any, server: SpecServer, archive: Path) -> None:
    result = call(server.address, archive, "cse,dce")
    assert server.archive == ARCHIVE
    assert server.chunks == [1 << 20, 1 << 20, len(ARCHIVE) - (2 << 20)]
    assert (server.spec.pipeline, server.spec.archive_size) == ("cse,dce", len(ARCHIVE))
    assert result.to_bytes() == OUTPUT
    assert result.modified


def test_a_pipeline_may_be_several_texts(call: Any, server: SpecServer) -> None:
    for several in (["decompose{table=aten},cse", "dce"], ("decompose{table=aten}", "cse,dce")):
        call(server.address, ARCHIVE, several)
        assert server.spec.pipeline == "decompose{table=aten},cse,dce"


def test_a_pass_object_is_no_text_and_is_refused_before_anything_is_sent(call: Any, server: SpecServer) -> None:
    with pytest.raises(TypeError, match="as text, not <object object"):
        call(server.address, ARCHIVE, ["cse", object()])
    assert not server.metadata


def test_bytes_a_file_object_and_a_pipe_are_sent_whole(call: Any, server: SpecServer) -> None:
    call(server.address, ARCHIVE, "cse")
    assert server.archive == ARCHIVE
    call(server.address, bytearray(ARCHIVE), "cse")
    assert server.archive == ARCHIVE
    call(server.address, io.BytesIO(ARCHIVE), "cse")
    assert server.archive == ARCHIVE
    read_end, write_end = os.pipe()
    writer = threading.Thread(target=lambda: _write_and_close(write_end, ARCHIVE))
    writer.start()
    with os.fdopen(read_end, "rb") as pipe:
        call(server.address, pipe, "cse")
    writer.join()
    assert server.archive == ARCHIVE


def test_a_file_object_is_read_from_where_it_stands_and_left_open(call: Any, server: SpecServer) -> None:
    file = io.BytesIO(b"before" + ARCHIVE)
    file.seek(6)
    call(server.address, file, "cse")
    assert server.archive == ARCHIVE
    assert not file.closed


def test_an_empty_archive_is_the_servers_to_judge(call: Any, server: SpecServer) -> None:
    call(server.address, b"", "cse")
    assert (server.archive, server.spec.archive_size) == (b"", 0)


def test_an_output_that_was_not_modified_is_not_sent_when_the_source_can_be_read_again(
    call: Any, archive: Path, tmp_path: Path
) -> None:
    with SpecServer(modified=False) as server:
        for source in (archive, ARCHIVE):
            result = call(server.address, source, "cse")
            assert server.spec.options.output == pb.OUTPUT_DELIVERY_IF_MODIFIED
            assert result.bytes_received < 10_000
            assert not result.modified
            assert result.to_bytes() == ARCHIVE
            result.save(tmp_path / "out.pt2")
            assert (tmp_path / "out.pt2").read_bytes() == ARCHIVE
        result = call(server.address, io.BytesIO(ARCHIVE), "cse")
        assert server.spec.options.output == pb.OUTPUT_DELIVERY_ALWAYS
        assert result.to_bytes() == OUTPUT


def test_the_source_is_still_there_when_its_path_is_renamed_over(call: Any, archive: Path, tmp_path: Path) -> None:
    with SpecServer(modified=False) as server:
        result = call(server.address, archive, "cse")
    other = tmp_path / "other"
    other.write_bytes(b"something else")
    other.replace(archive)
    result.save(archive)
    assert archive.read_bytes() == ARCHIVE


def test_a_source_written_over_since_is_not_taken_for_the_output(call: Any, archive: Path, tmp_path: Path) -> None:
    with SpecServer(modified=False) as server:
        result = call(server.address, archive, "cse")
    archive.write_bytes(b"something else")
    with pytest.raises(SourceNotReadable, match="changed"):
        result.save(tmp_path / "out.pt2")
    assert not (tmp_path / "out.pt2").exists()


def test_options_go_into_the_spec_and_ids_into_the_metadata(call: Any, server: SpecServer) -> None:
    result = call(
        server.address,
        ARCHIVE,
        "cse",
        node_metadata="changed",
        refuse_new_guards=True,
        mode="full",
        want_output=False,
        request_id="mine",
        traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    )
    options = server.spec.options
    assert options.node_metadata == pb.NODE_METADATA_SELECTION_CHANGED
    assert options.refuse_new_guards
    assert options.mode == pb.RETRACE_MODE_FULL
    assert options.output == pb.OUTPUT_DELIVERY_NEVER
    assert not options.validate_only
    assert server.metadata["x-request-id"] == "mine"
    assert server.metadata["traceparent"] == "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    with pytest.raises(OutputMissing):
        result.to_bytes()


def test_each_call_has_a_request_id_of_its_own(call: Any, server: SpecServer) -> None:
    call(server.address, ARCHIVE, "cse")
    first = server.metadata["x-request-id"]
    call(server.address, ARCHIVE, "cse")
    assert first
    assert first != server.metadata["x-request-id"]


@pytest.mark.parametrize(
    "wrong",
    [{"node_metadata": "some"}, {"mode": "half"}, {"request_id": ""}, {"request_id": "x" * 129}, {"traceparent": "a\nb"}],
)
def test_an_option_that_is_none_of_its_values_is_refused_before_anything_is_sent(
    call: Any, server: SpecServer, wrong: dict[str, str]
) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        call(server.address, ARCHIVE, "cse", **wrong)
    assert not server.metadata


def test_a_source_of_another_type_is_a_type_error(call: Any, server: SpecServer) -> None:
    with pytest.raises(TypeError, match="list"):
        call(server.address, [1], "cse")
    with pytest.raises(TypeError, match="binary"):
        call(server.address, io.StringIO("text"), "cse")


def test_events_tell_of_the_upload_the_passes_and_the_download(call: Any, server: SpecServer) -> None:
    seen: list[events.Event] = []
    result = call(server.address, ARCHIVE, "cse", on_event=seen.append)
    uploads = [event for event in seen if isinstance(event, events.Uploaded)]
    assert [event.sent for event in uploads] == [0, 1 << 20, 2 << 20, len(ARCHIVE)]
    assert {event.total for event in uploads} == {len(ARCHIVE)}
    others = [event for event in seen if not isinstance(event, events.Uploaded)]
    assert others[:4] == [
        events.Accepted("from-the-server", 0),
        events.PassStarted(0, 1, "cse", "cse"),
        events.Progress(events.Stage.RUNNING, 2, 5),
        events.PassFinished(0, result.passes[0]),
    ]
    downloads = others[4:]
    assert downloads[-1] == events.Downloaded(len(OUTPUT))


def test_the_result_has_reports_summary_and_counts(call: Any, server: SpecServer) -> None:
    result = call(server.address, ARCHIVE, "cse")
    (report,) = result.passes
    assert (report.name, report.text, report.modified, report.rewrites) == ("cse", "cse", True, 2)
    assert (report.seconds, report.nodes_before, report.nodes_after) == (0.125, 5, 4)
    assert (report.remarks, report.new_guards) == (("merged two",), ("s0 > 3",))
    assert result.request_id == "from-the-server"
    assert result.summary.pipeline == "cse"
    assert result.summary.input.targets == {"mm": 2, "add": 1}
    assert result.summary.output.symbols[0].hint == 5
    assert result.summary.timings.running == 1.5
    assert len(ARCHIVE) < result.bytes_sent < len(ARCHIVE) + 1000
    assert len(OUTPUT) < result.bytes_received < len(OUTPUT) + 2000


def test_an_output_larger_than_the_memory_threshold_comes_back_whole(call: Any, tmp_path: Path) -> None:
    large = plain(os.urandom(1 << 20) * 40)
    with FakeServer(answers(large)) as server:
        result = call(server.address, b"x", "cse")
    result.save(tmp_path / "out.pt2")
    assert (tmp_path / "out.pt2").read_bytes() == large


def test_a_message_of_a_kind_that_is_not_known_is_passed_over(call: Any) -> None:
    with FakeServer(answers(OUTPUT, pb.TransformGraphResponse())) as server:
        assert call(server.address, b"x", "cse").to_bytes() == OUTPUT


def test_the_upload_is_not_read_ahead_of_a_server_that_does_not_read(tmp_path: Path) -> None:
    path = tmp_path / "large.pt2"
    size = 256 << 20
    with path.open("wb") as file:
        file.truncate(size)
    sent: list[int] = []
    reading = threading.Event()

    def slow(
        requests: Iterator[pb.TransformGraphRequest], context: grpc.ServicerContext
    ) -> Iterator[pb.TransformGraphResponse]:
        next(requests)
        yield accepted()
        reading.wait(30)
        sent_before_reading.append(max(sent))
        for _ in requests:
            pass
        yield from output_chunks(OUTPUT)
        yield summary(output=OUTPUT)

    def on_event(event: events.Event) -> None:
        if isinstance(event, events.Uploaded):
            sent.append(event.sent)
            if event.sent > (4 << 20):
                reading.set()

    sent_before_reading: list[int] = []
    with FakeServer(slow) as server, Client(server.address) as client:
        timer = threading.Timer(2.0, reading.set)
        timer.start()
        client.transform(path, "cse", on_event)
        timer.cancel()
    assert sent_before_reading[0] < size // 4
    assert max(sent) == size


def test_passes_and_info_are_the_servers(server: SpecServer) -> None:
    async def from_async() -> Any:
        async with AsyncClient(server.address) as client:
            return await client.passes(), await client.info()

    with Client(server.address) as client:
        passes, info = client.passes(), client.info()
    assert asyncio.run(from_async()) == (passes, info)
    assert [one.name for one in passes] == ["cse", "decompose"]
    assert passes[0].ir_level is IrLevel.FUNCTIONAL
    assert passes[1].needs_weights
    assert passes[1].options == (
        PassOption("table", "Which table.", OptionType.CHOICE, "core-aten", ("core-aten", "none")),
        PassOption("depth", "How deep.", OptionType.INT),
    )
    assert (info.torch_version, info.schema_version, info.running, info.queued) == ("2.13.0", (8, 20), 1, 3)
    assert (info.imports[0].name, info.imports[0].version) == ("my_ops", "3.1")
    assert (info.limits.workers, info.limits.worker_memory_bytes, info.limits.memory_bytes) == (2, 0, 3 << 30)
    assert info.sandbox[0] == SandboxLayer("landlock", SandboxLayerState.MISSING, "the kernel has none", required=True)
    assert info.sandbox[1].state is SandboxLayerState.UNKNOWN


def test_the_address_comes_from_the_environment_or_is_missed(server: SpecServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RETRACED_SERVER", raising=False)
    for kind in (Client, AsyncClient):
        with pytest.raises(AddressMissing, match="RETRACED_SERVER"):
            kind()
    monkeypatch.setenv("RETRACED_SERVER", server.address)
    with Client() as client:
        assert client.info().version == "0.1.0"


def test_a_closed_client_says_so(server: SpecServer) -> None:
    client = Client(server.address)
    client.close()
    client.close()
    with pytest.raises(ValueError, match="closed"):
        client.transform(ARCHIVE, "cse")
    with pytest.raises(ValueError, match="closed"):
        client.info()


def test_one_client_serves_several_threads(server: SpecServer) -> None:
    with FakeServer(answers(OUTPUT)) as plain, Client(plain.address) as client:
        results: list[bytes] = []
        threads = [
            threading.Thread(target=lambda: results.append(client.transform(ARCHIVE, "cse").to_bytes())) for _ in range(5)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert results == [OUTPUT] * 5


@pytest.mark.parametrize("name", ["transform", "passes", "info", "wait_ready", "close", "__init__"])
def test_both_clients_have_the_same_shape_and_docs(name: str) -> None:
    one, other = getattr(Client, name), getattr(AsyncClient, name)
    assert inspect.signature(one) == inspect.signature(other)
    assert one.__doc__ == other.__doc__


def _write_and_close(descriptor: int, data: bytes) -> None:
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
