"""One job, from a request and an archive to the events that answer it. Knows nothing of processes."""

from __future__ import annotations

import errno
import sys
import traceback
from collections.abc import Callable
from typing import IO, cast

from retraced.v1 import program_pb2
from retraced_server.errors import Reason, RetracedError, text_of
from retraced_server.passes import PipelineResult, check_pipeline, create_step, run_pipeline
from retraced_server.passes.decompose.shared_templates import SHARED
from retraced_server.passes.raised import own_error
from retraced_server.pipeline.domain import NodeSelection, OutputDelivery, PassReport
from retraced_server.program import (
    SCHEMA_VERSION,
    TORCH_VERSION,
    ReadOptions,
    ReadProgram,
    not_loadable,
    read_program,
    write_program,
)
from retraced_server.worker import responses
from retraced_server.worker.describe_nodes import describe_nodes
from retraced_server.worker.describe_program import describe_program
from retraced_server.worker.frames import MAX_FRAME_BYTES
from retraced_server.worker.job_messages import JobDone, JobEvent, JobRequest, TemplatesMissed
from retraced_server.worker.output import OutputStream
from retraced_server.worker.process import processor_time
from retraced_server.worker.progress import JobProgress
from retraced_server.worker.responses import Stage
from retraced_server.worker.sandbox import Violation
from retraced_server.worker.source import ArchiveFile
from retraced_server.worker.stopwatch import Stopwatch

Emit = Callable[[JobEvent], None]

# How torch's allocators and the C++ library say it, as the text of a RuntimeError.
_ALLOCATION_FAILURES = ("can't allocate memory", "not enough memory", "bad_alloc", "Cannot allocate memory")
_LONGEST_CAUSE = 500
# What is left of a frame for a response.
_LARGEST_RESPONSE = MAX_FRAME_BYTES - 64
# What is said of an archive, and would be said as well of one that the server's own disk has damaged.
_OF_THE_ARCHIVE = (
    Reason.ARCHIVE_INVALID,
    Reason.PROGRAM_INVALID,
    Reason.PROGRAM_MISSING,
    Reason.PROGRAM_UNSUPPORTED,
    Reason.SCHEMA_UNSUPPORTED,
)
# What has no serialized form.
_NOT_WRITTEN = (Reason.PROGRAM_INVALID, Reason.PROGRAM_UNSUPPORTED)
# Faults of a pass: who wrote it needs to see where it was.
_TRACED = (Reason.PASS_FAILED, Reason.PASS_OUTPUT_INVALID)


def run_job(
    job: JobRequest,
    source: ArchiveFile,
    emit: Emit,
    *,
    options: ReadOptions | None = None,
    memory_bytes: int = 0,
    read_seconds: float = 0,
    on_memory_error: Callable[[], None] = lambda: None,
    violation_of: Callable[[BaseException], Violation | None] = lambda _: None,
) -> None:
    """Run a job.

    Args:
        job: What is to be done.
        source: Where the program comes from.
        emit: Takes each event as it is made; the last two are `JobStats`, and `JobDone` or the error.
        options: What programs may hold beyond the plain, such as custom operators.
        memory_bytes: The bound of this process's memory, for the error's text; 0 if there is none.
        read_seconds: Processor time that reading may take, after which SIGPROF ends this process; 0 is no limit.
        on_memory_error: Called when memory ran out, before the error is made.
        violation_of: Says of an error what the sandbox refused, if that is what it is.

    Raises:
        OSError: `emit` raised it: nobody listens any more.
        BaseException: A pass raised something that is no Exception, such as SystemExit.
    """
    last: JobEvent = JobDone()
    watch = Stopwatch(job.queued_seconds)
    try:
        _Job(job, source, emit, options, watch, read_seconds).run()
    except (BrokenPipeError, ConnectionResetError):
        # Of `emit`: what a pass raises is a RetracedError by now. It is no fault, and nothing for the log.
        raise
    except Exception as error:  # noqa: BLE001 - whatever went wrong becomes the job's error
        if is_out_of_memory(error):
            on_memory_error()
            last = _out_of_memory(error, memory_bytes)
        elif (violation := violation_of(error)) is not None:
            last = _denied(error, violation)
        elif isinstance(error, RetracedError):
            if error.reason in _TRACED:
                error.traceback = _traceback(error)
            last = error
        else:
            last = _internal(error)
    # Not in the handler above: there the error would still hold the job's frames, and with them its memory.
    if missed := SHARED.take_missed():
        emit(TemplatesMissed(missed))
    emit(watch.stats)
    emit(last)


