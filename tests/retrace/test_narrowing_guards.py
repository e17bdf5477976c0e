"""Only guards that narrow what a program accepts are new guards, for every kind of pass alike, and each says where it was added."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.export import Dim, ExportedProgram

from retraced_server.errors import Reason, RetracedError
from retraced_server.passes import run_pipeline
from retraced_server.retrace import ExportPass, ProxyValue
from tests.passes.support import export
from tests.program.archives import read_bytes, saved
from tests.support.tables import registered_table

aten = torch.ops.aten
MODES = ["incremental", "full"]


class Block(nn.Module):
    """The README's model, smaller."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(3, 8), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(nn.functional.gelu(self.up(x)))


class Pairs(nn.Module):
    """A program that takes even batches only, since it makes pairs."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return nn.functional.silu(x.view(-1, 2)), nn.functional.gelu(x)


class _OnGelu(ExportPass):
    """Does something beside each GELU."""

    def call_operator(self, op: Any, args: Any, kwargs: Any, meta: Any) -> ProxyValue[Any]:
        value = super().call_operator(op, args, kwargs, meta)
        return self.beside(value, meta) if op is aten.gelu.default else value

    def beside(self, value: Any, meta: Any) -> ProxyValue[Any]:
        return super().call_operator(aten.clone.default, (value,), {}, meta)


class NeedsFour(_OnGelu):
    """Adds a value that has four rows."""

    def beside(self, value: Any, meta: Any) -> ProxyValue[Any]:
        rows = ExportPass.call_operator(self, aten.zeros.default, ([4, value.data.shape[1]],), {}, meta)
        return ExportPass.call_operator(self, aten.add.Tensor, (value, rows), {}, meta)


class NeedsEven(_OnGelu):
    """Adds the sum of pairs."""

    def beside(self, value: Any, meta: Any) -> ProxyValue[Any]:
        pairs = ExportPass.call_operator(self, aten.view.default, (value, [-1, 2]), {}, meta)
        total = ExportPass.call_operator(self, aten.sum.default, (pairs,), {}, meta)
        return ExportPass.call_operator(self, aten.add.Tensor, (value, total), {}, meta)


class Approximates(ExportPass):
    """The README's pass."""

    def call_operator(self, op: Any, args: Any, kwargs: Any, meta: Any) -> ProxyValue[Any]:
        changed = {**kwargs, "approximate": "tanh"} if op is aten.gelu.default else kwargs
        return super().call_operator(op, args, changed, meta)


_DIMS = {"max": lambda: Dim("batch", max=64), "min-1": lambda: Dim("batch", min=1, max=64), "dynamic": lambda: Dim.DYNAMIC}


def _sent(module: nn.Module, dim: Any, tmp_path: Path) -> ExportedProgram:
    """A program as a server has it: read from an archive."""
    return read_bytes(saved(export(module, torch.randn(4, 3), dynamic_shapes=({0: dim},))), tmp_path).program


def _pipeline_id(pipeline: Any) -> str:
    return pipeline if isinstance(pipeline, str) else ",".join(type(step).__name__ for step in pipeline)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("pipeline", [[Approximates()], "decompose", "decompose{table=aten},cse,dce"], ids=_pipeline_id)
@pytest.mark.parametrize("dim", _DIMS.values(), ids=_DIMS)
def test_what_export_presumes_of_a_size_is_no_new_guard(
    dim: Callable[[], Any], pipeline: Any, mode: str, tmp_path: Path
) -> None:
    result = run_pipeline(_sent(Block(), dim(), tmp_path), pipeline, mode=mode, refuse_new_guards=True)
    assert result.modified
    assert [(report.new_guards, report.remarks) for report in result.reports] == [((), ())] * len(result.reports)
    # Nothing that the result says keeps a batch of one out, and torch runs it.
    assert result.program.module()(torch.randn(1, 3)).shape == (1, 3)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("rewrite", [NeedsFour, NeedsEven])
def test_pass_that_narrows_is_refused_with_the_node_and_its_source_line(
    rewrite: type[ExportPass], mode: str, tmp_path: Path
) -> None:
    class Odd(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.gelu(x)

    program = _sent(Odd(), Dim("batch", max=64), tmp_path)
    (report,) = run_pipeline(program, [rewrite()], mode=mode).reports
    assert report.new_guards
    assert all(guard.startswith(("Eq(", "Ne(")) for guard in report.new_guards)
    where = f"at node 'gelu' (aten.gelu.default), from {__file__}:{Odd.forward.__code__.co_firstlineno + 1}"
    assert all(guard.endswith(where) for guard in report.new_guards)
    with pytest.raises(RetracedError, match="new nodes add guards, which are refused") as failure:
        run_pipeline(_sent(Odd(), Dim("batch", max=64), tmp_path), [rewrite()], mode=mode, refuse_new_guards=True)
    assert failure.value.reason is Reason.NEW_GUARDS
    assert where in failure.value.message


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("pipeline", [[NeedsEven()], "decompose"], ids=_pipeline_id)
def test_what_the_programs_own_nodes_need_is_no_new_guard(pipeline: Any, mode: str, tmp_path: Path) -> None:
    # In a file such guards are code, which is never evaluated.
    program = _sent(Pairs(), Dim.DYNAMIC, tmp_path)
    assert program._guards_code
    result = run_pipeline(program, pipeline, mode=mode, refuse_new_guards=True)
    assert result.modified
    assert result.program._guards_code == program._guards_code


def test_node_in_a_subgraph_is_named_with_its_graph_and_the_node_after_it_as_itself(tmp_path: Path) -> None:
    class Branches(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            inner = torch.cond(x.sum() > 0, lambda v: nn.functional.gelu(v), lambda v: v.cos(), (x,))
            return inner.sin()

    class NeedsFourAfterwards(NeedsFour):
        def call_operator(self, op: Any, args: Any, kwargs: Any, meta: Any) -> ProxyValue[Any]:
            value = ExportPass.call_operator(self, op, args, kwargs, meta)
            return self.beside(value, meta) if op is aten.sin.default else value

    program = _sent(Branches(), Dim("batch", max=64), tmp_path)
    (report,) = run_pipeline(program, [NeedsFour()]).reports
    assert "at node 'gelu' of graph 'true_graph_0' (aten.gelu.default), from " in report.new_guards[0]
    program = _sent(Branches(), Dim("batch", max=64), tmp_path)
    (report,) = run_pipeline(program, [NeedsFourAfterwards()]).reports
    assert "at node 'sin' (aten.sin.default), from " in report.new_guards[0]


def _gelu_of_four_rows(x: torch.Tensor, approximate: str = "none") -> torch.Tensor:
    return x + torch.zeros(4, x.shape[1])


@pytest.fixture
def _four_rows() -> Iterator[None]:
    with registered_table("four-rows", aten.gelu.default, _gelu_of_four_rows):
        yield


@pytest.mark.usefixtures("_four_rows")
def test_decomposition_that_narrows_is_refused_as_any_pass(tmp_path: Path) -> None:
    program = _sent(Block(), Dim("batch", max=64), tmp_path)
    (report,) = run_pipeline(program, "decompose{table=four-rows}").reports
    assert len(report.new_guards) == 1
    assert report.new_guards[0].startswith("Eq(s77, 4) at node 'gelu' (aten.gelu.default), from ")
    assert report.remarks == ()
    with pytest.raises(RetracedError, match="which are refused: Eq") as failure:
        run_pipeline(_sent(Block(), Dim("batch", max=64), tmp_path), "decompose{table=four-rows}", refuse_new_guards=True)
    assert failure.value.reason is Reason.NEW_GUARDS
