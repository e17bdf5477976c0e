"""`retraced passes`, `info` and `serve`, and which server a command talks to."""

from __future__ import annotations

import json
import signal
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.support import Run, end, start
from tests.client.fake_server import FakeServer, answers


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer(answers(b"")) as server:
        yield server


def test_the_list_shows_each_pass_as_a_pipeline_has_it(retraced: Run, server: FakeServer) -> None:
    ended = retraced("passes", "--server", server.address)
    rows = [line.split() for line in ended.out.splitlines()]
    assert ended.code == 0
    assert ["cse", "Merges", "equal", "calls.", "not", "read", "functional", "retraced"] in rows
    assert ["decompose{table=core-aten,depth=...}", "Decomposes", "operators.", "read", "any", "retraced"] in rows


def test_a_pass_is_described_with_its_options(retraced: Run, server: FakeServer) -> None:
    ended = retraced("passes", "decompose", "--server", server.address)
    rows = [line.split() for line in ended.out.splitlines()]
    assert ended.code == 0
    assert "Replaces operators by simpler ones." in ended.out
    assert ["table", "core-aten|none", "core-aten", "Which", "table."] in rows
    assert ["depth", "int", "must", "be", "given", "How", "deep."] in rows


def test_a_pass_that_is_not_there_ends_with_2_and_names_the_nearest(retraced: Run, server: FakeServer) -> None:
    ended = retraced("passes", "decompse", "--server", server.address)
    assert ended.code == 2
    assert "no pass 'decompse'; did you mean decompose?" in ended.err
    far = retraced("passes", "zzz", "--server", server.address).err
    assert "no pass 'zzz'; it has cse, decompose" in far
    assert "`retraced passes` lists the passes" in far


def test_a_pass_that_is_not_there_is_an_object_with_json(retraced: Run, server: FakeServer) -> None:
    ended = retraced("passes", "decompse", "--json", "--server", server.address)
    error = json.loads(ended.out)["error"]
    assert (ended.code, error["reason"], error["metadata"]) == (2, "PASS_UNKNOWN", {"pass": "decompse"})
    assert "did you mean decompose?" in error["message"]


def test_passes_as_json(retraced: Run, server: FakeServer) -> None:
    every = json.loads(retraced("passes", "--server", server.address, "--json").out)
    one = json.loads(retraced("passes", "decompose", "--server", server.address, "--json").out)
    assert [found["name"] for found in every] == ["cse", "decompose"]
    assert one == every[1]
    assert one["options"][0]["choices"] == ["core-aten", "none"]


def test_info_shows_versions_limits_imports_and_load(retraced: Run, server: FakeServer) -> None:
    ended = retraced("info", "--server", server.address)
    told = dict(line.strip().split("  ", 1) for line in ended.out.splitlines())
    told = {name: text.strip() for name, text in told.items()}
    assert ended.code == 0
    assert told["server"] == server.address
    assert told["torch"] == "2.13.0"
    assert told["schema version"] == "8.20"
    assert told["requests"] == "1 running, 3 waiting"
    assert told["largest archive"] == "1.0 GiB"
    assert (told["worker memory"], told["memory of all"]) == ("no limit", "3.0 GiB")
    assert told["imports my_ops"] == "3.1"
    assert json.loads(retraced("info", "--server", server.address, "--json").out)["limits"]["workers"] == 2


def test_the_environment_names_the_server_and_the_option_goes_before_it(
    retraced: Run, server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RETRACED_SERVER", server.address)
    assert retraced("info").code == 0
    assert retraced("info", "--server", "127.0.0.1:1").code == 3
    monkeypatch.setenv("RETRACED_SERVER", "127.0.0.1:1")
    assert retraced("info", "--server", server.address).code == 0
    assert retraced("info").code == 3


def test_without_an_address_a_server_is_started_for_the_call_and_stopped(
    server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped = tmp_path / "stopped"
    stand_in(
        tmp_path,
        f"""
        import pathlib, signal, sys, time
        def stop(*_):
            pathlib.Path({str(stopped)!r}).write_text(" ".join(sys.argv[1:]))
            sys.exit()
        signal.signal(signal.SIGTERM, stop)
        print("retraced: listening on {server.address}", flush=True)
        time.sleep(60)
        """,
    )
    ended = end(start("info", "--json", env={"PYTHONPATH": str(tmp_path)}))
    assert (ended.code, ended.err) == (0, "")
    assert json.loads(ended.out)["version"] == "0.1.0"
    assert stopped.read_text() == "--host 127.0.0.1 --port 0"


def test_a_server_that_is_started_for_the_call_takes_no_port_that_the_environment_names(tmp_path: Path) -> None:
    stand_in(
        tmp_path,
        "import os; raise SystemExit(' '.join(name for name in sorted(os.environ) if name.startswith('RETRACED_')))",
    )
    variables = {f"RETRACED_{name}": "1" for name in ("HEALTH_PORT", "METRICS_PORT", "MAX_QUEUED")}
    ended = end(start("info", env={"PYTHONPATH": str(tmp_path), **variables}))
    assert "RETRACED_MAX_QUEUED" in ended.err
    assert "_PORT" not in ended.err


def test_a_server_that_cannot_start_ends_with_3_and_shows_why(tmp_path: Path) -> None:
    stand_in(tmp_path, "raise SystemExit('no torch for this machine')")
    ended = end(start("info", env={"PYTHONPATH": str(tmp_path)}))
    assert ended.code == 3
    assert "ended with status 1 before it was ready" in ended.err
    assert "no torch for this machine" in ended.err
    assert "Traceback" not in ended.err


def test_without_the_server_extra_a_missing_address_ends_with_3_and_says_both_ways_out(
    retraced: Run, archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("retraced.cli.session.missing_server_modules", lambda: ("torch", "structlog"))
    for command in (["transform", archive, "-p", "cse", "-o", "o.pt2"], ["passes"], ["info"]):
        ended = retraced(*command)
        assert ended.code == 3
        for part in (
            "torch, structlog not installed",
            "--server",
            "RETRACED_SERVER",
            "pip install '.[server]' in a checkout of retraced",
        ):
            assert part in ended.err


def test_serve_hands_its_arguments_on_and_becomes_the_server(tmp_path: Path) -> None:
    stand_in(tmp_path, "import os, sys; print(os.getpid(), sys.argv[1:])")
    arguments = ["--port", "0", "--import", "my_ops", "-h", "--", "x"]
    process = start("serve", *arguments, env={"PYTHONPATH": str(tmp_path)})
    ended = end(process)
    assert (ended.code, ended.err) == (0, "")
    assert ended.out == f"{process.pid} {arguments}\n"


def test_serve_ends_as_the_server_ends(tmp_path: Path) -> None:
    stand_in(tmp_path, "import os, signal; print('up', flush=True); signal.pause()")
    process = start("serve", env={"PYTHONPATH": str(tmp_path)})
    assert process.stdout is not None
    assert process.stdout.readline() == b"up\n"
    process.send_signal(signal.SIGTERM)
    assert end(process).code == -signal.SIGTERM


def test_serve_without_the_server_extra_says_what_to_install(retraced: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("retraced.cli.serve.missing_server_modules", lambda: ("torch",))
    ended = retraced("serve", "--port", "0")
    assert ended.code == 2
    assert "torch missing" in ended.err
    assert "pip install '.[server]' in a checkout of retraced" in ended.err


def stand_in(directory: Path, code: str) -> None:
    """Puts a package in the server's place, for commands that are started with the directory as PYTHONPATH."""
    package = directory / "retraced_server"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(textwrap.dedent(code))
