"""Names are stable: a node keeps its own, and when a hook replaces it, its name goes with the value returned for it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import fx

from retraced_server.errors import Reason, RetracedError
from retraced_server.passes import run_pipeline
from retraced_server.retrace import ExportPass, ProxyValue
from tests.support.case import ProgramCase
from tests.support.compare import assert_equivalent, validate
from tests.support.describe import graphs
from tests.support.models import by_name
from tests.support.passes import ReluToClamp, ReluTwice

aten = torch.ops.aten


def node_of(module: fx.GraphModule, name: str) -> fx.Node:
    (node,) = [node for node in module.graph.nodes if node.name == name]
    return node


class BuildsOnRelu(ExportPass):
    """Multiplies what each relu gives by one, so that the old operator stays, but another value stands for it."""

    def call_operator(self, op: Any, args: Any, kwargs: Any, meta: Any) -> ProxyValue[Any]:
        value = super().call_operator(op, args, kwargs, meta)
        return super().call_operator(aten.mul.Tensor, (value, 1), {}, meta) if op is aten.relu.default else value


class PreparesRelu(ExportPass):
    """Clones what each relu takes."""

    def call_operator(self, op: Any, args: Any, kwargs: Any, meta: Any) -> ProxyValue[Any]:
        if op is aten.relu.default:
            args = (super().call_operator(aten.clone.default, args, {}, meta),)
        return super().call_operator(op, args, kwargs, meta)


@pytest.mark.parametrize("pass_type", [ReluToClamp, ReluTwice, BuildsOnRelu, PreparesRelu])
def test_every_old_name_is_kept_by_the_value_that_stands_for_its_node(
    higher_order_case: ProgramCase, pass_type: type[ExportPass]
) -> None:
    program = run_pipeline(higher_order_case.program, [pass_type()]).program
    validate(program)
    after = dict(graphs(program.graph_module))
    for path, before in graphs(higher_order_case.program.graph_module):
        names = {node.name for node in after[path].graph.nodes}
        assert names >= {node.name for node in before.graph.nodes}, path


@pytest.mark.parametrize(("pass_type", "target"), [(ReluToClamp, "clamp_min"), (BuildsOnRelu, "mul"), (PreparesRelu, "relu")])
def test_name_goes_with_the_value_that_the_hook_returns(pass_type: type[ExportPass], target: str) -> None:
    case = by_name("unused_input")
    program = run_pipeline(case.program, [pass_type()]).program
    assert target in str(node_of(program.graph_module, "relu").target)
    assert_equivalent(case, program)


def test_new_nodes_never_take_the_name_of_a_later_old_node() -> None:
    class AddsBefore(ExportPass):
        def call_operator(self, op: Any, args: Any, kwargs: Any, meta: Any) -> ProxyValue[Any]:
            if op is aten.sigmoid.default:
                args = (super().call_operator(aten.relu.default, args, {}, meta),)
            return super().call_operator(op, args, kwargs, meta)

    module = run_pipeline(by_name("unused_input").program, [AddsBefore()]).program.graph_module
    assert str(node_of(module, "relu").args) == "(sigmoid,)"
    assert [node.name for node in module.graph.nodes if node.target is aten.relu.default] == ["relu_1", "relu"]


def test_names_do_not_drift_over_many_passes() -> None:
    case = by_name("nested")
    once = run_pipeline(case.program, [ReluToClamp()]).program
    many = run_pipeline(case.program, [ReluToClamp(), *[ExportPass() for _ in range(5)], BuildsOnRelu()]).program
    for (path, one), (_, other) in zip(graphs(once.graph_module), graphs(many.graph_module), strict=True):
        assert [node.name for node in one.graph.nodes] == [node.name for node in other.graph.nodes], path


def test_inputs_that_have_the_names_of_builtins_keep_them() -> None:
    class NegatesTwice(ExportPass):
        def call_operator(self, op: Any, args: Any, kwargs: Any, meta: Any) -> ProxyValue[Any]:
            negated = super().call_operator(aten.neg.default, args[:1], {}, meta)
            again = super().call_operator(aten.neg.default, (negated,), {}, meta)
            return super().call_operator(op, (again, *args[1:]), kwargs, meta)

    case = by_name("input_and_id")
    program = run_pipeline(case.program, [NegatesTwice()]).program
    inputs = [node for node in program.graph.nodes if node.op == "placeholder"]
    assert [(node.name, node.target) for node in inputs] == [("input", "input"), ("id", "id")]
    assert [spec.arg.name for spec in program.graph_signature.input_specs] == ["input", "id"]
    assert_equivalent(case, program)


def test_names_that_a_pass_gives_are_kept() -> None:
    class Names(ExportPass):
        def call_operator(self, op: Any, args: Any, kwargs: Any, meta: Any) -> ProxyValue[Any]:
            value = super().call_operator(op, args, kwargs, meta)
            if op is aten.relu.default:
                value.node.name = "activated"
            return value

    case = by_name("unused_input")
    result = run_pipeline(case.program, [Names()])
    assert result.modified
    assert node_of(result.program.graph_module, "activated").target is aten.relu.default
    assert_equivalent(case, result.program)


def test_name_that_two_nodes_are_given_is_refused() -> None:
    class Repeats(ExportPass):
        def call_operator(self, op: Any, args: Any, kwargs: Any, meta: Any) -> ProxyValue[Any]:
            value = super().call_operator(op, args, kwargs, meta)
            value.node.name = "twice"
            return value

    with pytest.raises(RetracedError, match="name twice") as failure:
        run_pipeline(by_name("unused_input").program, [Repeats()])
    assert failure.value.reason is Reason.PASS_OUTPUT_INVALID


def test_new_nodes_are_named_after_their_operators_as_on_torchs_base() -> None:
    class Splits(ExportPass):
        def call_operator(self, op: Any, args: Any, kwargs: Any, meta: Any) -> ProxyValue[Any]:
            if op is not aten.relu.default:
                return super().call_operator(op, args, kwargs, meta)
            positive = super().call_operator(aten.gt.Scalar, (args[0], 0), {}, meta)
            both = super().call_operator(aten.__and__.Tensor, (positive, positive), {}, meta)
            return super().call_operator(aten.mul.Tensor, (both, args[0]), {}, meta)

    module = run_pipeline(by_name("unused_input").program, [Splits()]).program.graph_module
    assert [node.name for node in module.graph.nodes][3:7] == ["sigmoid", "gt", "and_1", "relu"]
