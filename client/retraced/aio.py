"""The client for asyncio. `retraced.client` has the same shape and blocks."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar

import grpc
import grpc.aio
from google.protobuf.wrappers_pb2 import Int32Value, StringValue

from retraced import _convert
from retraced._attempts import ATTEMPTS, Attempts, checked_attempts
from retraced._connection import connection
from retraced._feed import Feed, StatusKept, TransformCall, decoded, in_thread
from retraced._options import (
    KeptAtHome,
    NodeMetadataSelection,
    RetraceMode,
    TransformOptions,
    new_request_id,
    pipeline_text,
)
from retraced._ready import CHECK, REQUEST, Waiting
from retraced._source import open_source
from retraced._status import error_from_status
from retraced._transform import Transform
from retraced.errors import Cancelled, RetracedError
from retraced.events import Event
from retraced.results import TransformResult
from retraced.server_info import PassInfo, ServerInfo
from retraced.tls import Tls
from retraced.v1 import graph_transform_pb2 as pb
from retraced.v1.graph_transform_pb2_grpc import GraphTransformServiceStub

if TYPE_CHECKING:
    from retraced._source import AnySource
    from retraced.v1.graph_transform_pb2_grpc import GraphTransformServiceAsyncStub

_T = TypeVar("_T")
_Request = TypeVar("_Request")
_Response = TypeVar("_Response")


class AsyncClient:
    """A connection to a server. It connects at the first call, belongs to that call's event loop, and is a context manager.

    Args:
        address: The server's, for example `127.0.0.1:50051` or `unix:/run/retraced.sock`; None: that of the environment
            variable RETRACED_SERVER. Of several servers: their IP addresses, as a sequence or with commas between, or a DNS name that has
            all of them, `dns:///build.example.com:50051`. Each call goes to the next that can be reached.
        token: Says who calls, to a server that wants to know.
        tls: How the connection is encrypted; None: it is plain text. `Tls()` does for a server with a certificate of a public
            authority.
        allow_insecure: Send the token in plain text, also to another machine.
        timeout: Seconds that a call may take, where the call itself does not say; None: as long as it needs.
        attempts: How often a call is made while the server says that it may succeed later (`retry_after` of the error), with pauses of
            that length at least, and longer from one to the next; of several servers also when one is lost. All of it within the
            timeout. 1: once.
        channel_options: gRPC channel options that go before this client's own, by name, for example
            `{"grpc.max_receive_message_length": 1 << 28}`.

    Raises:
        AddressMissing: There is no address.
        AddressInvalid: The address cannot be connected to; or there are several, and they are not all IP addresses of one version with
            ports.
        CredentialsInvalid: A file of `tls` cannot be read, or the token cannot be sent, or not in plain text; or there are several
            addresses, and `tls` has no name for them.
        ValueError: `attempts` is less than 1.
    """

    def __init__(
        self,
        address: str | Sequence[str] | None = None,
        *,
        token: str | None = None,
        tls: Tls | None = None,
        allow_insecure: bool = False,
        timeout: float | None = None,
        attempts: int = ATTEMPTS,
        channel_options: Mapping[str, str | int] | None = None,
    ) -> None:
        self._connection = connection(address, token, tls, allow_insecure, channel_options)
        self.address = self._connection.address
        self._timeout = timeout
        self._channel: grpc.aio.Channel | None = None
        self._attempts = checked_attempts(attempts)
        self._calls: set[TransformCall] = set()
        self._closing = asyncio.Event()

    async def transform(
        self,
        source: AnySource,
        pipeline: str | Sequence[str],
        on_event: Callable[[Event], object] | None = None,
        timeout: float | None = None,
        *,
        node_metadata: NodeMetadataSelection = "none",
        validate_only: bool = False,
        refuse_new_guards: bool = False,
        mode: RetraceMode | None = None,
        want_output: bool = True,
        namespaces: Sequence[str] = (),
        keep_at_home: Sequence[KeptAtHome] = (),
        request_id: str | None = None,
        traceparent: str | None = None,
    ) -> TransformResult:
        """Transform a program by a pipeline of passes.

        Args:
            source: A `.pt2` archive as a path, as bytes, or as a file object opened in binary mode (read from where it stands
                to its end); or a `torch.export.ExportedProgram`.
            pipeline: The passes, for example `decompose{table=core-aten},cse,dce`, or a sequence of such texts.
            on_event: Called with each event as it comes, one at a time. What it raises ends the call, and is raised here.
            timeout: Seconds that the call may take; None: the client's.
            node_metadata: Whose metadata is wanted: no node's, that of nodes that are new or changed, or every node's.
            validate_only: Check the pipeline and the program, and stop there: no pass runs and there is no output.
            refuse_new_guards: Fail when a pass adds guards on symbolic shapes, instead of reporting them.
            mode: How nodes are treated that a pass leaves alone: `incremental` reuses their recorded values, `full` executes every operator
                again and compares. None: `incremental`.
            want_output: False: only reports and metadata are wanted, and no archive is sent back.
            namespaces: Namespaces of custom operators that passes may bring into the program, such as `mylib`; operators of others that
                it does not use already are refused on the way back.
            keep_at_home: What of the archive is not sent, and put back into what comes back: `sample-inputs`, `guards`, `stack-traces`,
                which hold paths and lines of source. Metadata and errors have them too.
            request_id: Names the request in the server's logs, up to 128 printable ASCII characters; None: a new one. All attempts
                have the same.
            traceparent: W3C Trace Context for the server's logs.

        Returns:
            The transformed program, reports and nodes.

        Raises:
            RequestInvalid: The program, the pipeline, an option or the token is at fault; a subclass says which.
            TransformFailed: A pass or a worker failed, the call took too long, or the answer cannot be used; a subclass says
                which. `OutputUnsafe`: torch could run code from the output.
            ServerUnavailable: The server is not there, or too busy; a subclass says which.
            SourceNotReadable: The source cannot be read, or was changed meanwhile.
            OutputNotWritable: There is no room for the output in the directory for temporary files.
            ValueError: An option is not one of its values, or the client is closed.
            TypeError: The source or the pipeline is none of the above.
        """
        options = TransformOptions(
            node_metadata, validate_only, mode, refuse_new_guards, want_output, tuple(namespaces), tuple(keep_at_home)
        )
        text, request_id = pipeline_text(pipeline), new_request_id(request_id)
        metadata = self._connection.metadata(request_id, traceparent)
        opened = await asyncio.to_thread(open_source, source)
        try:
            return await self._attempt(
                lambda seconds: self._transform(Transform(opened, text, options, request_id), on_event, seconds, metadata),
                timeout,
                on_event,
            )
        except BaseException:
            opened.close()
            raise

    async def passes(self, timeout: float | None = None) -> tuple[PassInfo, ...]:
        """Return the passes that the server can run, by name.

        Args:
            timeout: Seconds that the call may take; None: the client's.

        Raises:
            Unauthenticated: The server wants to know who calls, and does not.
            ServerUnavailable: The server is not there, or too busy.
            TransformFailed: The call took too long, or the answer cannot be used.
        """
        return _convert.passes(await self._ask(self._open_stub().ListPasses, pb.ListPassesRequest(), timeout))

    async def info(self, timeout: float | None = None) -> ServerInfo:
        """Return what the server is: versions, limits, imported modules, load.

        Args:
            timeout: Seconds that the call may take; None: the client's.

        Raises:
            Unauthenticated: The server wants to know who calls, and does not.
            ServerUnavailable: The server is not there, or too busy.
            TransformFailed: The call took too long, or the answer cannot be used.
        """
        return _convert.info(await self._ask(self._open_stub().GetServerInfo, pb.GetServerInfoRequest(), timeout))

    async def wait_ready(self, timeout: float | None = None) -> None:
        """Wait until a request would be taken: the server can be reached, has started, and does not drain.

        Of several servers it waits for one.

        Args:
            timeout: Seconds that it may take; None: the client's.

        Raises:
            ServerNotReady: It took longer. The message says what was wrong at last.
            Cancelled: The client was closed.
            TransformFailed: What answers cannot say whether it is ready: it is no retraced server.
            ValueError: The client is closed.
        """
        request_id = new_request_id(None)
        waiting = Waiting(self.address, self._seconds(timeout))
        check = self._open_channel().unary_unary(
            CHECK, request_serializer=StringValue.SerializeToString, response_deserializer=Int32Value.FromString
        )
        while True:
            try:
                answer = await check(REQUEST, timeout=waiting.seconds_left(), metadata=self._connection.metadata(request_id))
                if waiting.serves(decoded(answer, request_id)):
                    return
            except grpc.aio.AioRpcError as raised:
                error = error_from_status(raised, address=self.address, request_id=request_id)
                if not waiting.mends(error):
                    raise error from raised
            await self._pause(waiting.pause(), request_id)

    async def close(self) -> None:
        """Close the connection; calls that run end with `Cancelled`. May be called twice."""
        self._closing.set()
        # A channel that is closed ends only those of its calls that it happens to find among the event loop's tasks.
        for call in tuple(self._calls):
            call.cancel()
        if self._channel is not None:
            await self._channel.close()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _transform(
        self,
        transform: Transform,
        on_event: Callable[[Event], object] | None,
        seconds: float | None,
        metadata: tuple[tuple[str, str], ...],
    ) -> TransformResult:
        """Make one attempt."""
        try:
            call = self._open_stub().TransformGraph(timeout=seconds, metadata=metadata)
            status = StatusKept(call)
            self._calls.add(call)
            feed = Feed(transform, on_event, call)
            try:
                async for received in call:
                    response = decoded(received, transform.request_id)
                    if transform.takes_long(response):
                        feed.tell(await asyncio.to_thread(transform.receive, response))
                    else:
                        feed.tell(transform.receive(response))
            except grpc.aio.AioRpcError as raised:
                error = await status.error(raised)
                if feed.failure is None and error is not None:
                    raise transform.failure(error, self.address) from error
            except asyncio.CancelledError as error:
                task = asyncio.current_task()
                if task is None or task.cancelling():
                    raise
                # gRPC's own, for a call that was ended here: by a failing feed, or by closing the client.
                if feed.failure is None:
                    raise Cancelled(f"the call to {self.address} was cancelled", request_id=transform.request_id) from error
            finally:
                self._calls.discard(call)
                call.cancel()
                await feed.stopped()
            if feed.failure is not None:
                raise feed.failure
            return await in_thread(transform.finish)
        except BaseException:
            transform.close()
            raise

    async def _ask(
        self, method: grpc.aio.UnaryUnaryMultiCallable[_Request, _Response], request: _Request, timeout: float | None
    ) -> _Response:
        request_id = new_request_id(None)

        async def ask(seconds: float | None) -> _Response:
            try:
                answer = await method(request, timeout=seconds, metadata=self._connection.metadata(request_id))
                return decoded(answer, request_id)
            except grpc.aio.AioRpcError as error:
                raise error_from_status(error, address=self.address, request_id=request_id) from error

        return await self._attempt(ask, timeout)

    async def _attempt(
        self,
        call: Callable[[float | None], Awaitable[_T]],
        timeout: float | None,
        on_event: Callable[[Event], object] | None = None,
    ) -> _T:
        """Make a call, and make it again while the server says that it may succeed later."""
        attempts = Attempts(self._attempts, self._seconds(timeout), self._connection.several)
        while True:
            try:
                return await call(attempts.seconds_left())
            except RetracedError as error:
                retrying, request_id = attempts.after(error), error.request_id
                if retrying is None:
                    raise
            if on_event is not None:
                on_event(retrying)
            await self._pause(retrying.seconds, request_id)

    async def _pause(self, seconds: float, request_id: str) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._closing.wait(), seconds)
            raise Cancelled(f"the call to {self.address} was cancelled", request_id=request_id)

    def _seconds(self, timeout: float | None) -> float | None:
        return self._timeout if timeout is None else timeout

    def _open_stub(self) -> GraphTransformServiceAsyncStub:
        return GraphTransformServiceStub(self._open_channel())

    def _open_channel(self) -> grpc.aio.Channel:
        if self._closing.is_set():
            raise ValueError("the client is closed")
        if self._channel is None:
            # A channel belongs to the event loop that runs when it is made.
            self._channel = self._connection.aio_channel()
        return self._channel