def is_out_of_memory(error: BaseException | None) -> bool:
    """Return whether an error, or one that it came from, is that memory could not be had."""
    while error is not None:
        if isinstance(error, MemoryError):
            return True
        if isinstance(error, OSError) and error.errno == errno.ENOMEM:
            return True
        if isinstance(error, RuntimeError) and any(text in text_of(error) for text in _ALLOCATION_FAILURES):
            return True
        error = error.__cause__ or error.__context__
    return False


class _Job:
    """A job that runs."""

    def __init__(
        self,
        job: JobRequest,
        source: ArchiveFile,
        emit: Emit,
        options: ReadOptions | None,
        watch: Stopwatch,
        read_seconds: float,
    ) -> None:
        self._pipeline = job.pipeline
        self._asked = job.options
        self._source = source
        self._emit = emit
        self._options = options
        self._watch = watch
        self._read_seconds = read_seconds
        self._progress = JobProgress(emit)
        self._remarks: list[str] = []

    def run(self) -> None:
        """Run it to its summary."""
        try:
            self._run()
        except RetracedError as error:
            if error.reason in _OF_THE_ARCHIVE:
                # What is wrong with the archive is to be its sender's doing.
                self._source.check()
            raise

    def _run(self) -> None:
        pipeline = str(self._pipeline)
        steps = [create_step(call) for call in self._pipeline.passes]
        with processor_time(self._read_seconds):
            read = self._read()
            with self._watch.stage("describing"):
                given = describe_program(read.program, schema_version=read.schema_version, torch_version=read.torch_version)
            if self._asked.validate_only:
                check_pipeline(read.program, steps)
        if self._asked.validate_only:
            self._emit(_fitting_summary(responses.summary(pipeline, given, None, self._watch.timings, modified=False)))
            return
        with self._watch.stage("running"):
            result = run_pipeline(
                read.program,
                steps,
                mode=self._asked.mode,
                refuse_new_guards=self._asked.refuse_new_guards,
                observer=_Observer(self._emit, self._progress, self._watch),
            )
        made = self._describe(result, given)
        size, digest = self._output(read, result)
        remarks = (*result.remarks, *self._remarks, *not_loadable(result.program))
        summary = responses.summary(
            pipeline,
            given,
            made,
            self._watch.timings,
            modified=result.modified,
            output_size=size,
            output_sha256=digest,
            remarks=remarks,
        )
        self._emit(_fitting_summary(summary))

    def _read(self) -> ReadProgram:
        # What the passes have not declared to read stays on the disk.
        needed = any(call.info.needs_weights for call in self._pipeline.passes)
        size = self._source.size
        self._progress.begin(Stage.READING, size)
        with self._watch.stage("reading"):
            read = read_program(self._source.file, weights="map" if needed else "absent", options=self._options)
        self._progress.reach(Stage.READING, size, size)
        return read

    def _describe(self, result: PipelineResult, given: program_pb2.ProgramInfo) -> program_pb2.ProgramInfo:
        with self._watch.stage("describing"):
            selection = self._asked.node_metadata
            if selection is not NodeSelection.NONE:
                for batch in describe_nodes(result.program, provenance=result.provenance, selection=selection):
                    self._emit(_fitting(responses.node_metadata(batch), "the metadata of one node", "node metadata"))
            if not result.modified:
                return given
            return describe_program(result.program, schema_version=SCHEMA_VERSION, torch_version=TORCH_VERSION)

    def _output(self, read: ReadProgram, result: PipelineResult) -> tuple[int, bytes]:
        delivery = self._asked.output
        wanted = delivery is OutputDelivery.ALWAYS or (delivery is OutputDelivery.IF_MODIFIED and result.modified)
        if not result.modified and not wanted:
            return self._source.size, b""
        expected = 0 if result.modified else self._source.size
        self._progress.begin(Stage.WRITING, expected)
        stream = OutputStream(self._send_chunk if wanted else None)
        with self._watch.stage("writing"):
            if result.modified:
                self._write(read, result, stream)
            else:
                for piece in self._source.pieces():
                    stream.write(piece)
            stream.finish()
            if not result.modified:
                self._source.compare(stream.sha256)
        if wanted:
            self._watch.output_size, self._watch.output_sha256 = stream.size, stream.sha256
        self._progress.reach(Stage.WRITING, stream.size, stream.size)
        return stream.size, stream.sha256

    def _write(self, read: ReadProgram, result: PipelineResult, stream: OutputStream) -> None:
        try:
            # Of a file the writer uses `write` only.
            made = write_program(result.program, cast(IO[bytes], stream), source=read, records=read.carried())
        # The program that came could be read, so what has no serialized form now is a pass's; torch raises nearly anything for it.
        except Exception as error:
            if isinstance(error, RetracedError) and error.reason not in _NOT_WRITTEN:
                raise
            raise _unwritable(error, result.reports) from error
        if made.sample_inputs_dropped:
            self._remarks.append("the sample inputs were dropped, since the program takes other inputs now")

    def _send_chunk(self, chunk: bytes) -> None:
        self._emit(responses.output_chunk(chunk))


