"""Archives of strangers, sent to real servers: an error with its reason, no effect, and a server that goes on."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from retraced import Client, EmbeddedServer, errors
from tests.program.archives import records
from tests.support.hostile import ROUTES, Effect, Route
from tests.support.hostile.route import MODEL, plain
from tests.support.hostile.trees import SECRET, SECRET_VALUE

from .conftest import server_arguments

pytestmark = pytest.mark.slow

PIPELINE = "retrace,decompose,dce"


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that every user may write to, so that nothing but the reader or the sandbox is in the way of the marker."""
    with tempfile.TemporaryDirectory(prefix="retraced-hostile-") as made:
        Path(made).chmod(0o777)
        yield Path(made)


@pytest.fixture(scope="module")
def hostile_server() -> Iterator[EmbeddedServer]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(SECRET, SECRET_VALUE)
        with EmbeddedServer(server_arguments()) as running:
            yield running


@pytest.fixture(scope="module")
def unchecked_server() -> Iterator[EmbeddedServer]:
    """A server whose workers load programs by torch: it has no defence but the sandbox."""
    unchecked = ("--import", "tests.support.hostile.unchecked", "--worker-memory", "1GiB", "--job-timeout", "5")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(SECRET, SECRET_VALUE)
        with EmbeddedServer(server_arguments(*unchecked)) as running:
            yield running


def _model(archive: bytes) -> Any:  # Any: parsed JSON.
    return json.loads(records(archive)[MODEL])


@pytest.mark.parametrize("route", ROUTES, ids=repr)
def test_server_answers_with_a_reason_and_goes_on(hostile_server: EmbeddedServer, folder: Path, route: Route) -> None:
    archive = route.make(folder)
    with Client(hostile_server.address) as client:
        if route.says:
            with pytest.raises(errors.RequestInvalid) as caught:
                client.transform(archive, PIPELINE)
            assert caught.value.reason == route.reason.value
            assert re.search(route.says, caught.value.message)
        else:
            # What is inert comes back as it was.
            result = client.transform(archive, "retrace")
            assert not result.modified
            assert _model(result.to_bytes()) == _model(archive)
        assert not (folder / "marker").exists()
        assert not client.transform(plain(), "retrace").modified
    assert SECRET_VALUE not in hostile_server.log


@pytest.mark.parametrize("route", [route for route in ROUTES if route.effect is not Effect.NONE], ids=repr)
def test_sandbox_alone_contains_what_torch_does(unchecked_server: EmbeddedServer, folder: Path, route: Route) -> None:
    archive = route.make(folder)
    with Client(unchecked_server.address) as client:
        try:
            result = client.transform(archive, "retrace")
        except errors.TransformFailed as error:
            said = f"{error.message} {error.metadata}"
        else:
            said = result.to_bytes().decode(errors="replace")
        assert not (folder / "marker").exists()
        assert SECRET_VALUE not in said
        assert not client.transform(plain(), "retrace").modified
    assert SECRET_VALUE not in unchecked_server.log
