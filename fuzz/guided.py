"""Reads mutated archives, guided by the coverage of the reader: those that reach something new are mutated further. Needs atheris.

libFuzzer, which atheris drives, ends its process at the first crash, and does not return. So it runs in a process of its own, which writes
its counts to a file as it goes, and is started again after a crash.
"""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from fuzz.mutate import mutate
from fuzz.report import Finding, Report

_LONGEST: Final = 1 << 17
_WRITE_EVERY: Final = 100


def fuzz_guided(
    report: Report,
    archives: Mapping[str, bytes],
    *,
    count: int | None = None,
    seconds: float | None = None,
    progress: Callable[[Report], None] = lambda _: None,
) -> None:
    """Read mutated archives, and count what comes of them.

    Args:
        report: Where they are counted. Its seed is libFuzzer's.
        archives: What is mutated, by name.
        count: How many archives are read; None is no bound.
        seconds: Seconds after which it ends; None is no bound.
        progress: Called every second.
    """
    report.begin()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        corpus = folder / "corpus"
        corpus.mkdir()
        for program, archive in archives.items():
            (corpus / program).write_bytes(archive)
        while True:
            left = None if seconds is None else seconds - (time.monotonic() - report.started)
            more = None if count is None else count - report.count
            if (left is not None and left <= 0) or (more is not None and more <= 0):
                return
            _run(report, folder, left, more, progress)


def _run(report: Report, folder: Path, seconds: float | None, count: int | None, progress: Callable[[Report], None]) -> None:
    """Run libFuzzer until it ends by itself or by a crash, and take over what it counted."""
    counts, crashes = folder / "counts", folder / "crashes"
    crashes.mkdir(exist_ok=True)
    counts.unlink(missing_ok=True)
    arguments = [f"-seed={report.seed + report.count + 1}", f"-artifact_prefix={crashes}/", "-rss_limit_mb=0", "-timeout=120"]
    arguments += [f"-max_len={_LONGEST}", "-len_control=0", "-print_final_stats=0", "-verbosity=0"]
    if seconds is not None:
        arguments.append(f"-max_total_time={max(1, round(seconds))}")
    if count is not None:
        arguments.append(f"-runs={count}")
    command = [sys.executable, "-m", "fuzz.guided", str(counts), *arguments, str(folder / "corpus")]
    before, already = report.outcomes.copy(), report.findings.copy()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        try:
            while process.poll() is None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(1.0)
                _take(report, counts, before, already)
                report.end()
                progress(report)
        except BaseException:
            process.kill()
            raise
        assert process.stderr is not None
        said = process.stderr.read().decode(errors="replace")
    _take(report, counts, before, already)
    for crash in sorted(crashes.iterdir()):
        kind = "slow" if crash.name.startswith("timeout") else f"crash {_name(process.returncode)}"
        report.outcomes[kind] += 1
        report.found(Finding(kind, "guided", -1, (), said[-4_000:]), crash.read_bytes())
        crash.unlink()
    if report.outcomes == before:
        raise RuntimeError(f"libFuzzer read nothing, and ended with {process.returncode}: {said[-2_000:]}")


def _take(report: Report, counts: Path, before: Any, already: Any) -> None:
    """Put what a process has counted so far beside what was counted before it."""
    with contextlib.suppress(FileNotFoundError, ValueError):
        counted = json.loads(counts.read_text())
        report.outcomes = before + type(before)(counted["outcomes"])
        found = [Finding(**{**finding, "steps": ()}) for finding, _ in counted["findings"]]
        report.findings = already.copy()
        for finding, (_, data) in zip(found, counted["findings"], strict=True):
            report.found(finding, bytes.fromhex(data))


def _name(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"status {code}"


def _child(counts: Path, arguments: list[str]) -> None:
    """Run libFuzzer in this process, which ends with it."""
    import logging

    import atheris

    logging.disable(logging.CRITICAL)
    # Before anything else imports it.
    with atheris.instrument_imports(include=["retraced_server.program"]):
        import retraced_server.program  # noqa: F401

    from fuzz.judge import Judge
    from fuzz.seeds import FEW, seed_archives

    judge = Judge(seed_archives(FEW).values())
    outcomes: dict[str, int] = {}
    findings: list[tuple[dict[str, Any], str]] = []
    total = 0

    def read(data: bytes) -> None:
        nonlocal total
        verdict = judge.judge(data)
        outcomes[verdict.outcome] = outcomes.get(verdict.outcome, 0) + 1
        total += 1
        if verdict.finding:
            finding = Finding(verdict.outcome, "guided", total, (), verdict.finding)
            findings.append((vars(finding), data.hex()))
        if verdict.finding or total % _WRITE_EVERY == 0:
            written = counts.with_suffix(".new")
            written.write_text(json.dumps({"outcomes": outcomes, "findings": findings}))
            written.replace(counts)

    def change(data: bytes, longest: int, seed: int) -> bytes:
        changed = mutate(data, seed).archive
        return changed if len(changed) <= longest else data

    atheris.Setup([sys.argv[0], *arguments], read, custom_mutator=change)
    atheris.Fuzz()


if __name__ == "__main__":
    _child(Path(sys.argv[1]), sys.argv[2:])
