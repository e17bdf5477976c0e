"""Tables and numbers for people."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from rich import box
from rich.table import Table

from retraced.cli.session import printable
from retraced.program import InputSpec, OutputSpec, Symbol

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def byte_count(size: float) -> str:
    """A size as people read it: `1.5 MiB`."""
    unit = 0
    while size >= 1024 and unit < len(_UNITS) - 1:
        size /= 1024
        unit += 1
    return f"{size:.0f} {_UNITS[unit]}" if unit == 0 else f"{size:.1f} {_UNITS[unit]}"


def seconds(duration: float) -> str:
    """A duration as people read it: `12 ms`, `3.4 s`."""
    return f"{duration * 1000:.0f} ms" if duration < 1 else f"{duration:.1f} s"


def table(*columns: str, right: Iterable[str] = (), title: str | None = None) -> Table:
    """An empty table; the columns named in `right` are aligned to the right. Nothing is cut off: long cells fold."""
    made = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", title_style="bold", pad_edge=False)
    numbers = set(right)
    for column in columns:
        made.add_column(column, justify="right" if column in numbers else "left", overflow="fold")
    return made


def facts(*pairs: tuple[str, str]) -> Table:
    """A table of names and what they are."""
    made = Table.grid(padding=(0, 2))
    made.add_column(style="bold", no_wrap=True)
    made.add_column(overflow="fold")
    for name, text in pairs:
        made.add_row(printable(name), printable(text))
    return made


def signature(inputs: Iterable[InputSpec], outputs: Iterable[OutputSpec]) -> Table:
    """The inputs and outputs of a program."""
    made = table("", "node", "stands for", "name", title="signature")
    for number, item in enumerate(inputs):
        kind = item.kind.value + (", not persistent" if item.persistent is False else "")
        made.add_row(f"in {number}", printable(item.name), kind, printable(_name(item)))
    for number, result in enumerate(outputs):
        made.add_row(f"out {number}", printable(result.name), result.kind.value, printable(_name(result)))
    return made


def symbols(found: Iterable[Symbol]) -> Table:
    """The symbols of a program."""
    made = table("symbol", "at least", "at most", "at export", title="symbols", right=("at least", "at most", "at export"))
    for symbol in found:
        hint = "" if symbol.hint is None else str(symbol.hint)
        made.add_row(printable(symbol.name), symbol.lower or "", symbol.upper or "", hint)
    return made


def histogram(targets: Mapping[str, int]) -> Table:
    """How often each target is called."""
    made = table("calls", "target", right=("calls",), title="operators")
    for target, count in targets.items():
        made.add_row(str(count), printable(target))
    return made


def histogram_change(before: Mapping[str, int], after: Mapping[str, int]) -> Table | None:
    """The targets that are called more or less often than before; None if there are none."""
    changed = {
        target: (before.get(target, 0), after.get(target, 0))
        for target in {*before, *after}
        if before.get(target, 0) != after.get(target, 0)
    }
    if not changed:
        return None
    numbers = ("before", "after", "change")
    made = table("operator", *numbers, right=numbers, title="operators that changed")
    for target, (old, new) in sorted(changed.items(), key=lambda item: (-abs(item[1][1] - item[1][0]), item[0])):
        made.add_row(printable(target), str(old), str(new), f"{new - old:+}")
    return made


def _name(item: InputSpec | OutputSpec) -> str:
    return item.target if item.constant is None else f"the constant {item.constant}"
