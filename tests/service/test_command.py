"""The command line and the settings behind it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from retraced_server.service import command
from retraced_server.service.run import StartError
from retraced_server.service.settings import Settings


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Settings]:
    """The settings with which a server would have started."""
    found: list[Settings] = []

    async def serve(settings: Settings) -> None:
        found.append(settings)

    monkeypatch.setattr(command, "serve", serve)
    monkeypatch.setattr("retraced_server.service.logs.configure", lambda *_: None)
    return found


def _run(*arguments: str, **environment: str) -> Result:
    return CliRunner().invoke(command.main, list(arguments), env=environment)


@pytest.mark.parametrize(
    ("arguments", "environment", "field", "value"),
    [
        ((), {}, "host", "127.0.0.1"),
        ((), {}, "port", 50051),
        (("--port", "0"), {}, "port", 0),
        ((), {"RETRACED_PORT": "81"}, "port", 81),
        (("--port", "82"), {"RETRACED_PORT": "81"}, "port", 82),
        ((), {"RETRACED_HOST": "0.0.0.0"}, "host", "0.0.0.0"),
        (("--worker-memory", "512MiB"), {}, "worker_memory", 512 << 20),
        (("--memory", "12GiB", "--workers", "4"), {}, "worker_memory", 3 << 30),
        (("--memory", "12GiB", "--workers", "4", "--worker-memory", "6GiB"), {}, "worker_memory", 6 << 30),
        ((), {"RETRACED_MEMORY": "512MiB"}, "worker_memory", 512 << 20),
        (("--max-archive-size", "1000000"), {}, "max_archive_size", 1_000_000),
        (("--max-queued", "0"), {}, "max_queued", 0),
        (("--job-timeout", "2.5"), {}, "job_timeout", 2.5),
        ((), {"RETRACED_READ_TIMEOUT": "2.5"}, "read_timeout", 2.5),
        (("--spool-dir", "/somewhere"), {}, "spool_dir", Path("/somewhere")),
        (("--import", "a.b", "--import", "c"), {}, "imports", ("a.b", "c")),
        ((), {"RETRACED_IMPORT": "a.b, c"}, "imports", ("a.b", "c")),
        (("--import", "d"), {"RETRACED_IMPORT": "a.b,c"}, "imports", ("d",)),
        (("--read-path", "/a", "--read-path", "/b"), {}, "read_paths", (Path("/a"), Path("/b"))),
        ((), {"RETRACED_READ_PATH": "/a,/b"}, "read_paths", (Path("/a"), Path("/b"))),
        (("--allow-namespace", "mkldnn", "--allow-namespace", "onednn"), {}, "allow_namespaces", ("mkldnn", "onednn")),
        ((), {"RETRACED_ALLOW_NAMESPACE": "mkldnn,onednn"}, "allow_namespaces", ("mkldnn", "onednn")),
        (("--allow-operator", "aten._stack.default"), {}, "allow_operators", ("aten._stack.default",)),
        ((), {"RETRACED_ALLOW_OPERATOR": "aten._stack.default"}, "allow_operators", ("aten._stack.default",)),
        ((), {}, "metrics_port", None),
        (("--metrics-port", "0"), {}, "metrics_port", 0),
        ((), {"RETRACED_METRICS_PORT": "9464"}, "metrics_port", 9464),
        (("--audit-log", "/var/log/audit"), {}, "audit_log", Path("/var/log/audit")),
        (("--traces",), {}, "traces", True),
        ((), {}, "allow_missing_sandbox", False),
        (("--allow-missing-sandbox",), {}, "allow_missing_sandbox", True),
        ((), {"RETRACED_ALLOW_MISSING_SANDBOX": "true"}, "allow_missing_sandbox", True),
        ((), {}, "tls_certificate", None),
        (("--tls-client-ca", "/ca.pem"), {}, "tls_client_ca", Path("/ca.pem")),
        ((), {"RETRACED_CALLERS": "/callers.toml"}, "callers", Path("/callers.toml")),
        ((), {"RETRACED_ALLOW_INSECURE": "true"}, "allow_insecure", True),
        (("--health-port", "83"), {}, "health_port", 83),
        (("--max-upload-per-caller", "1GiB"), {}, "max_upload_per_caller", 1 << 30),
        ((), {"RETRACED_LOG_FORMAT": "json"}, "log_format", "json"),
        ((), {"RETRACED_SERVER": "elsewhere:1"}, "host", "127.0.0.1"),
    ],
)
def test_an_option_goes_before_its_variable_and_that_before_the_default(
    started: list[Settings], arguments: tuple[str, ...], environment: dict[str, str], field: str, value: Any
) -> None:
    assert _run(*arguments, **environment).exit_code == 0
    assert getattr(started[0], field) == value


@pytest.mark.parametrize(
    ("arguments", "environment", "said"),
    [
        (("--workers", "0"), {}, "--workers is '0'"),
        (("--workers", "many"), {}, "--workers is 'many'"),
        ((), {"RETRACED_WORKERS": "many"}, "RETRACED_WORKERS is 'many'"),
        (("--port", "65536"), {}, "--port is '65536'"),
        (("--metrics-port", "65536"), {}, "--metrics-port is '65536'"),
        (("--worker-memory", "much"), {}, "--worker-memory is 'much'"),
        (("--worker-memory", "8"), {}, "--worker-memory is '8': one worker takes 64.0MiB or more; 0 is no limit"),
        ((), {"RETRACED_MEMORY": "63MiB"}, "RETRACED_MEMORY is '63MiB': one worker takes 64.0MiB or more"),
        (("--job-timeout", "nan"), {}, "--job-timeout is 'nan'"),
        (("--log-format", "xml"), {}, "--log-format is 'xml'"),
        (("--first-uid", "0"), {}, "--first-uid is '0'"),
        ((), {"RETRACED_ALLOW_MISSING_SANDBOX": "perhaps"}, "RETRACED_ALLOW_MISSING_SANDBOX is 'perhaps'"),
        (("--no-such-option",), {}, "--no-such-option"),
        (("argument",), {}, "argument"),
    ],
)
def test_a_value_that_cannot_be_used_is_named_with_its_option(
    started: list[Settings], arguments: tuple[str, ...], environment: dict[str, str], said: str
) -> None:
    result = _run(*arguments, **environment)
    assert result.exit_code == 2
    assert said in result.stderr
    assert started == []


def test_help_names_every_setting_with_its_variable_and_default() -> None:
    text = " ".join(_run("--help").output.split())
    for field in Settings.model_fields:
        option = {
            "imports": "import",
            "allow_namespaces": "allow-namespace",
            "allow_operators": "allow-operator",
            "read_paths": "read-path",
        }.get(field) or field.replace("_", "-")
        assert f"--{option} " in text
        assert f"RETRACED_{option.replace('-', '_').upper()}" in text
    assert "Examples:" in text
    assert "default: 4.0GiB" in text


def test_what_the_server_cannot_start_for_is_one_line_and_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    async def serve(settings: Settings) -> None:
        raise StartError("cannot listen on 127.0.0.1:1: Permission denied")

    monkeypatch.setattr(command, "serve", serve)
    monkeypatch.setattr("retraced_server.service.logs.configure", lambda *_: None)
    result = _run()
    assert result.exit_code == 1
    assert result.stderr == "Error: cannot listen on 127.0.0.1:1: Permission denied\n"


def test_the_command_loads_no_torch() -> None:
    code = "import sys, retraced_server.service.command; assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_fork_support_of_grpc_is_off_before_grpc_is_loaded() -> None:
    code = (
        "import os, sys, runpy; sys.argv = ['x', '--version']\n"
        "try: runpy.run_module('retraced_server', run_name='__main__')\n"
        "except SystemExit: pass\n"
        "assert os.environ['GRPC_ENABLE_FORK_SUPPORT'] == '0' and 'grpc' in sys.modules"
    )
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert run.stdout.startswith("retraced ")
