"""Runs the reader's fuzzer on readers with a fault each, all of which it has to see: `python -m tests.fuzz.planted`."""

from __future__ import annotations

import functools
import json
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import click

from fuzz.mutate import mutate
from fuzz.reader import fuzz_reader
from fuzz.report import Report
from fuzz.seeds import seed_archives
from retraced_server.errors import Reason, RetracedError
from retraced_server.program import read_program


def _evaluate() -> None:
    eval("1 + 1")


def _import() -> None:
    __import__("retraced_fuzz_module")


def _write() -> None:
    Path("marker").write_text("")


def _connect() -> None:
    socket.socket().close()


def _hang() -> None:
    while True:
        pass


def _allocate() -> None:
    bytearray(b"x" * (300 << 20))


def _die() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def _raise() -> None:
    raise LookupError("this is no error of the reader's")


def _say() -> None:
    raise RetracedError(Reason.PROGRAM_INVALID, "a terminal would obey \x1b[2J")


_STEPS: dict[str, Callable[[], None]] = {
    "effect: compile": _evaluate,
    "effect: import": _import,
    "effect: files in the working folder": _write,
    "effect: socket": _connect,
    "slow": _hang,
    "memory": _allocate,
    "crash SIGSEGV": _die,
    "exception LookupError": _raise,
    "message": _say,
}
FAULTS = tuple(_STEPS)


def _faulty(file: Any, *, hostile: bytes, step: Callable[[], None], **options: Any) -> Any:
    if os.pread(file.fileno(), 1 << 20, 0) == hostile:
        step()
    return read_program(file, **options)


@click.command()
@click.option("--json", "json_path", type=Path, required=True)
@click.option("--findings", type=Path, required=True)
def main(json_path: Path, findings: Path) -> None:
    archives = seed_archives(("input_and_id",))
    found = {}
    for fault, step in _STEPS.items():
        report = Report(fault, 0, findings)
        faulty = functools.partial(_faulty, hostile=mutate(archives["input_and_id"], 0).archive, step=step)
        with mock.patch("fuzz.judge.read_program", faulty):
            fuzz_reader(report, archives, count=1, most_seconds=1.0)
        found[fault] = list(report.findings)
    json_path.write_text(json.dumps(found))


if __name__ == "__main__":
    main()
