"""A call of a program that ExecuTorch lowered to a backend is carried as it is, and has a hook."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.export import ExportedProgram

from retraced_server.errors import Reason, RetracedError
from retraced_server.passes import run_pipeline
from retraced_server.retrace import Argument, ExportPass, NodeMetadata, ProxyValue
from retraced_server.retrace.pass_context import RetraceMode

aten = torch.ops.aten
executorch_call_delegate: Any = torch.ops.higher_order.executorch_call_delegate
_INPUT = torch.arange(-4.0, 4.0).reshape(2, 4)


class LoweredBackendModule(nn.Module):
    """Has what torch asks of ExecuTorch's module of this name, by which torch knows it (torch/_export/verifier.py)."""

    def __init__(self, original_module: ExportedProgram) -> None:
        super().__init__()
        self.original_module = original_module
        self.backend_id, self.processed_bytes, self.compile_specs = "test", b"", list[Any]()


class _Lowered(nn.Module):
    def __init__(self, sign: float) -> None:
        super().__init__()
        self.linear, self.sign = nn.Linear(4, 4), sign

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.linear(x), x * self.sign


def _lowered(sign: float = 1.0) -> LoweredBackendModule:
    torch.manual_seed(0)
    return LoweredBackendModule(torch.export.export(_Lowered(sign), (_INPUT,)))


class _Caller(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lowered = _lowered()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        left, right = executorch_call_delegate(self.lowered, x.relu())
        return left + right


def _program() -> ExportedProgram:
    return torch.export.export(_Caller(), (_INPUT,))


def _expected(sign: float = 1.0, before: Callable[[torch.Tensor], torch.Tensor] = torch.relu) -> torch.Tensor:
    left, right = _lowered(sign).original_module.module()(before(_INPUT))
    result: torch.Tensor = left + right
    return result


class CountsDelegates(ExportPass):
    """Notes what its hook is given."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[nn.Module, int]] = []

    def call_delegate(
        self, lowered_module: nn.Module, args: tuple[Argument, ...], kwargs: dict[str, Argument], meta: NodeMetadata
    ) -> ProxyValue[Any]:
        self.calls.append((lowered_module, len(args)))
        return super().call_delegate(lowered_module, args, kwargs, meta)


def test_delegate_that_nothing_changes_is_carried_as_it_is(mode: RetraceMode) -> None:
    program, counting = _program(), CountsDelegates()
    assert run_pipeline(program, [counting, "retrace"], mode=mode).program is program
    assert counting.calls == [(program.graph_module.lowered_module_0, 1)]


def test_delegate_keeps_its_module_where_its_arguments_change(mode: RetraceMode) -> None:
    class ReluToSigmoid(ExportPass):
        def call_operator(self, op: Any, args: Any, kwargs: Any, meta: NodeMetadata) -> ProxyValue[Any]:
            return super().call_operator(aten.sigmoid.default if op is aten.relu.default else op, args, kwargs, meta)

    program = _program()
    result = run_pipeline(program, [ReluToSigmoid()], mode=mode).program
    assert [node.name for node in result.graph.nodes] == [node.name for node in program.graph.nodes]
    assert result.graph_module.lowered_module_0 is program.graph_module.lowered_module_0
    torch.testing.assert_close(result.module()(_INPUT), _expected(before=torch.sigmoid))


def test_hook_can_call_another_lowered_module() -> None:
    other = _lowered(sign=-1.0)

    class Relowers(ExportPass):
        def call_delegate(self, lowered_module: Any, args: Any, kwargs: Any, meta: NodeMetadata) -> ProxyValue[Any]:
            return super().call_delegate(other, args, kwargs, meta)

    result = run_pipeline(_program(), [Relowers()]).program
    (call,) = [node for node in result.graph.nodes if node.target is executorch_call_delegate]
    module = call.args[0]
    assert getattr(result.graph_module, str(module.target)) is other
    assert str(module.target).startswith("lowered_module_")
    torch.testing.assert_close(result.module()(_INPUT), _expected(sign=-1.0))


@pytest.mark.parametrize("count", [2, 0])
def test_wrong_arguments_of_a_delegate_fail_at_its_node(count: int) -> None:
    class Miscounts(ExportPass):
        def call_delegate(self, lowered_module: Any, args: Any, kwargs: Any, meta: NodeMetadata) -> ProxyValue[Any]:
            return super().call_delegate(lowered_module, args * count, kwargs, meta)

    with pytest.raises(RetracedError) as failure:
        run_pipeline(_program(), [Miscounts()])
    assert failure.value.reason is Reason.PASS_FAILED
    assert failure.value.metadata["node"] == "executorch_call_delegate"
