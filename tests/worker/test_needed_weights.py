"""What passes have declared to read of weights decides what a worker maps, and nothing else."""

from __future__ import annotations

import pytest
import torch
from torch import fx
from torch.export import ExportedProgram

from retraced_server.errors import Reason
from retraced_server.passes import ProgramPass, ProgramPassResult, WeightsNeed, register_pass, registry
from retraced_server.pipeline.domain import NodeSelection
from retraced_server.retrace import pass_context
from retraced_server.torch_compat.fake_tensors import FakeTensor
from tests.support.compare import loaded
from tests.support.models import by_name
from tests.worker.jobs import run


@pytest.fixture(autouse=True)
def restored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_entries", dict(registry._entries))


def _notes(name: str, need: WeightsNeed) -> list[bool]:
    """Register a pass that notes whether the weights that it gets have data."""
    mapped: list[bool] = []

    @register_pass(name, summary="Look.", needs_weights=need)
    class Notes(ProgramPass):
        def run(self, program: ExportedProgram) -> ProgramPassResult:
            values = [*program.state_dict.values(), *program.constants.values()]
            mapped.append(not any(isinstance(value, FakeTensor) for value in values))
            return ProgramPassResult(program, False)

    return mapped


def _register(name: str, need: WeightsNeed) -> None:
    @register_pass(name, summary="Double the first weight.", needs_weights=need)
    class Doubles:
        def __call__(self, module: fx.GraphModule) -> None:
            weights = pass_context().weights
            first = next(iter(weights))
            weights.replace(first, weights[first] * 2)


@pytest.mark.parametrize("name", ["tied_weights", "everything", "in_place", "bert"])
def test_same_program_comes_out_whether_weights_are_mapped_or_not(name: str) -> None:
    needs = {need: _notes(f"notes-{need.value}", need) for need in WeightsNeed}
    archive = by_name(name).archive
    without, *others = [
        run(archive, f"notes-{need.value},decompose,cse,dce", node_metadata=NodeSelection.ALL) for need in WeightsNeed
    ]
    assert list(needs.values()) == [[False], [True], [True]]
    for ran in others:
        assert without.output == ran.output != b""
        assert without.summary.input == ran.summary.input
        assert without.summary.output == ran.summary.output
        assert without.summary.remarks == ran.summary.remarks


def test_pass_that_has_declared_values_changes_them() -> None:
    case = by_name("bert")
    _register("doubles", WeightsNeed.VALUES)
    ran = run(case.archive, "doubles")
    before, after = loaded(case.archive).state_dict, loaded(ran.output).state_dict
    first, *others = before
    assert torch.equal(after[first], before[first] * 2)
    assert all(torch.equal(after[name], before[name]) for name in others)


def test_pass_that_has_declared_nothing_is_told_what_to_declare() -> None:
    _register("doubles", WeightsNeed.NONE)
    ran = run(by_name("bert").archive, "doubles")
    assert ran.error.reason is Reason.PASS_FAILED
    assert "needs_weights=WeightsNeed.VALUES" in ran.error.message
