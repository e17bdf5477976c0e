"""Every hook is called where torch's class calls it, in every subgraph too, and what it returns is what the program gets."""

from __future__ import annotations

import operator
from collections import Counter
from typing import Any

import pytest
import torch
from torch import fx

from retraced_server.passes import run_pipeline
from retraced_server.retrace import ExportPass, PassContext, PassResult, ProxyValue, pass_context
from tests.support.case import ProgramCase
from tests.support.compare import assert_equivalent
from tests.support.describe import graphs
from tests.support.models import by_name
from tests.support.passes import ReluToClamp, TorchExportPass

aten, higher_order = torch.ops.aten, torch.ops.higher_order

_SHARED_HOOKS = ("placeholder", "call_operator", "call_sym", "call_cond", "call_map", "call_getitem", "output")
_HOOKS = (*_SHARED_HOOKS, "call_while", "call_scan", "call_higher_order")


def recorder(base: type, hooks: tuple[str, ...]) -> type:
    """A pass on either engine that notes which hook it was called at, with what, and hands on."""

    def relayed(name: str) -> Any:
        def hook(self: Any, *args: Any, **kwargs: Any) -> Any:
            self.calls.append((name, args[0] if name in ("placeholder", "call_operator", "call_sym") else None))
            if base is ExportPass:
                context = pass_context()
                assert context.node is not None
                self.visits.append((context.graph_path, context.node.name, name))
            return getattr(base, name)(self, *args, **kwargs)

        return hook

    def begin(self: Any) -> None:
        base.__init__(self)  # type: ignore[misc]
        self.calls, self.visits = [], []

    return type("Recorder", (base,), {"__init__": begin, **{name: relayed(name) for name in hooks}})


def _hook_of(node: fx.Node) -> str | None:
    special = {
        operator.getitem: "call_getitem",
        higher_order.cond: "call_cond",
        higher_order.map_impl: "call_map",
        higher_order.while_loop: "call_while",
        higher_order.scan: "call_scan",
    }
    if node.op != "call_function":
        return None if node.op == "get_attr" else node.op
    if node.target in special:
        return special[node.target]
    if isinstance(node.target, torch._ops.OpOverload):
        return "call_operator"
    return "call_higher_order" if isinstance(node.target, torch._ops.HigherOrderOperator) else "call_sym"


def test_each_node_of_each_graph_is_given_to_its_hook_once(any_case: ProgramCase) -> None:
    module = any_case.program.graph_module
    recording = recorder(ExportPass, _HOOKS)()
    assert recording(module).graph_module is module
    expected = [
        (path, node.name, hook) for path, graph in graphs(module) for node in graph.graph.nodes if (hook := _hook_of(node))
    ]
    assert Counter(recording.visits) == Counter(expected)


@pytest.mark.parametrize("name", ["everything_functional", "cond", "map", "symbolic_scalars", "multiple_results", "containers"])
def test_hooks_are_called_as_on_torchs_base(name: str) -> None:
    ours, stock = recorder(ExportPass, _SHARED_HOOKS)(), recorder(TorchExportPass, _SHARED_HOOKS)()
    ours(by_name(name).program.graph_module)
    stock(by_name(name).build().graph_module)
    assert ours.calls == stock.calls


class Negates(ExportPass):
    """Swaps the branches of a cond and negates what it asks."""

    def call_cond(self, pred: Any, true_fn: Any, false_fn: Any, inputs: Any, meta: Any) -> ProxyValue[Any]:
        if isinstance(pred.data, torch.SymBool):
            negated = self.call_sym(torch.sym_not, (pred,), meta)
        else:
            negated = self.call_operator(aten.logical_not.default, (pred,), {}, meta)
        return super().call_cond(negated, false_fn, true_fn, inputs, meta)


class HalvesAndDoubles(ExportPass):
    """Maps over what is twice the input."""

    def call_map(self, f: Any, mapped_args: Any, operands: Any, meta: Any) -> ProxyValue[Any]:
        halves = [self.call_operator(aten.div.Tensor, (argument, 2), {}, meta) for argument in mapped_args]
        doubled = [self.call_operator(aten.mul.Tensor, (half, 2), {}, meta) for half in halves]
        return super().call_map(f, doubled, operands, meta)


class ClonesCarried(ExportPass):
    """Gives loops and scans copies of what they begin with."""

    def call_while(self, cond_fn: Any, body_fn: Any, carried_inputs: Any, additional_inputs: Any, meta: Any) -> ProxyValue[Any]:
        return super().call_while(cond_fn, body_fn, self._clones(carried_inputs, meta), additional_inputs, meta)

    def call_scan(self, combine_fn: Any, init: Any, xs: Any, additional_inputs: Any, meta: Any) -> ProxyValue[Any]:
        return super().call_scan(combine_fn, self._clones(init, meta), xs, additional_inputs, meta)

    def _clones(self, values: Any, meta: Any) -> Any:
        return type(values)(self.call_operator(aten.clone.default, (value,), {}, meta) for value in values)


class ClonesOperands(ExportPass):
    """Gives the subgraphs of all other operators copies of their operands."""

    def call_higher_order(self, op: Any, args: Any, kwargs: Any, meta: Any) -> ProxyValue[Any]:
        def cloned(value: Any) -> Any:
            if isinstance(value, ProxyValue) and value.is_tensor():
                return self.call_operator(aten.clone.default, (value,), {}, meta)
            return value

        return super().call_higher_order(op, tuple(cloned(value) for value in args), kwargs, meta)


