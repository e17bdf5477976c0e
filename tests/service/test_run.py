"""The life of the server's process: what it prints, which signals it heeds, and how it ends."""

from __future__ import annotations

import hashlib
import json
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from retraced import Client, Tls, errors
from retraced_server import healthcheck
from tests.support.certificates import Authority

pytestmark = pytest.mark.slow

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


@pytest.fixture
def secured(tmp_path: Path) -> Path:
    """A folder with `ca.pem`, `server.pem` and `server.key` of this machine, and `callers.toml` with one caller."""
    Authority(tmp_path).pair("localhost", "127.0.0.1")
    digest = hashlib.sha256(b"a-token").hexdigest()
    (tmp_path / "callers.toml").write_text(f'[callers.somebody]\ntoken_sha256 = "{digest}"\n')
    return tmp_path


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
        assert any("draining" in line for line in process.stderr)
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
    # The module's own lines, none of which looks like one of the log.
    assert '\n      File "my_ops.py", line 3, in <module>\n' in err
    assert "\n    lines\n" in err


def test_workers_that_cannot_start_are_one_event_of_a_log_of_json() -> None:
    with _process("fails", "--port", "0", "--log-format", "json") as process:
        out, err = process.communicate()
    assert (process.returncode, out) == (1, "")
    (event,) = [event for line in err.splitlines() if (event := json.loads(line))["event"] != "stopped"]
    assert (event["event"], event["level"]) == ("cannot start", "error")
    assert event["error"] == "the zygote cannot import `my_ops`: it is broken"
    assert event["exception"].endswith("ValueError: two\nlines\n")


def test_settings_that_cannot_be_used_are_one_event_of_a_log_of_json() -> None:
    with _process("nothing", "--port", "0", "--log-format", "json", "--import", "no_such_module") as process:
        out, err = process.communicate()
    assert (process.returncode, out) == (2, "")
    event = json.loads(err)
    assert (event["event"], event["level"]) == ("cannot start", "error")
    assert "no_such_module" in event["error"]


def test_a_variable_that_is_no_setting_is_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RETRACED_MEMORI", "RETRACED_SERVER", "RETRACED_TOKEN", "RETRACED_MAX_QUEUED", "RETRACED_SERVICE_HOST"):
        monkeypatch.setenv(name, "1")
    with _process("nothing", "--port", "0", "--log-format", "json") as process:
        _address(process)
        process.terminate()
        _, err = process.communicate()
    warned = [event for line in err.splitlines() if (event := json.loads(line))["level"] == "warning"]
    assert [(event["variable"], event.get("near")) for event in warned] == [
        ("RETRACED_MEMORI", "RETRACED_MEMORY"),
        ("RETRACED_SERVICE_HOST", None),
    ]


def test_the_server_calls_itself_as_the_command_does() -> None:
    with _process("nothing", "--port", "many") as process:
        _, err = process.communicate()
    assert process.returncode == 2
    assert err.startswith("Usage: retraced serve [OPTIONS]\nTry 'retraced serve --help' for help.\n")


def test_the_ports_of_the_image_are_reached_from_outside_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    dockerfile = (Path(__file__).parents[2] / "Dockerfile").read_text()
    variables = dict(re.findall(r"(RETRACED_\w+)=(\S+)", dockerfile))
    exposed = re.search(r"^EXPOSE (.*)$", dockerfile, re.MULTILINE)
    assert exposed is not None
    assert exposed[1].split() == ["50051", variables["RETRACED_HEALTH_PORT"], variables["RETRACED_METRICS_PORT"]]
    with socket.create_server(("127.0.0.1", 0)) as free:
        variables["RETRACED_HEALTH_PORT"] = str(free.getsockname()[1])
    for name, value in {**variables, "RETRACED_METRICS_PORT": "0", "RETRACED_ALLOW_INSECURE": "true"}.items():
        monkeypatch.setenv(name, value)
    with _process("nothing", "--port", "0", "--log-format", "json") as process:
        port = _address(process).rpartition(":")[2]
        assert process.stderr is not None
        url = next(event["url"] for line in process.stderr if (event := json.loads(line))["event"] == "metrics")
        # Another address of this machine than that of its loopback interface: as from outside.
        with urllib.request.urlopen(url.replace("0.0.0.0", "127.0.0.2").replace("/metrics", "/readyz")) as answer:
            assert (answer.status, answer.read()) == (200, b"ok\n")
        for address in (f"127.0.0.2:{port}", f"127.0.0.2:{variables['RETRACED_HEALTH_PORT']}"):
            assert healthcheck.main([address]) == 0


