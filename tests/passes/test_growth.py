"""The work of built-in passes grows in step with nodes: function calls are counted, since times differ from machine to machine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest
import torch
from torch import fx

from retraced_server.passes import run_pipeline
from retraced_server.passes.decompose.correspondence import Correspondence
from tests.support.growth import calls
from tests.support.large_graphs import as_program, equal_calls, wide_fan_out

pytestmark = pytest.mark.slow

_SIZE, _TIMES = 200, 4


class _Unbind(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack([item + 1 for item in x.unbind(0)])


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


def test_work_of_finding_what_decomposed_results_became_grows_in_step_with_them() -> None:
    counts: list[int] = []

    def counted(*arguments: Any) -> Correspondence:
        made: list[Correspondence] = []
        counts.append(calls(lambda: made.append(Correspondence(*arguments))))
        return made[0]

    with mock.patch("retraced_server.passes.decompose.by_torch.Correspondence", counted):
        for size in (40, 160):
            run_pipeline(torch.export.export(_Unbind(), (torch.ones(size, 3),)), "decompose{by=torch}")
    few, many = counts
    assert many <= 1.25 * 4 * few
