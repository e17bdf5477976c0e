"""What was recorded for other calls than those that a pass leaves behind is not believed, whether or not it visits nodes after its edits."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
import torch
from torch import fx, nn

from retraced_server.passes import run_pipeline
from retraced_server.retrace import ExportPass, PassResult
from retraced_server.retrace.errors import InvalidGraphError
from tests.passes.support import export
from tests.support.describe import graphs
from tests.support.edit_ways import WAYS, Edit, WithoutVisit, described_values, find_call

aten = torch.ops.aten

every_way = pytest.mark.parametrize("way", WAYS)


@every_way
def test_value_copied_with_the_metadata_of_a_neighbour_is_not_believed(way: Callable[[Edit], Any]) -> None:
    def replaces(module: fx.GraphModule) -> None:
        relu = find_call(module, aten.relu.default)
        with module.graph.inserting_before(relu):
            total = module.graph.call_function(aten.sum.dim_IntList, (relu.args[0], [1], True))
        total.meta = relu.meta.copy()
        relu.replace_all_uses_with(total)
        module.graph.erase_node(relu)

    program = run_pipeline(export(lambda x: x.relu().exp(), torch.randn(2, 3)), [way(replaces)]).program
    assert list(described_values(program.graph_module).values()) == [(torch.float32, 2, 1)] * 2


@every_way
def test_value_of_another_node_given_to_a_known_one_is_not_believed(way: Callable[[Edit], Any]) -> None:
    def sums(module: fx.GraphModule) -> None:
        relu = find_call(module, aten.relu.default)
        relu.target, relu.args = aten.sum.dim_IntList, (relu.args[0], [1], True)
        relu.meta = find_call(module, aten.exp.default).meta.copy()

    program = run_pipeline(export(lambda x: x.relu().exp(), torch.randn(2, 3)), [way(sums)]).program
    assert list(described_values(program.graph_module).values()) == [(torch.float32, 2, 1)] * 2


@every_way
def test_erased_value_is_recorded_again(way: Callable[[Edit], Any]) -> None:
    def forgets(module: fx.GraphModule) -> None:
        del find_call(module, aten.relu.default).meta["val"]

    program = run_pipeline(export(lambda x: x.relu().exp(), torch.randn(2, 3)), [way(forgets)]).program
    assert list(described_values(program.graph_module).values()) == [(torch.float32, 2, 3)] * 2


@every_way
def test_graph_put_together_from_copies_keeps_what_its_nodes_compute(way: Callable[[Edit], Any]) -> None:
    def copies(module: fx.GraphModule) -> None:
        graph = fx.Graph()
        graph.output(graph.graph_copy(module.graph, {}))
        module.graph = graph

    given = export(lambda x: x.relu().exp(), torch.randn(2, 3))
    program = run_pipeline(given, [way(copies)]).program
    assert described_values(program.graph_module) == described_values(given.graph_module)


def test_attribute_inserted_by_hand_has_the_value_of_the_attribute_whatever_metadata_was_copied_to_it() -> None:
    def adds(module: fx.GraphModule) -> None:
        relu = find_call(module, aten.relu.default)
        module.register_buffer("ones", torch.ones(1, 3))
        with module.graph.inserting_before(relu):
            ones = module.graph.get_attr("ones")
            ones.meta = relu.meta.copy()
            total = module.graph.call_function(aten.add.Tensor, (relu.args[0], ones))
        relu.update_arg(0, total)

    program = run_pipeline(export(lambda x: x.relu(), torch.randn(2, 3)), [adds]).program
    lifted = program.graph.find_nodes(op="placeholder")[0]
    assert tuple(lifted.meta["val"].shape) == (1, 3)
    assert program.module()(torch.full((2, 3), -0.5)).tolist() == [[0.5] * 3] * 2


def _turn_into_half(module: fx.GraphModule) -> None:
    for node in module.graph.find_nodes(op="call_function", target=aten.sin.default):
        node.target, node.kwargs = aten._to_copy.default, {"dtype": torch.float16}
        node.meta["val"] = node.meta["val"].to(torch.float16)


@every_way
def test_what_reads_a_value_that_was_stated_by_hand_is_executed(way: Callable[[Edit], Any]) -> None:
    program = run_pipeline(export(lambda x: x.sin() + 1, torch.randn(2, 3)), [way(_turn_into_half)]).program
    assert list(described_values(program.graph_module).values()) == [(torch.float16, 2, 3)] * 2
    assert run_pipeline(program, "retrace", mode="full").program is program


@every_way
def test_subgraph_that_is_given_a_value_that_was_stated_by_hand_is_executed(way: Callable[[Edit], Any]) -> None:
    def function(x: torch.Tensor) -> torch.Tensor:
        (y,) = torch.cond(x.sum() > 0, lambda a: (a * 2,), lambda a: (a * 3,), (x.sin(),))
        return y

    program = run_pipeline(export(function, torch.randn(2, 3)), [way(_turn_into_half)]).program
    modules = [module for _, module in graphs(program.graph_module)]
    dtypes = {value[0] for module in modules for name, value in described_values(module).items() if name.startswith("mul")}
    assert dtypes == {torch.float16}
    assert run_pipeline(program, "retrace", mode="full").program is program


def test_values_that_are_all_stated_by_hand_are_taken_as_they_are() -> None:
    def states(module: fx.GraphModule) -> None:
        for node in module.graph.find_nodes(op="call_function", target=aten.sin.default):
            for user in (node, *node.users):
                if user.op == "call_function":
                    user.meta["val"] = user.meta["val"].to(torch.float64)

    program = run_pipeline(export(lambda x: x.sin().exp().neg(), torch.randn(2, 3)), [states]).program
    assert [dtype for dtype, *_ in described_values(program.graph_module).values()] == [torch.float64] * 3


@every_way
def test_function_without_a_hook_does_not_keep_what_is_before_it_from_being_executed(way: Callable[[Edit], Any]) -> None:
    def view(x: torch.Tensor, shape: list[int]) -> torch.Tensor:
        return x.view(shape)

    # As `memory.view` of ExecuTorch.
    view.__module__ = "executorch.exir.memory"

    def sums(module: fx.GraphModule) -> None:
        sin = find_call(module, aten.sin.default)
        sin.target, sin.args = aten.sum.dim_IntList, (sin.args[0], [1], True)

    module = export(lambda x: (x.sin() + 1).view(-1), torch.randn(2, 3)).graph_module
    find_call(module, aten.view.default).target = view
    instance = way(sums)
    if not isinstance(instance, ExportPass):
        instance = WithoutVisit(sums)
    values = described_values(instance(module).graph_module)
    assert list(values.values()) == [(torch.float32, 2, 1), (torch.float32, 2, 1), (torch.float32, 2)]


def test_edited_graph_with_a_call_that_cannot_be_visited_is_refused() -> None:
    class Calls(ExportPass):
        def call(self, graph_module: fx.GraphModule) -> PassResult:
            sin = find_call(graph_module, aten.sin.default)
            sin.target = torch.nn.functional.gelu
            return PassResult(graph_module, True)

    with pytest.raises(InvalidGraphError, match=r"the graph is not valid: no program calls this, at node 'sin' \(.*gelu"):
        Calls()(export(lambda x: x.sin().exp(), torch.randn(2)).graph_module)


class _Nothing(ExportPass):
    def call(self, graph_module: fx.GraphModule) -> PassResult:
        return super().call(graph_module)


class _Fails(ExportPass):
    def call(self, graph_module: fx.GraphModule) -> PassResult:
        super().call(graph_module)
        raise ValueError


class _Nested(ExportPass):
    """Runs another pass, renames inputs and edits a call."""

    def __init__(self, inner: ExportPass | None) -> None:
        super().__init__()
        self.inner = inner

    def call(self, graph_module: fx.GraphModule) -> PassResult:
        if self.inner is not None:
            with suppress(ValueError):
                assert self.inner(graph_module).graph_module is graph_module
        for node in graph_module.graph.find_nodes(op="call_function", target=aten.exp.default):
            node.target = aten.tanh.default
        return super().call(graph_module)

    def placeholder(self, name: str, arg: Any, meta: Any) -> Any:
        return super().placeholder(f"new_{name}", arg, meta)


every_inner = pytest.mark.parametrize("inner", [None, _Nothing(), _Fails()], ids=["none", "nothing", "fails"])


@every_inner
def test_call_signature_of_a_module_outlives_a_nested_pass_that_changes_nothing(inner: ExportPass | None) -> None:
    class Part(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.relu()

    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.part = Part()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.part(x.sin()).exp()

    result = run_pipeline(export(Whole(), torch.randn(2, 3), preserve_module_call_signature=("part",)), [_Nested(inner)])
    assert result.remarks == ()
    assert {entry.fqn: entry.signature is not None for entry in result.program.module_call_graph} == {"": True, "part": True}


@every_inner
def test_input_that_is_written_keeps_its_output_after_a_nested_pass_that_changes_nothing(inner: ExportPass | None) -> None:
    def function(x: torch.Tensor) -> torch.Tensor:
        return x.add_(1) * 2

    program = run_pipeline(export(function, torch.randn(3)).run_decompositions(), [_Nested(inner)]).program
    (user_input,), mutation = program.graph_signature.input_specs, program.graph_signature.output_specs[0]
    assert mutation.target == user_input.arg.name == "new_args_0"


@every_way
def test_attribute_inserted_by_hand_without_a_value_becomes_an_input(way: Callable[[Edit], Any]) -> None:
    def adds(module: fx.GraphModule) -> None:
        sin = find_call(module, aten.sin.default)
        module.register_buffer("ones", torch.ones(3))
        with module.graph.inserting_before(sin):
            total = module.graph.call_function(aten.add.Tensor, (sin.args[0], module.graph.get_attr("ones")))
        sin.update_arg(0, total)

    program = run_pipeline(export(lambda x: x.sin(), torch.randn(2, 3)), [way(adds)]).program
    lifted = program.graph.find_nodes(op="placeholder")[0]
    assert tuple(lifted.meta["val"].shape) == (3,)
    x = torch.randn(2, 3)
    assert torch.equal(program.module()(x), (x + 1).sin())