def test_what_cannot_be_used_is_one_line_and_ends_with_2(tmp_path: Path) -> None:
    read_only_file = tmp_path / "file"
    read_only_file.touch()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        for arguments, said in (
            (["--port", port], f"cannot listen on 127.0.0.1:{port}: Address already in use"),
            (["--port", "0", "--host", "no-such-host.invalid"], "cannot listen on no-such-host.invalid:0: "),
            (
                ["--port", "0", "--spool-dir", str(read_only_file)],
                f"cannot write to the spool folder {read_only_file}: Not a directory",
            ),
            (["--port", "0", "--import", "no_such_module"], "cannot import 'no_such_module': there is no module of that name"),
            (
                ["--port", "0", "--audit-log", "/no/such/folder/log"],
                "cannot write to the audit log /no/such/folder/log: No such file or directory",
            ),
            (["--port", "0", "--metrics-port", port], f"cannot listen on 127.0.0.1:{port} for metrics: Address already in use"),
            (["--port", "0", "--import", ".relative"], "cannot import '.relative': there is no module of that name"),
        ):
            with _process("nothing", *arguments) as process:
                out, err = process.communicate()
            assert (process.returncode, out) == (2, "")
            assert err.startswith(f"Error: {said}")
            assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "missing"),
    [
        ([], "without TLS (--tls-certificate and --tls-key) and without authentication (--callers or --tls-client-ca)"),
        (["--callers", "callers.toml"], "without TLS (--tls-certificate and --tls-key);"),
        (
            ["--tls-certificate", "server.pem", "--tls-key", "server.key"],
            "without authentication (--callers or --tls-client-ca);",
        ),
    ],
)
@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_other_machines_are_not_served_without_tls_or_authentication(
    arguments: list[str], missing: str, host: str, secured: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = [str(secured / argument) if "." in argument else argument for argument in arguments]
    with _process("nothing", "--host", host, "--port", "0", *arguments) as process:
        out, err = process.communicate()
    assert (process.returncode, out) == (2, "")
    assert err.startswith(f"Error: {host} is reached from other machines, and is not served {missing}")
    assert "--allow-insecure" in err
    with _process("nothing", "--host", host, "--port", "0", "--allow-insecure", *arguments) as process:
        assert _address(process)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "127.1.2.3", "unix"])
def test_this_machine_is_served_without_either(host: str, tmp_path: Path) -> None:
    host = f"unix:{tmp_path}/socket" if host == "unix" else host
    with _process("nothing", "--port", "0", "--host", host) as process, Client(_address(process)) as client:
        assert client.info().version


def test_other_machines_are_served_with_tls_and_authentication(secured: Path) -> None:
    arguments = ["--tls-certificate", f"{secured}/server.pem", "--tls-key", f"{secured}/server.key"]
    with _process("nothing", "--host", "0.0.0.0", "--port", "0", *arguments, "--callers", f"{secured}/callers.toml") as process:
        port = _address(process).rpartition(":")[2]
        with Client(f"localhost:{port}", token="a-token", tls=Tls(secured / "ca.pem")) as client:
            assert client.info().version
        with Client(f"localhost:{port}", tls=Tls(secured / "ca.pem")) as client, pytest.raises(errors.Unauthenticated):
            client.info()


def test_files_of_tls_that_are_missing_or_wrong_are_one_line_and_a_failure(secured: Path) -> None:
    certificate, key = ["--tls-certificate", f"{secured}/server.pem"], ["--tls-key", f"{secured}/server.key"]
    for arguments, said in (
        (certificate, "--tls-certificate and --tls-key go together"),
        (key, "--tls-certificate and --tls-key go together"),
        (["--tls-client-ca", f"{secured}/ca.pem"], "--tls-client-ca needs --tls-certificate"),
        ([*certificate, "--tls-key", "/no/such/key"], "cannot read /no/such/key: No such file or directory"),
        (["--callers", "/no/such/file"], "cannot read /no/such/file: No such file or directory"),
        (["--callers", f"{secured}/ca.pem"], f"{secured}/ca.pem is no TOML"),
    ):
        with _process("nothing", "--port", "0", *arguments) as process:
            out, err = process.communicate()
        assert (process.returncode, out) == (2, "")
        assert err.startswith(f"Error: {said}")
        assert len(err.splitlines()) == 1


def test_the_image_s_health_check_reaches_a_server_that_wants_certificates(
    secured: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    arguments = ["--tls-certificate", f"{secured}/server.pem", "--tls-key", f"{secured}/server.key"]
    arguments += ["--tls-client-ca", f"{secured}/ca.pem", "--health-port", port]
    with _process("nothing", "--host", "0.0.0.0", "--port", "0", *arguments) as process:
        _address(process)
        monkeypatch.setenv("RETRACED_HOST", "0.0.0.0")
        monkeypatch.setenv("RETRACED_HEALTH_PORT", port)
        assert healthcheck.main([]) == 0
        assert capsys.readouterr().out == f"127.0.0.1:{port}: SERVING\n"
        with Client(f"127.0.0.1:{port}") as client, pytest.raises(errors.ServerError, match="does not offer this call"):
            client.info()


def test_memory_that_lets_fewer_jobs_run_is_told() -> None:
    arguments = ["--workers", "4", "--memory", "5GiB", "--worker-memory", "2GiB"]
    with _process("nothing", "--port", "0", "--log-format", "json", *arguments) as process:
        with Client(_address(process)) as client:
            limits = client.info().limits
        process.terminate()
        _, err = process.communicate()
    assert (limits.workers, limits.memory_bytes, limits.worker_memory_bytes) == (2, 5 << 30, 2 << 30)
    told = [json.loads(line) for line in err.splitlines() if "memory allows" in line]
    assert [(line["level"], line["workers"], line["of"]) for line in told] == [("warning", 2, 4)]


def test_a_server_on_which_no_job_would_ever_fit_does_not_start() -> None:
    with _process("nothing", "--port", "0", "--memory", "1GiB", "--worker-memory", "2GiB") as process:
        out, err = process.communicate()
    assert (process.returncode, out) == (2, "")
    assert err.startswith("Error: a worker may take 2147483648 bytes, and all together 1073741824: no job would ever fit")
    assert len(err.splitlines()) == 1


def test_bytes_that_are_no_http_do_the_server_no_harm() -> None:
    with _process("nothing", "--port", "0") as process:
        address = _address(process)
        host, _, port = address.rpartition(":")
        for data in (b"GET / HTTP/1.1\r\n\r\n", b"\x00" * 10_000, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 1000, b""):
            with socket.create_connection((host, int(port))) as connection:
                connection.sendall(data)
                # The server may have closed the connection by now.
                with suppress(OSError):
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
