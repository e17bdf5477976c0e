"""Processes that read hostile archives, started once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.hostile.trees import SECRET, SECRET_VALUE
from tests.support.hostile.victim import Victims


@pytest.fixture(scope="session")
def victims() -> Iterator[Victims]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(SECRET, SECRET_VALUE)
        with Victims() as started:
            yield started
