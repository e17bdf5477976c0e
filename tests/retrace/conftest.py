"""What the tests of the engine share."""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

import pytest

from retraced_server.retrace import execute as execution
from retraced_server.retrace.pass_context import RetraceMode


@pytest.fixture(params=["incremental", "full"])
def mode(request: pytest.FixtureRequest) -> RetraceMode:
    """Both ways of treating nodes that a pass leaves alone."""
    chosen: RetraceMode = request.param
    return chosen


@pytest.fixture
def executed(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The targets that are executed, in order, with nothing known from tests before."""
    targets: list[Any] = []
    real = execution.execute

    def execute(target: Any, *arguments: Any) -> Any:
        targets.append(target)
        return real(target, *arguments)

    monkeypatch.setattr("retraced_server.retrace.fake_result_cache._OF_MODES", WeakKeyDictionary())
    for module in ("executor", "graph_retrace"):
        monkeypatch.setattr(f"retraced_server.retrace.{module}.execute", execute)
    return targets
