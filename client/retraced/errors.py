"""Every error that a caller of retraced can meet.

Each is a `RetracedError`, and belongs to one of four families, so that a caller can act without a list of names:

- `RequestInvalid`: what was sent, or asked for, is at fault. The same call fails again.
- `TransformFailed`: the request was fine, and the work failed.
- `ServerUnavailable`: no server did the work. The same call may succeed later; `retry_after` says when, where the server knows.
- `LocalError`: something on this machine is at fault: a file, a missing package.

None of them is gRPC's. The gRPC error, where there is one, is the `__cause__`.
"""
# ruff: noqa: N818 - the classes are named after the wire's reasons.

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True)
class FieldViolation:
    """A field of the request that is at fault, for example `spec.pipeline`, and what is wrong with it."""

    field: str
    description: str


class RetracedError(Exception):
    """A call failed.

    Attributes:
        status: The gRPC status that the error comes from; None for one that this package raises itself.
        reason: A stable name for what went wrong: a name of `retraced.v1.ErrorReason`, or one of this package's own.
        message: One or two sentences that say what is wrong, where, and what to do.
        metadata: Facts for a program to read: the pass, the node, a limit. All strings.
        violations: Fields of the request that are at fault.
        retry_after: Seconds after which the same call may succeed; None where the server gave none.
        request_id: The request's id in the server's logs; empty where no request was made.
    """

    status: ClassVar[str | None] = None
    reason: str = "ERROR"

    def __init_subclass__(cls, *, reason: str | None = None, status: str | None = None) -> None:
        super().__init_subclass__()
        if reason is not None:
            cls.reason, cls.status = reason, status

    def __init__(
        self,
        message: str,
        *,
        metadata: Mapping[str, str] | None = None,
        violations: Sequence[FieldViolation] = (),
        retry_after: float | None = None,
        request_id: str = "",
    ) -> None:
        super().__init__(message)
        self.message = message
        self.metadata = dict(metadata or {})
        self.violations = tuple(violations)
        self.retry_after = retry_after
        self.request_id = request_id


class RequestInvalid(RetracedError):
    """What was sent, or asked for, is at fault."""


class TransformFailed(RetracedError):
    """The request was fine, and the work failed."""


class ServerUnavailable(RetracedError):
    """No server did the work; it may be done later."""


class LocalError(RetracedError):
    """Something on this machine is at fault."""


class ProtocolViolation(RequestInvalid, reason="PROTOCOL_VIOLATION", status="INVALID_ARGUMENT"):
    """The stream broke the protocol. INVALID_ARGUMENT."""


class ArchiveMismatch(RequestInvalid, reason="ARCHIVE_MISMATCH", status="INVALID_ARGUMENT"):
    """The archive's size or sha256 is not what was announced. INVALID_ARGUMENT."""


class ArchiveInvalid(RequestInvalid, reason="ARCHIVE_INVALID", status="INVALID_ARGUMENT"):
    """The archive is empty, not a zip, truncated or damaged. INVALID_ARGUMENT, or raised by `retraced.archive`."""


class ProgramTooLarge(RequestInvalid, reason="PROGRAM_TOO_LARGE", status="INVALID_ARGUMENT"):
    """The archive is larger than the server takes. INVALID_ARGUMENT."""


class ProgramMissing(RequestInvalid, reason="PROGRAM_MISSING", status="INVALID_ARGUMENT"):
    """The archive holds no exported program. INVALID_ARGUMENT, or raised by `retraced.archive`."""


class ProgramInvalid(RequestInvalid, reason="PROGRAM_INVALID", status="INVALID_ARGUMENT"):
    """The program cannot be read, or is not valid. INVALID_ARGUMENT, or raised by what reads an archive here."""


class ProgramUnsupported(RequestInvalid, reason="PROGRAM_UNSUPPORTED", status="FAILED_PRECONDITION"):
    """The program is valid, and holds what the server does not take; `docs/unsupported.md` lists it. FAILED_PRECONDITION."""


class SchemaUnsupported(RequestInvalid, reason="SCHEMA_UNSUPPORTED", status="FAILED_PRECONDITION"):
    """The program is in a schema version that the server does not read. FAILED_PRECONDITION."""


class PipelineSyntax(RequestInvalid, reason="PIPELINE_SYNTAX", status="INVALID_ARGUMENT"):
    """The pipeline's text cannot be parsed. INVALID_ARGUMENT."""


