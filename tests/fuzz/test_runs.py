"""Short, seeded runs of the fuzzers and of the soak: nothing is found, and what would be is seen."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.fuzz import planted

pytestmark = pytest.mark.slow

_ROOT = Path(__file__).resolve().parents[2]


def _run(tmp_path: Path, *arguments: str, module: str = "fuzz") -> tuple[int, dict[str, Any], str]:
    path = tmp_path / "report.json"
    command = [sys.executable, "-m", module, *arguments, "--json", str(path), "--findings", str(tmp_path / "findings")]
    done = subprocess.run(command, cwd=_ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    assert path.exists(), done.stdout
    report: dict[str, Any] = json.loads(path.read_text())
    return done.returncode, report, done.stdout


def test_reader_withstands_mutated_archives(tmp_path: Path) -> None:
    programs = [argument for name in ("input_and_id", "tied_weights", "symbolic_scalars") for argument in ("--program", name)]
    status, report, output = _run(tmp_path, "reader", "--count", "150", *programs)
    assert (status, report["findings"], report["count"]) == (0, {}, 150), output
    assert {"read", "PROGRAM_INVALID", "ARCHIVE_INVALID"} <= set(report["outcomes"])


def test_reader_bounds_the_work_of_expressions(tmp_path: Path) -> None:
    status, report, output = _run(tmp_path, "expressions", "--count", "20", "--program", "symbolic_scalars")
    assert (status, report["findings"], report["count"]) == (0, {}, 20), output
    assert {"PROGRAM_UNSUPPORTED", "read"} <= set(report["outcomes"])


def test_client_withstands_servers_that_lie(tmp_path: Path) -> None:
    status, report, output = _run(tmp_path, "lying", "--count", "30", "--program", "input_and_id")
    assert (status, report["findings"], report["count"]) == (0, {}, 30), output
    assert any(outcome.startswith("command") for outcome in report["outcomes"])


def test_server_withstands_mutated_archives_and_streams(tmp_path: Path) -> None:
    status, report, output = _run(tmp_path, "server", "--count", "40", "--program", "input_and_id")
    assert (status, report["findings"], report["count"]) == (0, {}, 40), output
    assert {"archive: PROGRAM_INVALID", "protocol: PROTOCOL_VIOLATION"} <= set(report["outcomes"])


def test_soak_gets_every_answer_right_while_processes_are_killed(tmp_path: Path) -> None:
    programs = ("--program", "input_and_id", "--program", "nested")
    status, report, output = _run(tmp_path, "soak", "--count", "16", "--worker-kills", "4", "--zygote-kills", "8", *programs)
    assert (status, report["findings"], report["count"]) == (0, {}, 16), output
    assert report["killed"]["workers"] > 0
    assert report["killed"]["zygotes"] > 0


def test_planted_faults_are_found(tmp_path: Path) -> None:
    """A fuzzer that finds nothing in a broken reader would prove nothing of a sound one."""
    status, found, output = _run(tmp_path, module="tests.fuzz.planted")
    assert status == 0, output
    assert set(found) == set(planted.FAULTS)
    for fault, signatures in found.items():
        assert [signature.startswith(fault) for signature in signatures] == [True], (fault, signatures)
    reproducer = json.loads(next((tmp_path / "findings").glob("crash*.json")).read_text())
    assert (reproducer["program"], reproducer["seed"]) == ("input_and_id", 0)
