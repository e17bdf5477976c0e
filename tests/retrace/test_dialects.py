"""Operators that wrap torch's, as those of ExecuTorch's edge dialect do, are retraced as what they wrap."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from torch import fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from retraced_server.passes.registry import catalogue, create_pass
from retraced_server.passes.view_to_view_copy import ViewToViewCopy
from retraced_server.pipeline.parse import parse_pipeline
from retraced_server.retrace import ExportPass, NodeMetadata, PassError, PassResult, ProxyValue
from retraced_server.retrace.pass_context import PassContext, RetraceMode
from tests.passes.support import export as export_function
from tests.support.case import ProgramCase
from tests.support.compare import assert_shape_env_unchanged, shape_env_snapshot
from tests.support.dialect import DialectOperator, in_dialect, module_in_dialect, pass_in_dialect
from tests.support.examples import examples
from tests.support.models import by_name
from tests.support.passes import EXECUTORCH_STYLE, canonical
from tests.support.random_rewrites import DrawnPass, export, programs, rewrites

aten = torch.ops.aten


def test_unchanging_pass_returns_the_graph_module_it_was_given(any_case: ProgramCase, mode: RetraceMode) -> None:
    env_before = shape_env_snapshot(any_case.program)
    module = module_in_dialect(any_case.program.graph_module)
    with PassContext(mode):
        assert ExportPass()(module).graph_module is module
    assert_shape_env_unchanged(env_before, any_case.program)


@pytest.mark.parametrize("style", EXECUTORCH_STYLE)
@pytest.mark.parametrize("name", ["gpt2", "residual_net", "cond", "symbolic_scalars"])
def test_pass_does_what_it_does_on_the_operators_that_are_wrapped(style: str, name: str, mode: RetraceMode) -> None:
    pass_type = EXECUTORCH_STYLE[style](ExportPass)
    with PassContext(mode):
        expected = pass_type()(by_name(name).program.graph_module)
        result = pass_in_dialect(pass_type)()(module_in_dialect(by_name(name).program.graph_module))
    assert result.modified is expected.modified
    assert canonical(result.graph_module) == canonical(module_in_dialect(expected.graph_module))


@pytest.mark.slow
@settings(deadline=None, max_examples=examples(8), suppress_health_check=[HealthCheck.too_slow])
@given(steps=programs, drawn=rewrites)
@example(steps=[("number in place", 0, 1)], drawn=["drop"] * 12)
@example(steps=[("sizes in place", 0, 1)], drawn=["keep", "copy result", "keep", "copy argument"])
@example(steps=[("in place", 0, 1), ("view", 2, 0)], drawn=["keep", "keep", "copy result", "view result"])
@example(steps=[("item again", 0, 1)], drawn=["keep"] * 4 + ["write to argument"])
def test_views_writes_and_symbols_are_those_of_the_operators_that_are_wrapped(
    steps: Sequence[tuple[str, int, int]], drawn: Sequence[str]
) -> None:
    plain, wrapped = DrawnPass(drawn), pass_in_dialect(DrawnPass)(drawn)
    with PassContext() as of_plain:
        expected = _run(plain, export(steps).graph_module)
    with PassContext() as of_wrapped:
        result = _run(wrapped, module_in_dialect(export(steps).graph_module))
    if isinstance(expected, str) or isinstance(result, str):
        assert result == expected
        return
    assert result.modified is expected.modified
    assert canonical(result.graph_module) == canonical(module_in_dialect(expected.graph_module))
    assert of_wrapped.new_guards == of_plain.new_guards


def _run(instance: ExportPass, module: fx.GraphModule) -> PassResult | str:
    """Returns what a pass made, or the name of the node at which it failed."""
    try:
        return instance(module)
    except PassError as error:
        return str(error.node)


@pytest.mark.parametrize("text", ["dce", "cse,dce"])
def test_built_in_passes_do_what_they_do_on_the_operators_that_are_wrapped(any_case: ProgramCase, text: str) -> None:
    module = expected = any_case.program.graph_module
    wrapped = module_in_dialect(module)
    for call in parse_pipeline(text, catalogue()).passes:
        expected, wrapped = (create_pass(call)(each).graph_module for each in (expected, wrapped))  # type: ignore[operator, union-attr]
        assert canonical(wrapped) == canonical(module_in_dialect(expected)), call.info.name


@pytest.mark.parametrize("call", [lambda x: x.permute(1, 0).sin(), lambda x: aten._unsafe_view.default(x, [6]).sin()])
def test_view_that_a_dialect_wraps_is_refused_and_named(call: Any) -> None:
    module = module_in_dialect(export_function(call, torch.randn(2, 3)).graph_module)
    with pytest.raises(
        PassError, match="is called as an operator of a dialect, and may return a view; run this pass before"
    ) as caught:
        ViewToViewCopy()(module)
    assert caught.value.node in ("permute", "_unsafe_view")


def test_operators_that_copy_stay_as_a_dialect_wraps_them() -> None:
    copying = ViewToViewCopy()(export_function(lambda x: x.permute(1, 0).sin(), torch.randn(2, 3)).graph_module).graph_module
    module = module_in_dialect(copying)
    assert ViewToViewCopy()(module).graph_module is module


def test_new_node_is_named_after_the_dialects_operator() -> None:
    module = module_in_dialect(by_name("gpt2").build().graph_module)
    result = pass_in_dialect(EXECUTORCH_STYLE["linear_to_mm"](ExportPass))()(module)
    made = [node for node in result.graph_module.graph.nodes if getattr(node.target, "__name__", "") == "aten.t.default"]
    assert made
    assert all(isinstance(node.target, DialectOperator) and node.name.startswith("aten_t_default") for node in made)


def alloc(spec: tuple[tuple[int, ...], torch.dtype]) -> torch.Tensor:
    """Stands for `executorch.exir.memory.alloc`."""
    return torch.empty(spec[0], dtype=spec[1])


alloc.__module__ = "executorch.exir.memory"


def _with_out_variant() -> fx.GraphModule:
    """A graph as ExecuTorch's ToOutVarPass leaves it: operators write to memory that is allocated before."""
    graph, mode = fx.Graph(), FakeTensorMode()
    x = graph.placeholder("x")
    out = graph.call_function(alloc, (((2, 3), torch.float32),))
    added = graph.call_function(aten.add.out, (x, 1), {"out": out})
    graph.output((added,))
    with mode:
        x.meta["val"] = torch.empty(2, 3)
        out.meta["val"] = alloc(((2, 3), torch.float32))
    added.meta["val"] = out.meta["val"]
    return fx.GraphModule(nn.Module(), graph)


