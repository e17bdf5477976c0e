"""Programs of ExecuTorch's edge dialect run through pipelines, where executorch is installed."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.export import ExportedProgram

from retraced_server.errors import Reason, RetracedError
from retraced_server.passes import run_pipeline
from retraced_server.program import read_program
from retraced_server.retrace import ExportPass, NodeMetadata, ProxyValue
from tests.executorch.sweep import sweep
from tests.support.case import ProgramCase
from tests.support.compare import assert_same_results
from tests.support.models import by_name

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("executorch") is None, reason="executorch is not installed"),
    # Its modules and those that they import warn of their own code.
    pytest.mark.filterwarnings("ignore"),
]


def _edge(case: ProgramCase) -> ExportedProgram:
    from executorch.exir import EdgeCompileConfig, to_edge

    return to_edge(case.build(), compile_config=EdgeCompileConfig(_check_ir_validity=False)).exported_program()


@pytest.mark.parametrize("name", ["residual_net", "symbolic_scalars", "multiple_results", "cond"])
@pytest.mark.parametrize("mode", ["incremental", "full"])
def test_edge_program_that_nothing_changes_is_the_program_that_was_given(name: str, mode: str) -> None:
    program = _edge(by_name(name))
    assert run_pipeline(program, ["retrace", ExportPass()], mode=mode).program is program


def test_edge_operators_can_be_rewritten() -> None:
    from executorch.exir.dialects._ops import ops

    edge = ops.edge.aten

    class ReluToClamp(ExportPass):
        def call_operator(self, op: Any, args: Any, kwargs: Any, meta: NodeMetadata) -> ProxyValue[Any]:
            if op is edge.relu.default:
                return super().call_operator(edge.clamp.default, (args[0], 0.0, None), {}, meta)
            return super().call_operator(op, args, kwargs, meta)

    case = by_name("residual_net")
    program = _edge(case)
    result = run_pipeline(program, [ReluToClamp()])
    targets = {node.target for node in result.program.graph.nodes}
    assert edge.clamp.default in targets
    assert edge.relu.default not in targets
    assert_same_results(program, result.program, case.inputs())


class _CallsLowered(nn.Module):
    def __init__(self, lowered: nn.Module) -> None:
        super().__init__()
        self.lowered = lowered

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.lowered(x.relu())
        return result.sin()


def test_delegate_is_carried_as_it_is() -> None:
    from executorch.exir.lowered_backend_module import LoweredBackendModule

    x = torch.randn(2, 3)
    inner = ProgramCase("inner", nn.Softsign, lambda: [((x,), {})])
    program = torch.export.export(_CallsLowered(LoweredBackendModule(_edge(inner), "test", b"", [])), (x,))
    assert run_pipeline(program, "retrace").program is program

    class ReluToSigmoid(ExportPass):
        def call_operator(self, op: Any, args: Any, kwargs: Any, meta: NodeMetadata) -> ProxyValue[Any]:
            changed = torch.ops.aten.sigmoid.default if op is torch.ops.aten.relu.default else op
            return super().call_operator(changed, args, kwargs, meta)

    result = run_pipeline(program, [ReluToSigmoid()]).program
    assert result.graph_module.lowered_module_0 is program.graph_module.lowered_module_0
    torch.testing.assert_close(result.module()(x), torch.sin(nn.Softsign()(x.sigmoid())))


def test_archive_of_edge_operators_is_refused_with_what_to_send_instead(tmp_path: Path) -> None:
    archive = tmp_path / "edge.pt2"
    torch.export.save(_edge(by_name("unused_input")), archive)
    with pytest.raises(RuntimeError):
        torch.export.load(archive)
    with (
        archive.open("rb") as file,
        pytest.raises(RetracedError, match="send the program as it was before `to_edge`") as failure,
    ):
        read_program(file)
    assert failure.value.reason is Reason.PROGRAM_UNSUPPORTED


def test_pass_of_executorch_that_holds_its_program_gives_the_result_another_weight() -> None:
    from executorch.backends.transforms.convert_conv1d_to_conv2d_pass import ConvertConv1dToConv2dPass

    x = torch.randn(2, 4, 9)
    program = _edge(ProgramCase("convolution", lambda: nn.Conv1d(4, 4, 3), lambda: [((x,), {})]))
    result = run_pipeline(program, [ConvertConv1dToConv2dPass(program)]).program
    assert result.state_dict["weight"].shape == (4, 4, 1, 3)
    assert program.state_dict["weight"].shape == (4, 4, 3)
    torch.testing.assert_close(result.module()(x), program.module()(x))


@pytest.mark.slow
@pytest.mark.parametrize("level", ["aten", "edge"])
def test_passes_of_executorch_do_what_they_do_on_its_class(level: str) -> None:
    found = sweep(level, "executorch.exir.passes.remove_noop_pass")
    assert len(found) == 2
    assert not any(found.values())
