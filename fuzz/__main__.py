"""Fuzzers, and a soak: `make fuzz`, `make soak`, or `python -m fuzz --help`. The exit status is 1 where something was found."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from fuzz.report import Report

_FOLDER = Path("build/fuzz")

console = Console(highlight=False)


def _common(command: Callable[..., Any]) -> Callable[..., Any]:
    """Return the options that every command takes."""
    for option in (
        click.option("--seed", default=0, show_default=True, help="What the run depends on, beside the code."),
        click.option("--minutes", type=click.FloatRange(min=0), help="How long; without it and --count, one minute."),
        click.option("--count", type=click.IntRange(min=1), help="How many archives, requests or calls."),
        click.option(
            "--findings",
            default=_FOLDER,
            show_default=True,
            type=click.Path(file_okay=False, path_type=Path),
            help="Where findings go.",
        ),
        click.option(
            "--json", "json_path", type=click.Path(dir_okay=False, path_type=Path), help="Write the counts to this file too."
        ),
    ):
        command = option(command)
    return command


_PROGRAMS = click.option(
    "--program", "programs", multiple=True, help="A test program to mutate; repeatable. Without it, all small ones."
)


@click.group(help=__doc__)
def main() -> None:
    """Run a command."""
    # torch starts threads for its kernels, which a fork does not take along.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)


@main.command()
@_common
@_PROGRAMS
def reader(
    seed: int, minutes: float | None, count: int | None, findings: Path, json_path: Path | None, programs: tuple[str, ...]
) -> None:
    """Read mutated archives in this machine's own processes, as a worker would without its sandbox."""
    from fuzz.reader import fuzz_reader
    from fuzz.seeds import seed_archives

    archives = seed_archives(programs)
    report = Report("Mutated archives through the reader", seed, findings)
    with _watching(json_path) as progress:
        fuzz_reader(report, archives, count=count, seconds=_seconds(minutes, count), progress=progress)
    _end(report, json_path)


@main.command()
@_common
@_PROGRAMS
def expressions(
    seed: int, minutes: float | None, count: int | None, findings: Path, json_path: Path | None, programs: tuple[str, ...]
) -> None:
    """Read archives whose expressions are short and a lot of work. What counts is processor time, not how busy the machine is."""
    from fuzz.expressions import MOST_SECONDS, mutate_expressions, with_expressions
    from fuzz.reader import fuzz_reader
    from fuzz.seeds import seed_archives

    archives = with_expressions(seed_archives(programs))
    report = Report("Archives with laborious expressions through the reader", seed, findings)
    with _watching(json_path) as progress:
        fuzz_reader(
            report,
            archives,
            count=count,
            seconds=_seconds(minutes, count),
            progress=progress,
            mutation=mutate_expressions,
            most_seconds=MOST_SECONDS,
        )
    console.print(f"The longest took {report.more['most_seconds']:.2f} s of a processor.")
    _end(report, json_path)


@main.command()
@_common
@_PROGRAMS
def guided(
    seed: int, minutes: float | None, count: int | None, findings: Path, json_path: Path | None, programs: tuple[str, ...]
) -> None:
    """Read mutated archives, guided by the reader's coverage. Needs atheris, of the extra `fuzz`."""
    from fuzz.guided import fuzz_guided
    from fuzz.seeds import seed_archives

    report = Report("Mutated archives through the reader, guided by coverage", seed, findings)
    with _watching(json_path) as progress:
        fuzz_guided(report, seed_archives(programs), count=count, seconds=_seconds(minutes, count), progress=progress)
    _end(report, json_path)


@main.command()
@click.argument(
    "paths", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, resolve_path=True, path_type=Path)
)
def replay(paths: tuple[Path, ...]) -> None:
    """Read archives from files, findings of before for example, as `reader` does."""
    from fuzz.reader import replay
    from fuzz.seeds import FEW, seed_archives

    report = Report("Archives from files through the reader", 0, _FOLDER)
    replay(report, paths, seed_archives(FEW))
    _end(report, None)