class PassUnknown(RequestInvalid, reason="PASS_UNKNOWN", status="INVALID_ARGUMENT"):
    """The pipeline names a pass that the server does not have. INVALID_ARGUMENT."""


class OptionUnknown(RequestInvalid, reason="OPTION_UNKNOWN", status="INVALID_ARGUMENT"):
    """The pipeline gives an option that the pass does not have. INVALID_ARGUMENT."""


class OptionInvalid(RequestInvalid, reason="OPTION_INVALID", status="INVALID_ARGUMENT"):
    """An option's value is missing or not of its type. INVALID_ARGUMENT."""


class PassFailed(TransformFailed, reason="PASS_FAILED", status="FAILED_PRECONDITION"):
    """A pass raised an error. FAILED_PRECONDITION.

    `metadata` says where: pass, pass_index, node, target, source, remaining_pipeline.
    """


class PassOutputInvalid(TransformFailed, reason="PASS_OUTPUT_INVALID", status="FAILED_PRECONDITION"):
    """A pass made a program that is not valid. FAILED_PRECONDITION. `metadata` is as for `PassFailed`."""


class NewGuards(TransformFailed, reason="NEW_GUARDS", status="FAILED_PRECONDITION"):
    """A pass added guards, and the caller refuses them. FAILED_PRECONDITION."""


class QueueFull(ServerUnavailable, reason="QUEUE_FULL", status="RESOURCE_EXHAUSTED"):
    """The server's queue is full. RESOURCE_EXHAUSTED, with `retry_after`."""


class ServerDraining(ServerUnavailable, reason="SERVER_DRAINING", status="UNAVAILABLE"):
    """The server is shutting down. UNAVAILABLE, with `retry_after`."""


class WorkersUnavailable(ServerUnavailable, reason="WORKERS_UNAVAILABLE", status="UNAVAILABLE"):
    """The server cannot start a worker at present. UNAVAILABLE, with `retry_after`."""


class WorkerCrashed(TransformFailed, reason="WORKER_CRASHED", status="INTERNAL"):
    """The worker was ended by a fault of its own, such as SIGSEGV. INTERNAL."""


class WorkerExited(TransformFailed, reason="WORKER_EXITED", status="INTERNAL"):
    """The worker ended without an answer. INTERNAL."""


class WorkerKilled(TransformFailed, reason="WORKER_KILLED", status="INTERNAL"):
    """The worker was killed from outside. INTERNAL."""


class WorkerOutOfMemory(TransformFailed, reason="WORKER_OUT_OF_MEMORY", status="RESOURCE_EXHAUSTED"):
    """The worker ran out of memory. RESOURCE_EXHAUSTED."""


class JobTimedOut(TransformFailed, reason="JOB_TIMED_OUT", status="DEADLINE_EXCEEDED"):
    """The job took longer than the server allows. DEADLINE_EXCEEDED."""


class SandboxReadDenied(TransformFailed, reason="SANDBOX_READ_DENIED", status="FAILED_PRECONDITION"):
    """The server's sandbox kept a job from opening a file that is none of Python's packages. FAILED_PRECONDITION.

    `metadata` says where, as for `PassFailed`, and which: path.
    """


class SandboxWriteDenied(TransformFailed, reason="SANDBOX_WRITE_DENIED", status="FAILED_PRECONDITION"):
    """The server's sandbox kept a job from writing, making or removing a file. FAILED_PRECONDITION.

    `metadata` says where, as for `PassFailed`, and which: path.
    """


class SandboxNetworkDenied(TransformFailed, reason="SANDBOX_NETWORK_DENIED", status="FAILED_PRECONDITION"):
    """The server's sandbox kept a job from the network. FAILED_PRECONDITION.

    `metadata` says where, as for `PassFailed`.
    """


class SandboxOperationDenied(TransformFailed, reason="SANDBOX_OPERATION_DENIED", status="FAILED_PRECONDITION"):
    """The server's sandbox kept a job from an operation, such as starting a process. FAILED_PRECONDITION.

    `metadata` says where, as for `PassFailed`.
    """


class SandboxLimitExceeded(TransformFailed, reason="SANDBOX_LIMIT_EXCEEDED", status="FAILED_PRECONDITION"):
    """A job passed a limit of the server's sandbox on threads or files. FAILED_PRECONDITION.

    `metadata` says where, as for `PassFailed`.
    """


