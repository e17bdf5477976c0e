"""Both clients against servers that fail, lie or go away."""

from __future__ import annotations

import asyncio
import io
import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from retraced import AsyncClient, Client, errors, events
from retraced._status import _BY_REASON
from retraced.v1 import graph_transform_pb2 as pb
from tests.client.archives import plain
from tests.client.fake_server import (
    Behaviour,
    FakeServer,
    accepted,
    answers,
    fails,
    one_pass,
    output_chunks,
    replies,
    summary,
)
from tests.support.waiting import PATIENCE

PROTO = Path(__file__).parents[2] / "proto/retraced/v1/graph_transform.proto"
OUTPUT = plain(os.urandom(100_000))


@pytest.fixture(params=["sync", "async"])
def failure(request: pytest.FixtureRequest) -> Any:
    """Transforms by a server with a behaviour, and gives what is raised."""

    def failure_of(behaviour: Behaviour, source: Any = b"archive", **kwargs: Any) -> Exception:
        with FakeServer(behaviour) as server:
            try:
                if request.param == "sync":
                    with Client(server.address, attempts=1) as client:
                        client.transform(source, "cse", **kwargs)
                else:
                    asyncio.run(_transform(server.address, source, **kwargs))
            except Exception as error:  # noqa: BLE001 - the caller looks at it
                return error
        raise AssertionError("it did not fail")

    return failure_of


async def _transform(address: str, source: Any, **kwargs: Any) -> Any:
    async with AsyncClient(address, attempts=1) as client:
        return await client.transform(source, "cse", **kwargs)


def _documented_statuses() -> dict[str, str]:
    """Each reason of the wire contract, and the status that its comment names."""
    return {
        reason: next(status for status in re.findall(r"\b[A-Z_]+\b", comment) if status in grpc.StatusCode.__members__)
        for comment, reason in re.findall(r"// ([^\n]*)\n  ERROR_REASON_(\w+) = [1-9]", PROTO.read_text())
    }


def test_an_answer_that_is_compressed_is_not_made_larger(failure: Any) -> None:
    honest = answers(OUTPUT)

    def compresses(requests: Iterator[pb.TransformGraphRequest], context: grpc.ServicerContext) -> Any:
        context.set_compression(grpc.Compression.Gzip)
        yield from honest(requests, context)

    error = failure(compresses)
    assert type(error) is errors.ServerError
    assert "gzip" in error.message


def test_every_reason_of_the_wire_contract_has_a_class_of_its_status() -> None:
    reasons = {value.name.removeprefix("ERROR_REASON_") for value in pb.ErrorReason.DESCRIPTOR.values} - {"UNSPECIFIED"}
    assert set(_BY_REASON) == reasons
    assert {reason: kind.status for reason, kind in _BY_REASON.items()} == _documented_statuses()


def test_every_error_is_of_one_family_and_documents_its_status() -> None:
    families = {errors.RequestInvalid, errors.TransformFailed, errors.ServerUnavailable, errors.LocalError}
    kinds = {kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.RetracedError)} - {
        errors.RetracedError,
        *families,
    }
    assert len({kind.reason for kind in kinds}) == len(kinds)
    for kind in kinds:
        assert len(families & set(kind.__mro__)) == 1
        assert kind.status is None or kind.status in str(kind.__doc__)


@pytest.mark.parametrize("reason", sorted(_BY_REASON))
def test_a_status_with_a_reason_is_raised_as_its_class(reason: str) -> None:
    kind = _BY_REASON[reason]
    code = grpc.StatusCode[str(kind.status)]
    with (
        FakeServer(fails(code, "what and where", reason=reason)) as server,
        Client(server.address) as client,
        pytest.raises(kind) as caught,
    ):
        client.transform(b"archive", "cse")
    assert (caught.value.reason, caught.value.message) == (reason, "what and where")


def test_an_error_carries_everything_the_status_says(failure: Any) -> None:
    error = failure(
        fails(
            grpc.StatusCode.FAILED_PRECONDITION,
            "pass cse failed at node add_1",
            reason="PASS_FAILED",
            metadata={"pass": "cse", "node": "add_1", "request_id": "the-servers"},
            violation=("spec.pipeline", "position 3"),
            retry_after=2.5,
        )
    )
    assert type(error) is errors.PassFailed
    assert error.metadata == {"pass": "cse", "node": "add_1"}
    assert error.violations == (errors.FieldViolation("spec.pipeline", "position 3"),)
    assert error.retry_after == 2.5
    assert error.request_id == "the-servers"
    assert isinstance(error.__cause__, grpc.RpcError)


def test_a_reason_that_is_not_known_is_a_server_error(failure: Any) -> None:
    error = failure(fails(grpc.StatusCode.ABORTED, "new", reason="MOON_PHASE", metadata={"phase": "full"}))
    assert type(error) is errors.ServerError
    assert (error.reason, error.message, error.metadata) == ("MOON_PHASE", "new", {"phase": "full"})
    assert error.request_id == "from-the-server"


