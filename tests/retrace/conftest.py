"""What the tests of the engine share."""

from __future__ import annotations

import pytest

from retraced_server.retrace.session import RetraceMode


@pytest.fixture(params=["incremental", "full"])
def mode(request: pytest.FixtureRequest) -> RetraceMode:
    """Both ways of treating nodes that a pass leaves alone."""
    chosen: RetraceMode = request.param
    return chosen
