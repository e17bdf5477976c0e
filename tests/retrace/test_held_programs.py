"""Passes that are made with a program, as many of ExecuTorch's are, and edit that program's graph in place of the one that `call` is given."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import fx
from torch.export import ExportedProgram

from retraced_server.retrace import ExportPass, ExportPassError, PassResult
from tests.passes.support import export
from tests.support.compare import assert_shape_env_unchanged, shape_env_snapshot
from tests.support.describe import describe_program
from tests.support.passes import TorchExportPass, canonical

aten = torch.ops.aten


def _program() -> ExportedProgram:
    return export(lambda x: x.mean(1).relu() * 2.0, torch.randn(2, 3))


def _fold_relu(graph: fx.Graph) -> None:
    """Lets the mean keep its dimension, inserts a node that has no value, and erases the relu."""
    (relu,) = graph.find_nodes(op="call_function", target=aten.relu.default)
    mean = relu.args[0]
    assert isinstance(mean, fx.Node)
    mean.args = (*mean.args[:2], True)
    with graph.inserting_after(mean):
        made = graph.call_function(aten.sigmoid.default, (mean,))
    relu.replace_all_uses_with(made)
    graph.erase_node(relu)


def _holder(base: type) -> Any:
    class Holder(base):  # type: ignore[misc]
        def __init__(self, program: ExportedProgram) -> None:
            super().__init__()
            self.program = program

    return Holder


def returns_what_it_was_given(base: type) -> Any:
    class Returns(_holder(base)):  # type: ignore[misc]
        def call(self, graph_module: fx.GraphModule) -> PassResult:
            _fold_relu(self.program.graph)
            return PassResult(graph_module, True)

    return Returns


def returns_what_it_holds(base: type) -> Any:
    class Returns(_holder(base)):  # type: ignore[misc]
        def call(self, graph_module: fx.GraphModule) -> PassResult:
            _fold_relu(self.program.graph)
            return PassResult(self.program.graph_module, True)

    return Returns


def without_a_result(base: type) -> Any:
    class Nothing(_holder(base)):  # type: ignore[misc]
        def call(self, graph_module: fx.GraphModule) -> None:
            _fold_relu(self.program.graph)

    return Nothing


def of_a_graph_that_it_has_kept(base: type) -> Any:
    class Keeps(base):  # type: ignore[misc]
        def __init__(self, program: ExportedProgram) -> None:
            super().__init__()
            self.graph = program.graph

        def call(self, graph_module: fx.GraphModule) -> None:
            _fold_relu(self.graph)

    return Keeps


_WAYS = [returns_what_it_was_given, returns_what_it_holds, without_a_result, of_a_graph_that_it_has_kept]


@pytest.mark.parametrize("way", _WAYS)
def test_edited_graph_of_a_held_program_is_the_result_as_on_torchs_class(way: Callable[[type], Any]) -> None:
    expected = _program()
    way(TorchExportPass)(expected)(expected.graph_module)
    # Torch's class records no new values for what is edited by hand after the last visit; another pass does.
    visited = TorchExportPass()(expected.graph_module)
    assert visited is not None
    program = _program()
    before, env = describe_program(program), shape_env_snapshot(program)
    nodes = list(program.graph.nodes)
    result = way(ExportPass)(program)(program.graph_module)
    assert result.modified
    assert canonical(result.graph_module) == canonical(visited.graph_module)
    assert [tuple(node.meta["val"].shape) for node in result.graph_module.graph.nodes if node.op == "call_function"] == [
        (2, 1)
    ] * 3
    x = torch.randn(2, 3)
    torch.testing.assert_close(result.graph_module(x)[0], x.mean(1, keepdim=True).sigmoid() * 2.0)
    # The program that it holds is left as it was, node by node.
    assert list(program.graph.nodes) == nodes
    assert describe_program(program) == before
    assert_shape_env_unchanged(env, program)
    torch.testing.assert_close(program.module()(x), x.mean(1).relu() * 2.0)


class _FailsAfterwards(ExportPass):
    def __init__(self, program: ExportedProgram) -> None:
        super().__init__()
        self.program = program

    def call(self, graph_module: fx.GraphModule) -> PassResult:
        _fold_relu(self.program.graph)
        raise ValueError("too late")


class _EditsBoth(ExportPass):
    def __init__(self, program: ExportedProgram) -> None:
        super().__init__()
        self.kept = program.graph

    def call(self, graph_module: fx.GraphModule) -> PassResult:
        _fold_relu(self.kept)
        _fold_relu(graph_module.graph)
        return super().call(graph_module)


@pytest.mark.parametrize(
    ("pass_type", "error", "message"),
    [(_FailsAfterwards, ValueError, "too late"), (_EditsBoth, ExportPassError, "edit the graph module that `call` is given")],
)
def test_held_program_is_left_as_it_was_where_the_pass_fails_or_edits_both(
    pass_type: Any, error: type[Exception], message: str
) -> None:
    program = _program()
    before, env = describe_program(program), shape_env_snapshot(program)
    with pytest.raises(error, match=message):
        pass_type(program)(program.graph_module)
    assert describe_program(program) == before
    assert_shape_env_unchanged(env, program)


class _Looks(_holder(ExportPass)):  # type: ignore[misc]
    found = False

    def call(self, graph_module: fx.GraphModule) -> PassResult:
        self.found = graph_module is self.program.graph_module
        _fold_relu(graph_module.graph)
        return super().call(graph_module)  # type: ignore[no-any-return]


def test_graph_that_a_pass_is_given_is_that_of_the_program_that_it_holds() -> None:
    program = _program()
    module, before = program.graph_module, describe_program(program)
    looks = _Looks(program)
    assert looks(module).modified
    assert looks.found
    assert program.graph_module is module
    assert describe_program(program) == before


def test_program_that_a_pass_holds_has_its_graph_back_where_the_pass_fails() -> None:
    program = _program()
    module = program.graph_module
    with pytest.raises(ValueError, match="too late"):
        _FailsAfterwards(program)(module)
    assert program.graph_module is module
