"""`decompose` on joint programs, which compute a loss and its gradients: it does what `run_decompositions` does, with names kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import fx, nn
from torch.export import Dim, ExportedProgram
from torch.export.exported_program import _decompose_exported_program
from torch.export.graph_signature import OutputKind

from retraced_server.passes import run_pipeline
from tests.passes.support import export, names, targets
from tests.support.compare import saved_and_loaded, validate
from tests.support.passes import canonical

pytestmark = pytest.mark.slow


class _Trained(nn.Module):
    """A loss with an input that needs a gradient, an input called as a builtin that is written to, and a buffer."""

    scale: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.register_buffer("scale", torch.ones(3))

    def forward(self, x: torch.Tensor, input: torch.Tensor) -> torch.Tensor:
        input.add_(1)
        return (nn.functional.gelu(self.linear(x)) * self.scale * input).sum()


class _Counting(nn.Module):
    """A loss of a module that writes to a buffer."""

    steps: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.register_buffer("steps", torch.zeros(3))

    def forward(self, x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        self.steps.add_(1)
        return nn.functional.cross_entropy(self.linear(x) * self.steps, target)


class _Branching(nn.Module):
    """A loss with a branch, which has a branch of its own in the backward part."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return torch.cond(y.sum() > 0, nn.functional.silu, torch.cos, (self.linear(x),)).sum()


def _inputs(batch: int, *, gradient: bool) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(batch, 3, requires_grad=gradient), torch.ones(batch, 3).softmax(-1)


def _joint(module: Callable[[], nn.Module], *, dynamic: bool, gradient: bool) -> ExportedProgram:
    torch.manual_seed(0)
    batch = Dim("batch", min=2, max=64)
    forward = export(
        module(), *_inputs(4, gradient=gradient), dynamic_shapes=({0: batch}, {0: batch}) if dynamic else None, strict=False
    )
    # As torch.export.experimental._export_forward_backward does, without a table: so something is left to decompose.
    return _decompose_exported_program(
        forward, cia_to_decomp={}, python_decomp_table={}, joint_loss_index=0, decompose_custom_triton_ops=False
    )


_PROGRAMS = {
    "gradient-to-an-input": (_Trained, False, True),
    "dynamic": (_Trained, True, False),
    "buffer-mutation": (_Counting, True, False),
    "branch": (_Branching, False, True),
}


@pytest.fixture(params=_PROGRAMS, scope="module")
def joint(request: pytest.FixtureRequest) -> ExportedProgram:
    module, dynamic, gradient = _PROGRAMS[request.param]
    return _joint(module, dynamic=dynamic, gradient=gradient)


def _computed(program: ExportedProgram, inputs: tuple[torch.Tensor, ...]) -> tuple[Any, ...]:
    """What the graph returns: torch has no module for such a program."""
    users = iter(inputs)
    specs = program.graph_signature.input_specs
    arguments = [next(users) if spec.target is None else program.state_dict[spec.target] for spec in specs]
    with torch.no_grad():
        results: tuple[Any, ...] = fx.Interpreter(program.graph_module).run(*(argument.clone() for argument in arguments))
    return results


def test_graph_and_signature_are_those_of_run_decompositions_but_for_names(joint: ExportedProgram) -> None:
    program = run_pipeline(joint, "decompose").program
    expected = joint.run_decompositions()
    assert canonical(program.graph_module) == canonical(expected.graph_module)
    assert [(spec.kind, spec.target) for spec in program.graph_signature.output_specs] == [
        (spec.kind, spec.target) for spec in expected.graph_signature.output_specs
    ]
    assert program.graph_signature.input_specs == joint.graph_signature.input_specs
    assert program.range_constraints == joint.range_constraints


def test_joint_program_computes_the_same_loss_and_gradients(joint: ExportedProgram) -> None:
    program = run_pipeline(joint, "decompose,cse,dce").program
    validate(program)
    inputs = _inputs(4, gradient=False)
    torch.testing.assert_close(_computed(program, inputs), _computed(joint, inputs))


@pytest.mark.parametrize("name", ["dynamic", "buffer-mutation"])
def test_joint_program_that_torch_can_write_is_written_and_read(name: str) -> None:
    module, dynamic, gradient = _PROGRAMS[name]
    program = run_pipeline(_joint(module, dynamic=dynamic, gradient=gradient), "decompose,cse,dce").program
    inputs = _inputs(4, gradient=False)
    torch.testing.assert_close(_computed(saved_and_loaded(program), inputs), _computed(program, inputs))


def test_loss_and_gradients_keep_their_names_and_their_provenance(joint: ExportedProgram) -> None:
    result = run_pipeline(joint, "decompose")
    before, after = joint.graph_signature.output_specs, result.program.graph_signature.output_specs
    assert [(spec.kind, spec.arg, spec.target) for spec in after] == [(spec.kind, spec.arg, spec.target) for spec in before]
    assert {OutputKind.LOSS_OUTPUT, OutputKind.GRADIENT_TO_PARAMETER} <= {spec.kind for spec in after}
    assert names(result.program)[-1] == "output"
    loss = next(spec.arg.name for spec in after if spec.kind is OutputKind.LOSS_OUTPUT)
    assert loss in result.provenance[loss].from_nodes
    assert all(result.provenance[node.name].from_nodes for node in result.program.graph.nodes)


def test_joint_program_without_anything_to_decompose_comes_back_as_it_was(joint: ExportedProgram) -> None:
    program = run_pipeline(joint, "decompose").program
    assert targets(program) != targets(joint)
    assert run_pipeline(program, "decompose").program is program
