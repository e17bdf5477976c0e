"""Compares retraced with stock torch on this machine: `make bench`, or `python -m benchmarks --help`."""

from __future__ import annotations

import dataclasses
import importlib.util
import logging
import sys
import tempfile
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import click
from rich.console import Console

from benchmarks import decompose, engine, growth, memory, program_io, request, sandbox, server
from benchmarks.measure import machine
from benchmarks.plot import plot
from benchmarks.report import show_end, show_section, write_page
from benchmarks.results import Results, Section
from benchmarks.setup import Setup, make_subject, subject_names

SECTIONS: dict[str, Callable[[Setup], Section]] = {
    "engine": engine.measure,
    "program": program_io.measure,
    "decompose": decompose.measure,
    "request": request.measure,
    "overhead": request.measure_overhead,
    "server": server.measure,
    "workers": server.measure_workers,
    "sandbox": sandbox.measure,
    "growth": growth.measure,
    "memory": memory.measure,
}
_FILE = click.Path(dir_okay=False, path_type=Path)
_EXISTING = click.Path(dir_okay=False, exists=True, path_type=Path)


@click.command()
@click.option(
    "--section", "sections", multiple=True, type=click.Choice(list(SECTIONS)), help="A part of it; repeatable. All by default."
)
@click.option("--program", "programs", multiple=True, help="A test program; repeatable. All architectures by default.")
@click.option(
    "--rounds",
    default=5,
    show_default=True,
    type=click.IntRange(min=1),
    help="Each time is the best of so many, less for what takes long.",
)
@click.option("--quick", is_flag=True, help="One small program, one round, small sizes: to see that it works.")
@click.option("--json", "json_path", type=_FILE, help="Write what was found to this file too. Other sections in it are kept.")
@click.option("--plot", "plot_path", type=_FILE, help="Draw the comparisons, as PNG. Needs the extra `bench`.")
@click.option("--page", type=_EXISTING, help="Write the medians into this page, such as docs/benchmarks.md.")
@click.option("--from", "source", type=_EXISTING, help="Measure nothing, and take what --json wrote.")
def main(
    sections: tuple[str, ...],
    programs: tuple[str, ...],
    rounds: int,
    quick: bool,
    json_path: Path | None,
    plot_path: Path | None,
    page: Path | None,
    source: Path | None,
) -> None:
    """Measure stock torch in process against retraced, in process and over a socket of this machine."""
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
    if plot_path is not None and importlib.util.find_spec("matplotlib") is None:
        raise click.UsageError("--plot needs matplotlib: pip install -e '.[bench]'")
    if source is not None:
        results = Results.load(source)
        for section in results.sections:
            show_section(section, console)
    else:
        names = programs or (("vit",) if quick else subject_names())
        results = _run(sections or tuple(SECTIONS), names, 1 if quick else rounds, quick, console, json_path)
    show_end(results, console)
    if plot_path is not None:
        plot(results, plot_path)
    if page is not None:
        write_page(results, page)


def _run(
    sections: tuple[str, ...], programs: tuple[str, ...], rounds: int, quick: bool, console: Console, json_path: Path | None
) -> Results:
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    results = Results(machine(), [])
    with tempfile.TemporaryDirectory() as name, Console(stderr=True, highlight=False).status("exporting") as status:
        folder = Path(name)
        say = status.update if sys.stderr.isatty() else partial(print, file=sys.stderr)
        try:
            subjects = tuple(make_subject(program, folder) for program in programs)
        except KeyError as error:
            raise click.BadParameter(f"there is no test program {error}", param_hint="--program") from error
        setup = Setup(subjects, rounds, quick, folder, say)
        for section in sections:
            found = dataclasses.replace(SECTIONS[section](setup), rounds=rounds)
            show_section(found, console)
            results.sections.append(found)
            if json_path is not None:
                results = _merged(results, json_path)
                # At once, since those that follow may take long.
                results.save(json_path)
    return results


def _merged(results: Results, path: Path) -> Results:
    """Return what was found, and what an earlier run wrote of other sections, in the usual order."""
    if not path.exists():
        return results
    sections = {section.name: section for section in (*Results.load(path).sections, *results.sections)}
    return dataclasses.replace(results, sections=[sections[name] for name in SECTIONS if name in sections])


if __name__ == "__main__":
    main()
