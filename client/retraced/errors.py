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


class ProtocolViolation(RequestInvalid):
    """The stream broke the protocol. INVALID_ARGUMENT."""

    status = "INVALID_ARGUMENT"
    reason = "PROTOCOL_VIOLATION"


class ArchiveMismatch(RequestInvalid):
    """The archive's size or sha256 is not what was announced. INVALID_ARGUMENT."""

    status = "INVALID_ARGUMENT"
    reason = "ARCHIVE_MISMATCH"


class ArchiveInvalid(RequestInvalid):
    """The archive is empty, not a zip, truncated or damaged. INVALID_ARGUMENT, or raised by `retraced.archive`."""

    status = "INVALID_ARGUMENT"
    reason = "ARCHIVE_INVALID"


class ProgramTooLarge(RequestInvalid):
    """The archive is larger than the server takes. INVALID_ARGUMENT."""

    status = "INVALID_ARGUMENT"
    reason = "PROGRAM_TOO_LARGE"


class ProgramMissing(RequestInvalid):
    """The archive holds no exported program. INVALID_ARGUMENT, or raised by `retraced.archive`."""

    status = "INVALID_ARGUMENT"
    reason = "PROGRAM_MISSING"


class ProgramInvalid(RequestInvalid):
    """The program cannot be read, or is not valid. INVALID_ARGUMENT, or raised by `retraced.inspection`."""

    status = "INVALID_ARGUMENT"
    reason = "PROGRAM_INVALID"


class ProgramUnsupported(RequestInvalid):
    """The program is valid, and holds what the server does not take; `docs/unsupported.md` lists it. FAILED_PRECONDITION."""

    status = "FAILED_PRECONDITION"
    reason = "PROGRAM_UNSUPPORTED"


class SchemaUnsupported(RequestInvalid):
    """The program is in a schema version that the server does not read. FAILED_PRECONDITION."""

    status = "FAILED_PRECONDITION"
    reason = "SCHEMA_UNSUPPORTED"


class PipelineSyntax(RequestInvalid):
    """The pipeline's text cannot be parsed. INVALID_ARGUMENT."""

    status = "INVALID_ARGUMENT"
    reason = "PIPELINE_SYNTAX"


class PassUnknown(RequestInvalid):
    """The pipeline names a pass that the server does not have. INVALID_ARGUMENT."""

    status = "INVALID_ARGUMENT"
    reason = "PASS_UNKNOWN"


class OptionUnknown(RequestInvalid):
    """The pipeline gives an option that the pass does not have. INVALID_ARGUMENT."""

    status = "INVALID_ARGUMENT"
    reason = "OPTION_UNKNOWN"


class OptionInvalid(RequestInvalid):
    """An option's value is missing or not of its type. INVALID_ARGUMENT."""

    status = "INVALID_ARGUMENT"
    reason = "OPTION_INVALID"


class PassFailed(TransformFailed):
    """A pass raised an error. FAILED_PRECONDITION.

    `metadata` says where: pass, pass_index, node, target, source, remaining_pipeline.
    """

    status = "FAILED_PRECONDITION"
    reason = "PASS_FAILED"


class PassOutputInvalid(TransformFailed):
    """A pass made a program that is not valid. FAILED_PRECONDITION. `metadata` is as for `PassFailed`."""

    status = "FAILED_PRECONDITION"
    reason = "PASS_OUTPUT_INVALID"


class NewGuards(TransformFailed):
    """A pass added guards, and the caller refuses them. FAILED_PRECONDITION."""

    status = "FAILED_PRECONDITION"
    reason = "NEW_GUARDS"


class QueueFull(ServerUnavailable):
    """The server's queue is full. RESOURCE_EXHAUSTED, with `retry_after`."""

    status = "RESOURCE_EXHAUSTED"
    reason = "QUEUE_FULL"


class ServerDraining(ServerUnavailable):
    """The server is shutting down. UNAVAILABLE, with `retry_after`."""

    status = "UNAVAILABLE"
    reason = "SERVER_DRAINING"


class WorkersUnavailable(ServerUnavailable):
    """The server cannot start a worker at present. UNAVAILABLE, with `retry_after`."""

    status = "UNAVAILABLE"
    reason = "WORKERS_UNAVAILABLE"


class WorkerCrashed(TransformFailed):
    """The worker was ended by a fault of its own, such as SIGSEGV. INTERNAL."""

    status = "INTERNAL"
    reason = "WORKER_CRASHED"


class WorkerExited(TransformFailed):
    """The worker ended without an answer. INTERNAL."""

    status = "INTERNAL"
    reason = "WORKER_EXITED"


class WorkerKilled(TransformFailed):
    """The worker was killed from outside. INTERNAL."""

    status = "INTERNAL"
    reason = "WORKER_KILLED"


class WorkerOutOfMemory(TransformFailed):
    """The worker ran out of memory. RESOURCE_EXHAUSTED."""

    status = "RESOURCE_EXHAUSTED"
    reason = "WORKER_OUT_OF_MEMORY"


class JobTimedOut(TransformFailed):
    """The job took longer than the server allows. DEADLINE_EXCEEDED."""

    status = "DEADLINE_EXCEEDED"
    reason = "JOB_TIMED_OUT"


class SandboxReadDenied(TransformFailed):
    """The server's sandbox kept a job from opening a file that is none of Python's packages. FAILED_PRECONDITION.

    `metadata` says where, as for `PassFailed`, and which: path.
    """

    status = "FAILED_PRECONDITION"
    reason = "SANDBOX_READ_DENIED"


