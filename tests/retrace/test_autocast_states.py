"""What is recorded under one autocast is not believed under another, whichever way a pass has changed what a call is under."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import fx
from torch.export import ExportedProgram

from retraced_server.passes import run_pipeline
from retraced_server.retrace import ExportPass
from tests.passes.support import export
from tests.support.describe import graphs
from tests.support.edit_ways import WAYS, Edit, described_values, find_call

aten = torch.ops.aten
_ENTER, _EXIT = torch.amp.autocast_mode._enter_autocast, torch.amp.autocast_mode._exit_autocast
_WRAP = torch.ops.higher_order.wrap_with_autocast

every_way = pytest.mark.parametrize("way", WAYS)


def _wrap_in_region(first: fx.Node, last: fx.Node) -> None:
    with first.graph.inserting_before(first):
        entered = first.graph.call_function(_ENTER, ("cpu", torch.bfloat16, True, None))
    with first.graph.inserting_after(last):
        left = first.graph.call_function(_EXIT, (entered,))
    entered.meta["val"] = left.meta["val"] = None


def _plain() -> ExportedProgram:
    return export(lambda x, y: torch.mm(x.relu(), y) + 1, torch.randn(4, 3), torch.randn(3, 2))


def _in_region() -> ExportedProgram:
    """A program with autocast as torch writes it within functorch's transforms."""
    program = _plain()
    mm = find_call(program.graph_module, aten.mm.default)
    _wrap_in_region(mm, mm)
    mode = mm.meta["val"].fake_mode
    with mode:
        for node in (mm, find_call(program.graph_module, aten.add.Tensor)):
            node.meta["val"] = node.meta["val"].to(torch.bfloat16)
    program.graph_module.recompile()
    return program


def _dtypes(program: ExportedProgram) -> dict[str, torch.dtype]:
    found: dict[str, torch.dtype] = {}
    for _, module in graphs(program.graph_module):
        found.update((name, value[0]) for name, value in described_values(module).items())
    return found


def _assert_recorded_as_computed(program: ExportedProgram, dtype: torch.dtype) -> None:
    assert _dtypes(program)["mm"] is dtype
    assert program.module()(torch.randn(4, 3), torch.randn(3, 2)).dtype is dtype
    assert run_pipeline(program, "retrace", mode="full").program is program


def _erase(module: fx.GraphModule) -> None:
    for target in (_EXIT, _ENTER):
        module.graph.erase_node(find_call(module, target))


def _move_out(module: fx.GraphModule) -> None:
    find_call(module, _ENTER).prepend(find_call(module, aten.mm.default))


def _disable(module: fx.GraphModule) -> None:
    find_call(module, _ENTER).update_arg(2, False)


@every_way
@pytest.mark.parametrize("edit", [_erase, _move_out, _disable])
def test_calls_are_executed_where_the_region_that_they_were_in_was_edited(edit: Edit, way: Callable[[Edit], Any]) -> None:
    program = run_pipeline(_in_region(), [way(edit)]).program
    _assert_recorded_as_computed(program, torch.float32)
    assert _dtypes(program)["add"] is torch.float32


@every_way
def test_calls_are_executed_where_a_region_was_put_around_them(way: Callable[[Edit], Any]) -> None:
    def puts_around(module: fx.GraphModule) -> None:
        mm = find_call(module, aten.mm.default)
        _wrap_in_region(mm, mm)

    program = run_pipeline(_plain(), [way(puts_around)]).program
    _assert_recorded_as_computed(program, torch.bfloat16)
    assert _dtypes(program)["add"] is torch.bfloat16


def test_call_after_a_nested_pass_is_executed_where_its_region_was_erased_before() -> None:
    class Outer(ExportPass):
        def call(self, graph_module: fx.GraphModule) -> Any:
            _erase(graph_module)
            return Inner()(graph_module)

    class Inner(ExportPass):
        def call(self, graph_module: fx.GraphModule) -> Any:
            return super().call(graph_module)

    _assert_recorded_as_computed(run_pipeline(_in_region(), [Outer()]).program, torch.float32)


def _wrapped(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        z = torch.mm(x, y)
    return z * 2


def _disabled(args: tuple[Any, ...]) -> tuple[Any, ...]:
    return (*args[:2], False, *args[3:])


def _disable_subgraph(module: fx.GraphModule) -> None:
    node = find_call(module, _WRAP)
    node.args = _disabled(node.args)


class _DisablesInHook(ExportPass):
    def call_higher_order(self, op: Any, args: Any, kwargs: Any, meta: Any) -> Any:
        return super().call_higher_order(op, _disabled(args) if op is _WRAP else args, kwargs, meta)


@pytest.mark.parametrize("instance", [*(way(_disable_subgraph) for way in WAYS), _DisablesInHook()])
def test_subgraph_is_executed_where_the_autocast_that_it_runs_under_was_changed(instance: Any) -> None:
    given = export(_wrapped, torch.randn(4, 3), torch.randn(3, 2))
    assert _dtypes(given)["mm"] is torch.bfloat16
    _assert_recorded_as_computed(run_pipeline(given, [instance]).program, torch.float32)


@pytest.mark.parametrize("disabled_first", [True, False])
def test_subgraph_of_two_calls_is_visited_under_the_autocast_of_each(disabled_first: bool) -> None:
    class Twice(ExportPass):
        def call_higher_order(self, op: Any, args: Any, kwargs: Any, meta: Any) -> Any:
            calls = [args, _disabled(args)]
            if disabled_first:
                calls.reverse()
            made = [super(Twice, self).call_higher_order(op, call, kwargs, meta) for call in calls]
            return made[disabled_first]

    program = run_pipeline(export(_wrapped, torch.randn(4, 3), torch.randn(3, 2)), [Twice()]).program
    recorded = {}
    for node in program.graph.find_nodes(op="call_function", target=_WRAP):
        subgraph = program.graph_module.get_submodule(str(node.args[4].target))
        assert isinstance(subgraph, fx.GraphModule)
        recorded[node.args[2]] = find_call(subgraph, aten.mm.default).meta["val"].dtype
    assert recorded == {True: torch.bfloat16, False: torch.float32}


def _branch_in_region(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        (z,) = torch.cond(x.sum() > 0, lambda a, b: (torch.mm(a, b),), lambda a, b: (torch.mm(a * 2, b),), (x, y))
    return z * 2


@pytest.mark.parametrize("mode", ["incremental", "full"])
def test_branch_that_nothing_changes_is_under_the_region_that_calls_it(mode: str) -> None:
    given = export(_branch_in_region, torch.randn(4, 3), torch.randn(3, 2))
    assert _dtypes(given)["mm"] is torch.bfloat16
    assert run_pipeline(given, [ExportPass()], mode=mode).program is given


@every_way
@pytest.mark.parametrize("edit", [_erase, _disable])
def test_branch_is_executed_where_the_region_that_calls_it_was_edited(edit: Edit, way: Callable[[Edit], Any]) -> None:
    given = export(_branch_in_region, torch.randn(4, 3), torch.randn(3, 2))
    _assert_recorded_as_computed(run_pipeline(given, [way(edit)]).program, torch.float32)
