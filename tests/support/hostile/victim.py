"""Reads archives in processes of their own, with limits, by torch's reader or by ours: `python -m tests.support.hostile.victim`.

One process imports torch and forks another for each archive, which may come to any end.
"""

from __future__ import annotations

import json
import logging
import os
import resource
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from retraced_server.program import read_program

MEMORY_BYTES = 1 << 30


@dataclass(frozen=True)
class Outcome:
    """How a process ended that read an archive.

    Attributes:
        text: `loaded`, what it was asked to show, or the error; empty where it was killed.
        signal: The signal that ended it, or 0.
        grown: The bytes that its memory grew by.
        seconds: The processor time that it took.
    """

    text: str
    signal: int
    grown: int
    seconds: float

    @property
    def at_limit(self) -> bool:
        """Whether it used up its memory or its time."""
        failed = any(word in self.text for word in ("MemoryError", "allocate memory", "bad_alloc", "bad allocation"))
        return bool(self.signal) or failed or self.grown > MEMORY_BYTES // 2


class Victims:
    """Reads archives in processes of their own; a context manager.

    Attributes:
        SECONDS: The processor time that each of them has, if not told otherwise.
    """

    SECONDS = 6

    def __enter__(self) -> Victims:
        root = Path(__file__).parents[3]
        path = os.pathsep.join([str(root), *filter(None, [os.environ.get("PYTHONPATH")])])
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "PYTHONPATH": path},
        )
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._process.communicate()

    def read(self, path: Path, then: str, *, by: str, seconds: int = SECONDS) -> Outcome:
        """Reads an archive, in its folder.

        Args:
            path: The archive.
            then: What to do with the program.
            by: `torch` or `retraced`.
            seconds: The processor time that the process has.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([str(path), then, by, seconds]) + "\n")
        self._process.stdin.flush()
        return Outcome(*json.loads(self._process.stdout.readline()))


def _use(path: str, then: str, by: str) -> str:
    program: Any = _load(path) if by == "torch" else read_program(path).program
    if then == "spec":
        return f"{program.call_spec}"
    if then == "decompose":
        program.run_decompositions()
    if then == "module":
        program.module()
    if then == "call":
        args, kwargs = program.example_inputs
        program.module()(*args, **kwargs)
    return "loaded"


def _load(path: str) -> torch.export.ExportedProgram:
    """Loads by torch, which logs one kind of error and raises another that says nothing."""
    logged: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: logged.append(_error(record.exc_info[1]) if record.exc_info else "")  # type: ignore[method-assign]
    logging.getLogger("torch.export").addHandler(handler)
    try:
        return torch.export.load(path)
    except RuntimeError as error:
        raise RuntimeError(" ".join([str(error), *logged])) from error


def _error(error: BaseException | None) -> str:
    return f"{type(error).__name__} {getattr(error, 'reason', '')}: {error}"


def _victim(path: str, then: str, by: str, seconds: int, answer: int) -> None:
    os.chdir(os.path.dirname(path))
    sys.path.insert(0, os.getcwd())
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY_BYTES, size + MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        text = _use(path, then, by)
    except BaseException as error:  # noqa: BLE001 - whatever it is, it is the answer
        text = _error(error)
    os.write(answer, text[-4000:].encode(errors="replace"))


def _serve() -> None:
    answers = os.dup(1)
    os.dup2(2, 1)
    for line in sys.stdin:
        path, then, by, seconds = json.loads(line)
        read_end, write_end = os.pipe()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        pid = os.fork()
        if pid == 0:
            try:
                _victim(path, then, by, seconds, write_end)
            finally:
                os._exit(0)
        os.close(write_end)
        with os.fdopen(read_end) as answer:
            text = answer.read()
        _, status, usage = os.wait4(pid, 0)
        ended = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        grown = max(0, usage.ru_maxrss - before) << 10
        result = [text, ended, grown, usage.ru_utime + usage.ru_stime]
        os.write(answers, (json.dumps(result) + "\n").encode())


if __name__ == "__main__":
    _serve()
