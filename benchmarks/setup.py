"""What every section is given: the programs, how often to measure, and where files may go."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from torch.export import ExportedProgram

from benchmarks.results import Cell
from retraced_server.analysis.graphs import count_nodes
from tests.support.case import ProgramCase
from tests.support.models import LLAMA_LIKE, by_name, by_tag

#: Written by hand, with few nodes: it is shown, and does not count in medians.
SMALL = "residual_net"


@dataclass(frozen=True)
class Subject:
    """A program that is measured.

    Attributes:
        case: Where it comes from.
        path: Its archive, as torch.export.save writes it.
    """

    case: ProgramCase
    path: Path

    @property
    def name(self) -> str:
        """Its name."""
        return self.case.name

    @property
    def counted(self) -> bool:
        """Whether it counts in medians."""
        return self.name != SMALL

    @property
    def program(self) -> ExportedProgram:
        """The program as exported."""
        return self.case.program

    @cached_property
    def nodes(self) -> int:
        """Its nodes, subgraphs included."""
        return count_nodes(self.program.graph_module)


@dataclass(frozen=True)
class Setup:
    """What a section works with.

    Attributes:
        subjects: The programs.
        rounds: Each time is the best of so many.
        quick: Measure little, to see that it works; the figures then mean nothing.
        folder: For its files.
        say: Tells what is being measured.
    """

    subjects: tuple[Subject, ...]
    rounds: int
    quick: bool
    folder: Path
    say: Callable[[str], None]

    def counted(self, rows: list[list[Cell]]) -> list[list[Cell]]:
        """Of rows that begin with a program's name those that count in medians; all where none does."""
        counted = {subject.name for subject in self.subjects if subject.counted}
        return [row for row in rows if row[0] in counted] or rows


def subject_names() -> tuple[str, ...]:
    """Return the programs that are measured where none is named."""
    return (*(case.name for case in by_tag("architecture")), LLAMA_LIKE.name)


def make_subject(name: str, folder: Path) -> Subject:
    """Export a test program and save it to a folder. Raises `KeyError` if there is none of that name."""
    case = by_name(name)
    path = folder / f"{name}.pt2"
    path.write_bytes(case.archive)
    return Subject(case, path)
