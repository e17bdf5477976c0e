"""What passes have declared to read of weights decides what a worker maps, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import fx

from retraced_server.errors import Reason
from retraced_server.passes import WeightsNeed, register_pass, registry
from retraced_server.pipeline.domain import NodeSelection
from retraced_server.retrace import pass_context
from retraced_server.worker import job
from tests.support.compare import loaded
from tests.support.models import by_name
from tests.worker.jobs import run


@pytest.fixture
def mapped(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """How the programs of jobs were read."""
    monkeypatch.setattr(registry, "_entries", dict(registry._entries))
    read: list[str] = []
    original = job.read_program

    def noted(*args: Any, weights: Any, **options: Any) -> Any:
        read.append(weights)
        return original(*args, weights=weights, **options)

    monkeypatch.setattr(job, "read_program", noted)
    return read


def _register(name: str, need: WeightsNeed) -> None:
    @register_pass(name, summary="Double the first weight.", needs_weights=need)
    class Doubles:
        def __call__(self, module: fx.GraphModule) -> None:
            weights = pass_context().weights
            first = next(iter(weights))
            weights.replace(first, weights[first] * 2)


@pytest.mark.parametrize("name", ["tied_weights", "everything", "no_tensor_inputs", "in_place", "bert"])
def test_same_program_comes_out_whether_weights_are_mapped_or_not(
    name: str, mapped: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = by_name(name).archive
    without = run(archive, "decompose,cse,dce", node_metadata=NodeSelection.ALL)
    register_pass("looks", needs_weights=WeightsNeed.DIGESTS)(
        type("Looks", (), {"__doc__": "Look.", "__call__": lambda *_: None})
    )
    with_weights = run(archive, "looks,decompose,cse,dce", node_metadata=NodeSelection.ALL)
    assert mapped == ["absent", "map"]
    assert without.output == with_weights.output != b""
    assert without.summary.input == with_weights.summary.input
    assert without.summary.output == with_weights.summary.output
    assert without.summary.remarks == with_weights.summary.remarks


def test_pass_that_has_declared_values_changes_them(mapped: list[str]) -> None:
    case = by_name("bert")
    _register("doubles", WeightsNeed.VALUES)
    ran = run(case.archive, "doubles")
    assert mapped == ["map"]
    before, after = loaded(case.archive).state_dict, loaded(ran.output).state_dict
    first, *others = before
    assert torch.equal(after[first], before[first] * 2)
    assert all(torch.equal(after[name], before[name]) for name in others)


def test_pass_that_has_declared_nothing_is_told_what_to_declare(mapped: list[str]) -> None:
    _register("doubles", WeightsNeed.NONE)
    ran = run(by_name("bert").archive, "doubles")
    assert mapped == ["absent"]
    assert ran.error.reason is Reason.PASS_FAILED
    assert "needs_weights=WeightsNeed.VALUES" in ran.error.message
