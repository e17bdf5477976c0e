"""Writes to tensors without views become what their templates have, and others what functional tensors make of them: both as by torch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.export import Dim

from benchmarks.exactness.judge import apart, judge
from retraced_server.passes import run_pipeline
from retraced_server.torch_compat.functional_trace import FunctionalTrace
from tests.program.archives import read_bytes
from tests.support.case import Inputs, ProgramCase
from tests.support.compare import run


class _Module(nn.Module):
    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function
        self.norm = nn.BatchNorm1d(4)
        self.register_buffer("seen", torch.zeros(4))

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> Any:
        return self.function(self, x, y)


def _activations(module: Any, x: torch.Tensor, y: torch.Tensor) -> Any:
    first = (x * 2).relu_()
    second = (y + 1).mul_(first).add_(first, alpha=2)
    return second.relu_(), first


def _twice_the_same(module: Any, x: torch.Tensor, y: torch.Tensor) -> Any:
    z = x.sin()
    return z.add_(z).mul_(z)


def _read_between(module: Any, x: torch.Tensor, y: torch.Tensor) -> Any:
    z = x.sin()
    before = z + 1
    z.mul_(3)
    return before, z + 1, z


def _statistics(module: Any, x: torch.Tensor, y: torch.Tensor) -> Any:
    module.seen.add_(x.sum(0))
    normalised = module.norm(module.norm(x))
    return normalised + module.seen


def _one_statistic(module: Any, x: torch.Tensor, y: torch.Tensor) -> Any:
    statistic = y.sum(0)
    return nn.functional.batch_norm(x, statistic, statistic, training=True) + statistic


def _copied(module: Any, x: torch.Tensor, y: torch.Tensor) -> Any:
    z, w = x.sin(), y.cos()
    z.copy_(w)
    w.add_(1)
    return z.add_(w), w


def _written_input(module: Any, x: torch.Tensor, y: torch.Tensor) -> Any:
    x.mul_(2)
    return x + y.exp()


def _written_view_of_a_decomposition(module: Any, x: torch.Tensor, y: torch.Tensor) -> Any:
    z = nn.functional.linear(x.unsqueeze(0), torch.eye(4))
    z.add_(y)
    return y + nn.functional.dropout(z, 0.1, training=False)


def _other_dtype(module: Any, x: torch.Tensor, y: torch.Tensor) -> Any:
    z = x.to(torch.float16)
    z.add_(y).mul_(2)
    return z.add_(1), y


def _other_layout(module: Any, x: torch.Tensor, y: torch.Tensor) -> Any:
    z = x.t().clone(memory_format=torch.preserve_format)
    z.copy_(y.t().contiguous())
    return z.add_(1), z.view(-1) if z.is_contiguous() else z


def _other_layout_of_input(module: Any, x: torch.Tensor, y: torch.Tensor) -> Any:
    x.add_(1)
    x.copy_(y.t().contiguous().t())
    return x.mul_(2)


def _view_beside(module: Any, x: torch.Tensor, y: torch.Tensor) -> Any:
    z, w = x.sin(), y.cos()
    z[:, 1:].mul_(2)
    w.add_(z)
    return z, w


def _masked(module: Any, x: torch.Tensor, y: torch.Tensor) -> Any:
    z = x.sin()
    z.masked_fill_(y > 0, 0.5)
    z.clamp_(min=0).index_fill_(0, torch.arange(2), 1.0)
    return z.zero_() + y, z.fill_(3)


_FUNCTIONS = (
    *(
        _activations,
        _twice_the_same,
        _read_between,
        _statistics,
        _one_statistic,
        _copied,
        _written_input,
        _other_dtype,
        _other_layout,
    ),
    *(_other_layout_of_input, _view_beside, _masked, _written_view_of_a_decomposition),
)


def _case(function: Callable[..., Any], *, dynamic: bool) -> ProgramCase:
    inputs: list[Inputs] = [((torch.randn(6, 4), torch.randn(6, 4)), {})]
    rows = Dim("rows", min=2, max=64)
    shapes = {"x": {0: rows}, "y": {0: rows}} if dynamic else None
    return ProgramCase(function.__name__, lambda: _Module(function), lambda: inputs, shapes)


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
@pytest.mark.parametrize("function", _FUNCTIONS, ids=lambda function: function.__name__.strip("_"))
def test_writes_are_made_functional_as_by_torch(function: Callable[..., Any], dynamic: bool) -> None:
    verdict = judge("programs", _case(function, dynamic=dynamic), "core-aten")
    assert (verdict.outcome, verdict.numbers, verdict.error) == ("equal", "", ""), verdict.differences
    assert verdict.route == "locally"


def _set(module: Any, x: torch.Tensor, y: torch.Tensor) -> Any:
    z, w = x.sin(), y.cos()
    torch.ops.aten.set_.source_Tensor(z, w)
    z.add_(5)
    return w + 1


def _returned_view(module: Any, x: torch.Tensor, y: torch.Tensor) -> Any:
    z = x.sin()
    view = z[:, 1:]
    z.mul_(2)
    return view, z


def _each(module: Any, x: torch.Tensor, y: torch.Tensor) -> Any:
    z = x.sin()
    torch._foreach_add_([z], 2.0)
    return z


# torch's kernel writes a mean and a variance to one tensor otherwise than its decomposition does, which `judge` compares with.
_FROM_FILES = [*(function for function in _FUNCTIONS if function is not _one_statistic), _set, _returned_view, _each]


# A file has lost which values share storage, and has a recorded value at the output too.
@pytest.mark.parametrize("function", _FROM_FILES, ids=lambda function: function.__name__.strip("_"))
def test_writes_of_a_program_from_a_file_are_made_functional(function: Callable[..., Any], tmp_path: Path) -> None:
    case = _case(function, dynamic=False)
    program = read_bytes(case.archive, tmp_path).program
    result = run_pipeline(program, "decompose").program
    for args, kwargs in case.inputs():
        expected = run(case.build(), args, kwargs)
        assert apart(expected, run(result, args, kwargs)) == ""


def test_write_to_a_tensor_that_is_given_by_name_goes_there() -> None:
    case = _case(lambda module, x, y: x.sin().sub_(y) + 0, dynamic=False)
    program = case.build()
    (node,) = program.graph.find_nodes(op="call_function", target=torch.ops.aten.sub_.Tensor)
    node.args, node.kwargs = (), {"other": node.args[1], "self": node.args[0]}
    result = run_pipeline(program, "decompose").program
    for args, kwargs in case.inputs():
        assert apart(run(case.build(), args, kwargs), run(result, args, kwargs)) == ""


def _without_functional_tensors(self: FunctionalTrace, *args: Any) -> Any:
    raise AssertionError("a functional tensor is made")


@pytest.mark.parametrize("function", [_activations, _read_between, _written_input], ids=lambda function: function.__name__)
def test_writes_to_tensors_without_views_need_no_functional_tensors(
    function: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    program = _case(function, dynamic=True).build()
    monkeypatch.setattr(FunctionalTrace, "input", _without_functional_tensors)
    result = run_pipeline(program, "decompose{by=local}")
    assert result.modified


def test_normalisations_that_are_alike_are_traced_once(monkeypatch: pytest.MonkeyPatch) -> None:
    traced: list[Any] = []
    call = FunctionalTrace.call

    def counted(self: FunctionalTrace, target: Any, *args: Any) -> Any:
        traced.append(target)
        return call(self, target, *args)

    monkeypatch.setattr(FunctionalTrace, "call", counted)
    program = torch.export.export(nn.Sequential(*(nn.BatchNorm1d(4) for _ in range(5))), (torch.randn(6, 4),))
    result = run_pipeline(program, "decompose{by=local}")
    # Three statistics each.
    assert len(result.program.graph_signature.buffers_to_mutate) == 15
    assert len(traced) == len(set(traced)) > 0