class DoublesBySum(ExportPass):
    """Writes twice a symbolic number as a sum."""

    def call_sym(self, target: Any, args: Any, meta: Any) -> ProxyValue[Any]:
        if target is operator.mul and args[1] == 2:
            return super().call_sym(operator.add, (args[0], args[0]), meta)
        return super().call_sym(target, args, meta)


class SplitsByHand(ExportPass):
    """Returns a tuple of slices for a split, whose items the getitems that follow are then given."""

    def call_operator(self, op: Any, args: Any, kwargs: Any, meta: Any) -> Any:
        if op is not aten.split_with_sizes.default:
            return super().call_operator(op, args, kwargs, meta)
        x, (head, tail) = args
        narrowed = super().call_operator(aten.narrow.default, (x, 0, 0, head), {}, meta)
        return narrowed, super().call_operator(aten.narrow.default, (x, 0, head, tail), {}, meta)


class ClonesOutputs(ExportPass):
    """Copies every floating-point output, in subgraphs too."""

    def output(self, results: Any, meta: Any) -> ProxyValue[Any]:
        def copied(value: Any) -> Any:
            if isinstance(value, ProxyValue) and value.is_tensor() and value.data.is_floating_point():
                return self.call_operator(aten.clone.default, (value,), {}, self._create_dummy_node_metadata())
            return value

        several = isinstance(results, (tuple, list))
        return super().output(type(results)(map(copied, results)) if several else copied(results), meta)


@pytest.mark.parametrize(
    ("pass_type", "name", "new"),
    [
        (Negates, "cond", "logical_not"),
        (Negates, "cond_on_symbol", "sym_not"),
        (Negates, "nested", "logical_not"),
        (HalvesAndDoubles, "map", "div"),
        (ClonesCarried, "while_loop", "clone"),
        (ClonesCarried, "nested_functional", "clone"),
        (ClonesCarried, "scan", "clone"),
        (ClonesOperands, "set_grad", "clone"),
        (ClonesOperands, "autocast", "clone"),
        (ClonesOperands, "invoke_subgraph", "clone"),
        (DoublesBySum, "symbolic_scalars", "add"),
        (SplitsByHand, "multiple_results", "narrow"),
        (ClonesOutputs, "cond", "clone"),
        (ClonesOutputs, "while_loop", "clone"),
        (ClonesOutputs, "map", "clone"),
        (ClonesOutputs, "scan", "clone"),
        (ClonesOutputs, "set_grad", "clone"),
        (ClonesOutputs, "containers", "clone"),
    ],
)
def test_rewriting_in_a_hook(pass_type: type[ExportPass], name: str, new: str) -> None:
    case = by_name(name)
    result = run_pipeline(case.program, [pass_type()])
    assert result.modified
    assert result.reports[0].rewrites > 0
    made = {str(node.target) for _, graph in graphs(result.program.graph_module) for node in graph.graph.nodes}
    assert any(new in target for target in made)
    assert_equivalent(case, result.program)


def test_submodule_hook_may_leave_a_subgraph_unvisited() -> None:
    case = by_name("cond")

    class SkipsSubgraphs(ReluToClamp):
        def call_submodule(self, graph_module: fx.GraphModule, inputs: tuple[Any, ...]) -> PassResult:
            if graph_module is not case.program.graph_module:
                return PassResult(graph_module, False)
            return super().call_submodule(graph_module, inputs)

    program = run_pipeline(case.program, [SkipsSubgraphs()]).program
    assert program.graph_module.true_graph_0 is case.program.graph_module.true_graph_0
    assert_equivalent(case, program)


def test_name_path_and_progress_of_the_visit_are_known_to_hooks() -> None:
    seen: list[tuple[str, str | None]] = []
    progress: list[int] = []

    class Looks(ExportPass):
        def call_operator(self, op: Any, args: Any, kwargs: Any, meta: Any) -> ProxyValue[Any]:
            seen.append((pass_context().graph_path, self.node_debug_str))
            return super().call_operator(op, args, kwargs, meta)

    looking = Looks()
    assert looking.node_debug_str is None
    module = by_name("cond").program.graph_module
    with PassContext(on_progress=progress.append):
        looking(module)
    assert {path for path, _ in seen} == {"", "true_graph_0", "false_graph_0"}
    assert all(text is not None and text.startswith("%") for _, text in seen)
    assert progress == list(range(1, sum(len(graph.graph.nodes) for _, graph in graphs(module)) + 1))


def test_requires_and_ensures_are_called_with_the_module_that_was_given() -> None:
    calls: list[tuple[str, fx.GraphModule]] = []

    class Checked(ExportPass):
        def requires(self, graph_module: fx.GraphModule) -> None:
            calls.append(("requires", graph_module))

        def ensures(self, graph_module: fx.GraphModule) -> None:
            calls.append(("ensures", graph_module))

    module = by_name("cond").program.graph_module
    Checked()(module)
    assert calls == [("requires", module), ("ensures", module)]


def test_attribute_hook_hears_of_each_attribute_once() -> None:
    constant = torch.tensor(2.0)
    heard: list[ProxyValue[Any]] = []

    class AddsConstant(ExportPass):
        def on_attr(self, attr: ProxyValue[Any]) -> None:
            heard.append(attr)

        def call_operator(self, op: Any, args: Any, kwargs: Any, meta: Any) -> ProxyValue[Any]:
            if op is aten.relu.default:
                return super().call_operator(aten.mul.Tensor, (args[0], constant), {}, meta)
            return super().call_operator(op, args, kwargs, meta)

    module = by_name("cond").program.graph_module
    AddsConstant()(module)
    # Two relus in the root graph and one in each branch: one attribute for each of the three graphs.
    assert [attr.data for attr in heard] == [constant] * 3
    assert all(attr.node.op == "get_attr" for attr in heard)
