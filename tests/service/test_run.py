"""The life of the server's process: what it prints, which signals it heeds, and how it ends."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from retraced import Client

_LISTENING = "retraced: listening on "


@contextmanager
def _process(how: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "tests.service.served_fake", how, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def _address(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.startswith(_LISTENING), process.communicate()
    return line.removeprefix(_LISTENING).strip()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_an_idle_server_well(number: int) -> None:
    with _process("nothing", "--port", "0", "--log-format", "json") as process:
        with Client(_address(process)) as client:
            assert len(client.passes()) == 2
        process.send_signal(number)
        out, err = process.communicate()
    assert (process.returncode, out) == (0, "")
    events = [json.loads(line)["event"] for line in err.splitlines()]
    assert events == ["listening", "request ended", "draining", "stopped"]


def test_a_second_signal_ends_the_server_at_once() -> None:
    with _process("never-drains", "--port", "0", "--drain-grace", "1000") as process:
        _address(process)
        process.terminate()
        assert process.stderr is not None
        while "draining" not in process.stderr.readline():
            pass
        process.terminate()
        _, err = process.communicate(timeout=500)
    assert process.returncode == 0
    assert "cut short" in err
    assert "Traceback" not in err


def test_a_signal_ends_a_server_that_is_still_starting() -> None:
    with _process("never-warm", "--port", "0") as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "warming\n"
        process.terminate()
        out, err = process.communicate()
    assert (process.returncode, out) == (0, "")
    assert "Traceback" not in err


def test_workers_that_cannot_start_are_one_line_and_a_failure() -> None:
    with _process("fails", "--port", "0") as process:
        out, err = process.communicate()
    assert (process.returncode, out) == (1, "")
    assert err.splitlines()[-1] == "Error: the zygote cannot import `my_ops`: it is broken"
    assert "Traceback" not in err


def test_what_cannot_be_used_is_one_line_and_a_failure(tmp_path: Path) -> None:
    read_only_file = tmp_path / "file"
    read_only_file.touch()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        for arguments, said in (
            (["--port", port], f"cannot listen on 127.0.0.1:{port}: Address already in use"),
            (["--host", "no-such-host.invalid"], "cannot listen on no-such-host.invalid:50051: "),
            (["--spool-dir", str(read_only_file)], f"cannot write to the spool folder {read_only_file}: Not a directory"),
            (["--import", "no_such_module"], "cannot import 'no_such_module': there is no module of that name"),
            (
                ["--audit-log", "/no/such/folder/log"],
                "cannot write to the audit log /no/such/folder/log: No such file or directory",
            ),
            (["--port", "0", "--metrics-port", port], f"cannot listen on 127.0.0.1:{port} for metrics: Address already in use"),
            (["--import", ".relative"], "cannot import '.relative': there is no module of that name"),
        ):
            with _process("nothing", *arguments) as process:
                out, err = process.communicate()
            assert (process.returncode, out) == (1, "")
            assert err.startswith(f"Error: {said}")
            assert len(err.splitlines()) == 1


def test_bytes_that_are_no_http_do_the_server_no_harm() -> None:
    with _process("nothing", "--port", "0") as process:
        address = _address(process)
        host, _, port = address.rpartition(":")
        for data in (b"GET / HTTP/1.1\r\n\r\n", b"\x00" * 10_000, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 1000, b""):
            with socket.create_connection((host, int(port))) as connection:
                connection.sendall(data)
                connection.shutdown(socket.SHUT_WR)
                connection.settimeout(10)
                while _received(connection):
                    pass
        with Client(address) as client:
            assert client.info().version
        process.terminate()
        _, err = process.communicate()
    assert process.returncode == 0
    assert "Traceback" not in err


def _received(connection: socket.socket) -> bytes:
    try:
        return connection.recv(1 << 16)
    except ConnectionResetError:
        return b""
