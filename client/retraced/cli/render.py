"""Tables and numbers for people."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from rich import box
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from retraced.program import InputKind, InputSpec, OutputSpec, ProgramInfo, Symbol

# Parameters, records and the like beyond this many are summed up.
MAX_ROWS = 20

# A column of text that is narrower folds its words letter by letter.
_LEAST_TEXT = 16

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def byte_count(size: float) -> str:
    """Return a size as people read it: `1.5 MiB`."""
    unit = 0
    while size >= 1024 and unit < len(_UNITS) - 1:
        size /= 1024
        unit += 1
    return f"{size:.0f} {_UNITS[unit]}" if unit == 0 else f"{size:.1f} {_UNITS[unit]}"


def seconds(duration: float) -> str:
    """Return a duration as people read it: `12 ms`, `3.4 s`."""
    return f"{duration * 1000:.0f} ms" if duration < 0.9995 else f"{duration:.1f} s"


class FittingTable(Table):
    """A table that is a block of lines for each row where the console is too narrow for its columns."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Render the table, or the blocks."""
        if self._least_width(console, options) <= options.max_width:
            yield from super().__rich_console__(console, options)
            return
        if self.title:
            yield Text(str(self.title), style="bold")
        for cells in zip(*(column.cells for column in self.columns), strict=True):
            block = facts()
            for column, cell in zip(self.columns, cells, strict=True):
                block.add_row(column.header, cell)
            yield block
            yield Text()

    def _least_width(self, console: Console, options: ConsoleOptions) -> int:
        width = 0
        for column in self.columns:
            cells = [Measurement.get(console, options, cell) for cell in (column.header, *column.cells)]
            widest = max(cell.maximum for cell in cells)
            width += widest if column.no_wrap else min(widest, _LEAST_TEXT)
        return width + 3 * (len(self.columns) - 1)


def table(*columns: str, right: Iterable[str] = (), title: str | None = None) -> Table:
    """Return an empty table; the columns named in `right` are aligned to the right. Nothing is cut off: long text folds."""
    made = FittingTable(box=box.SIMPLE_HEAD, title=title, title_justify="left", title_style="bold", pad_edge=False)
    numbers = set(right)
    for column in columns:
        if column in numbers:
            made.add_column(column, justify="right", no_wrap=True)
        else:
            made.add_column(column, overflow="fold")
    return made


def facts(*pairs: tuple[str, str]) -> Table:
    """Return a table of names and what they are."""
    made = Table.grid(padding=(0, 2))
    made.add_column(style="bold", no_wrap=True)
    made.add_column(overflow="fold")
    for name, text in pairs:
        made.add_row(name, text)
    return made


def signature(inputs: Iterable[InputSpec], outputs: Iterable[OutputSpec]) -> Table:
    """Return the inputs and outputs of a program; of very many parameters and the like only the first."""
    made = table("", "node", "stands for", "name", title="signature")
    lifted = 0
    for number, item in enumerate(inputs):
        lifted += item.kind is not InputKind.USER_INPUT
        if item.kind is InputKind.USER_INPUT or lifted <= MAX_ROWS:
            kind = item.kind.value + (", not persistent" if item.persistent is False else "")
            made.add_row(f"in {number}", item.name, kind, _name(item))
    if lifted > MAX_ROWS:
        made.add_row("", f"{lifted - MAX_ROWS} more (--json lists all)", "parameters and the like")
    for number, result in enumerate(outputs):
        made.add_row(f"out {number}", result.name, result.kind.value, _name(result))
    return made


def symbols(found: Iterable[Symbol]) -> Table:
    """Return the symbols of a program."""
    made = table("symbol", "at least", "at most", "at export", title="symbols", right=("at least", "at most", "at export"))
    for symbol in found:
        hint = "" if symbol.hint is None else str(symbol.hint)
        made.add_row(symbol.name, symbol.lower or "", symbol.upper or "", hint)
    return made


def histogram(targets: Mapping[str, int]) -> Table:
    """How often each target is called."""
    made = table("calls", "target", right=("calls",), title="operators")
    for target, count in targets.items():
        made.add_row(str(count), target)
    return made


def program_change(before: ProgramInfo, after: ProgramInfo) -> Table:
    """Return a program before and after: its nodes, and what else is counted and differs."""
    rows = [("nodes", before.node_count, after.node_count)]
    others = {
        "subgraphs": (before.graph_count - 1, after.graph_count - 1),
        "inputs": (len(before.inputs), len(after.inputs)),
        "outputs": (len(before.outputs), len(after.outputs)),
        "symbols": (len(before.symbols), len(after.symbols)),
        "guards": (len(before.guards), len(after.guards)),
    }
    rows += [(name, old, new) for name, (old, new) in others.items() if old != new]
    return _changes("program", rows)


def operator_change(before: Mapping[str, int], after: Mapping[str, int]) -> Table | None:
    """Return the operators that are called more or less often than before, the greatest change first; None if there are none."""
    counts = [(target, before.get(target, 0), after.get(target, 0)) for target in {*before, *after}]
    rows = sorted((row for row in counts if row[1] != row[2]), key=lambda row: (-abs(row[2] - row[1]), row[0]))
    return _changes("operator", rows) if rows else None


def _changes(what: str, rows: Iterable[tuple[str, int, int]]) -> Table:
    numbers = ("before", "after", "change")
    made = table(what, *numbers, right=numbers)
    for name, old, new in rows:
        made.add_row(name, str(old), str(new), f"{new - old:+}" if new != old else "")
    return made


def _name(item: InputSpec | OutputSpec) -> str:
    return item.target if item.constant is None else f"the constant {item.constant}"
