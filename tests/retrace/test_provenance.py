"""Provenance: each node says which nodes of the input program it came from, and which pass made it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from retraced_server.passes import run_pipeline
from retraced_server.passes.run import PipelineResult
from retraced_server.retrace import ExportPass, ProxyValue
from tests.support.case import ProgramCase
from tests.support.describe import graphs
from tests.support.models import by_name
from tests.support.passes import ReluToClamp, ReluTwice

aten = torch.ops.aten


def keys(module: torch.fx.GraphModule) -> set[str]:
    """The keys of all nodes, as provenance writes them."""
    return {f"{path}:{node.name}" if path else node.name for path, graph in graphs(module) for node in graph.graph.nodes}


def origin(result: PipelineResult, key: str) -> tuple[tuple[str, ...], str | None]:
    """What provenance says of a node."""
    entry = result.provenance[key]
    return entry.from_nodes, entry.made_by


def test_every_node_of_an_unchanged_program_came_from_itself(any_case: ProgramCase) -> None:
    result = run_pipeline(any_case.program, "retrace")
    assert result.provenance.keys() == keys(any_case.program.graph_module)
    assert all(origin(result, key) == ((key,), None) for key in result.provenance)


def test_rewritten_nodes_say_where_they_came_from(higher_order_case: ProgramCase) -> None:
    old = keys(higher_order_case.program.graph_module)
    result = run_pipeline(higher_order_case.program, [ReluTwice()])
    assert result.provenance.keys() == keys(result.program.graph_module)
    for key, entry in result.provenance.items():
        assert set(entry.from_nodes) <= old, key
        assert entry.from_nodes, key
        if entry.made_by is None:
            assert entry.from_nodes == (key,)
    made = [key for key, entry in result.provenance.items() if entry.made_by == "ReluTwice"]
    relus = [key for key in old if key.rsplit(":", 1)[-1].startswith("relu")]
    assert (not relus) or made


def test_nodes_made_for_one_node_come_from_it_and_name_the_pass() -> None:
    result = run_pipeline(by_name("unused_input").program, [ReluTwice()])
    assert origin(result, "sigmoid") == (("sigmoid",), None)
    assert origin(result, "gt") == (("relu",), "ReluTwice")
    assert origin(result, "relu") == (("relu",), "ReluTwice")


def test_origins_are_carried_through_passes_to_the_input_program() -> None:
    class MulToDiv(ExportPass):
        def call_operator(self, op: Any, args: Any, kwargs: Any, meta: Any) -> ProxyValue[Any]:
            if op is not aten.mul.Tensor:
                return super().call_operator(op, args, kwargs, meta)
            inverse = super().call_operator(aten.reciprocal.default, (args[1],), {}, meta)
            return super().call_operator(aten.div.Tensor, (args[0], inverse), {}, meta)

    result = run_pipeline(by_name("unused_input").program, [ReluTwice(), "retrace", MulToDiv()])
    assert origin(result, "gt") == (("relu",), "ReluTwice")
    assert origin(result, "reciprocal") == (("relu",), "MulToDiv")
    assert origin(result, "relu") == (("relu",), "MulToDiv")


def test_value_that_stands_for_several_nodes_came_from_all_of_them() -> None:
    class ForgetsRelu(ExportPass):
        def call_operator(self, op: Any, args: Any, kwargs: Any, meta: Any) -> Any:
            return args[0] if op is aten.relu.default else super().call_operator(op, args, kwargs, meta)

    result = run_pipeline(by_name("unused_input").program, [ForgetsRelu()])
    assert origin(result, "sigmoid")[0] == ("sigmoid", "relu")


def test_lifted_constant_comes_from_the_node_that_it_was_made_for() -> None:
    class AddsConstant(ExportPass):
        def call_operator(self, op: Any, args: Any, kwargs: Any, meta: Any) -> ProxyValue[Any]:
            value = super().call_operator(op, args, kwargs, meta)
            return (
                super().call_operator(aten.add.Tensor, (value, torch.tensor(0)), {}, meta) if op is aten.relu.default else value
            )

    result = run_pipeline(by_name("unused_input").program, [AddsConstant()])
    assert origin(result, "c_lifted_tensor_0") == (("relu",), "AddsConstant")


def test_pass_that_changes_the_graph_in_call_is_accounted_for() -> None:
    class RewritesByHand(ExportPass):
        def call(self, graph_module: torch.fx.GraphModule) -> Any:
            for node in graph_module.graph.nodes:
                if node.target is aten.sigmoid.default:
                    node.target = aten.tanh.default
            result = super().call(graph_module)
            for node in result.graph_module.graph.nodes:
                if node.target is aten.relu.default:
                    node.target = aten.selu.default
            return result

    program = by_name("unused_input").program
    result = run_pipeline(program, [RewritesByHand()])
    assert result.modified
    assert [str(node.target) for node in program.graph.nodes][3:5] == ["aten.sigmoid.default", "aten.relu.default"]
    assert [str(node.target) for node in result.program.graph.nodes][3:5] == ["aten.tanh.default", "aten.selu.default"]
    assert origin(result, "relu") == (("relu",), "RewritesByHand")
    assert origin(result, "x") == (("x",), None)


def test_pass_that_overrides_call_and_changes_nothing_is_the_identity(higher_order_case: ProgramCase) -> None:
    class Looks(ExportPass):
        def call(self, graph_module: torch.fx.GraphModule) -> Any:
            return super().call(graph_module)

    result = run_pipeline(higher_order_case.program, [Looks()])
    assert result.program is higher_order_case.program


@pytest.mark.parametrize("length", [10, 80])
def test_provenance_takes_room_in_step_with_nodes(length: int) -> None:
    class Chain(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for _ in range(length):
                x = x.relu()
            return x

    program = torch.export.export(Chain(), (torch.ones(2),))
    result = run_pipeline(program, [ReluTwice(), *[ReluToClamp() for _ in range(3)]])
    assert len(result.provenance) == 2 * length + 2
    assert sum(len(entry.from_nodes) for entry in result.provenance.values()) == 2 * length + 2
