"""What was recorded for other calls than those that a pass leaves behind is not believed, whether or not it visits nodes after its edits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import fx

from retraced_server.passes import run_pipeline
from tests.passes.support import export
from tests.support.edit_ways import WAYS, Edit, described_values, find_call

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