def test_a_reason_of_another_domain_is_not_taken_for_ours(failure: Any) -> None:
    error = failure(fails(grpc.StatusCode.PERMISSION_DENIED, "no", reason="QUEUE_FULL", domain="proxy.example"))
    assert type(error) is errors.ServerError
    assert error.reason == "PERMISSION_DENIED"


def test_details_that_cannot_be_read_leave_the_status(failure: Any) -> None:
    def mangled(
        requests: Iterator[pb.TransformGraphRequest], context: grpc.ServicerContext
    ) -> Iterator[pb.TransformGraphResponse]:
        context.set_trailing_metadata((("grpc-status-details-bin", b"\xff\xff\xff"),))
        context.abort(grpc.StatusCode.INTERNAL, "broken")
        yield accepted()

    error = failure(mangled)
    assert type(error) is errors.ServerError
    assert "broken" in error.message


def test_a_failure_in_the_middle_of_the_output_is_raised(failure: Any) -> None:
    def broken(
        requests: Iterator[pb.TransformGraphRequest], context: grpc.ServicerContext
    ) -> Iterator[pb.TransformGraphResponse]:
        for _ in requests:
            pass
        yield accepted()
        yield from one_pass()
        yield next(output_chunks(OUTPUT, 1000))
        yield from fails(grpc.StatusCode.INTERNAL, "signal 11", reason="WORKER_CRASHED")(requests, context)

    assert type(failure(broken)) is errors.WorkerCrashed


def test_a_server_that_refuses_before_the_upload_ends_is_heard(failure: Any) -> None:
    large = bytes(64 << 20)
    error = failure(fails(grpc.StatusCode.INVALID_ARGUMENT, "too large", reason="PROGRAM_TOO_LARGE"), large)
    assert type(error) is errors.ProgramTooLarge


def test_a_stream_without_a_summary_is_an_invalid_response(failure: Any) -> None:
    error = failure(replies(accepted(), *one_pass()))
    assert type(error) is errors.ResponseInvalid
    assert "summary" in error.message


def test_an_output_with_a_wrong_sha256_is_an_invalid_response(failure: Any) -> None:
    other = bytes(len(OUTPUT))
    error = failure(replies(accepted(), *output_chunks(other), summary(output=OUTPUT)))
    assert type(error) is errors.ResponseInvalid
    assert "sha256" in error.message


def test_an_output_of_a_wrong_size_is_an_invalid_response(failure: Any) -> None:
    error = failure(replies(accepted(), *output_chunks(OUTPUT[:-1]), summary(output=OUTPUT)))
    assert type(error) is errors.ResponseInvalid
    assert "bytes" in error.message


def test_an_output_without_a_sha256_is_an_invalid_response(failure: Any) -> None:
    error = failure(replies(accepted(), *output_chunks(OUTPUT), summary(output=None, size=len(OUTPUT))))
    assert type(error) is errors.ResponseInvalid


def test_a_modified_program_that_is_not_sent_is_an_invalid_response(failure: Any) -> None:
    error = failure(replies(accepted(), summary(output=None, size=100)))
    assert type(error) is errors.ResponseInvalid
    assert "no output" in error.message


def test_an_unmodified_program_that_is_not_sent_to_a_caller_who_cannot_read_again_is_an_invalid_response(failure: Any) -> None:
    error = failure(replies(accepted(), summary(output=None, modified=False, size=100)), io.BytesIO(b"archive"))
    assert type(error) is errors.ResponseInvalid


def test_a_message_after_the_summary_is_an_invalid_response(failure: Any) -> None:
    error = failure(replies(accepted(), summary(output=None, modified=False), accepted()))
    assert type(error) is errors.ResponseInvalid


def test_a_server_that_is_not_there_is_unreachable() -> None:
    with Client("127.0.0.1:1") as client:
        for call in (client.info, client.passes, lambda: client.transform(b"archive", "cse")):
            with pytest.raises(errors.ServerUnreachable, match=re.escape("127.0.0.1:1")) as caught:
                call()
            assert caught.value.request_id
    with pytest.raises(errors.ServerUnreachable):
        asyncio.run(_transform("127.0.0.1:1", b"archive"))


def test_a_server_that_goes_away_in_the_middle_is_unreachable(failure: Any) -> None:
    server: list[FakeServer] = []

    def leaves(
        requests: Iterator[pb.TransformGraphRequest], context: grpc.ServicerContext
    ) -> Iterator[pb.TransformGraphResponse]:
        gone = threading.Event()
        context.add_callback(gone.set)
        yield accepted()
        threading.Thread(target=server[0].stop).start()
        gone.wait(PATIENCE)

    with FakeServer(leaves) as there, Client(there.address) as client:
        server.append(there)
        with pytest.raises(errors.RetracedError) as caught:
            client.transform(b"archive", "cse")
    assert isinstance(caught.value, errors.ServerUnreachable | errors.Cancelled)


