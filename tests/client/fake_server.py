"""A gRPC server on a real socket whose transforms do what a test tells them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Self, cast

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]

from retraced.v1 import graph_transform_pb2 as pb
from retraced.v1 import passes_pb2, program_pb2
from retraced.v1.graph_transform_pb2_grpc import GraphTransformServiceServicer, add_GraphTransformServiceServicer_to_server

Behaviour = Callable[[Iterator[pb.TransformGraphRequest], grpc.ServicerContext], Iterator[pb.TransformGraphResponse]]


class FakeServer(GraphTransformServiceServicer):
    """A server; a context manager. `transform` is what it does.

    Attributes:
        metadata: What the last call came with.
        callers: Of every call its `authorization`, and the common name in its certificate; None where there was none.
    """

    def __init__(self, transform: Behaviour, credentials: grpc.ServerCredentials | None = None) -> None:
        self.transform = transform
        self.metadata: dict[str, str | bytes] = {}
        self.callers: list[tuple[str | bytes | None, bytes | None]] = []
        self._server = grpc.server(ThreadPoolExecutor(8))
        add_GraphTransformServiceServicer_to_server(self, self._server)
        any_port = "127.0.0.1:0"
        port = (
            self._server.add_insecure_port(any_port)
            if credentials is None
            else self._server.add_secure_port(any_port, credentials)
        )
        self.address = f"127.0.0.1:{port}"

    def TransformGraph(  # noqa: N802 - gRPC's name
        self, request_iterator: Iterator[pb.TransformGraphRequest], context: grpc.ServicerContext
    ) -> Iterator[pb.TransformGraphResponse]:
        self._note(context)
        return self.transform(request_iterator, context)

    def ListPasses(  # noqa: N802 - gRPC's name
        self, request: pb.ListPassesRequest, context: grpc.ServicerContext
    ) -> pb.ListPassesResponse:
        self._note(context)
        return pb.ListPassesResponse(passes=PASSES)

    def GetServerInfo(  # noqa: N802 - gRPC's name
        self, request: pb.GetServerInfoRequest, context: grpc.ServicerContext
    ) -> pb.GetServerInfoResponse:
        self._note(context)
        return INFO

    def _note(self, context: grpc.ServicerContext) -> None:
        self.metadata = dict(context.invocation_metadata())
        # Its published types have integers in place of bytes.
        (common_name,) = cast(dict[str, list[bytes]], context.auth_context()).get("x509_common_name", (None,))
        self.callers.append((self.metadata.get("authorization"), common_name))

    def stop(self) -> None:
        """Breaks every connection at once."""
        self._server.stop(grace=None).wait()

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()


PASSES = [
    passes_pb2.Pass(name="cse", summary="Merges equal calls.", ir_level=passes_pb2.IR_LEVEL_FUNCTIONAL, provider="retraced"),
    passes_pb2.Pass(
        name="decompose",
        summary="Decomposes operators.",
        description="Replaces operators by simpler ones.",
        options=[
            passes_pb2.PassOption(
                name="table",
                summary="Which table.",
                type=passes_pb2.OPTION_TYPE_CHOICE,
                default_value="core-aten",
                choices=["core-aten", "none"],
            ),
            passes_pb2.PassOption(name="depth", summary="How deep.", type=passes_pb2.OPTION_TYPE_INT),
        ],
        needs_weights=True,
        ir_level=passes_pb2.IR_LEVEL_ANY,
        provider="retraced",
    ),
]
INFO = pb.GetServerInfoResponse(
    version="0.1.0",
    torch_version="2.13.0",
    python_version="3.11.9",
    schema_version=program_pb2.SchemaVersion(major=8, minor=20),
    imports=[pb.ImportedModule(name="my_ops", version="3.1")],
    limits=pb.Limits(
        max_archive_bytes=1 << 30, max_queued=8, workers=2, job_timeout_seconds=600, worker_memory_bytes=0, memory_bytes=3 << 30
    ),
    running=1,
    queued=3,
    uptime_seconds=12.5,
    sandbox=[
        pb.SandboxLayer(name="landlock", state=pb.SANDBOX_LAYER_STATE_MISSING, detail="the kernel has none", required=True),
        pb.SandboxLayer(name="later", state=99),  # type: ignore[arg-type]  # A state that this version does not know.
    ],
)


def read_upload(requests: Iterator[pb.TransformGraphRequest]) -> tuple[pb.TransformSpec, bytes]:
    """The whole request: the spec, then the archive."""
    spec = next(requests).spec
    return spec, b"".join(request.archive_chunk for request in requests)


def program(node_count: int = 3, **targets: int) -> program_pb2.ProgramInfo:
    """A program with one input, one output and one symbol."""
    return program_pb2.ProgramInfo(
        signature=program_pb2.GraphSignature(
            inputs=[program_pb2.InputSpec(kind=program_pb2.INPUT_KIND_USER_INPUT, name="x")],
            outputs=[program_pb2.OutputSpec(kind=program_pb2.OUTPUT_KIND_USER_OUTPUT, name="relu")],
        ),
        symbols=[program_pb2.Symbol(name="s0", lower="2", hint=5)],
        schema_version=program_pb2.SchemaVersion(major=8, minor=20),
        torch_version="2.13.0",
        node_count=node_count,
        graph_count=1,
        dialect="ATEN",
        targets=[program_pb2.TargetCount(target=target, count=count) for target, count in targets.items()],
    )


def summary(*, output: bytes | None, modified: bool = True, size: int | None = None) -> pb.TransformGraphResponse:
    """A summary of a transform whose output archive is `output`; None: it is not sent."""
    return pb.TransformGraphResponse(
        summary=pb.Summary(
            modified=modified,
            input=program(5, mm=2, add=1),
            output=program(4, mm=1, add=1, relu=1),
            output_size=len(output) if output is not None else size or 0,
            output_sha256=hashlib.sha256(output).digest() if output is not None else b"",
            pipeline="cse",
            timings=pb.Timings(queued=0.5, reading=0.25, running=1.5),
            remarks=["the sample inputs were dropped"],
        )
    )


def output_chunks(output: bytes, chunk_bytes: int = 1 << 20) -> Iterator[pb.TransformGraphResponse]:
    """An output archive's messages."""
    for offset in range(0, len(output), chunk_bytes):
        yield pb.TransformGraphResponse(output_chunk=output[offset : offset + chunk_bytes])