def test_allocated_memory_is_carried_as_it_is() -> None:
    module = _with_out_variant()
    assert ExportPass()(module).graph_module is module


def test_operators_that_write_to_allocated_memory_can_be_replaced() -> None:
    class AddToSub(ExportPass):
        def call_operator(self, op: Any, args: Any, kwargs: Any, meta: NodeMetadata) -> ProxyValue[Any]:
            return super().call_operator(aten.sub.out if op is aten.add.out else op, args, kwargs, meta)

    result = AddToSub()(_with_out_variant())
    assert result.modified
    assert [node.target for node in result.graph_module.graph.nodes][1:3] == [alloc, aten.sub.out]
    torch.testing.assert_close(result.graph_module(torch.ones(2, 3)), (torch.zeros(2, 3),))


class _AddsSizes(ExportPass):
    """Adds the sizes of what relu is given to its result, as operators of the edge dialect."""

    def call_operator(self, op: Any, args: Any, kwargs: Any, meta: NodeMetadata) -> Any:
        result = super().call_operator(op, args, kwargs, meta)
        if op is aten.relu.default:
            for size in self.call_size_operator_all(args[0], meta, edge_dialect=True):
                result = super().call_operator(aten.add.Scalar, (result, size), {}, meta)
        return result


def test_size_in_the_edge_dialect_needs_executorch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "executorch", None)
    with pytest.raises(PassError, match="the edge dialect needs executorch"):
        _AddsSizes()(by_name("unused_input").build().graph_module)


def test_size_in_the_edge_dialect_is_a_call_of_its_operator(monkeypatch: pytest.MonkeyPatch) -> None:
    operators = ModuleType("executorch.exir.dialects._ops")
    edge = SimpleNamespace(aten=SimpleNamespace(sym_size=SimpleNamespace(int=in_dialect(aten.sym_size.int))))
    operators.ops = SimpleNamespace(edge=edge)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, operators.__name__, operators)
    result = _AddsSizes()(by_name("unused_input").build().graph_module)
    assert in_dialect(aten.sym_size.int) in {node.target for node in result.graph_module.graph.nodes}
