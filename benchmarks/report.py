"""Results as tables that a person can read, and as the tables of a page."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.results import Cell, Comparison, Comparisons, Figure, Grid, Results, Section

_BEGIN, _END = "<!-- written by python -m benchmarks -->\n", "<!-- until here -->\n"


def show_end(results: Results, console: Console) -> None:
    """Print what goes below all parts: the machine, and which figures are missed."""
    console.print(f"Each time is the best of {results.rounds}, by turns.")
    console.print("\n".join(f"{key:>10}  {value}" for key, value in results.machine.items()))
    missed = [(section, figure) for section in results.sections for figure in section.figures if not figure.met]
    console.print(f"Figures that are missed: {len(missed)}")
    for section, figure in missed:
        console.print(f"  {section.name}: {figure_text(figure)}")


def show_section(section: Section, console: Console) -> None:
    """Print one part: its tables, then its figures."""
    for comparisons in section.comparisons:
        console.print(_comparisons_table(comparisons))
        if any(entry.executorch for entry in comparisons.entries):
            console.print(_executorch_table(comparisons))
    for grid in section.grids:
        console.print(_grid_table(grid))
    for figure in section.figures:
        console.print(f"  {'met   ' if figure.met else 'MISSED'}  {section.name}: {figure_text(figure)}")
    console.print()


def figure_text(figure: Figure) -> str:
    """Return what a figure needs and what it has."""
    return f"{figure.name}: needs {'≥' if figure.at_least else '≤'} {figure.needs:g} {figure.unit}".rstrip() + (
        f", has {_number(figure.has)} {figure.unit}".rstrip()
    )


def _comparisons_table(table: Comparisons) -> Table:
    shown = Table(title=f"{table.title}: stock torch / retraced in ms (times faster)")
    _columns(shown, ["program", "nodes", *table.tasks])
    for name, entries in _by_program(table):
        label = name if entries[0].counted else f"{name} (not counted)"
        cells = [f"{_number(one.stock * 1e3)} / {_number(one.retraced * 1e3)} ({_number(one.ratio)})" for one in entries]
        shown.add_row(label, str(entries[0].nodes), *cells)
    shown.add_section()
    shown.add_row("median", "", *(_number(table.median(task)) for task in table.tasks))
    shown.add_row("least", "", *(_number(table.least(task)) for task in table.tasks))
    return shown


def _executorch_table(table: Comparisons) -> Table:
    shown = Table(title=f"{table.title}: ExecuTorch's ExportPass / retraced in ms (times faster)")
    _columns(shown, ["program", "nodes", *table.tasks])
    for name, entries in _by_program(table):
        shown.add_row(name, str(entries[0].nodes), *map(_executorch_cell, entries))
    return shown


def _executorch_cell(entry: Comparison) -> str:
    if entry.executorch is None:
        return "refuses it"
    return f"{_number(entry.executorch * 1e3)} / {_number(entry.retraced * 1e3)} ({_number(entry.executorch / entry.retraced)})"


def _by_program(table: Comparisons) -> Iterator[tuple[str, list[Comparison]]]:
    for name in dict.fromkeys(entry.program for entry in table.entries):
        yield name, [entry for entry in table.entries if entry.program == name]


def _grid_table(grid: Grid) -> Table:
    shown = Table(title=grid.title)
    _columns(shown, grid.columns)
    for row in grid.rows:
        shown.add_row(*map(_cell, row))
    return shown


def _columns(table: Table, names: list[str]) -> None:
    for name in names:
        table.add_column(name, justify="left" if name in ("program", "passes", "task", "process") else "right")


def _cell(cell: Cell) -> str:
    return _number(cell) if isinstance(cell, float) else str(cell)


def _number(value: float) -> str:
    """Three digits, or all before the point where there are more."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def write_page(results: Results, page: Path) -> None:
    """Write the tables of medians into the place that a page has for them.

    Raises:
        ValueError: The page has no such place.
    """
    before, begin, rest = page.read_text().partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not end:
        raise ValueError(f"{page} has no lines {_BEGIN.strip()} and {_END.strip()}")
    page.write_text(before + begin + _page_text(results) + end + after)


def _page_text(results: Results) -> str:
    rows = ["| | stock torch | retraced | times faster | least |", "|---|---|---|---|---|"]
    for section in results.sections:
        for table in section.comparisons:
            for task in table.tasks:
                stock = statistics.median(one.stock for one in table.of(task)) * 1e3
                retraced = statistics.median(one.retraced for one in table.of(task)) * 1e3
                ratios = f"**{_number(table.median(task))}** | {_number(table.least(task))}"
                rows.append(f"| {_LABELS[section.name]}, {task} | {_number(stock)} ms | {_number(retraced)} ms | {ratios} |")
            # Tables after the first are variations on it.
            break
    entries = (entry for section in results.sections for table in section.comparisons for entry in table.entries)
    programs = dict.fromkeys(entry.program for entry in entries if entry.counted)
    machine = results.machine
    facts = f"{machine['cores']} cores, {machine['processor']}, torch {machine['torch']}, Python {machine['python']}"
    figures = [
        f"| {section.name}: {figure.name} | {_number(figure.has)} {figure.unit} |".replace("  |", " |")
        for section in results.sections
        if not section.comparisons
        for figure in section.figures
    ]
    more = "\n".join(["", "| | |", "|---|---|", *figures]) + "\n" if figures else ""
    return (
        f"Medians over {', '.join(programs)} ({facts}; each time the best of {results.rounds}):\n\n"
        + "\n".join(rows)
        + "\n"
        + more
    )


_LABELS = {"engine": "engine", "decompose": "decompose", "program": "archive", "request": "request"}
