"""What was recorded for other calls than those that a pass leaves behind is not believed, whether or not it visits nodes after its edits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import fx
from torch.fx.passes.infra.pass_base import PassBase

from retraced_server.passes import run_pipeline
from retraced_server.retrace import ExportPass, PassResult
from tests.passes.support import export

aten = torch.ops.aten

Edit = Callable[[fx.GraphModule], None]


class _OnTorchsBase(PassBase):
    def __init__(self, edit: Edit) -> None:
        super().__init__()
        self.edit = edit

    def call(self, graph_module: fx.GraphModule) -> PassResult:
        self.edit(graph_module)
        return PassResult(graph_module, True)


class _WithoutVisit(ExportPass):
    def __init__(self, edit: Edit) -> None:
        super().__init__()
        self.edit = edit

    def call(self, graph_module: fx.GraphModule) -> PassResult:
        self.edit(graph_module)
        return PassResult(graph_module, True)


class _BeforeVisit(_WithoutVisit):
    def call(self, graph_module: fx.GraphModule) -> PassResult:
        self.edit(graph_module)
        return ExportPass.call(self, graph_module)


class _AfterVisit(_WithoutVisit):
    def call(self, graph_module: fx.GraphModule) -> PassResult:
        module = ExportPass.call(self, graph_module).graph_module
        self.edit(module)
        return PassResult(module, True)


def _as_a_function(edit: Edit) -> Edit:
    return edit


every_way = pytest.mark.parametrize("way", [_OnTorchsBase, _WithoutVisit, _BeforeVisit, _AfterVisit, _as_a_function])


def _call(module: fx.GraphModule, target: Any) -> fx.Node:
    return module.graph.find_nodes(op="call_function", target=target)[0]


def _values(module: fx.GraphModule) -> dict[str, tuple[Any, ...]]:
    values = {node.name: node.meta["val"] for node in module.graph.nodes if node.op == "call_function"}
    return {name: (value.dtype, *value.shape) for name, value in values.items() if isinstance(value, torch.Tensor)}


@every_way
def test_value_copied_with_the_metadata_of_a_neighbour_is_not_believed(way: Callable[[Edit], Any]) -> None:
    def replaces(module: fx.GraphModule) -> None:
        relu = _call(module, aten.relu.default)
        with module.graph.inserting_before(relu):
            total = module.graph.call_function(aten.sum.dim_IntList, (relu.args[0], [1], True))
        total.meta = relu.meta.copy()
        relu.replace_all_uses_with(total)
        module.graph.erase_node(relu)

    program = run_pipeline(export(lambda x: x.relu().exp(), torch.randn(2, 3)), [way(replaces)]).program
    assert list(_values(program.graph_module).values()) == [(torch.float32, 2, 1)] * 2


@every_way
def test_value_of_another_node_given_to_a_known_one_is_not_believed(way: Callable[[Edit], Any]) -> None:
    def sums(module: fx.GraphModule) -> None:
        relu = _call(module, aten.relu.default)
        relu.target, relu.args = aten.sum.dim_IntList, (relu.args[0], [1], True)
        relu.meta = _call(module, aten.exp.default).meta.copy()

    program = run_pipeline(export(lambda x: x.relu().exp(), torch.randn(2, 3)), [way(sums)]).program
    assert list(_values(program.graph_module).values()) == [(torch.float32, 2, 1)] * 2


@every_way
def test_erased_value_is_recorded_again(way: Callable[[Edit], Any]) -> None:
    def forgets(module: fx.GraphModule) -> None:
        del _call(module, aten.relu.default).meta["val"]

    program = run_pipeline(export(lambda x: x.relu().exp(), torch.randn(2, 3)), [way(forgets)]).program
    assert list(_values(program.graph_module).values()) == [(torch.float32, 2, 3)] * 2


@every_way
def test_graph_put_together_from_copies_keeps_what_its_nodes_compute(way: Callable[[Edit], Any]) -> None:
    def copies(module: fx.GraphModule) -> None:
        graph = fx.Graph()
        graph.output(graph.graph_copy(module.graph, {}))
        module.graph = graph

    given = export(lambda x: x.relu().exp(), torch.randn(2, 3))
    program = run_pipeline(given, [way(copies)]).program
    assert _values(program.graph_module) == _values(given.graph_module)


def test_attribute_inserted_by_hand_has_the_value_of_the_attribute_whatever_metadata_was_copied_to_it() -> None:
    def adds(module: fx.GraphModule) -> None:
        relu = _call(module, aten.relu.default)
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
