"""Reads one archive and judges what came of it: an error of the documented reasons, a program that is written and read again, or a finding."""

from __future__ import annotations

import copy
import json
import os
import re
import resource
import signal
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import IO, Any, Final

import torch

from fuzz.effects import Effects
from retraced_server.errors import Reason, RetracedError
from retraced_server.program import ReadOptions, ReadProgram, read_program, write_model, write_program

#: The programs that are mutated have operators of this namespace.
OPTIONS: Final = ReadOptions(namespaces=frozenset({"retraced_tests"}))

MOST_SECONDS: Final = 5.0
"""Processor time that one archive may take. The largest that are mutated take 0.02 s unmutated."""

MOST_BYTES: Final = 256 << 20
"""Memory that reading one archive may add to the most that this process had so far."""

_REASONS: Final = frozenset(
    (
        *(Reason.ARCHIVE_INVALID, Reason.PROGRAM_MISSING, Reason.PROGRAM_INVALID),
        *(Reason.PROGRAM_UNSUPPORTED, Reason.SCHEMA_UNSUPPORTED),
    )
)
_LONGEST_MESSAGE: Final = 4_000


@dataclass(frozen=True)
class Verdict:
    """What came of an archive.

    Attributes:
        outcome: `read`, the reason of the error, or the kind of the finding.
        finding: What is wrong, in full; empty where nothing is.
    """

    outcome: str
    finding: str = ""


class TooSlowError(BaseException):
    """Reading took too long. No Exception, so that nothing on the way catches it."""


class _DiffersError(Exception):
    """A program is another one after it was written and read again."""


class Judge:
    """Judges archives in this process, which it prepares for that: a process is for one judge.

    Args:
        archives: Archives that nobody mutated, which are read first: what code that makes is torch's own doing.
        most_seconds: Processor time that one archive may take.
    """

    def __init__(self, archives: Iterable[bytes], most_seconds: float = MOST_SECONDS) -> None:
        torch.set_num_threads(1)
        self._most_seconds = most_seconds
        self._effects = Effects()
        for archive in archives:
            with _file(archive) as file, self._effects.learned():
                _read(file)

    def judge(self, archive: bytes) -> Verdict:
        """Read an archive; a program that it holds is written and read again."""
        before = _peak_bytes()
        with _file(archive) as file, self._effects.watched(archive) as effects:
            verdict = _guarded(lambda: _read(file), self._most_seconds)
        if effects:
            return Verdict("effect", "\n".join(effects))
        if not verdict.finding and (grown := _peak_bytes() - before) > MOST_BYTES:
            return Verdict("memory", f"{grown >> 20} MiB for an archive of {len(archive)} bytes")
        return verdict


def _read(file: IO[bytes]) -> Verdict:
    try:
        source = read_program(file, options=OPTIONS)
    except RetracedError as error:
        if error.reason not in _REASONS:
            return Verdict("reason", f"{error.reason.value} is none of a reader's\n{traceback.format_exc()}")
        if len(error.message) > _LONGEST_MESSAGE or not error.message.isprintable():
            return Verdict("message", f"a message of {len(error.message)} characters: {error.message[:1_000]!r}")
        return Verdict(error.reason.value)
    _write_and_read(source)
    return Verdict("read")


def _write_and_read(source: ReadProgram) -> None:
    with _file() as again:
        try:
            # A copy is not the program that was read: its model is written anew.
            write_program(copy.copy(source.program), again, source=source)
        except RetracedError as error:
            if error.reason not in _REASONS:
                raise
            return
        try:
            other = read_program(again, options=OPTIONS)
        except RetracedError as error:
            # What is close to a bound may be over it in the form in which it is written.
            if error.reason is not Reason.PROGRAM_UNSUPPORTED:
                raise
            return
        if _model(other) != _model(source):
            raise _DiffersError("the model")
        # An absent tensor has a record of no bytes, or one that another device's tensor lies in.
        ours, theirs = ({p.record: p.size for p in program.payloads} for program in (source, other))
        if sorted(ours.values()) != sorted(theirs.values()):
            raise _DiffersError(f"the payloads: {ours}, then {theirs}")


def _model(source: ReadProgram) -> dict[str, Any]:
    """Return the model without the ranges of symbols that nothing has: an assertion that one equals a number makes it that number."""
    text = write_model(source.program)
    model: dict[str, Any] = json.loads(text)
    names = set(re.findall(r"Symbol\('(\w+)'", text.decode()))
    model["range_constraints"] = {name: bounds for name, bounds in model["range_constraints"].items() if name in names}
    return model


def _guarded(step: Callable[[], Verdict], most_seconds: float) -> Verdict:
    started = time.process_time()
    try:
        with _time_limit(most_seconds):
            verdict = step()
    except TooSlowError:
        return Verdict("slow", f"more than {most_seconds:g} s\n{traceback.format_exc(limit=-30)}")
    except _DiffersError:
        return Verdict("round trip", traceback.format_exc())
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the finding
        return Verdict(f"exception {type(error).__name__}", traceback.format_exc(limit=-30)[-20_000:])
    if (seconds := time.process_time() - started) > most_seconds:
        return Verdict("slow", f"{seconds:.1f} s")
    return verdict


@contextmanager
def _time_limit(most_seconds: float) -> Iterator[None]:
    """Interrupts Python code that takes too long, and ends the process where it is not Python's."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise TooSlowError

    previous = signal.signal(signal.SIGPROF, interrupt)
    used = resource.getrusage(resource.RUSAGE_SELF)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (int(used.ru_utime + used.ru_stime + 6 * most_seconds), hard))
    signal.setitimer(signal.ITIMER_PROF, most_seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, previous)


@contextmanager
def _file(data: bytes = b"") -> Iterator[IO[bytes]]:
    """A file in memory; it may stay mapped after it is closed."""
    with os.fdopen(os.memfd_create("archive"), "w+b", buffering=0) as file:
        file.write(data)
        file.seek(0)
        yield file


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
