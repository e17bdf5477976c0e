"""Messages between the server's processes: what goes in comes out, and what is none is an error."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from retraced_server.errors import FieldViolation, Reason, RetracedError
from retraced_server.passes import catalogue
from retraced_server.pipeline.catalogue import OptionInfo, OptionType, OptionValue, PassInfo
from retraced_server.pipeline.domain import JobStats, NodeSelection, OutputDelivery, RetraceMode, TransformOptions
from retraced_server.pipeline.parse import PassCall, Pipeline, parse_pipeline
from retraced_server.worker.job_messages import (
    JobDone,
    JobRequest,
    decode_job_event,
    decode_job_request,
    encode_job_event,
    encode_job_request,
)
from retraced_server.worker.messages import (
    KillJob,
    MessageError,
    StartJob,
    WorkerEnded,
    WorkerFacts,
    WorkerStarted,
    ZygoteFailed,
    decode_command,
    decode_event,
    encode_command,
    encode_event,
)
from retraced_server.worker.sandbox import Layer, SandboxReport, State
from retraced_server.worker.texts import LONGEST_TEXT
from retraced_server.worker.v1 import messages_pb2

_SANDBOX = SandboxReport(tuple(Layer(state.name, state, "why", required) for state in State for required in (True, False)))
_READY = WorkerFacts(catalogue(), "2.13.0", "3.11.7", (8, 20), (("operators", "1.0"), ("passes", "")), _SANDBOX)


@pytest.mark.parametrize("command", [StartJob(1, 1 << 33, 605, 0.5), KillJob(7)])
def test_commands_arrive_as_they_were(command: Any) -> None:
    assert decode_command(encode_command(command)) == command


@pytest.mark.parametrize(
    "event",
    [
        _READY,
        ZygoteFailed("torch is broken"),
        WorkerStarted(1, 4711),
        WorkerEnded(1),
        WorkerEnded(2, exit_status=0),
        WorkerEnded(3, signal=9),
    ],
)
def test_events_of_the_zygote_arrive_as_they_were(event: Any) -> None:
    assert decode_event(encode_event(event)) == event


@pytest.mark.parametrize("selection", NodeSelection)
@pytest.mark.parametrize("output", OutputDelivery)
@pytest.mark.parametrize("mode", RetraceMode)
def test_requests_arrive_as_they_were(selection: NodeSelection, output: OutputDelivery, mode: RetraceMode) -> None:
    pipeline = parse_pipeline("cse,decompose{table=none},dce", catalogue())
    job = JobRequest("id", pipeline, TransformOptions(selection, True, mode, True, output), b"d" * 32, 0.25)
    assert decode_job_request(encode_job_request(job), catalogue()) == job


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        *((OptionType.BOOL, value) for value in (True, False)),
        *((OptionType.INT, value) for value in (0, -(2**63), 2**63 - 1)),
        *((OptionType.FLOAT, value) for value in (0.0, 0.1, -1e300)),
        *((OptionType.STRING, value) for value in ("", "true", 'a "quoted", \\ one')),
        (OptionType.CHOICE, "core-aten"),
    ],
)
def test_values_of_options_arrive_as_they_were(kind: OptionType, value: OptionValue) -> None:
    info = PassInfo("tune", "Tunes.", options=(OptionInfo("much", "How much.", kind),))
    job = JobRequest("id", Pipeline((PassCall(info, {"much": value}),)))
    (arrived,) = decode_job_request(encode_job_request(job), {"tune": info}).pipeline.passes
    assert arrived == job.pipeline.passes[0]
    assert type(arrived.options["much"]) is type(value)


def test_pass_that_a_worker_does_not_have_arrives_by_its_name() -> None:
    job = JobRequest("id", parse_pipeline("cse", catalogue()))
    (arrived,) = decode_job_request(encode_job_request(job), {}).pipeline.passes
    assert str(arrived) == "cse"


@pytest.mark.parametrize("kind", OptionType)
def test_pass_that_takes_other_options_than_were_given_is_an_error(kind: OptionType) -> None:
    job = JobRequest("id", parse_pipeline("cse", catalogue()))
    passes = {"cse": PassInfo("cse", "", options=(OptionInfo("much", "", kind),))}
    with pytest.raises(MessageError, match="other options of `cse`"):
        decode_job_request(encode_job_request(job), passes)


@pytest.mark.parametrize("event", [b"a response", b"", JobDone()])
def test_events_of_a_worker_arrive_as_they_were(event: Any) -> None:
    assert decode_job_event(encode_job_event(event)) == event


@pytest.mark.parametrize("reason", Reason)
def test_error_arrives_with_all_that_it_says(reason: Reason) -> None:
    error = RetracedError(reason, "why", metadata={"pass": "cse"}, violations=[FieldViolation("spec.pipeline", "where")])
    arrived = decode_job_event(encode_job_event(error))
    assert isinstance(arrived, RetracedError)
    assert (arrived.reason, arrived.message, arrived.metadata, arrived.violations) == (
        error.reason,
        error.message,
        error.metadata,
        error.violations,
    )


def test_text_that_no_message_holds_is_escaped_and_cut() -> None:
    arrived = decode_job_event(encode_job_event(RetracedError(Reason.PASS_FAILED, "\ud800", metadata={"node": "n" * 10**6})))
    assert isinstance(arrived, RetracedError)
    assert arrived.message == "\\ud800"
    assert arrived.metadata["node"] == "n" * LONGEST_TEXT + "..."
    assert decode_event(encode_event(ZygoteFailed("\ud800"))) == ZygoteFailed("\\ud800")


@pytest.mark.parametrize("decode", [decode_command, decode_event, lambda data: decode_job_request(data, {}), decode_job_event])
@pytest.mark.parametrize("data", [b"", b"\xff\xff\xff"])
def test_bytes_that_are_no_message_are_an_error(decode: Callable[[bytes], Any], data: bytes) -> None:
    with pytest.raises(MessageError):
        decode(data)


@pytest.mark.parametrize(
    "error",
    [
        messages_pb2.JobError(reason="INTERNAL", message="m" * (LONGEST_TEXT + 100)),
        messages_pb2.JobError(reason="INTERNAL", metadata={"node": "m" * (LONGEST_TEXT + 100)}),
        messages_pb2.JobError(reason="INTERNAL", metadata={f"key_{i}": "" for i in range(100)}),
        messages_pb2.JobError(reason="INTERNAL", metadata={"node\nevent=audit": "forged"}),
        messages_pb2.JobError(reason="INTERNAL", metadata={"k" * 100: ""}),
        messages_pb2.JobError(reason="INTERNAL", violations=[messages_pb2.FieldViolation(field="f")] * 100),
        messages_pb2.JobError(reason="INTERNAL", violations=[messages_pb2.FieldViolation(field="f" * (LONGEST_TEXT + 100))]),
    ],
)
def test_error_of_a_worker_is_bounded_when_it_is_decoded(error: messages_pb2.JobError) -> None:
    with pytest.raises(MessageError, match="error has"):
        decode_job_event(b"\x01" + messages_pb2.JobEvent(error=error).SerializeToString())


def test_digest_of_another_length_is_no_stats() -> None:
    with pytest.raises(MessageError, match="sha256"):
        decode_job_event(encode_job_event(JobStats(output_size=1, output_sha256=b"short")))
