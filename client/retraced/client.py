"""The client that blocks. `retraced.aio` has the same shape for asyncio."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar

import grpc
from google.protobuf.wrappers_pb2 import Int32Value, StringValue

from retraced import _convert
from retraced._attempts import ATTEMPTS, Attempts, checked_attempts
from retraced._connection import connection
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

_T = TypeVar("_T")
_Request = TypeVar("_Request")
_Response = TypeVar("_Response")


class Client:
    """A connection to a server. It connects at the first call, may be used from several threads, and is a context manager.

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
        self._attempts = checked_attempts(attempts)
        self._closing = threading.Event()
        self._channel = self._connection.channel()
        self._stub: GraphTransformServiceStub | None = GraphTransformServiceStub(self._channel)

    def transform(
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
        opened = open_source(source)
        try:
            return self._attempt(
                lambda seconds: self._transform(Transform(opened, text, options, request_id), on_event, seconds, metadata),
                timeout,
                on_event,
            )
        except BaseException:
            opened.close()
            raise

    def passes(self, timeout: float | None = None) -> tuple[PassInfo, ...]:
        """Return the passes that the server can run, by name.

        Args:
            timeout: Seconds that the call may take; None: the client's.

        Raises:
            Unauthenticated: The server wants to know who calls, and does not.
            ServerUnavailable: The server is not there, or too busy.
            TransformFailed: The call took too long, or the answer cannot be used.
        """
        return _convert.passes(self._ask(self._open_stub().ListPasses, pb.ListPassesRequest(), timeout))

    def info(self, timeout: float | None = None) -> ServerInfo:
        """Return what the server is: versions, limits, imported modules, load.

        Args:
            timeout: Seconds that the call may take; None: the client's.

        Raises:
            Unauthenticated: The server wants to know who calls, and does not.
            ServerUnavailable: The server is not there, or too busy.
            TransformFailed: The call took too long, or the answer cannot be used.
        """
        return _convert.info(self._ask(self._open_stub().GetServerInfo, pb.GetServerInfoRequest(), timeout))

    def wait_ready(self, timeout: float | None = None) -> None:
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
        self._open_stub()
        request_id = new_request_id(None)
        waiting = Waiting(self.address, self._seconds(timeout))
        check = self._channel.unary_unary(
            CHECK, request_serializer=StringValue.SerializeToString, response_deserializer=Int32Value.FromString
        )
        while True:
            try:
                if waiting.serves(
                    check(REQUEST, timeout=waiting.seconds_left(), metadata=self._connection.metadata(request_id))
                ):
                    return
            except grpc.RpcError as raised:
                error = error_from_status(raised, address=self.address, request_id=request_id)
                if not waiting.mends(error):
                    raise error from raised
            self._pause(waiting.pause(), request_id)

    def close(self) -> None:
        """Close the connection; calls that run end with `Cancelled`. May be called twice."""
        self._stub = None
        self._closing.set()
        self._channel.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _transform(
        self,
        transform: Transform,
        on_event: Callable[[Event], object] | None,
        seconds: float | None,
        metadata: tuple[tuple[str, str], ...],
    ) -> TransformResult:
        """Make one attempt."""
        try:
            feed = _Feed(transform, on_event)
            call = self._open_stub().TransformGraph(iter(feed), timeout=seconds, metadata=metadata)
            feed.started(call.cancel)
            try:
                for response in call:
                    feed.tell(transform.receive(response))
            except grpc.RpcError as error:
                if feed.failure is None:
                    raise transform.failure(error, self.address) from error
            except BaseException:
                call.cancel()
                raise
            finally:
                feed.ended()
            if feed.failure is not None:
                raise feed.failure
            return transform.finish()
        except BaseException:
            transform.close()
            raise

    def _ask(
        self, method: grpc.UnaryUnaryMultiCallable[_Request, _Response], request: _Request, timeout: float | None
    ) -> _Response:
        request_id = new_request_id(None)

        def ask(seconds: float | None) -> _Response:
            try:
                return method(request, timeout=seconds, metadata=self._connection.metadata(request_id))
            except grpc.RpcError as error:
                raise error_from_status(error, address=self.address, request_id=request_id) from error

        return self._attempt(ask, timeout)

    def _attempt(
        self,
        call: Callable[[float | None], _T],
        timeout: float | None,
        on_event: Callable[[Event], object] | None = None,
    ) -> _T:
        """Make a call, and make it again while the server says that it may succeed later."""
        attempts = Attempts(self._attempts, self._seconds(timeout), self._connection.several)
        while True:
            try:
                return call(attempts.seconds_left())
            except RetracedError as error:
                retrying, request_id = attempts.after(error), error.request_id
                if retrying is None:
                    raise
            if on_event is not None:
                on_event(retrying)
            self._pause(retrying.seconds, request_id)

    def _pause(self, seconds: float, request_id: str) -> None:
        if self._closing.wait(seconds):
            raise Cancelled(f"the call to {self.address} was cancelled", request_id=request_id)

    def _seconds(self, timeout: float | None) -> float | None:
        return self._timeout if timeout is None else timeout

    def _open_stub(self) -> GraphTransformServiceStub:
        if self._stub is None:
            raise ValueError("the client is closed")
        return self._stub


class _Feed:
    """Gives gRPC the request stream, which it reads in a thread of its own, and tells of events, from either thread."""

    def __init__(self, transform: Transform, on_event: Callable[[Event], object] | None) -> None:
        # What ended the request stream too early.
        self.failure: Exception | None = None
        self._transform = transform
        self._on_event = on_event
        self._telling = threading.Lock()
        self._cancel: Future[Callable[[], object]] = Future()

    def started(self, cancel: Callable[[], object]) -> None:
        self._cancel.set_result(cancel)

    def ended(self) -> None:
        """Have nothing more told: gRPC's thread may still be at its last request when the next attempt begins."""
        with self._telling:
            self._on_event = None

    def tell(self, event: Event | None) -> None:
        with self._telling:
            if event is not None and self._on_event is not None:
                self._on_event(event)

    def __iter__(self) -> Iterator[pb.TransformGraphRequest]:
        try:
            for request, event in self._transform.requests():
                yield request
                self.tell(event)
        except Exception as error:  # noqa: BLE001 - gRPC would log it and lose it; the caller's thread raises it instead
            self.failure = error
            self._cancel.result()()
