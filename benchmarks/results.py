"""What a benchmark finds: comparisons, tables, and figures against what they need to be. JSON and back."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

Cell = str | int | float


@dataclass(frozen=True)
class Comparison:
    """The best times of stock torch and of retraced, in seconds, at one task on one program.

    Attributes:
        program: Its name.
        nodes: Its nodes, subgraphs included.
        task: What is done.
        stock: Stock torch's time.
        retraced: Ours.
        ratio: How many times faster retraced is.
        counted: Whether it counts in medians; a small program written by hand does not.
        executorch: The time of ExecuTorch's pass class, where it is installed and takes the program.
    """

    program: str
    nodes: int
    task: str
    stock: float
    retraced: float
    ratio: float
    counted: bool = True
    executorch: float | None = None


@dataclass(frozen=True)
class Comparisons:
    """Comparisons that make up one table: a row for each program, a column for each task."""

    title: str
    entries: list[Comparison]

    @property
    def tasks(self) -> list[str]:
        """The tasks, in order."""
        return list(dict.fromkeys(entry.task for entry in self.entries))

    def of(self, task: str) -> list[Comparison]:
        """Return the comparisons of one task that count."""
        return [entry for entry in self.entries if entry.task == task and entry.counted]

    def median(self, task: str) -> float:
        """Return the median ratio of a task."""
        return statistics.median(entry.ratio for entry in self.of(task))

    def least(self, task: str) -> float:
        """Return the least ratio of a task."""
        return min(entry.ratio for entry in self.of(task))


@dataclass(frozen=True)
class Grid:
    """A table of anything else."""

    title: str
    columns: list[str]
    rows: list[list[Cell]]


@dataclass(frozen=True)
class Figure:
    """One figure and what it needs to be.

    Attributes:
        name: What it is.
        has: Its value.
        needs: Its bound.
        at_least: Whether the bound is the least that it may be, rather than the most.
        unit: What it is counted in.
    """

    name: str
    has: float
    needs: float
    at_least: bool
    unit: str = ""

    @property
    def met(self) -> bool:
        """Whether it is as good as it needs to be."""
        return self.has >= self.needs if self.at_least else self.has <= self.needs


@dataclass(frozen=True)
class Section:
    """What one part of the benchmark found.

    Attributes:
        rounds: Each time is the best of so many.
    """

    name: str
    comparisons: list[Comparisons] = field(default_factory=list)
    grids: list[Grid] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    rounds: int = 1


@dataclass(frozen=True)
class Results:
    """What a run found.

    Attributes:
        machine: The machine and the versions.
        sections: The parts that ran.
    """

    machine: dict[str, str]
    sections: list[Section]

    @property
    def rounds(self) -> str:
        """How many each time is the best of: parts that were measured apart may differ."""
        counts = sorted({section.rounds for section in self.sections})
        return f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else str(*counts)

    def save(self, path: Path) -> None:
        """Write them as JSON."""
        path.write_bytes(msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n")

    @classmethod
    def load(cls, path: Path) -> Results:
        """Read what `save` wrote."""
        return msgspec.json.decode(path.read_bytes(), type=cls)


def compared(
    program: str, nodes: int, task: str, times: Sequence[float], *, counted: bool, executorch: float | None = None
) -> Comparison:
    """Make a comparison of the times of stock torch and of retraced."""
    stock, retraced = times
    return Comparison(program, nodes, task, stock, retraced, stock / retraced, counted, executorch)


def at_least(name: str, has: float, needs: float, unit: str = "x") -> Figure:
    """Return a figure that is the better the higher it is."""
    return Figure(name, has, needs, True, unit)


def at_most(name: str, has: float, needs: float, unit: str = "") -> Figure:
    """Return a figure that is the better the lower it is."""
    return Figure(name, has, needs, False, unit)
