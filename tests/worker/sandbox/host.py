"""The process that the tests' children are forked from. It imports torch and prepares the sandbox once.

A `Trial` comes in on standard input, an `Outcome` goes out on standard output, both pickled: this is a test's own pipe.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from retraced_server.worker.sandbox import (
    Prepared,
    ResourceLimits,
    SandboxConfig,
    SandboxReport,
    ViolationKind,
    prepare,
)

ROOT = Path(__file__).parents[3]
USERS = range(65533, 65535)

prepared: Prepared | None = None
"""In the host: its sandbox."""


@dataclasses.dataclass(frozen=True)
class Trial:
    """Something to do in a child.

    Attributes:
        work: A function of a module. What it returns, or the error that it raises, is the outcome.
        arguments: Its arguments.
        before: Makes its first argument before the lock-down, from nothing. The descriptors that `kept` finds in it stay open.
        locked: Whether the child locks itself down.
        scratch: The folder that it may write in.
        limits: What it may use.
        slot: Which user it becomes.
    """

    work: Callable[..., object]
    arguments: tuple[object, ...] = ()
    before: Callable[[], Any] | None = None
    locked: bool = True
    scratch: Path | None = None
    limits: ResourceLimits | None = None
    slot: int = 0


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of it: a value, an error, or an end without either.

    Attributes:
        value: What it returned.
        error: The type of what it raised, and the text.
        errno: The error's, where it has one.
        violation: What the sandbox refused.
        path: The file that it refused.
        status: How the child ended: its exit status, or a signal's number with a minus.
    """

    value: Any = None
    error: str = ""
    errno: int | None = None
    violation: ViolationKind | None = None
    path: str | None = None
    status: int = 0


class Host:
    """The host, as the tests have it."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._in, self._out = process.stdin, process.stdout
        self.report: SandboxReport = pickle.load(self._out)

    def run(self, work: Callable[..., object], *arguments: object, **settings: Any) -> Outcome:
        """Runs a trial."""
        pickle.dump(Trial(work, arguments, **settings), self._in)
        self._in.flush()
        outcome: Outcome = pickle.load(self._out)
        return outcome


@contextlib.contextmanager
def started() -> Iterator[Host]:
    """Starts a host, and ends it."""
    process = subprocess.Popen(
        [sys.executable, "-c", "from tests.worker.sandbox.host import main; main()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": "0", "SECRET_OF_THE_SERVER": "hunter2"},
    )
    # Leaving closes its standard input, which ends it.
    with process:
        yield Host(process)


def run_trial(prepared: Prepared, trial: Trial) -> Outcome:
    """Runs a trial in a forked child."""
    with tempfile.TemporaryFile() as answer:
        pid = os.fork()
        if pid == 0:
            _child(prepared, trial, answer.fileno())
        _, status = os.waitpid(pid, 0)
        answer.seek(0)
        said = answer.read()
    outcome: Outcome = pickle.loads(said) if said else Outcome()
    return dataclasses.replace(outcome, status=os.waitstatus_to_exitcode(status))


def _child(prepared: Prepared, trial: Trial, answer: int) -> None:
    try:
        try:
            given = () if trial.before is None else (trial.before(),)
            if trial.locked:
                keep = (answer, *kept(given))
                prepared.lock_down(open_descriptors=keep, scratch=trial.scratch, limits=trial.limits, slot=trial.slot)
            outcome = Outcome(trial.work(*given, *trial.arguments))
        except BaseException as error:  # noqa: BLE001 - it is the outcome
            outcome = _outcome(prepared, error)
        with os.fdopen(answer, "wb") as file:
            pickle.dump(outcome, file)
    finally:
        os._exit(0)


def _outcome(prepared: Prepared, error: BaseException) -> Outcome:
    violation = prepared.violation_of(error)
    text = f"{type(error).__name__}: {error}"
    number = error.errno if isinstance(error, OSError) else None
    if violation is None:
        return Outcome(error=text, errno=number)
    return Outcome(error=text, errno=number, violation=violation.kind, path=violation.path)


def kept(value: object) -> Iterator[int]:
    """Finds the descriptors in what `before` made: whatever has a `fileno`."""
    if isinstance(value, tuple | list):
        for each in value:
            yield from kept(each)
    elif hasattr(value, "fileno"):
        yield value.fileno()


def main() -> None:
    """Serves trials until standard input ends."""
    global prepared
    import torch

    torch.set_num_threads(1)
    # So that the passes and all that they import are there, as in a zygote.
    import retraced_server.passes  # noqa: F401

    prepared = prepare(SandboxConfig(uids=USERS, allow_missing=True))
    answers = os.fdopen(os.dup(1), "wb")
    # What children print is not an answer.
    os.dup2(2, 1)
    pickle.dump(prepared.report, answers)
    answers.flush()
    with contextlib.suppress(EOFError):
        while True:
            trial = pickle.load(sys.stdin.buffer)
            pickle.dump(run_trial(prepared, trial), answers)
            answers.flush()
