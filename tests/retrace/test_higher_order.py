"""Bodies of higher-order operators are visited once each, whoever calls them, and keep names and metadata."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch import fx

from retraced_server.passes import run_pipeline
from retraced_server.retrace import ExportPass, PassResult, ProxyValue, pass_context
from tests.support.case import ProgramCase
from tests.support.compare import assert_equivalent
from tests.support.describe import describe, graphs
from tests.support.models import by_name
from tests.support.passes import ReluToClamp, ReluTwice, TorchExportPass, canonical

aten = torch.ops.aten


class CountsGraphs(ReluTwice):
    """Notes each graph that it visits, and rewrites relus."""

    def __init__(self) -> None:
        super().__init__()
        self.paths: list[str] = []

    def placeholder(self, name: str, arg: Any, meta: Any) -> ProxyValue[Any]:
        self.paths.append(pass_context().graph_path)
        return super().placeholder(name, arg, meta)


@pytest.mark.parametrize("pass_type", [ReluTwice, ReluToClamp])
def test_rewrites_reach_every_subgraph(higher_order_case: ProgramCase, pass_type: type[ExportPass]) -> None:
    result = run_pipeline(higher_order_case.program, [pass_type()])
    relus = [
        (path, node.name)
        for path, graph in graphs(higher_order_case.program.graph_module)
        for node in graph.graph.nodes
        if node.target is aten.relu.default
    ]
    assert result.modified is bool(relus)
    for _, graph in graphs(result.program.graph_module):
        assert not [node for node in graph.graph.nodes if node.target is aten.relu.default]
    assert_equivalent(higher_order_case, result.program)


def test_each_subgraph_is_visited_once(higher_order_case: ProgramCase) -> None:
    counting = CountsGraphs()
    counting(higher_order_case.program.graph_module)
    inputs = {
        path: sum(1 for node in graph.graph.nodes if node.op == "placeholder")
        for path, graph in graphs(higher_order_case.program.graph_module)
    }
    assert Counter(counting.paths) == Counter({path: count for path, count in inputs.items() if count})


def test_subgraphs_keep_their_names_and_metadata(higher_order_case: ProgramCase) -> None:
    program = run_pipeline(higher_order_case.program, [ReluTwice()]).program
    before, after = dict(graphs(higher_order_case.program.graph_module)), dict(graphs(program.graph_module))
    assert list(after) == list(before)
    for path, graph in before.items():
        assert describe(after[path].meta) == describe(graph.meta), path
        kept = {node.name: node for node in after[path].graph.nodes}
        for node in graph.graph.nodes:
            if node.target is not aten.relu.default and node.name in kept:
                assert kept[node.name].target == node.target or node.op == "get_attr"
                assert describe(kept[node.name].meta.get("nn_module_stack")) == describe(node.meta.get("nn_module_stack"))


def test_subgraph_that_a_pass_does_not_change_stays_the_same_object() -> None:
    class RewritesNegation(ExportPass):
        def call_operator(self, op: Any, args: Any, kwargs: Any, meta: Any) -> ProxyValue[Any]:
            if op is aten.neg.default:
                return super().call_operator(aten.mul.Tensor, (args[0], -1), {}, meta)
            return super().call_operator(op, args, kwargs, meta)

    case = by_name("cond")
    program = run_pipeline(case.program, [RewritesNegation()]).program
    assert program.graph_module.true_graph_0 is case.program.graph_module.true_graph_0
    assert program.graph_module.false_graph_0 is not case.program.graph_module.false_graph_0
    assert_equivalent(case, program)


def test_subgraph_with_several_callers_stays_one_subgraph() -> None:
    case = by_name("invoke_subgraph")
    program = run_pipeline(case.program, [ReluTwice()]).program
    subgraphs = [name for name, child in program.graph_module.named_children() if isinstance(child, fx.GraphModule)]
    assert subgraphs == [n for n, child in case.program.graph_module.named_children() if isinstance(child, fx.GraphModule)]
    assert len({id(getattr(program.graph_module, name)) for name in subgraphs}) == len(
        {id(getattr(case.program.graph_module, name)) for name in subgraphs}
    )


@pytest.mark.parametrize("mode", ["incremental", "full"])
def test_subgraph_is_given_operands_of_other_strides(mode: str) -> None:
    class Model(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> Any:
            return torch.cond(x.sum() > 0, lambda x: x.relu() + 1, lambda x: x.cos() + 1, (x.sin(),))

    class StoresColumnsFirst(ExportPass):
        def call_operator(self, op: Any, args: Any, kwargs: Any, meta: Any) -> ProxyValue[Any]:
            call = super().call_operator
            result = call(op, args, kwargs, meta)
            if op is not aten.sin.default:
                return result
            columns = call(
                aten.clone.default,
                (call(aten.t.default, (result,), {}, meta),),
                {"memory_format": torch.contiguous_format},
                meta,
            )
            return call(aten.t.default, (columns,), {}, meta)

    program = torch.export.export(Model(), (torch.randn(5, 4),))
    subgraph = run_pipeline(program, [StoresColumnsFirst()], mode=mode).program.graph_module.true_graph_0
    assert [node.meta["val"].stride() for node in subgraph.graph.nodes if node.op != "output"] == [(1, 5)] * 3


def test_subgraph_that_two_graphs_call_keeps_its_name_in_both() -> None:
    class Model(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> Any:
            return torch.cond(x.sum() > 0, lambda x: self._inner(x, 1), lambda x: self._inner(x, 2), (x,))

        def _inner(self, x: torch.Tensor, limit: int) -> Any:
            return torch.cond(x.sum() > limit, lambda x: x.relu() + 1, lambda x: x.cos(), (x,))

    module = torch.export.export(Model(), (torch.randn(5, 4),)).graph_module
    module.false_graph_0.true_graph_0 = module.true_graph_0.true_graph_0
    new = ReluTwice()(module).graph_module
    assert [name for name, _ in new.named_modules(remove_duplicate=False)] == [
        name for name, _ in module.named_modules(remove_duplicate=False)
    ]
    assert new.false_graph_0.true_graph_0 is new.true_graph_0.true_graph_0


def test_subgraph_whose_operator_a_pass_drops_is_gone() -> None:
    class TakesTrueBranch(ExportPass):
        """Inlines the true branch by hand."""

        def call_cond(self, pred: Any, true_fn: Any, false_fn: Any, inputs: Any, meta: Any) -> Any:
            doubled = self.call_operator(aten.add.Tensor, (inputs[0], inputs[0]), {}, meta)
            return (self.call_operator(aten.neg.default, (doubled,), {}, meta),)

    module = TakesTrueBranch()(by_name("cond").program.graph_module).graph_module
    assert not [child for child in module.modules() if isinstance(child, fx.GraphModule) and child is not module]
    assert not [node for node in module.graph.nodes if node.op == "get_attr"]


def test_pass_may_give_an_operator_a_subgraph_of_its_own() -> None:
    class TakesOneBranch(ExportPass):
        def call_cond(self, pred: Any, true_fn: Any, false_fn: Any, inputs: Any, meta: Any) -> ProxyValue[Any]:
            return super().call_cond(pred, false_fn, false_fn, inputs, meta)

    case = by_name("cond")
    program = run_pipeline(case.program, [TakesOneBranch()]).program
    program.validate()
    expected = case.program.module()
    (negative,) = [args for args, _ in case.inputs() if args[0].sum() < 0]
    torch.testing.assert_close(program.module()(*negative), expected(*negative))
    positive = case.inputs()[0][0]
    torch.testing.assert_close(program.module()(*positive), (positive[0].relu() - 0.5).relu().neg())


@pytest.mark.parametrize("name", ["cond", "map"])
def test_subgraphs_are_rewritten_as_on_torchs_base(name: str) -> None:
    def relu_to_clamp(base: type) -> Any:
        class Rewrites(base):  # type: ignore[misc]
            def call_operator(self, op: Any, args: Any, kwargs: Any, meta: Any) -> Any:
                op, args = (aten.clamp_min.default, (args[0], 0)) if op is aten.relu.default else (op, args)
                return super().call_operator(op, args, kwargs, meta)

        return Rewrites()

    ours: PassResult = relu_to_clamp(ExportPass)(by_name(name).program.graph_module)
    stock = relu_to_clamp(TorchExportPass)(by_name(name).build().graph_module)
    subgraphs = zip(graphs(ours.graph_module), graphs(stock.graph_module), strict=True)
    next(subgraphs)
    for (_, mine), (_, theirs) in subgraphs:
        assert canonical(mine) == canonical(theirs)


def test_operands_that_a_pass_changed_reach_the_subgraph_as_they_are() -> None:
    class Halves(ExportPass):
        """Gives the branches of a cond operands of another dtype, and casts what they return."""

        def call_cond(self, pred: Any, true_fn: Any, false_fn: Any, inputs: Any, meta: Any) -> ProxyValue[Any]:
            doubles = [self.call_operator(aten.to.dtype, (value, torch.float64), {}, meta) for value in inputs]
            return super().call_cond(pred, true_fn, false_fn, tuple(doubles), meta)

        def call_getitem(self, value: Any, key: int, meta: Any) -> ProxyValue[Any]:
            item = super().call_getitem(value, key, meta)
            return self.call_operator(aten.to.dtype, (item, torch.float32), {}, meta)

    case = by_name("cond")
    program = run_pipeline(case.program, [Halves()]).program
    for name in ("true_graph_0", "false_graph_0"):
        for node in getattr(program.graph_module, name).graph.nodes:
            assert node.op == "output" or node.meta["val"].dtype is torch.float64
    assert_equivalent(case, program)
