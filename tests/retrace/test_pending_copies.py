"""A graph is copied at its first change: until then copies are pending, which no hook can tell."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import fx, nn
from torch.export import Dim, ExportedProgram, export

from retraced_server.passes import run_pipeline
from retraced_server.pipeline.domain import RetraceMode
from retraced_server.retrace import ExportPass, NodeMetadata, ProxyValue
from retraced_server.retrace.node_builder import NodeBuilder
from tests.support.compare import assert_identical_programs
from tests.support.models import by_name

aten = torch.ops.aten
MODES = list(RetraceMode)


class _Chain(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.relu().sin().cos()


def _chain() -> ExportedProgram:
    return export(_Chain(), (torch.ones(3, 2),), dynamic_shapes=({0: Dim("batch")},))


def _calls(program: ExportedProgram) -> list[tuple[str, str, torch.dtype]]:
    nodes = [node for node in program.graph.nodes if node.op == "call_function"]
    return [(node.name, str(node.target), node.meta["val"].dtype) for node in nodes]


@pytest.mark.parametrize("name", ["everything", "cond", "map", "in_place"])
def test_pass_that_changes_nothing_makes_no_second_graph(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    copied: list[fx.Node] = []
    monkeypatch.setattr(NodeBuilder, "_copy", lambda _self, old, *_: copied.append(old))
    program = by_name(name).program
    assert run_pipeline(program, [ExportPass()]).program is program
    assert not copied


Edit = Callable[[fx.Node], None]


def _target(node: fx.Node) -> None:
    node.target = aten.isnan.default


def _name(node: fx.Node) -> None:
    node.name = "hello"


def _meta(node: fx.Node) -> None:
    node.meta["note"] = "edited"


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("changes", [False, True], ids=["else nothing", "and changes"])
@pytest.mark.parametrize("edit", [_target, _name, _meta])
def test_edit_of_a_given_node_after_its_visit_is_in_no_copy(edit: Edit, changes: bool, mode: RetraceMode) -> None:
    class Edits(ExportPass):
        def __init__(self, program: ExportedProgram) -> None:
            super().__init__()
            self.program = program

        def call_operator(self, op: Any, args: Any, kwargs: Any, meta: NodeMetadata) -> ProxyValue[Any]:
            result = super().call_operator(op, args, kwargs, meta)
            if op is aten.sin.default:
                edit(self.program.graph.find_nodes(op="call_function", target=aten.relu.default)[0])
            if changes and op is aten.cos.default:
                return super().call_operator(aten.exp.default, args, kwargs, meta)
            return result

    program, untouched = _chain(), _chain()
    result = run_pipeline(program, [Edits(program)], mode=mode)
    assert _calls(program) == _calls(untouched)
    assert not any("note" in node.meta for node in (*program.graph.nodes, *result.program.graph.nodes))
    if not changes:
        assert result.program is program
        return
    expected = [call[:2] for call in _calls(untouched)[:2]]
    assert [call[:2] for call in _calls(result.program)[:2]] == expected
    assert all(dtype is torch.float32 for _, _, dtype in _calls(result.program))


@pytest.mark.parametrize("mode", MODES)
def test_first_thing_that_a_hook_asks_of_the_tracer_may_be_anything(mode: RetraceMode) -> None:
    asks: list[Callable[[Any, ProxyValue[Any]], object]] = [
        lambda tracer, value: tracer.create_arg(value),
        lambda tracer, _: len(tracer.graph.nodes),
        lambda tracer, _: tracer.taken_names,
        lambda tracer, _: (tracer.root, tracer.submodules, tracer.attribute_nodes),
        lambda _, value: (value.node, value.proxy, value.proxy_or_node),
    ]
    for ask in asks:

        class Asks(ExportPass):
            def call_operator(self, op: Any, args: Any, kwargs: Any, meta: NodeMetadata) -> ProxyValue[Any]:
                result = super().call_operator(op, args, kwargs, meta)
                if op is aten.sin.default:
                    ask(self.tracer, result)  # noqa: B023 - the pass runs before the next one is made
                return result

        program = _chain()
        result = run_pipeline(program, [Asks()], mode=mode)
        assert result.program is program
        assert_identical_programs(result.program, _chain())


@pytest.mark.parametrize("mode", MODES)
def test_size_that_is_the_first_thing_asked_of_the_tracer_is_found_in_the_graph(mode: RetraceMode) -> None:
    class Asks(ExportPass):
        def call_operator(self, op: Any, args: Any, kwargs: Any, meta: NodeMetadata) -> ProxyValue[Any]:
            if op is aten.cos.default:
                size = self.tracer.create_arg(args[0].data.shape[0])
                assert size.target is aten.sym_size.int
            return super().call_operator(op, args, kwargs, meta)

    assert run_pipeline(_chain(), [Asks(), "dce"], mode=mode).program.validate() is None


@pytest.mark.parametrize("mode", MODES)
def test_values_that_were_kept_before_the_first_change_stand_for_the_copies_after_it(mode: RetraceMode) -> None:
    class AddsEarlier(ExportPass):
        def call_operator(self, op: Any, args: Any, kwargs: Any, meta: NodeMetadata) -> ProxyValue[Any]:
            result = super().call_operator(op, args, kwargs, meta)
            if op is aten.relu.default:
                self.earlier = result
            if op is aten.cos.default:
                return super().call_operator(aten.add.Tensor, (result, self.earlier), {}, meta)
            return result

    x = torch.randn(5, 2)
    result = run_pipeline(_chain(), [AddsEarlier()], mode=mode).program
    torch.testing.assert_close(result.module()(x), x.relu().sin().cos() + x.relu())
    result.validate()