@main.command()
@_common
@_PROGRAMS
def server(
    seed: int, minutes: float | None, count: int | None, findings: Path, json_path: Path | None, programs: tuple[str, ...]
) -> None:
    """Send mutated archives and broken streams to a server of its own."""
    from fuzz.seeds import seed_archives
    from fuzz.server import fuzz_server

    archives = seed_archives(programs)
    report = Report("Mutated archives and streams to a server", seed, findings)
    with _watching(json_path) as progress:
        fuzz_server(report, archives, count=count, seconds=_seconds(minutes, count), progress=progress)
    _end(report, json_path)


@main.command()
@_common
@click.option(
    "--operator", "names", multiple=True, help="An operator to call, such as aten.add.Tensor; repeatable. Without it, all."
)
def operators(
    seed: int, minutes: float | None, count: int | None, findings: Path, json_path: Path | None, names: tuple[str, ...]
) -> None:
    """Call every operator that programs may hold with extreme arguments, as passes do, in processes of their own."""
    from fuzz.operators import fuzz_operators

    report = Report("Calls of single operators with extreme arguments", seed, findings)
    with _watching(json_path) as progress:
        fuzz_operators(report, names, count=count, seconds=_seconds(minutes, count), progress=progress)
    _end(report, json_path)


@main.command()
@_common
@_PROGRAMS
def lying(
    seed: int, minutes: float | None, count: int | None, findings: Path, json_path: Path | None, programs: tuple[str, ...]
) -> None:
    """Lie to the client and to the command: true answers of a server, mutated. Only errors of the client's own may come of it."""
    from fuzz.lying import fuzz_lying
    from fuzz.seeds import FEW, seed_archives

    archives = seed_archives(programs or FEW)
    report = Report("Mutated answers to the client and the command", seed, findings)
    with _watching(json_path) as progress:
        fuzz_lying(report, archives, count=count, seconds=_seconds(minutes, count), progress=progress)
    _end(report, json_path)


@main.command(name="soak")
@_common
@_PROGRAMS
@click.option("--worker-kills", default=12, show_default=True, help="Requests between two kills of a worker, on average.")
@click.option("--zygote-kills", default=150, show_default=True, help="Requests between two kills of the zygote, on average.")
def soak_command(
    seed: int,
    minutes: float | None,
    count: int | None,
    findings: Path,
    json_path: Path | None,
    programs: tuple[str, ...],
    worker_kills: int,
    zygote_kills: int,
) -> None:
    """Have eight clients work a server whose workers and zygote are killed at random, and check every answer."""
    from fuzz.soak import soak
    from fuzz.tasks import PROGRAMS

    report = Report("Requests to a server under faults", seed, findings)
    with _watching(json_path) as progress:
        soak(
            report,
            count=count,
            seconds=_seconds(minutes, count),
            between_workers=worker_kills,
            between_zygotes=zygote_kills,
            programs=programs or PROGRAMS,
            progress=progress,
        )
    killed = report.more["killed"]
    console.print(f"Killed: {killed['workers']} workers, {killed['zygotes']} times the zygote.")
    _end(report, json_path)


@contextmanager
def _watching(json_path: Path | None) -> Iterator[Callable[[Report], None]]:
    """Return what shows and write how far a run is."""
    with console.status("starting") as status:

        def progress(report: Report) -> None:
            status.update(f"{report.count:,} done, {report.findings.total()} findings")
            if json_path is not None:
                report.write(json_path)

        yield progress


def _seconds(minutes: float | None, count: int | None) -> float | None:
    if minutes is None:
        return None if count is not None else 60.0
    return minutes * 60


def _end(report: Report, json_path: Path | None) -> None:
    report.show(console)
    if json_path is not None:
        report.write(json_path)
    sys.exit(1 if report.findings else 0)


if __name__ == "__main__":
    main()
