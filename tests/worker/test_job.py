"""One job in this process: what it sends, in which order, for which request."""

from __future__ import annotations

import hashlib
import io
import zipfile

import pytest
import torch

from retraced.v1 import graph_transform_pb2 as pb
from retraced_server.errors import Reason
from retraced_server.passes import run_pipeline
from retraced_server.pipeline.catalogue import PassInfo
from retraced_server.pipeline.domain import JobStats, NodeSelection, OutputDelivery
from retraced_server.pipeline.parse import PassCall, Pipeline
from retraced_server.worker.output import CHUNK_BYTES
from tests.support.compare import assert_identical_programs, loaded, saved_and_loaded
from tests.support.models import by_name

from .jobs import run

EVERYTHING = by_name("everything")
MODIFYING = "decompose"


def test_events_come_in_the_order_that_the_contract_says() -> None:
    ran = run(EVERYTHING.archive, f"retrace,{MODIFYING}", node_metadata=NodeSelection.ALL)
    assert [kind for kind in ran.kinds if kind != "progress"] == [
        *("pass_started", "pass_finished") * 2,
        *("node_metadata", "output_chunk", "summary"),
    ]
    started = [response.pass_started for response in ran.responses if response.HasField("pass_started")]
    assert [(entry.index, entry.count, entry.text) for entry in started] == [(0, 2, "retrace"), (1, 2, MODIFYING)]


def test_progress_tells_when_a_stage_begins() -> None:
    ran = run(EVERYTHING.archive, MODIFYING)
    progress = [response.progress for response in ran.responses if response.HasField("progress")]
    begun = [(entry.stage, entry.total) for entry in progress if entry.done == 0]
    assert begun == [(pb.STAGE_READING, len(EVERYTHING.archive)), (pb.STAGE_WRITING, 0)]


def test_unmodified_output_is_the_input_byte_for_byte() -> None:
    ran = run(EVERYTHING.archive, "retrace")
    assert ran.output == EVERYTHING.archive
    assert not ran.summary.modified
    assert ran.summary.output == ran.summary.input
    assert ran.summary.output_sha256 == hashlib.sha256(EVERYTHING.archive).digest()


def test_modified_output_is_the_program_that_the_passes_make_in_process() -> None:
    ran = run(EVERYTHING.archive, MODIFYING)
    assert ran.summary.modified
    assert ran.summary.output_size == len(ran.output)
    assert ran.summary.output_sha256 == hashlib.sha256(ran.output).digest()
    expected = run_pipeline(loaded(EVERYTHING.archive), MODIFYING).program
    assert_identical_programs(loaded(ran.output), saved_and_loaded(expected))


def test_summary_says_what_went_in_and_what_came_out() -> None:
    summary = run(EVERYTHING.archive, f" retrace ,{MODIFYING}").summary
    assert summary.pipeline == f"retrace,{MODIFYING}"
    given, made = ({entry.target for entry in info.targets} for info in (summary.input, summary.output))
    assert "aten.linear.default" in given - made
    assert summary.output.torch_version == torch.__version__
    assert summary.timings.queued == 0.25
    assert min(summary.timings.reading, summary.timings.running, summary.timings.writing, summary.timings.describing) > 0


@pytest.mark.parametrize("delivery", OutputDelivery)
@pytest.mark.parametrize("pipeline", ["retrace", MODIFYING])
def test_output_is_sent_when_it_is_wanted_and_measured_always(delivery: OutputDelivery, pipeline: str) -> None:
    ran = run(EVERYTHING.archive, pipeline, output=delivery)
    modified = pipeline == MODIFYING
    sent = delivery is OutputDelivery.ALWAYS or (delivery is OutputDelivery.IF_MODIFIED and modified)
    assert bool(ran.output) is sent
    assert ran.summary.output_sha256 == (hashlib.sha256(ran.output).digest() if sent else b"")
    if not modified:
        assert ran.summary.output_size == len(EVERYTHING.archive)
    elif sent:
        assert ran.summary.output_size == len(ran.output)
    else:
        assert ran.summary.output_size == len(run(EVERYTHING.archive, pipeline).output)


