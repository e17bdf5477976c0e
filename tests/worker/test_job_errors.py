"""One job that fails: which error it sends, and that it sends nothing after it."""

from __future__ import annotations

import hashlib
import io
import zipfile
from typing import Any

import pytest

import tests.support.fault_passes
from retraced_server.errors import Reason, RetracedError
from retraced_server.passes import catalogue
from retraced_server.pipeline.catalogue import PassInfo
from retraced_server.pipeline.domain import JobStats, NodeSelection
from retraced_server.pipeline.parse import PassCall, Pipeline
from retraced_server.worker import job
from retraced_server.worker.frames import MAX_FRAME_BYTES
from retraced_server.worker.job_messages import JobDone, JobEvent, encode_job_event
from retraced_server.worker.source import ArchiveFile
from tests.support.models import by_name

from .jobs import archive_file, job_request, run

EVERYTHING = by_name("everything")
RESIDUAL_NET = by_name("residual_net")


@pytest.mark.parametrize(
    ("archive", "reason"),
    [
        (b"", Reason.ARCHIVE_INVALID),
        (b"rubbish", Reason.ARCHIVE_INVALID),
        (EVERYTHING.archive[: len(EVERYTHING.archive) // 2], Reason.ARCHIVE_INVALID),
    ],
)
def test_bad_archive_is_the_callers_error(archive: bytes, reason: Reason) -> None:
    ran = run(archive, "retrace")
    assert ran.error.reason is reason
    assert ran.kinds == ["progress"]


@pytest.mark.parametrize("validate_only", [False, True])
@pytest.mark.parametrize(("name", "reason"), [("no-such-pass", Reason.PASS_UNKNOWN), ("fault-sleep", Reason.OPTION_INVALID)])
def test_pass_that_cannot_be_constructed_is_found_before_the_program_is_read(
    name: str, reason: Reason, validate_only: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: object, seconds: float) -> None:
        raise ValueError("not for so long")

    monkeypatch.setattr(tests.support.fault_passes.Sleep, "__init__", refuse)
    calls = (PassCall(catalogue()["retrace"], {}), PassCall(catalogue().get(name, PassInfo(name, "")), {"seconds": 9.0}))
    ran = run(b"rubbish", Pipeline(calls), validate_only=validate_only)
    assert ran.error.reason is reason
    assert ran.error.metadata == {"pass": name}
    assert ran.kinds == []
    assert ran.stats == JobStats()


@pytest.mark.parametrize("validate_only", [False, True])
def test_each_pass_is_constructed_once(validate_only: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    constructed = []

    def construct(self: tests.support.fault_passes.Sleep, seconds: float) -> None:
        self.seconds = seconds
        constructed.append(seconds)

    monkeypatch.setattr(tests.support.fault_passes.Sleep, "__init__", construct)
    ran = run(EVERYTHING.archive, "fault-sleep{seconds=0},retrace,fault-sleep{seconds=0.01}", validate_only=validate_only)
    assert ran.summary.pipeline == "fault-sleep{seconds=0.0},retrace,fault-sleep{seconds=0.01}"
    assert constructed == [0.0, 0.01]


def test_validating_reads_the_program() -> None:
    assert run(b"rubbish", "retrace", validate_only=True).error.reason is Reason.ARCHIVE_INVALID


def test_pass_that_raises_is_named(capfd: pytest.CaptureFixture[str]) -> None:
    ran = run(EVERYTHING.archive, "retrace,fault-raise,retrace")
    assert ran.error.reason is Reason.PASS_FAILED
    assert "the fault pass raised this" in ran.error.message
    facts = {key: ran.error.metadata[key] for key in ("pass", "pass_index", "remaining_pipeline")}
    assert facts == {"pass": "fault-raise", "pass_index": "1", "remaining_pipeline": "fault-raise,retrace"}
    # It is for the front end to say who sees it.
    assert "fault_passes.py" in ran.error.traceback
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("name", ["fault-unwritable", "fault-unwritable-metadata"])
def test_program_that_cannot_be_written_is_the_fault_of_the_last_pass_that_modified_it(name: str) -> None:
    ran = run(EVERYTHING.archive, f"{name},retrace")
    assert ran.error.reason is Reason.PASS_OUTPUT_INVALID
    assert ran.error.metadata["pass"] == name
    assert "cannot be written" in ran.error.message
    assert "summary" not in ran.kinds


def test_what_a_pass_says_at_any_length_fits_into_a_frame() -> None:
    error = run(EVERYTHING.archive, "fault-verbose{fail=true}").error
    assert error.metadata["pass"] == "fault-verbose"
    assert len(encode_job_event(error)) < MAX_FRAME_BYTES
    ran = run(EVERYTHING.archive, "fault-verbose")
    (report,) = [response.pass_finished.report for response in ran.responses if response.HasField("pass_finished")]
    assert report.ByteSize() < MAX_FRAME_BYTES
    assert report.remarks[0] == "no text \\ud800"
    assert report.remarks[-1] == f"and {102 - (len(report.remarks) - 1)} more"


def test_metadata_of_a_node_that_fits_into_no_frame_is_an_error_that_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "_LARGEST_RESPONSE", 1000)
    error = run(EVERYTHING.archive, "retrace", node_metadata=NodeSelection.ALL).error
    assert error.reason is Reason.PROGRAM_TOO_LARGE
    assert "without node metadata" in error.message


def test_fault_of_the_server_is_logged_and_its_text_is_not_sent(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise KeyError("a secret")

    monkeypatch.setattr(job, "describe_program", broken)
    error = run(EVERYTHING.archive, "retrace").error
    assert error.reason is Reason.INTERNAL
    assert "KeyError" in error.message
    assert "secret" not in error.message + str(error.metadata)
    assert "a secret" in capfd.readouterr().err


@pytest.mark.parametrize(
    "failure",
    [
        MemoryError(),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes."),
        OSError(12, "Cannot allocate memory"),
    ],
)
@pytest.mark.parametrize("where", ["read_program", "run_pipeline", "write_program"])
def test_memory_that_cannot_be_had_is_out_of_memory_wherever_it_happens(
    failure: Exception, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise failure

    monkeypatch.setattr(job, where, fail)
    error = run(EVERYTHING.archive, "decompose", memory_bytes=1 << 30).error
    assert error.reason is Reason.WORKER_OUT_OF_MEMORY
    assert "1024 MiB" in error.message
    assert error.metadata["worker_memory_bytes"] == str(1 << 30)


def test_out_of_memory_in_a_pass_names_the_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: object) -> None:
        raise MemoryError

    monkeypatch.setattr(tests.support.fault_passes.Raise, "harm", fail)
    error = run(EVERYTHING.archive, "retrace,fault-raise").error
    assert error.reason is Reason.WORKER_OUT_OF_MEMORY
    assert error.metadata["pass"] == "fault-raise"


def test_ordinary_errors_are_not_out_of_memory() -> None:
    assert not job.is_out_of_memory(RuntimeError("shapes do not match"))
    assert not job.is_out_of_memory(OSError(28, "No space left on device"))
    assert not job.is_out_of_memory(None)


def test_exit_of_a_pass_is_not_caught() -> None:
    with pytest.raises(SystemExit):
        run(EVERYTHING.archive, "fault-sys-exit")


def test_listener_that_is_gone_ends_the_job() -> None:
    def gone(event: object) -> None:
        raise BrokenPipeError

    with archive_file(EVERYTHING.archive) as file, pytest.raises(BrokenPipeError):
        job.run_job(job_request("retrace"), ArchiveFile(file), gone)


def test_last_event_is_the_error_or_done_and_there_is_one() -> None:
    for pipeline in ("retrace", "fault-raise"):
        last = [event for event in run(EVERYTHING.archive, pipeline).events if isinstance(event, RetracedError | JobDone)]
        assert len(last) == 1


def _damaged(record: str) -> bytes:
    """The archive with one byte of a record changed."""
    with zipfile.ZipFile(io.BytesIO(RESIDUAL_NET.archive)) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(record)]
        data = archive.read(name)
    at = RESIDUAL_NET.archive.index(data)
    return RESIDUAL_NET.archive[:at] + bytes([RESIDUAL_NET.archive[at] ^ 1]) + RESIDUAL_NET.archive[at + 1 :]


@pytest.mark.parametrize(
    ("record", "pipeline"),
    [("models/model.json", "retrace"), ("weights/weight_0", "retrace"), ("weights/weight_0", "decompose")],
)
def test_archive_that_changed_after_its_upload_is_a_fault_of_the_server(record: str, pipeline: str) -> None:
    error = run(_damaged(record), pipeline, archive_sha256=hashlib.sha256(RESIDUAL_NET.archive).digest()).error
    assert error.reason is Reason.STORAGE_CORRUPT


@pytest.mark.parametrize(("record", "pipeline"), [("models/model.json", "retrace"), ("weights/weight_0", "decompose")])
def test_archive_that_was_damaged_before_its_upload_is_its_senders(record: str, pipeline: str) -> None:
    damaged = _damaged(record)
    error = run(damaged, pipeline, archive_sha256=hashlib.sha256(damaged).digest()).error
    assert error.reason is Reason.ARCHIVE_INVALID
    assert error.metadata["record"].endswith(record)


def test_job_whose_caller_is_gone_ends_without_a_word(capfd: pytest.CaptureFixture[str]) -> None:
    def nobody_listens(_: JobEvent) -> None:
        raise BrokenPipeError

    with archive_file(EVERYTHING.archive) as file, pytest.raises(BrokenPipeError):
        job.run_job(job_request("retrace"), ArchiveFile(file), nobody_listens)
    assert capfd.readouterr().err == ""