def _waits(entered: threading.Event, ended: threading.Event) -> Behaviour:
    def transform(
        requests: Iterator[pb.TransformGraphRequest], context: grpc.ServicerContext
    ) -> Iterator[pb.TransformGraphResponse]:
        if not context.add_callback(ended.set):
            # It had ended before it was waited for.
            ended.set()
        entered.set()
        yield accepted()
        ended.wait(30)

    return transform


def test_a_call_that_takes_longer_than_its_timeout_ends_on_both_sides(failure: Any) -> None:
    ended = threading.Event()
    error = failure(_waits(threading.Event(), ended), timeout=0.5)
    assert type(error) is errors.DeadlineExceeded
    assert ended.wait(10)


def test_the_clients_timeout_holds_for_calls_without_one() -> None:
    ended = threading.Event()
    with (
        FakeServer(_waits(threading.Event(), ended)) as server,
        Client(server.address, timeout=0.3) as client,
        pytest.raises(errors.DeadlineExceeded),
    ):
        client.transform(b"archive", "cse")


def test_what_on_event_raises_is_raised_and_ends_the_call(failure: Any) -> None:
    for kind in (events.Accepted, events.Uploaded):
        entered, ended = threading.Event(), threading.Event()

        def on_event(event: events.Event, kind: type = kind, entered: threading.Event = entered) -> None:
            if isinstance(event, kind):
                # A call that is cancelled before the server has taken it never reaches the server's code.
                assert entered.wait(10)
                raise KeyError("mine")

        error = failure(_waits(entered, ended), on_event=on_event)
        assert type(error) is KeyError
        assert ended.wait(10)


def test_closing_the_client_cancels_its_calls() -> None:
    entered, ended = threading.Event(), threading.Event()
    with FakeServer(_waits(entered, ended)) as server:
        client = Client(server.address)
        threading.Thread(target=lambda: client.close() if entered.wait(10) else None).start()
        with pytest.raises(errors.Cancelled):
            client.transform(b"archive", "cse")
        assert ended.wait(10)


async def test_closing_the_async_client_cancels_its_calls() -> None:
    entered, ended = threading.Event(), threading.Event()
    with FakeServer(_waits(entered, ended)) as server:
        client = AsyncClient(server.address)
        call = asyncio.ensure_future(client.transform(b"archive", "cse"))
        await asyncio.to_thread(entered.wait, 10)
        await client.close()
        with pytest.raises(errors.Cancelled):
            await call


async def test_a_task_that_is_cancelled_stays_cancelled_and_ends_the_call() -> None:
    entered, ended = threading.Event(), threading.Event()
    with FakeServer(_waits(entered, ended)) as server:
        async with AsyncClient(server.address) as client:
            call = asyncio.ensure_future(client.transform(b"archive", "cse"))
            await asyncio.to_thread(entered.wait, 10)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            assert await asyncio.to_thread(ended.wait, 10)


async def test_many_calls_run_at_once_on_one_async_client() -> None:
    with FakeServer(answers(OUTPUT)) as server:
        async with AsyncClient(server.address) as client:
            results = await asyncio.gather(*(client.transform(OUTPUT, "cse") for _ in range(10)))
    assert [result.to_bytes() for result in results] == [OUTPUT] * 10


def test_a_source_that_is_not_there_is_not_readable(failure: Any, tmp_path: Path) -> None:
    for path in (tmp_path / "absent.pt2", tmp_path):
        error = failure(answers(OUTPUT), path)
        assert type(error) is errors.SourceNotReadable
        assert str(path) in error.message


def test_a_source_that_fails_in_the_middle_is_not_readable_and_ends_the_call(failure: Any) -> None:
    class Failing(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            if self.tell() >= 1 << 20:
                raise OSError("the disk is gone")
            return super().read(size)

    error = failure(answers(OUTPUT), Failing(bytes(3 << 20)))
    assert type(error) is errors.SourceNotReadable
    assert "the disk is gone" in error.message


def test_a_path_that_shrinks_while_it_is_sent_is_not_readable(failure: Any, tmp_path: Path) -> None:
    path = tmp_path / "model.pt2"
    path.write_bytes(bytes(64 << 20))

    def on_event(event: events.Event) -> None:
        if isinstance(event, events.Uploaded) and event.sent:
            os.truncate(path, 100)

    error = failure(answers(OUTPUT), path, on_event=on_event)
    assert type(error) is errors.SourceNotReadable


async def test_a_refusal_is_heard_however_far_the_upload_has_got() -> None:
    refuses = fails(grpc.StatusCode.INVALID_ARGUMENT, "too large", reason="PROGRAM_TOO_LARGE")
    with FakeServer(refuses) as server:
        async with AsyncClient(server.address) as client:
            for size in (0, 1, 100_000, 4 << 20) * 10:
                with pytest.raises(errors.ProgramTooLarge):
                    await client.transform(bytes(size), "cse")
