"""What becomes of a job that does what the sandbox of workers refuses: an error that says which, and nothing outside."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import psutil
import pytest

from retraced_server.engine.local import LocalEngine
from retraced_server.errors import Reason, RetracedError
from retraced_server.pipeline.domain import OutputDelivery
from retraced_server.worker.sandbox import State
from tests.program.archives import records, zipped
from tests.support.models import by_name
from tests.support.processes import children_of

from .calls import FAULTS, begin, remarks, running_engine, transform

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="session")]
NO_LANDLOCK = "tests.support.no_landlock"
EVERYTHING = by_name("everything")


@pytest.mark.parametrize(
    ("fault", "reason", "metadata"),
    [
        ("fault-read", Reason.SANDBOX_READ_DENIED, {"path": "/etc/passwd"}),
        ("fault-write", Reason.SANDBOX_WRITE_DENIED, {"path": "/tmp/written-by-a-worker"}),
        ("fault-socket", Reason.SANDBOX_NETWORK_DENIED, {}),
        ("fault-fork", Reason.SANDBOX_OPERATION_DENIED, {}),
        ("fault-run", Reason.SANDBOX_OPERATION_DENIED, {}),
        ("fault-threads", Reason.SANDBOX_LIMIT_EXCEEDED, {}),
        ("fault-allocate", Reason.WORKER_OUT_OF_MEMORY, {}),
    ],
)
async def test_what_is_refused_is_an_error_of_its_own_that_names_the_pass(
    engine: LocalEngine, fault: str, reason: Reason, metadata: dict[str, str]
) -> None:
    with pytest.raises(RetracedError) as caught:
        await transform(engine, EVERYTHING.archive, f"retrace,{fault}")
    assert caught.value.reason is reason
    assert caught.value.metadata.items() >= {"pass": fault, "pass_index": "1", **metadata}.items()
    assert fault in caught.value.message
    assert not Path("/tmp/written-by-a-worker").exists()
    assert await transform(engine, EVERYTHING.archive, "retrace", validate_only=True)


async def test_large_archive_gives_its_job_no_more_memory() -> None:
    archive = zipped({**records(by_name("input_and_id").archive), "archive/extra/zeros": bytes(128 << 20)})
    async with running_engine(workers=1, worker_memory_bytes=256 << 20) as engine:
        assert await transform(engine, archive, "fault-allocate{total=128}", output=OutputDelivery.NEVER)
        with pytest.raises(RetracedError) as caught:
            await transform(engine, archive, "fault-allocate{total=320}", output=OutputDelivery.NEVER)
    assert caught.value.reason is Reason.WORKER_OUT_OF_MEMORY


async def test_loop_ends_with_the_jobs_time(impatient: LocalEngine) -> None:
    with pytest.raises(RetracedError) as caught:
        await transform(impatient, EVERYTHING.archive, "fault-spin")
    assert caught.value.reason is Reason.JOB_TIMED_OUT


async def test_worker_without_processor_time_left_says_so(engine: LocalEngine) -> None:
    with pytest.raises(RetracedError) as caught:
        await transform(engine, EVERYTHING.archive, "fault-cpu-signal")
    assert caught.value.reason is Reason.CPU_LIMIT_EXCEEDED


async def test_secret_of_the_server_on_disk_is_not_read(engine: LocalEngine, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("x")
    with pytest.raises(RetracedError) as caught:
        await transform(engine, EVERYTHING.archive, f'fault-read{{path="{secret}"}}')
    assert caught.value.reason is Reason.SANDBOX_READ_DENIED
    assert caught.value.metadata["path"] == str(secret)


async def test_path_that_the_operator_names_is_read(engine: LocalEngine, readable: Path) -> None:
    (readable / "data").write_text("x")
    assert await transform(engine, EVERYTHING.archive, f'fault-read{{path="{readable / "data"}"}}')


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become other users")
async def test_workers_that_run_at_a_time_are_of_different_users(engine: LocalEngine) -> None:
    first = engine.config.first_uid
    running = await begin(engine, EVERYTHING.archive, "fault-hang")
    (process,) = children_of((await engine.supervisor.zygote()).pid)
    uid = psutil.Process(process).uids().real
    assert {uid, _uid(await remarks(engine, EVERYTHING.archive, "fault-report"))} == {first, first + 1}
    running.cancel()
    await asyncio.wait({running})


async def test_facts_and_log_say_which_sandbox_is_in_force(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "retraced.zygote")
    async with running_engine(workers=1) as engine:
        report = engine.facts.sandbox
    assert {layer.name for layer in report.layers} >= {"seccomp", "landlock", "user", "privileges", "limits"}
    assert report.layer("seccomp").state is State.IN_FORCE
    assert any(str(report) in record.message for record in caplog.records)


async def test_engine_does_not_start_where_a_layer_is_missing() -> None:
    with pytest.raises(RetracedError, match=r"missing: landlock: .*--allow-missing-sandbox") as caught:
        async with running_engine(imports=(NO_LANDLOCK,)):
            raise AssertionError("it started")
    assert caught.value.reason is Reason.WORKERS_UNAVAILABLE


async def test_engine_that_is_told_so_goes_on_with_the_layers_that_there_are(caplog: pytest.LogCaptureFixture) -> None:
    async with running_engine(imports=(NO_LANDLOCK, FAULTS), allow_missing_sandbox=True) as engine:
        assert "landlock" in {layer.name for layer in engine.facts.sandbox.missing}
        with pytest.raises(RetracedError) as caught:
            await transform(engine, EVERYTHING.archive, "fault-fork")
    assert caught.value.reason is Reason.SANDBOX_OPERATION_DENIED
    assert any("missing" in record.message for record in caplog.records if record.levelname == "WARNING")


def _uid(said: list[str]) -> int:
    return int(dict(remark.split("=", 1) for remark in said)["uid"])
