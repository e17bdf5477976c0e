"""Sends one request stream to a server as raw messages, and says whether the answer is one that the contract allows."""

from __future__ import annotations

import io
import threading
import time
import zipfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import grpc
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]

from retraced.v1 import graph_transform_pb2 as pb
from retraced_server.errors import Reason
from retraced_server.service.statuses import CODES, DOMAIN

METHOD: Final = "/retraced.v1.GraphTransformService/TransformGraph"
PATIENCE: Final = 300.0
"""Seconds within which a server must have answered: beyond all limits that it is started with."""

_CHANNEL_OPTIONS: Final = (("grpc.max_receive_message_length", 8 << 20), ("grpc.use_local_subchannel_pool", 1))


@dataclass(frozen=True)
class Answer:
    """What came back.

    Attributes:
        code: The status.
        reason: The reason of the error; empty where there is none.
        message: The text of the error.
        responses: The messages that came.
        left: Whether the caller itself ended the call.
    """

    code: grpc.StatusCode
    reason: str
    message: str
    responses: tuple[pb.TransformGraphResponse, ...]
    left: bool = False

    @property
    def summary(self) -> pb.Summary | None:
        """The last message, where it is a summary."""
        return self.responses[-1].summary if self.responses and self.responses[-1].HasField("summary") else None

    @property
    def output(self) -> bytes:
        """The archive that came."""
        return b"".join(response.output_chunk for response in self.responses)


def open_channel(address: str) -> grpc.Channel:
    """Return a connection of its own."""
    return grpc.insecure_channel(address, options=_CHANNEL_OPTIONS)


def ask(
    channel: grpc.Channel,
    frames: Iterable[bytes],
    *,
    request_id: str,
    metadata: Sequence[tuple[str, str]] = (),
    cancel_after: int | None = None,
    leave: Callable[[], object] | None = None,
    leave_after: float = 0.0,
    seconds_between: float = 0.0,
) -> Answer:
    """Make one call.

    Args:
        channel: A connection.
        frames: The messages, serialized.
        request_id: Names the request.
        metadata: Further metadata.
        cancel_after: Responses after which the call is cancelled.
        leave: Ends the call from outside, by closing its connection for example; None where the caller stays.
        leave_after: Seconds after which it does.
        seconds_between: How long to wait before each further response: a slow reader.
    """
    method: Any = channel.stream_stream(METHOD, request_serializer=None, response_deserializer=None)
    responses: list[pb.TransformGraphResponse] = []
    call = method(iter(frames), timeout=PATIENCE, metadata=(("x-request-id", request_id), *metadata))
    left = threading.Event()

    def go(how: Callable[[], object]) -> None:
        left.set()
        how()

    timer = threading.Timer(leave_after, go, [leave or call.cancel])
    if leave is not None:
        timer.start()
    try:
        if cancel_after == 0:
            go(call.cancel)
        for data in call:
            responses.append(pb.TransformGraphResponse.FromString(data))
            if len(responses) == cancel_after:
                go(call.cancel)
            if seconds_between:
                time.sleep(seconds_between)
    except grpc.RpcError:
        code, reason = call.code(), _reason(call)
        return Answer(code, reason, call.details() or "", tuple(responses), left.is_set())
    finally:
        timer.cancel()
    return Answer(grpc.StatusCode.OK, "", "", tuple(responses), left.is_set())


def fault_of(answer: Answer, archive: bytes, options: pb.TransformOptions, *, beyond: bool = False) -> str:
    """Return what the contract does not allow in an answer; empty where it is in order.

    Args:
        answer: The answer.
        archive: The archive that was sent.
        options: What was asked for.
        beyond: Whether gRPC itself may have ended the call.
    """
    if answer.code is grpc.StatusCode.OK:
        return _fault_of_success(answer, archive, options)
    if answer.left and answer.code is grpc.StatusCode.CANCELLED:
        return ""
    if not answer.reason:
        return "" if beyond else f"{answer.code.name} without a reason: {answer.message}"
    if answer.reason not in Reason.__members__:
        return f"the reason {answer.reason} is not documented"
    expected = CODES[Reason[answer.reason]]
    return "" if answer.code is expected else f"{answer.reason} came as {answer.code.name}, not {expected.name}"


def _fault_of_success(answer: Answer, archive: bytes, options: pb.TransformOptions) -> str:
    summary = answer.summary
    if summary is None:
        return "OK without a summary"
    if not answer.responses[0].HasField("accepted"):
        return "OK without a first `accepted`"
    output = answer.output
    unwanted = options.validate_only or options.output == pb.OUTPUT_DELIVERY_NEVER
    if unwanted or (options.output == pb.OUTPUT_DELIVERY_IF_MODIFIED and not summary.modified):
        return f"{len(output)} bytes of output that nobody wants" if output else ""
    if not summary.modified:
        return "" if output == archive else "the output of a program that no pass modified is not the input"
    try:
        with zipfile.ZipFile(io.BytesIO(output)) as file:
            damaged = file.testzip()
    except zipfile.BadZipFile as error:
        return f"the output is no zip: {error}"
    return f"the output's record {damaged} is damaged" if damaged else ""


def _reason(call: grpc.Call) -> str:
    """Return the reason of a call that failed; empty where it has none of ours."""
    for key, value in call.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            status = status_pb2.Status.FromString(value)
            for detail in status.details:
                info = error_details_pb2.ErrorInfo()
                if detail.Is(info.DESCRIPTOR) and detail.Unpack(info) and info.domain == DOMAIN:
                    return str(info.reason)
    return ""