class _Observer:
    """Turns what a pipeline reports into events."""

    def __init__(self, emit: Emit, progress: JobProgress, watch: Stopwatch) -> None:
        self._emit = emit
        self._progress = progress
        self._watch = watch

    def pass_started(self, index: int, count: int, name: str, text: str) -> None:
        """Hear that a pass begins."""
        self._progress.restart()
        self._emit(responses.pass_started(index, count, name, text))

    def progress(self, done: int, total: int) -> None:
        """Hear that the running pass has visited `done` of `total` nodes."""
        self._progress.reach(Stage.RUNNING, done, total)

    def pass_finished(self, index: int, report: PassReport) -> None:
        """Hear that a pass has ended."""
        self._watch.pass_ended(report.name, report.seconds)
        self._emit(responses.pass_finished(index, report))


def _fitting_summary(summary: bytes) -> bytes:
    return _fitting(summary, "what the summary says of the program", "guards (`keep_at_home`)")


def _fitting(response: bytes, what: str, without: str) -> bytes:
    # Batches of nodes are closed long before, unless one node has a text of megabytes.
    if len(response) > _LARGEST_RESPONSE:
        raise RetracedError(
            Reason.PROGRAM_TOO_LARGE,
            f"{what} makes a message of {len(response)} bytes, and {_LARGEST_RESPONSE} are the most; send it again without {without}",
        )
    return response


def _unwritable(error: Exception, reports: tuple[PassReport, ...]) -> RetracedError:
    index, report = [(index, report) for index, report in enumerate(reports) if report.modified][-1]
    text = " ".join(text_of(error).split())[:_LONGEST_CAUSE]
    message = (
        f"the program after pass {index + 1} of {len(reports)}, `{report.text}`, the last that modified it, cannot be written: "
        f"{text if isinstance(error, RetracedError) else f'{type(error).__name__}: {text}'}"
    )
    metadata = {
        "pass": report.name,
        "pass_index": str(index),
        "remaining_pipeline": ",".join(left.text for left in reports[index:]),
    }
    return RetracedError(Reason.PASS_OUTPUT_INVALID, message, metadata=metadata)


def _out_of_memory(error: Exception, limit: int) -> RetracedError:
    metadata = dict(error.metadata) if isinstance(error, RetracedError) else {}
    message = "the worker ran out of memory"
    if "pass" in metadata:
        message += f" in pass `{metadata['pass']}`"
    if limit:
        message += f"; this server allows it {limit >> 20} MiB"
        metadata["worker_memory_bytes"] = str(limit)
    return RetracedError(Reason.WORKER_OUT_OF_MEMORY, message, metadata=metadata)


def _denied(error: Exception, violation: Violation) -> RetracedError:
    metadata = dict(error.metadata) if isinstance(error, RetracedError) else {}
    message = f"in pass `{metadata['pass']}`: {violation.message}" if "pass" in metadata else violation.message
    if violation.path is not None:
        metadata["path"] = violation.path
    return RetracedError(Reason(violation.kind.value), message, metadata=metadata, traceback=_traceback(error))


def _traceback(error: BaseException) -> str:
    # The errors around what a pass raised say where in the pipeline and the program; the message does.
    raised = error.__cause__ if isinstance(error, RetracedError) and error.__cause__ is not None else error
    return "".join(traceback.format_exception(own_error(raised)))


def _internal(error: Exception) -> RetracedError:
    # The error's text may hold anything, so it goes into the server's log only.
    traceback.print_exception(error, file=sys.stderr)
    return RetracedError(
        Reason.INTERNAL, f"a fault of the server: {type(error).__name__}; its log says more under the id of this request"
    )