class CpuLimitExceeded(TransformFailed, reason="CPU_LIMIT_EXCEEDED", status="RESOURCE_EXHAUSTED"):
    """The job used more processor time than the server allows. RESOURCE_EXHAUSTED."""


class Unauthenticated(RequestInvalid, reason="UNAUTHENTICATED", status="UNAUTHENTICATED"):
    """The server does not know the caller: it wants a token, or a client certificate. UNAUTHENTICATED."""


class CallerLimitExceeded(ServerUnavailable, reason="CALLER_LIMIT_EXCEEDED", status="RESOURCE_EXHAUSTED"):
    """The caller has as many calls, or as much on the server, as it may have. RESOURCE_EXHAUSTED, with `retry_after`."""


class DownloadStalled(TransformFailed, reason="DOWNLOAD_STALLED", status="DEADLINE_EXCEEDED"):
    """The answer was not read for longer than the server allows. DEADLINE_EXCEEDED."""


class StorageFull(ServerUnavailable, reason="STORAGE_FULL", status="RESOURCE_EXHAUSTED"):
    """The server cannot store the archive: its disk is full. RESOURCE_EXHAUSTED, with `retry_after`."""


class StorageCorrupt(ServerUnavailable, reason="STORAGE_CORRUPT", status="DATA_LOSS"):
    """The archive changed on the server after it was uploaded: its disk is at fault. DATA_LOSS."""


class InternalError(TransformFailed, reason="INTERNAL", status="INTERNAL"):
    """A fault of the server. INTERNAL."""


class ServerError(TransformFailed, reason="UNKNOWN"):
    """A status that this version of the client does not know. `reason` is the server's, or else the status code's name."""

    def __init__(
        self,
        message: str,
        *,
        reason: str = "UNKNOWN",
        metadata: Mapping[str, str] | None = None,
        violations: Sequence[FieldViolation] = (),
        retry_after: float | None = None,
        request_id: str = "",
    ) -> None:
        super().__init__(message, metadata=metadata, violations=violations, retry_after=retry_after, request_id=request_id)
        self.reason = reason


class ServerUnreachable(ServerUnavailable, reason="SERVER_UNREACHABLE", status="UNAVAILABLE"):
    """No connection to the server, or it was lost. UNAVAILABLE without details."""


class ServerNotReady(ServerUnavailable, reason="SERVER_NOT_READY"):
    """The server was not ready within the time that `wait_ready` was given."""


class AddressMissing(ServerUnavailable, reason="ADDRESS_MISSING"):
    """No address was given, and the environment variable RETRACED_SERVER is not set."""


class EmbeddedServerFailed(ServerUnavailable, reason="EMBEDDED_SERVER_FAILED"):
    """A server on this machine did not start. `metadata` has the end of its log."""


class DeadlineExceeded(TransformFailed, reason="DEADLINE_EXCEEDED", status="DEADLINE_EXCEEDED"):
    """The call took longer than its `timeout`. DEADLINE_EXCEEDED without details."""


class Cancelled(TransformFailed, reason="CANCELLED", status="CANCELLED"):
    """The call was cancelled, for example by closing the client. CANCELLED."""


class ResponseInvalid(TransformFailed, reason="RESPONSE_INVALID"):
    """The server's answer is incomplete or contradicts itself: no summary, a wrong sha256, an index that points nowhere."""


class OutputUnsafe(TransformFailed, reason="OUTPUT_UNSAFE"):
    """The server's output is not a plain program made from the one sent: torch could run code from it. It is given to nobody."""


class SourceNotReadable(LocalError, reason="SOURCE_NOT_READABLE"):
    """The source cannot be read, or changed while it was read."""


class OutputNotWritable(LocalError, reason="OUTPUT_NOT_WRITABLE"):
    """The output cannot be written. Nothing is left at the path that was not there before."""


class OutputMissing(LocalError, reason="OUTPUT_MISSING"):
    """The result has no output: it was only validated, or the output was not wanted, or the result is closed."""


class AddressInvalid(LocalError, reason="ADDRESS_INVALID"):
    """The server's address cannot be used: it has no port, one that is out of range, or a scheme that gRPC does not know."""


class CredentialsInvalid(LocalError, reason="CREDENTIALS_INVALID"):
    """A token or a certificate cannot be used: its file cannot be read, or it would go over the network in plain text."""


class TorchMissing(LocalError, reason="TORCH_MISSING"):
    """The call needs torch, which is not installed."""
