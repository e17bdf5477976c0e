"""The archives that are mutated: real ones of the test programs, small ones before others."""

from __future__ import annotations

import contextlib
import logging
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

from fuzz.zips import build, parse
from tests.support.models import ALL_CASES, by_name

FEW = ("input_and_id", "tied_weights", "symbolic_scalars", "cond")
"""Programs that show most of the schema between them, for short runs."""

_LARGEST = 48 << 10


def seed_archives(names: tuple[str, ...] = ()) -> dict[str, bytes]:
    """Return the archives of test programs by name; of all whose archives are small where no names are given."""
    cases = [by_name(name) for name in names] or [
        case for case in ALL_CASES if case.serializable and "architecture" not in case.tags
    ]
    with _quiet():
        archives = {case.name: _anywhere(case.archive) for case in cases}
    return {name: data for name, data in archives.items() if names or len(data) <= _LARGEST}


def _anywhere(archive: bytes) -> bytes:
    """Return an archive without the folders of this machine, which stand in stack traces: what a seed makes of it is the same on each."""
    made = parse(archive)
    assert made is not None
    for entry in made.entries:
        if entry.name.endswith(b".json"):
            for folder, name in ((Path(__file__).resolve().parents[1], "/source"), (sys.prefix, "/python")):
                entry.data = entry.data.replace(str(folder).encode(), name.encode())
    return build(made)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Leaves out what torch says of the export of a program."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
