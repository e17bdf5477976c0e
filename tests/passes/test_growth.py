"""The work of built-in passes grows in step with nodes: function calls are counted, since times differ from machine to machine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from torch import fx

from retraced_server.passes import run_pipeline
from tests.support.growth import calls
from tests.support.large_graphs import as_program, equal_calls, wide_fan_out

_SIZE, _TIMES = 200, 4


def _calls(program: Any, pipeline: str, mode: Any) -> int:
    run_pipeline(program, pipeline, mode=mode)
    return calls(lambda: run_pipeline(program, pipeline, mode=mode))


@pytest.mark.parametrize(
    ("make", "pipeline", "mode"),
    [
        *((wide_fan_out, pipeline, "incremental") for pipeline in ("retrace", "cse", "dce", "view-to-view-copy")),
        (wide_fan_out, "retrace", "full"),
        (equal_calls, "cse", "incremental"),
    ],
)
def test_work_grows_in_step_with_users_of_one_node(make: Callable[[int], fx.GraphModule], pipeline: str, mode: Any) -> None:
    few, many = (_calls(as_program(make(size)), pipeline, mode) for size in (_SIZE, _SIZE * _TIMES))
    # A quarter more than in step; where each user looks at each other it is several times that.
    assert many <= 1.25 * _TIMES * few
