"""What the end of a worker says, and what is known of the processes that an engine starts."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from retraced_server.engine.cgroup import oom_kills
from retraced_server.engine.endings import ending_failure
from retraced_server.engine.environment import zygote_environment
from retraced_server.errors import Reason
from retraced_server.worker.messages import WorkerEnded


@pytest.mark.parametrize(
    ("ended", "reason", "metadata"),
    [
        (WorkerEnded(1, exit_status=0), Reason.WORKER_EXITED, {"exit_status": "0"}),
        (WorkerEnded(1, exit_status=3), Reason.WORKER_EXITED, {"exit_status": "3"}),
        (WorkerEnded(1, signal=signal.SIGKILL), Reason.WORKER_KILLED, {"signal": "SIGKILL"}),
        (WorkerEnded(1, signal=signal.SIGTERM), Reason.WORKER_KILLED, {"signal": "SIGTERM"}),
        (WorkerEnded(1, signal=signal.SIGSEGV), Reason.WORKER_CRASHED, {"signal": "SIGSEGV"}),
        (WorkerEnded(1, signal=signal.SIGABRT), Reason.WORKER_CRASHED, {"signal": "SIGABRT"}),
        (WorkerEnded(1, signal=signal.SIGXCPU), Reason.CPU_LIMIT_EXCEEDED, {"signal": "SIGXCPU"}),
        (WorkerEnded(1, signal=signal.SIGSYS), Reason.SANDBOX_OPERATION_DENIED, {"signal": "SIGSYS"}),
        (WorkerEnded(1, signal=signal.SIGRTMIN + 3), Reason.WORKER_CRASHED, {"signal": f"signal {signal.SIGRTMIN + 3}"}),
        (WorkerEnded(1), Reason.WORKERS_UNAVAILABLE, {}),
    ],
)
def test_ending_is_told_by_status_and_signal(ended: WorkerEnded, reason: Reason, metadata: dict[str, str]) -> None:
    error = ending_failure(ended, out_of_memory=False, read_seconds=60)
    assert (error.reason, error.metadata) == (reason, metadata)
    assert (error.retry_after is not None) is (reason is Reason.WORKERS_UNAVAILABLE)


def test_kill_by_the_kernel_for_lack_of_memory_is_told_from_one_by_hand() -> None:
    killed, crashed = (
        ending_failure(WorkerEnded(1, signal=number), out_of_memory=True, read_seconds=60)
        for number in (signal.SIGKILL, signal.SIGSEGV)
    )
    assert killed.reason is Reason.WORKER_OUT_OF_MEMORY
    assert crashed.reason is Reason.WORKER_CRASHED


def test_program_that_takes_too_long_to_read_is_told_the_seconds_and_the_setting() -> None:
    failure = ending_failure(WorkerEnded(1, signal=signal.SIGPROF), out_of_memory=False, read_seconds=2.5)
    assert (failure.reason, failure.metadata["read_timeout_seconds"]) == (Reason.CPU_LIMIT_EXCEEDED, "2.5")
    assert "2.5 seconds" in failure.message
    assert "--read-timeout" in failure.message


def test_kills_are_counted_in_the_group_that_the_process_is_in(tmp_path: Path) -> None:
    proc = tmp_path / "cgroup"
    proc.write_text("1:memory:/old\n0::/a/b\n")
    group = tmp_path / "fs" / "a" / "b"
    group.mkdir(parents=True)
    (group / "memory.events").write_text("low 0\nhigh 1\nmax 5\noom 3\noom_kill 2\noom_group_kill 0\n")
    assert oom_kills(proc, tmp_path / "fs") == 2
    assert oom_kills(proc, tmp_path) == 0
    assert oom_kills(tmp_path / "none", tmp_path) == 0


def test_environment_has_no_secrets_of_the_server() -> None:
    server = {"PATH": "/bin", "AWS_SECRET_ACCESS_KEY": "x", "PYTHONPATH": "/lib", "OMP_NUM_THREADS": "8", "RETRACED_TOKEN": "x"}
    environment = zygote_environment(server, Path("/spool"))
    assert environment["PATH"] == "/bin"
    assert environment["PYTHONPATH"] == "/lib"
    assert environment["TMPDIR"] == "/spool"
    assert environment["OMP_NUM_THREADS"] == "1"
    assert environment["GRPC_ENABLE_FORK_SUPPORT"] == "0"
    assert "x" not in environment.values()
