"""Hooks that come by nodes which are visited later, and edit them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import fx
from torch.export import ExportedProgram

from retraced_server.passes import run_pipeline
from retraced_server.retrace import ExportPass, PassError, pass_context
from tests.passes.support import export
from tests.support.compare import validate
from tests.support.describe import describe_program

aten = torch.ops.aten


def _program() -> ExportedProgram:
    return export(lambda x: x.mean(1).relu() * 2.0, torch.randn(2, 3))


def _later(node: fx.Node, target: Any) -> fx.Node:
    return next(other for other in node.graph.nodes if other.target is target)


class _EditsWhatIsVisitedLater(ExportPass):
    """Edits the graph that it visits: by an input's node, it comes by the nodes that are visited later."""

    def __init__(self, edit: Callable[[fx.Node], None]) -> None:
        super().__init__()
        self.edit = edit

    def placeholder(self, name: str, arg: Any, meta: Any) -> Any:
        visited = pass_context().node
        assert visited is not None
        self.edit(visited)
        return super().placeholder(name, arg, meta)


def _keep_dimension_later(node: fx.Node) -> None:
    mean = _later(node, aten.mean.dim)
    mean.args = (*mean.args[:2], True)


def _erase_later(node: fx.Node) -> None:
    relu = _later(node, aten.relu.default)
    relu.replace_all_uses_with(relu.args[0])  # type: ignore[arg-type]
    node.graph.erase_node(relu)


def _insert_later(node: fx.Node) -> None:
    relu = _later(node, aten.relu.default)
    with node.graph.inserting_before(relu):
        relu.update_arg(0, node.graph.call_function(aten.unsqueeze.default, (relu.args[0], 0)))


def _fail_later(node: fx.Node) -> None:
    _erase_later(node)
    _keep_dimension_later(node)
    _later(node, aten.mul.Tensor).append(_later(node, aten.mean.dim))
    raise ValueError("after the edits")


@pytest.mark.parametrize(
    ("edit", "shapes"),
    [(_keep_dimension_later, [(2, 1)] * 3), (_erase_later, [(2,)] * 2), (_insert_later, [(2,), (1, 2), (1, 2), (1, 2)])],
)
def test_hook_that_edits_nodes_before_they_are_visited_changes_the_result_and_not_what_was_given(
    edit: Any, shapes: Any
) -> None:
    program = _program()
    before = describe_program(program)
    result = run_pipeline(program, [_EditsWhatIsVisitedLater(edit)])
    calls = [node for node in result.program.graph.nodes if node.op == "call_function"]
    assert [tuple(node.meta["val"].shape) for node in calls] == shapes
    assert describe_program(program) == before
    validate(program)
    validate(result.program)


def test_graph_that_a_failing_hook_has_edited_is_put_back() -> None:
    program = _program()
    before, code = describe_program(program), program.graph_module.print_readable(print_output=False)
    with pytest.raises(PassError, match="after the edits"):
        _EditsWhatIsVisitedLater(_fail_later)(program.graph_module)
    assert describe_program(program) == before
    validate(program)
    program.graph_module.recompile()
    assert program.graph_module.print_readable(print_output=False) == code
