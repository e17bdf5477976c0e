"""Jobs in an engine with real processes: answered right, side by side, in turn, and contained."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from retraced.v1 import graph_transform_pb2 as pb
from retraced_server.engine.local import LocalEngine
from retraced_server.engine.spool import Spool
from retraced_server.errors import Reason, RetracedError
from retraced_server.pipeline.domain import NodeSelection, TransformOptions
from retraced_server.pipeline.parse import parse_pipeline
from tests.support.models import by_name
from tests.support.processes import open_fds
from tests.worker.jobs import run

from .calls import FAULTS, SECRET, Given, idle, remarks, responses, spooled, transform

pytestmark = pytest.mark.asyncio(loop_scope="session")
EVERYTHING = by_name("everything")


def without_times(responses: list[pb.TransformGraphResponse]) -> list[pb.TransformGraphResponse]:
    # Asked first: a field of a message that is not there would take the place of the one that is.
    for response in responses:
        if response.HasField("pass_finished"):
            response.pass_finished.report.ClearField("seconds")
        if response.HasField("summary"):
            response.summary.ClearField("timings")
    return [response for response in responses if not response.HasField("progress")]


async def test_facts_are_those_of_the_zygote(engine: LocalEngine) -> None:
    assert {"retrace", "decompose", "cse", "dce", "fault-hang"} <= engine.facts.catalogue.keys()
    assert [name for name, _ in engine.facts.imports] == [FAULTS]
    assert not engine.obstacle


async def test_answer_is_that_of_the_job_in_process(engine: LocalEngine) -> None:
    answer = await transform(engine, EVERYTHING.archive, "decompose,cse,dce", node_metadata=NodeSelection.ALL)
    expected = run(EVERYTHING.archive, "decompose,cse,dce", node_metadata=NodeSelection.ALL).responses
    assert without_times(answer) == without_times(expected)


async def test_archive_on_disk_is_as_good_as_one_in_memory(engine: LocalEngine, tmp_path: Path) -> None:
    with Spool(tmp_path, 0) as spool:
        spool.write(EVERYTHING.archive)
        assert spool.on_disk
        async with engine.admit("id") as ticket:
            answers = responses(engine, ticket, spool, "retrace")
            answer = [pb.TransformGraphResponse.FromString(data) async for data in answers]
    assert b"".join(response.output_chunk for response in answer) == EVERYTHING.archive


class _Late(Given):
    """An archive that comes, or fails to, when it is let."""

    def __init__(self, spool: Spool, error: RetracedError | None = None) -> None:
        super().__init__(spool)
        self.asked, self.comes = asyncio.Event(), asyncio.Event()
        self._error = error

    async def archive(self) -> Spool:
        self.asked.set()
        await self.comes.wait()
        if self._error is not None:
            raise self._error
        return await super().archive()


async def test_job_whose_program_is_on_its_way_keeps_no_worker_from_others(engine: LocalEngine) -> None:
    with spooled(EVERYTHING.archive) as spool:
        late = [_Late(spool) for _ in range(2)]

        async def one(source: _Late) -> list[bytes]:
            async with engine.admit("late") as ticket:
                return [
                    data
                    async for data in ticket.run(parse_pipeline("retrace", engine.facts.catalogue), TransformOptions(), source)
                ]

        tasks = [asyncio.create_task(one(source)) for source in late]
        for source in late:
            await source.asked.wait()
        assert (
            b"".join(answer.output_chunk for answer in await transform(engine, EVERYTHING.archive, "retrace"))
            == EVERYTHING.archive
        )
        for source in late:
            source.comes.set()
        for task in tasks:
            answer = [pb.TransformGraphResponse.FromString(data) for data in await task]
            assert b"".join(response.output_chunk for response in answer) == EVERYTHING.archive


async def test_program_that_does_not_come_is_an_error_before_there_is_a_worker(engine: LocalEngine) -> None:
    forks = engine.counts.forks
    with spooled(EVERYTHING.archive) as spool:
        source = _Late(spool, RetracedError(Reason.ARCHIVE_MISMATCH, "it is another"))
        source.comes.set()
        async with engine.admit("id") as ticket:
            answers = ticket.run(parse_pipeline("retrace", engine.facts.catalogue), TransformOptions(), source)
            with pytest.raises(RetracedError, match="it is another"):
                await anext(answers)
    await idle(engine)
    assert engine.counts.forks == forks


async def test_error_of_the_job_is_raised(engine: LocalEngine) -> None:
    with pytest.raises(RetracedError) as caught:
        await transform(engine, EVERYTHING.archive, "retrace,fault-raise")
    assert caught.value.reason is Reason.PASS_FAILED
    assert caught.value.metadata["pass"] == "fault-raise"


async def test_as_many_jobs_run_as_there_are_workers_and_the_rest_wait_their_turn(engine: LocalEngine) -> None:
    loads, positions = [], []

    async def one() -> None:
        with spooled(EVERYTHING.archive) as spool:
            async with engine.admit("id") as ticket:
                async for data in responses(engine, ticket, spool, "fault-sleep"):
                    progress = pb.TransformGraphResponse.FromString(data).progress
                    if progress.stage == pb.STAGE_QUEUED:
                        positions.append(progress.done)
                    loads.append(engine.load)

    await asyncio.gather(*(one() for _ in range(5)))
    assert max(load.running for load in loads) == 2
    assert max(load.queued for load in loads) == 3
    assert sorted(positions) == [1, 1, 1, 2, 2, 3]


async def test_queue_position_is_known_at_admission(engine: LocalEngine) -> None:
    async with engine.admit("a") as first, engine.admit("b") as second, engine.admit("c") as third:
        assert [ticket.queue_position for ticket in (first, second, third)] == [0, 0, 1]


async def test_worker_has_no_grpc_no_secrets_and_no_descriptors_but_its_own(engine: LocalEngine) -> None:
    facts = dict(remark.split("=", 1) for remark in await remarks(engine, EVERYTHING.archive, "fault-report"))
    assert facts["grpc"] == "False"
    # The streams, the job's socket, the archive and its mapping, and the process's own page map.
    assert sorted(facts["descriptors"].split(",")) == [
        *["file:read"] * 3,
        "other:both",
        "other:write",
        "other:write",
        "socket:both",
    ]
    names = facts["environment"].split(",")
    assert "PATH" in names
    assert SECRET in os.environ
    assert SECRET not in names


async def test_signals_of_the_servers_terminal_do_not_reach_the_zygote(engine: LocalEngine) -> None:
    pid = (await engine.supervisor.zygote()).pid
    assert os.getsid(pid) == os.getpgid(pid) == pid


async def test_random_numbers_are_the_same_in_every_worker(engine: LocalEngine) -> None:
    reports = [await remarks(engine, EVERYTHING.archive, "fault-report") for _ in range(2)]
    first, second = ([fact for fact in report if fact.startswith("random=")] for report in reports)
    assert first == second != []


async def test_lines_of_a_worker_go_to_the_log(engine: LocalEngine, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "retraced.worker")
    await transform(engine, EVERYTHING.archive, "fault-say{text=hello}")
    await idle(engine)
    assert [record.message for record in caplog.records if record.name == "retraced.worker"] == ["hello", "hello again"]


async def test_worker_that_floods_the_log_is_answered_and_cut_short(
    engine: LocalEngine, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "retraced.worker")
    await transform(engine, EVERYTHING.archive, "fault-say{text=flood,times=200000}")
    await idle(engine)
    said = [record.message for record in caplog.records if record.name == "retraced.worker"]
    assert said[-1] == "(it writes more than is logged)"
    assert sum(map(len, said)) < 1 << 17


async def test_slow_caller_holds_up_its_own_worker_and_loses_nothing(engine: LocalEngine) -> None:
    model = by_name("bert").archive
    with spooled(model) as spool:
        async with engine.admit("slow") as ticket:
            chunks = []
            async for data in responses(engine, ticket, spool, "retrace"):
                chunks.append(pb.TransformGraphResponse.FromString(data).output_chunk)
                if len(chunks) == 1:
                    await transform(engine, EVERYTHING.archive, "retrace")
    assert b"".join(chunks) == model


async def test_nothing_stays_open_after_a_job(engine: LocalEngine) -> None:
    await transform(engine, EVERYTHING.archive, "retrace")
    await idle(engine)
    before = open_fds()
    for pipeline in ("retrace", "fault-raise", "fault-exit"):
        try:
            await transform(engine, EVERYTHING.archive, pipeline)
        except RetracedError:
            continue
    await idle(engine)
    assert open_fds() == before
