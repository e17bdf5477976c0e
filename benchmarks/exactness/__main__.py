"""How exact `decompose` is, against torch's `run_decompositions`: `python -m benchmarks.exactness --help`."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import click
from rich.console import Console
from rich.table import Table as Shown

from benchmarks.exactness.judge import Outcome, Route, Table, Verdict
from benchmarks.exactness.run import Item, judge_all
from benchmarks.exactness.sources import SOURCES, evenly
from benchmarks.measure import machine
from retraced_server.passes.decompose.stated_differences import reason_of, unexplained

_FILE = Path("build/exactness.jsonl")


def _with_outcome(*outcomes: Outcome) -> Callable[[Verdict], bool]:
    return lambda verdict: verdict.outcome in outcomes


def _with_route(route: Route) -> Callable[[Verdict], bool]:
    return lambda verdict: verdict.outcome in _DECOMPOSED and verdict.route == route


# The outcomes of programs that we decomposed.
_DECOMPOSED: tuple[Outcome, ...] = ("equal", "differs", "torch fails")
_ROWS: dict[str, Callable[[Verdict], bool]] = {
    "judged": lambda verdict: verdict.outcome != "not exported",
    "equal": _with_outcome("equal"),
    "differ as stated": lambda verdict: verdict.outcome == "differs" and not unexplained(verdict.differences),
    "differ otherwise": lambda verdict: bool(unexplained(verdict.differences)),
    "torch fails, ours not": _with_outcome("torch fails"),
    "both fail": _with_outcome("both fail"),
    "ours fails, torch not": _with_outcome("ours fails"),
    "same results": lambda verdict: verdict.outcome in _DECOMPOSED and not verdict.numbers,
    "other results": lambda verdict: bool(verdict.numbers),
    **{f"went {route}": _with_route(route) for route in get_args(Route)},
    "findings": lambda verdict: verdict.is_finding,
}
_LAST_OF_A_PART = ("judged", "ours fails, torch not", "other results", "went unchanged")


@click.command()
@click.option("--source", "sources", multiple=True, type=click.Choice(list(SOURCES)), help="Repeatable; all by default.")
@click.option("--only", default="", help="Programs with this in their names.")
@click.option("--most", type=click.IntRange(min=1), help="So many programs of each source at most, at equal distances.")
@click.option(
    "--table", default="core-aten", show_default=True, type=click.Choice(get_args(Table)), help="The decomposition table."
)
@click.option("--jobs", default=len(os.sched_getaffinity(0)), show_default=True, help="Processes at a time.")
@click.option(
    "--file", default=_FILE, show_default=True, type=click.Path(dir_okay=False, path_type=Path), help="Where verdicts go."
)
@click.option("--again", is_flag=True, help="Judge programs again that the file has a verdict of; without it a run goes on.")
@click.option("--show", is_flag=True, help="Judge nothing, and show what the file has.")
def main(
    sources: tuple[str, ...], only: str, most: int | None, table: Table, jobs: int, file: Path, again: bool, show: bool
) -> None:
    """Decompose programs by the pass and by torch, each of an export of its own, and compare node for node and by results.

    A line of JSON is written for each program when it is judged, so that a run that was interrupted goes on where it was. The exit status is 1
    where there is a finding: a failure that torch has not, other results, or a difference without a stated reason.
    """
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
    chosen = [
        Item(source, name, table)
        for source in sources or SOURCES
        for name in evenly((name for name in SOURCES[source].names() if only in name), most)
    ]
    known = _read(file)
    left = [item for item in chosen if again or (item.source, item.name, item.table) not in known]
    if not show:
        _judge(left, jobs, file, known)
    verdicts = [verdict for item in chosen if (verdict := known.get((item.source, item.name, item.table))) is not None]
    _show(verdicts, console)
    sys.exit(1 if any(verdict.is_finding for verdict in verdicts) else 0)


def _judge(items: list[Item], jobs: int, file: Path, known: dict[tuple[str, str, str], Verdict]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    found = 0
    status = Console(stderr=True, highlight=False).status(f"{len(items)} programs")
    judging = judge_all(items, jobs)
    with file.open("a") as out, status:
        if file.stat().st_size:
            # The last line may be half of one.
            out.write("\n")
        try:
            for count, verdict in enumerate(judging, 1):
                known[verdict.key] = verdict
                out.write(json.dumps(verdict.as_json()) + "\n")
                out.flush()
                found += verdict.is_finding
                text = f"{count} of {len(items)}, {found} findings; {verdict.source}: {verdict.name}"
                if sys.stderr.isatty():
                    status.update(text)
                elif verdict.is_finding or not count % 50:
                    print(text, file=sys.stderr, flush=True)
        except KeyboardInterrupt:
            print("interrupted; the same command goes on from here", file=sys.stderr)
        finally:
            judging.close()  # type: ignore[attr-defined]  # it is a generator


def _read(file: Path) -> dict[tuple[str, str, str], Verdict]:
    if not file.exists():
        return {}
    verdicts = (Verdict(**json.loads(line)) for line in file.read_text().splitlines() if line.endswith("}"))
    return {verdict.key: verdict for verdict in verdicts}


def _show(verdicts: list[Verdict], console: Console) -> None:
    by_source = {
        source: [verdict for verdict in verdicts if verdict.source == source]
        for source in dict.fromkeys(verdict.source for verdict in verdicts)
    }
    table = Shown(title="decompose against run_decompositions, node for node")
    table.add_column("programs")
    for source in by_source:
        table.add_column(source, justify="right")
    for name, counted in _ROWS.items():
        table.add_row(name, *(str(sum(map(counted, of_source))) for of_source in by_source.values()))
        if name in _LAST_OF_A_PART:
            table.add_section()
    console.print(table)
    for verdict in verdicts:
        if verdict.outcome in ("equal", "not exported") and not verdict.numbers:
            continue
        console.print(f"{verdict.source}: {verdict.name} ({verdict.table}): {verdict.outcome} {verdict.error}", markup=False)
        for difference in verdict.differences:
            reason = reason_of(difference)
            console.print(f"    {'!' if reason is None else reason.name}: {difference}", markup=False)
        if verdict.numbers:
            console.print(f"    ! results: {verdict.numbers}", markup=False)
    console.print("\n".join(f"{key:>10}  {value}" for key, value in machine().items()))


if __name__ == "__main__":
    main()
