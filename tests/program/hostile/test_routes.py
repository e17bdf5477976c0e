"""What archives of strangers do to torch's reader, they do not do to ours: each known route, read by both."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.hostile import ROUTES, Effect, Route
from tests.support.hostile.trees import SECRET_VALUE
from tests.support.hostile.victim import Victims

pytestmark = pytest.mark.slow


def _archive(route: Route, folder: Path) -> Path:
    path = folder / "archive.pt2"
    path.write_bytes(route.make(folder))
    assert not (folder / "marker").exists()
    return path


@pytest.mark.parametrize("route", ROUTES, ids=repr)
def test_nothing_happens_here(route: Route, victims: Victims, tmp_path: Path) -> None:
    path = _archive(route, tmp_path)
    # What is read is decomposed too, which makes torch generate source of it.
    use = "load" if route.says or route.effect is Effect.LIMIT else "decompose"
    outcome = victims.read(path, use, by="retraced")
    assert not (tmp_path / "marker").exists()
    assert not outcome.at_limit
    assert outcome.seconds < victims.SECONDS
    assert SECRET_VALUE not in outcome.text
    if route.says:
        assert outcome.text.startswith(f"RetracedError {route.reason}: ")
        assert re.search(route.says, outcome.text)
    else:
        assert outcome.text == "loaded"


@pytest.mark.parametrize("route", ROUTES, ids=repr)
def test_it_does_happen_to_who_reads_by_torch(route: Route, victims: Victims, tmp_path: Path) -> None:
    """What torch withstands is here too, so that it is seen when it does so no longer."""
    # What has no end is ended early.
    seconds = 2 if route.effect is Effect.LIMIT else victims.SECONDS
    outcome = victims.read(_archive(route, tmp_path), route.then, by="torch", seconds=seconds)
    assert (tmp_path / "marker").exists() is (route.effect is Effect.MARKER)
    assert outcome.at_limit is (route.effect is Effect.LIMIT)
    assert (SECRET_VALUE in outcome.text) is (route.effect is Effect.LEAK)
    assert re.search(route.stock, outcome.text)
