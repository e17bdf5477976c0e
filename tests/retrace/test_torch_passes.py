"""Passes written for torch's own base class run on ours by changing their imports, and do the same."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import fx, nn
from torch._export.passes.functionalize_side_effectful_ops_pass import _FunctionalizeSideEffectfulOpsPass as TorchFunctionalize
from torch._export.passes.replace_view_ops_with_view_copy_ops_pass import ReplaceViewOpsWithViewCopyOpsPass as TorchViewCopy
from torch.export import Dim, ExportedProgram

from retraced_server.passes import run_pipeline
from retraced_server.retrace import ExportPass
from tests.support.case import ProgramCase
from tests.support.compare import (
    assert_same_results,
    assert_shape_env_unchanged,
    loaded,
    shape_env_snapshot,
    validate,
)
from tests.support.models import by_name
from tests.support.passes import (
    EXECUTORCH_STYLE,
    TorchExportPass,
    canonical,
    run_torch_pass,
    with_imports_changed,
)

_PASSES = "torch._export.passes"
ViewCopy = with_imports_changed(f"{_PASSES}.replace_view_ops_with_view_copy_ops_pass").ReplaceViewOpsWithViewCopyOpsPass
Functionalize = with_imports_changed(f"{_PASSES}.functionalize_side_effectful_ops_pass")._FunctionalizeSideEffectfulOpsPass

_DECOMPOSED = ("bert", "llama", "vit", "residual_net", "everything_functional", "in_place_functional")


@functools.cache
def _for_torch(case: ProgramCase, decomposed: bool) -> ExportedProgram:
    # Torch's engine leaves symbols behind in the shape environment, so it never gets the shared program. Reading it again is cheaper than
    # exporting it again; of a decomposed one torch's reader leaves out sizes that nothing reads.
    return case.build().run_decompositions() if decomposed else loaded(case.archive)


def _assert_same_as_torch(case: ProgramCase, ours: type, stock: type, *, decomposed: bool = False) -> ExportedProgram:
    program = case.decomposed if decomposed else case.program
    result = run_pipeline(program, [ours()])
    expected = run_torch_pass(_for_torch(case, decomposed), stock)
    assert canonical(result.program.graph_module) == canonical(expected.graph_module)
    validate(result.program)
    assert_same_results(expected, result.program, case.inputs())
    return result.program


@pytest.mark.parametrize("name", _DECOMPOSED)
def test_view_copy_pass_does_what_it_does_on_torchs_base(name: str) -> None:
    program = _assert_same_as_torch(by_name(name), ViewCopy, TorchViewCopy, decomposed=True)
    targets = {str(node.target) for node in program.graph.nodes}
    assert not targets & {"aten.view.default", "aten.permute.default", "aten.expand.default", "aten.slice.Tensor"}


def test_view_copy_pass_leaves_the_input_program_alone() -> None:
    program = by_name("llama").decomposed
    env_before = shape_env_snapshot(program)
    assert run_pipeline(program, [ViewCopy()]).modified
    assert_shape_env_unchanged(env_before, program)


class _Checked(nn.Module):
    def forward(self, x: torch.Tensor, n: torch.Tensor) -> torch.Tensor:
        size = n.item()
        torch.ops.aten.sym_constrain_range.default(size, min=2, max=5)
        torch.ops.aten._assert_async.msg(x.sum() > -1e9, "too small")
        return x.add(3) * size


def _checked() -> ExportedProgram:
    return torch.export.export(
        _Checked(), (torch.randn(4, 8), torch.tensor(3)), dynamic_shapes=({0: Dim("batch", min=2)}, None)
    )


def _on_torchs_base() -> fx.GraphModule:
    result = TorchFunctionalize()(_checked().graph_module)
    assert result is not None
    return result.graph_module


def test_functionalizing_pass_does_what_it_does_on_torchs_base() -> None:
    program = _checked()
    ours = Functionalize()(program.graph_module)
    stock = _on_torchs_base()
    assert ours.modified
    targets = [str(node.target) for node in ours.graph_module.graph.nodes]
    assert "aten._functional_assert_async.msg" in targets
    assert canonical(ours.graph_module) == canonical(stock)
    assert [n.name for n in ours.graph_module.graph.nodes if n.name.startswith("dep_token")] == [
        n.name for n in stock.graph.nodes if n.name.startswith("dep_token")
    ]


def test_functionalizing_pass_computes_the_same_on_both_bases() -> None:
    ours = Functionalize()(_checked().graph_module).graph_module
    stock = _on_torchs_base()
    args = (torch.randn(6, 8), torch.tensor(4))
    # The last output is the token, a tensor without a value.
    (result, _), (expected, _) = ours(*args), stock(*args)
    torch.testing.assert_close(result, expected)


def test_functionalizing_pass_without_anything_to_do_changes_nothing() -> None:
    module = by_name("bert").program.graph_module
    result = Functionalize()(module)
    assert result.graph_module is module
    assert not result.modified


@pytest.mark.parametrize("style", EXECUTORCH_STYLE)
@pytest.mark.parametrize("name", ["bert", "gpt2", "llama", "vit", "residual_net", "cond", "symbolic_scalars", "containers"])
def test_executorch_style_pass_does_what_it_does_on_torchs_base(style: str, name: str) -> None:
    make = EXECUTORCH_STYLE[style]
    # Torch's engine does not look into the subgraph of wrap_with_set_grad_enabled; decomposing inlines it.
    _assert_same_as_torch(by_name(name), make(ExportPass), make(TorchExportPass), decomposed=name == "llama")