def test_validating_runs_no_pass_and_has_no_output() -> None:
    ran = run(EVERYTHING.archive, MODIFYING, validate_only=True, node_metadata=NodeSelection.ALL)
    assert ran.kinds == ["progress", "summary"]
    summary = ran.summary
    assert (summary.modified, summary.output_size, summary.output_sha256) == (False, 0, b"")
    assert not summary.HasField("output")
    assert summary.input.node_count > 0
    assert summary.pipeline == MODIFYING


def test_nodes_are_described_as_selected() -> None:
    result = run_pipeline(loaded(EVERYTHING.archive), MODIFYING)
    counts = {selection: run(EVERYTHING.archive, MODIFYING, node_metadata=selection).nodes for selection in NodeSelection}
    assert counts == {
        NodeSelection.ALL: len(result.provenance),
        NodeSelection.CHANGED: sum(origin.made_by is not None for origin in result.provenance.values()),
        NodeSelection.NONE: 0,
    }
    assert run(EVERYTHING.archive, "retrace", node_metadata=NodeSelection.CHANGED).nodes == 0


def test_records_beside_the_program_are_carried_over() -> None:
    buffer = io.BytesIO()
    torch.export.save(EVERYTHING.program, buffer, extra_files={"notes.txt": "kept"})
    ran = run(buffer.getvalue(), MODIFYING)
    extra: dict[str, str] = {"notes.txt": ""}
    torch.export.load(io.BytesIO(ran.output), extra_files=extra)
    assert extra == {"notes.txt": "kept"}


def test_output_comes_in_chunks_of_one_mebibyte() -> None:
    model = torch.nn.Linear(1024, 1024)
    buffer = io.BytesIO()
    torch.export.save(torch.export.export(model, (torch.ones(1, 1024),)), buffer)
    for pipeline in ("retrace", MODIFYING):
        ran = run(buffer.getvalue(), pipeline)
        sizes = [len(response.output_chunk) for response in ran.responses if response.HasField("output_chunk")]
        assert len(sizes) > 4
        assert set(sizes[:-1]) == {CHUNK_BYTES}
        assert zipfile.ZipFile(io.BytesIO(ran.output)).testzip() is None


def test_what_the_job_took_comes_before_its_end_and_agrees_with_what_the_caller_is_told() -> None:
    ran = run(EVERYTHING.archive, f"retrace,{MODIFYING}")
    stats = ran.stats
    times: dict[str, float] = {}
    for period in stats.stages:
        times[period.name] = times.get(period.name, 0.0) + period.seconds
    told = ran.summary.timings
    assert times == {name: pytest.approx(getattr(told, name)) for name in ("reading", "running", "describing", "writing")}
    finished = [response.pass_finished.report for response in ran.responses if response.HasField("pass_finished")]
    assert [(ended.name, ended.seconds) for ended in stats.passes] == [(report.name, report.seconds) for report in finished]
    assert (stats.output_size, stats.output_sha256) == (ran.summary.output_size, ran.summary.output_sha256)
    (running,) = [period for period in stats.stages if period.name == "running"]
    ends = [0.0, *(ended.start + ended.seconds for ended in stats.passes)]
    assert all(ended.start >= before for ended, before in zip(stats.passes, ends, strict=False))
    assert running.start <= stats.passes[0].start
    assert ends[-1] <= running.start + running.seconds


def test_what_a_job_took_that_failed_is_what_there_was_of_it() -> None:
    ran = run(EVERYTHING.archive, Pipeline((PassCall(PassInfo("no-such-pass", ""), {}),)))
    assert ran.error.reason is Reason.PASS_UNKNOWN
    assert ran.stats == JobStats()
    ran = run(EVERYTHING.archive[:1000], "retrace")
    assert [period.name for period in ran.stats.stages] == ["reading"]
    assert ran.stats.passes == ()


def test_output_that_is_not_sent_is_not_said_to_be() -> None:
    stats = run(EVERYTHING.archive, MODIFYING, output=OutputDelivery.NEVER).stats
    assert (stats.output_size, stats.output_sha256) == (0, b"")