class SandboxWriteDenied(TransformFailed):
    """The server's sandbox kept a job from writing, making or removing a file. FAILED_PRECONDITION.

    `metadata` says where, as for `PassFailed`, and which: path.
    """

    status = "FAILED_PRECONDITION"
    reason = "SANDBOX_WRITE_DENIED"


class SandboxNetworkDenied(TransformFailed):
    """The server's sandbox kept a job from the network. FAILED_PRECONDITION.

    `metadata` says where, as for `PassFailed`.
    """

    status = "FAILED_PRECONDITION"
    reason = "SANDBOX_NETWORK_DENIED"


class SandboxOperationDenied(TransformFailed):
    """The server's sandbox kept a job from an operation, such as starting a process. FAILED_PRECONDITION.

    `metadata` says where, as for `PassFailed`.
    """

    status = "FAILED_PRECONDITION"
    reason = "SANDBOX_OPERATION_DENIED"


class SandboxLimitExceeded(TransformFailed):
    """A job passed a limit of the server's sandbox on threads or files. FAILED_PRECONDITION.

    `metadata` says where, as for `PassFailed`.
    """

    status = "FAILED_PRECONDITION"
    reason = "SANDBOX_LIMIT_EXCEEDED"


class CpuLimitExceeded(TransformFailed):
    """The job used more processor time than the server allows. RESOURCE_EXHAUSTED."""

    status = "RESOURCE_EXHAUSTED"
    reason = "CPU_LIMIT_EXCEEDED"


class Unauthenticated(RequestInvalid):
    """The server does not know the caller: it wants a token, or a client certificate. UNAUTHENTICATED."""

    status = "UNAUTHENTICATED"
    reason = "UNAUTHENTICATED"


class CallerLimitExceeded(ServerUnavailable):
    """The caller has as many calls, or as much on the server, as it may have. RESOURCE_EXHAUSTED, with `retry_after`."""

    status = "RESOURCE_EXHAUSTED"
    reason = "CALLER_LIMIT_EXCEEDED"


class DownloadStalled(TransformFailed):
    """The answer was not read for longer than the server allows. DEADLINE_EXCEEDED."""

    status = "DEADLINE_EXCEEDED"
    reason = "DOWNLOAD_STALLED"


class StorageFull(ServerUnavailable):
    """The server cannot store the archive: its disk is full. RESOURCE_EXHAUSTED, with `retry_after`."""

    status = "RESOURCE_EXHAUSTED"
    reason = "STORAGE_FULL"


class StorageCorrupt(ServerUnavailable):
    """The archive changed on the server after it was uploaded: its disk is at fault. DATA_LOSS."""

    status = "DATA_LOSS"
    reason = "STORAGE_CORRUPT"


class InternalError(TransformFailed):
    """A fault of the server. INTERNAL."""

    status = "INTERNAL"
    reason = "INTERNAL"


class ServerError(TransformFailed):
    """A status that this version of the client does not know. `reason` is the server's, or else the status code's name."""

    reason = "UNKNOWN"

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


class ServerUnreachable(ServerUnavailable):
    """No connection to the server, or it was lost. UNAVAILABLE without details."""

    status = "UNAVAILABLE"
    reason = "SERVER_UNREACHABLE"


class ServerNotReady(ServerUnavailable):
    """The server was not ready within the time that `wait_ready` was given."""

    reason = "SERVER_NOT_READY"


class AddressMissing(ServerUnavailable):
    """No address was given, and the environment variable RETRACED_SERVER is not set."""

    reason = "ADDRESS_MISSING"


class EmbeddedServerFailed(ServerUnavailable):
    """A server on this machine did not start. `metadata` has the end of its log."""

    reason = "EMBEDDED_SERVER_FAILED"


class DeadlineExceeded(TransformFailed):
    """The call took longer than its `timeout`. DEADLINE_EXCEEDED without details."""

    status = "DEADLINE_EXCEEDED"
    reason = "DEADLINE_EXCEEDED"


class Cancelled(TransformFailed):
    """The call was cancelled, for example by closing the client. CANCELLED."""

    status = "CANCELLED"
    reason = "CANCELLED"


class ResponseInvalid(TransformFailed):
    """The server's answer is incomplete or contradicts itself: no summary, a wrong sha256, an index that points nowhere."""

    reason = "RESPONSE_INVALID"


class OutputUnsafe(TransformFailed):
    """The server's output is not a plain program made from the one sent: torch could run code from it. It is given to nobody."""

    reason = "OUTPUT_UNSAFE"


class SourceNotReadable(LocalError):
    """The source cannot be read, or changed while it was read."""

    reason = "SOURCE_NOT_READABLE"


class OutputNotWritable(LocalError):
    """The output cannot be written. Nothing is left at the path that was not there before."""

    reason = "OUTPUT_NOT_WRITABLE"


class OutputMissing(LocalError):
    """The result has no output: it was only validated, or the output was not wanted, or the result is closed."""

    reason = "OUTPUT_MISSING"


class AddressInvalid(LocalError):
    """The server's address cannot be used: it has no port, one that is out of range, or a scheme that gRPC does not know."""

    reason = "ADDRESS_INVALID"


class CredentialsInvalid(LocalError):
    """A token or a certificate cannot be used: its file cannot be read, or it would go over the network in plain text."""

    reason = "CREDENTIALS_INVALID"


class TorchMissing(LocalError):
    """The call needs torch, which is not installed."""

    reason = "TORCH_MISSING"
