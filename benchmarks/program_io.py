"""Reading and writing programs against torch.export.load and save, in one process, on the same files."""

from __future__ import annotations

import torch

from benchmarks.measure import Task, best_of
from benchmarks.results import Comparison, Comparisons, Section, at_least, compared
from benchmarks.setup import Setup, Subject
from retraced_server.program import read_program, write_program

READ, WRITE, WRITE_BACK = "read", "write", "write unchanged"


def measure(setup: Setup) -> Section:
    """Compare on every program."""
    entries: list[Comparison] = []
    for subject in setup.subjects:
        setup.say(f"read and write: {subject.name}")
        entries += _compare(subject, setup)
    table = Comparisons("read and write", entries)
    figures = [at_least("read, median", table.median(READ), 8), at_least("write, median", table.median(WRITE), 4)]
    return Section("program", comparisons=[table], figures=figures)


def _compare(subject: Subject, setup: Setup) -> list[Comparison]:
    """Measure one program. What stock torch read, it writes; what we read, we write, anew and unchanged."""
    path, out = subject.path, setup.folder / "out.pt2"
    theirs, ours = torch.export.load(path), read_program(path)

    def write(*, unchanged: bool) -> None:
        with out.open("wb", buffering=0) as file:
            write_program(ours.program, file, source=ours if unchanged else None)

    def save() -> None:
        torch.export.save(theirs, out)

    tasks: dict[str, tuple[Task, Task]] = {
        READ: (lambda: torch.export.load(path), lambda: read_program(path).close()),
        WRITE: (save, lambda: write(unchanged=False)),
        WRITE_BACK: (save, lambda: write(unchanged=True)),
    }
    entries = [
        compared(subject.name, subject.nodes, task, best_of(setup.rounds, *both), counted=subject.counted)
        for task, both in tasks.items()
    ]
    ours.close()
    return entries
