"""What the tests of the engine share."""

from __future__ import annotations

from weakref import WeakKeyDictionary

import pytest

from retraced_server.retrace.pass_context import RetraceMode


@pytest.fixture(params=["incremental", "full"])
def mode(request: pytest.FixtureRequest) -> RetraceMode:
    """Both ways of treating nodes that a pass leaves alone."""
    chosen: RetraceMode = request.param
    return chosen


@pytest.fixture
def _nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """No result is known from tests before, of which a test would else not see that it is executed."""
    monkeypatch.setattr("retraced_server.retrace.fake_result_cache._OF_MODES", WeakKeyDictionary())
