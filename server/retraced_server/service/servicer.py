"""The methods of `retraced.v1.GraphTransformService`: messages in, messages out. What they do is `instance`'s."""

from __future__ import annotations

import asyncio
import time
from functools import partial

import grpc
import structlog

from retraced_server.errors import Reason, RetracedError
from retraced_server.pipeline.domain import TransformRequest
from retraced_server.pipeline.parse import Pipeline
from retraced_server.service import convert
from retraced_server.service.calls import Call, Calls, Context
from retraced_server.service.instance import GraphTransforms
from retraced_server.service.record import CallRecord
from retraced_server.service.upload import MAX_CHUNK_BYTES

_LOGGED_CHARACTERS = 300


class GraphTransformServicer:
    """Answers the calls of one server.

    Messages are read and made in `convert`, not by gRPC: one that cannot be read is an error like any other, and what a worker
    sends goes to the caller as it is.
    """

    def __init__(self, transforms: GraphTransforms, calls: Calls) -> None:
        self._transforms = transforms
        self._calls = calls

    def handler(self) -> grpc.GenericRpcHandler:
        """Return the service, as gRPC takes it."""
        served = self._calls.served
        return grpc.method_handlers_generic_handler(
            convert.SERVICE,
            {
                "TransformGraph": grpc.stream_stream_rpc_method_handler(served("TransformGraph", self._transform_graph)),
                "ListPasses": grpc.unary_unary_rpc_method_handler(served("ListPasses", self._list_passes)),
                "GetServerInfo": grpc.unary_unary_rpc_method_handler(served("GetServerInfo", self._get_server_info)),
            },
        )

    async def _transform_graph(self, _: object, context: Context, call: Call) -> None:
        record = call.record
        request = await self._read(context, record)
        if request is None or isinstance(request, bytes):
            what = "ended without a spec" if request is None else "began with a chunk"
            raise convert.violation("spec", f"the stream {what}; {convert.DESCRIPTION}")
        # What is refused is audited as it came.
        record.archive_bytes, record.pipeline = request.archive_size, request.pipeline
        pipeline = self._transforms.check(request, call.limits.max_archive_bytes)
        record.pipeline = str(pipeline)
        structlog.contextvars.bind_contextvars(pipeline=str(pipeline)[:_LOGGED_CHARACTERS], archive_bytes=request.archive_size)
        quotas = self._calls.quotas
        with (
            quotas.crashes(call.caller, context.peer(), call.limits),
            quotas.upload(call.caller, call.limits, request.archive_size),
        ):
            await self._run(request, pipeline, context, call)

    async def _run(self, request: TransformRequest, pipeline: Pipeline, context: Context, call: Call) -> None:
        record = call.record
        async with self._transforms.admit(call.request_id) as ticket:
            record.job = ticket.report
            await self._write(context, record, convert.accepted(call.request_id, ticket.queue_position))
            record.upload_at = time.monotonic()
            with self._transforms.upload(request, partial(self._read, context, record), record) as upload:
                async for response in ticket.run(pipeline, request.options, upload):
                    await self._write(context, record, response)

    async def _read(self, context: Context, record: CallRecord) -> convert.Request | None:
        """Return the next message of the request stream; None at its end."""
        seconds = self._transforms.limits.upload_idle_timeout
        left = seconds
        if record.upload_at is not None:
            # Who sends a byte now and then would keep others out for as long as they like.
            earned = seconds * (1 + record.received_bytes / MAX_CHUNK_BYTES)
            left = min(seconds, record.upload_at + earned - time.monotonic())
        try:
            async with asyncio.timeout(left):
                # Not only bytes, as gRPC's types have it: a constant of its own at the end.
                message: object = await context.read()
        except TimeoutError as error:
            what = f"nothing came for {seconds:g} s" if left == seconds else f"a MiB took longer than {seconds:g} s"
            raise convert.violation("message", f"{what}; the stream ends with the client's half-close") from error
        if not isinstance(message, bytes):
            return None
        record.received_bytes += len(message)
        return convert.read_request(message)

    async def _write(self, context: Context, record: CallRecord, response: bytes) -> None:
        """Send a response, once the caller has read what was sent before."""
        record.sent_bytes += len(response)
        seconds = self._transforms.limits.download_idle_timeout
        try:
            async with asyncio.timeout(seconds):
                await context.write(response)
        except TimeoutError as error:
            raise RetracedError(
                Reason.DOWNLOAD_STALLED,
                f"the caller did not read its answer for {seconds:g} s",
                metadata={"download_idle_timeout_seconds": f"{seconds:g}"},
            ) from error

    async def _list_passes(self, request: bytes, context: Context, call: Call) -> bytes:
        convert.read_list_passes(request)
        return convert.passes(self._transforms.facts.catalogue)

    async def _get_server_info(self, request: bytes, context: Context, call: Call) -> bytes:
        convert.read_get_server_info(request)
        return convert.server_info(self._transforms.info())
