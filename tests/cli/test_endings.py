"""Commands that are interrupted, terminated or hung up in the middle: nothing half-done is left, no file and no process."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from retraced.v1 import graph_transform_pb2 as pb
from tests.cli.support import end, start
from tests.client.fake_server import FakeServer, accepted, output_chunks, read_upload
from tests.support.waiting import eventually

pytestmark = pytest.mark.slow

SIGNALS = [
    (signal.SIGINT, 130, "retraced: interrupted\n"),
    (signal.SIGTERM, 143, "retraced: terminated\n"),
    (signal.SIGHUP, 129, "retraced: hung up\n"),
]
# Stands in for the server: it says that it listens where it should, and answers nobody.
STAND_IN = """
import os, pathlib, socket, time
listener = socket.create_server(("127.0.0.1", 0))
if "READY" in os.environ:
    print(f"retraced: listening on 127.0.0.1:{listener.getsockname()[1]}", flush=True)
    connection = listener.accept()
pathlib.Path(os.environ["PID_FILE"]).write_text(str(os.getpid()))
time.sleep(60)
"""


@pytest.fixture(autouse=True)
def _nothing_is_ignored() -> Iterator[None]:
    """A command inherits what is ignored, as SIGHUP is under nohup and SIGINT in a script's background job."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGHUP)}
    for number, handler in before.items():
        if handler is signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler if number is signal.SIGINT else signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


class StallingServer(FakeServer):
    """Sends half of an output, and then nothing more. `half_sent` and `call_ended` say how far it is."""

    def __init__(self) -> None:
        self.half_sent = threading.Event()
        self.call_ended = threading.Event()
        super().__init__(self._stall)

    def _stall(
        self, requests: Iterator[pb.TransformGraphRequest], context: grpc.ServicerContext
    ) -> Iterator[pb.TransformGraphResponse]:
        context.add_callback(self.call_ended.set)
        read_upload(requests)
        yield accepted()
        yield from output_chunks(bytes(3 << 20))
        self.half_sent.set()
        self.call_ended.wait(30)


@pytest.mark.parametrize(("number", "code", "message"), SIGNALS)
def test_a_signal_in_the_middle_of_a_transform_leaves_no_file_and_ends_the_call(
    archive: Path, number: signal.Signals, code: int, message: str
) -> None:
    out = archive.with_name("out.pt2")
    out.write_bytes(b"before")
    with StallingServer() as server:
        process = start("transform", archive, "-p", "cse", "-o", out, "--server", server.address)
        assert server.half_sent.wait(30)
        process.send_signal(number)
        ended = end(process)
        assert server.call_ended.wait(30)
    assert (ended.code, ended.out) == (code, "")
    # An empty line before it ends the line that a terminal echoes ^C on.
    assert ended.err.removeprefix("\n") == message
    assert out.read_bytes() == b"before"
    assert {path.name for path in archive.parent.iterdir()} == {"model.pt2", "out.pt2"}


def test_a_signal_that_was_ignored_before_stays_ignored(archive: Path) -> None:
    with StallingServer() as server:
        previous = signal.signal(signal.SIGHUP, signal.SIG_IGN)
        try:
            process = start("transform", archive, "-p", "cse", "-o", archive, "--server", server.address)
        finally:
            signal.signal(signal.SIGHUP, previous)
        assert server.half_sent.wait(30)
        process.send_signal(signal.SIGHUP)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.3)
        process.send_signal(signal.SIGINT)
        assert end(process).code == 130


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
@pytest.mark.parametrize("stage", ["while it starts", "while it is called"])
def test_a_server_that_was_started_for_the_call_does_not_outlive_it(tmp_path: Path, number: signal.Signals, stage: str) -> None:
    package = tmp_path / "retraced_server"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(STAND_IN)
    pid_file = tmp_path / "pid"
    env = {"PYTHONPATH": str(tmp_path), "PID_FILE": str(pid_file)}
    if stage == "while it is called":
        env["READY"] = "1"
    process = start("info", env=env)
    try:
        server = _read_pid(pid_file)
        process.send_signal(number)
    finally:
        ended = end(process)
    assert ended.code == (-number if number is signal.SIGKILL else 128 + number)
    _wait_for_the_end_of(server)


def _read_pid(path: Path) -> int:
    eventually(lambda: path.exists() and path.read_text(), "the server starts")
    return int(path.read_text())


def _wait_for_the_end_of(pid: int) -> None:
    eventually(lambda: not os.path.exists(f"/proc/{pid}"), "the server ends")