def accepted(request_id: str = "", queue_position: int = 0) -> pb.TransformGraphResponse:
    """The first response."""
    return pb.TransformGraphResponse(accepted=pb.Accepted(request_id=request_id, queue_position=queue_position))


def one_pass() -> Iterator[pb.TransformGraphResponse]:
    """The messages of a pass that runs."""
    yield pb.TransformGraphResponse(pass_started=pb.PassStarted(index=0, count=1, name="cse", text="cse"))
    yield pb.TransformGraphResponse(progress=pb.Progress(stage=pb.STAGE_RUNNING, done=2, total=5))
    yield pb.TransformGraphResponse(
        pass_finished=pb.PassFinished(
            index=0,
            report=passes_pb2.PassReport(
                name="cse",
                text="cse",
                modified=True,
                rewrites=2,
                seconds=0.125,
                nodes_before=5,
                nodes_after=4,
                remarks=["merged two"],
                new_guards=["s0 > 3"],
            ),
        )
    )


def answers(output: bytes, *between: pb.TransformGraphResponse, modified: bool = True) -> Behaviour:
    """A server that reads the upload, runs one pass, and sends `output` where the caller wants it."""

    def transform(
        requests: Iterator[pb.TransformGraphRequest], context: grpc.ServicerContext
    ) -> Iterator[pb.TransformGraphResponse]:
        spec, archive = read_upload(requests)
        assert len(archive) == spec.archive_size
        yield accepted("from-the-server")
        yield from one_pass()
        asked = spec.options.node_metadata not in (pb.NODE_METADATA_SELECTION_UNSPECIFIED, pb.NODE_METADATA_SELECTION_NONE)
        yield from (response for response in between if asked or not response.HasField("node_metadata"))
        delivery = spec.options.output
        if delivery == pb.OUTPUT_DELIVERY_NEVER or (delivery == pb.OUTPUT_DELIVERY_IF_MODIFIED and not modified):
            yield summary(output=None, modified=modified, size=len(output))
        else:
            yield from output_chunks(output)
            yield summary(output=output, modified=modified)

    return transform


def replies(*responses: pb.TransformGraphResponse) -> Behaviour:
    """A server that reads the upload and sends these responses."""

    def transform(
        requests: Iterator[pb.TransformGraphRequest], context: grpc.ServicerContext
    ) -> Iterator[pb.TransformGraphResponse]:
        read_upload(requests)
        yield from responses

    return transform


def fails(
    code: grpc.StatusCode,
    message: str = "it failed",
    *,
    reason: str | None = None,
    metadata: Mapping[str, str] | None = None,
    violation: tuple[str, str] | None = None,
    retry_after: float | None = None,
    domain: str = "retraced.dev",
) -> Behaviour:
    """A server that ends the call with a status, before it has read the upload."""

    def transform(
        requests: Iterator[pb.TransformGraphRequest], context: grpc.ServicerContext
    ) -> Iterator[pb.TransformGraphResponse]:
        yield accepted("from-the-server")
        details = _details(code, message, reason, domain, metadata, violation, retry_after)
        if details:
            context.set_trailing_metadata((("grpc-status-details-bin", details),))
        context.abort(code, message)

    return transform


def _details(
    code: grpc.StatusCode,
    message: str,
    reason: str | None,
    domain: str,
    metadata: Mapping[str, str] | None,
    violation: tuple[str, str] | None,
    retry_after: float | None,
) -> bytes:
    """A google.rpc.Status as retraced's service gives it; nothing where there is no detail."""
    details: list[Message] = []
    if violation is not None:
        field_violation = error_details_pb2.BadRequest.FieldViolation(field=violation[0], description=violation[1])
        details.append(error_details_pb2.BadRequest(field_violations=[field_violation]))
    if retry_after is not None:
        delay = Duration()
        delay.FromMilliseconds(round(retry_after * 1000))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    if reason is not None:
        details.append(error_details_pb2.ErrorInfo(reason=reason, domain=domain, metadata=metadata or {}))
    if not details:
        return b""
    status = status_pb2.Status(code=code.value[0], message=message)
    for detail in details:
        status.details.add().Pack(detail)
    return bytes(status.SerializeToString())
