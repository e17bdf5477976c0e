"""What a region of a program sets, autocast or a level of a transform, is never left set in the process that runs a pass."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import fx
from torch.export import Dim, ExportedProgram

from retraced_server.passes import run_pipeline
from retraced_server.retrace import ExportPass, NodeMetadata
from retraced_server.retrace.entered_regions import entered_regions
from retraced_server.retrace.interpreted_subgraphs import interpreted, plainly
from tests.passes.support import export
from tests.support.process_state import region_state

aten = torch.ops.aten
amp: Any = torch.amp.autocast_mode
predispatch: Any = torch._functorch.predispatch


def under_autocast() -> ExportedProgram:
    """A program with the calls that enter and leave autocast in its own graph, around a product."""
    dims = (({0: Dim.AUTO}, None),)
    program = export(lambda x, y: torch.mm(x.relu(), y) + 1, torch.randn(4, 3), torch.randn(3, 2), dynamic_shapes=dims)
    (mm,) = program.graph.find_nodes(op="call_function", target=aten.mm.default)
    with program.graph.inserting_before(mm):
        entered = program.graph.call_function(amp._enter_autocast, ("cpu", torch.bfloat16, True, None))
    with program.graph.inserting_after(mm):
        left = program.graph.call_function(amp._exit_autocast, (entered,))
    entered.meta["val"] = left.meta["val"] = None
    with mm.meta["val"].fake_mode:
        for node in (mm, left.next):
            node.meta["val"] = node.meta["val"].to(torch.bfloat16)
    program.graph_module.recompile()
    return program


def _mapped() -> ExportedProgram:
    return export(lambda x: torch.vmap(lambda row: row.relu())(x.relu()), torch.randn(4, 3), dynamic_shapes=(({0: Dim.AUTO},),))


def _differentiated() -> ExportedProgram:
    x = torch.randn(4, 3)
    return export(
        lambda x, v: torch.func.jvp(lambda a: a.relu().sin(), (x.relu(),), (v,)),
        *(x, x),
        dynamic_shapes=(({0: Dim.AUTO}, {0: Dim.AUTO}),),
        strict=True,
    )


class _Narrows(ExportPass):
    """Asks about a size, so that a guard is added, and the guards that the program's own nodes need are looked for."""

    def call_operator(self, op: Any, args: Any, kwargs: Any, meta: NodeMetadata) -> Any:
        if op is not aten.relu.default:
            return super().call_operator(op, args, kwargs, meta)
        bool(args[0].data.shape[0] > 3)
        return super().call_operator(aten.sigmoid.default, args, kwargs, meta)


@pytest.mark.parametrize("make", [under_autocast, _mapped, _differentiated])
def test_looking_for_the_guards_of_a_programs_own_nodes_leaves_no_region_entered(make: Callable[[], ExportedProgram]) -> None:
    before = region_state()
    (report,) = run_pipeline(make(), [_Narrows()]).reports
    assert report.new_guards
    assert region_state() == before


@pytest.mark.parametrize("size", [12, 7])
def test_executing_a_subgraph_leaves_what_it_entered_though_it_fails(size: int) -> None:
    graph = fx.Graph()
    x = graph.placeholder("x")
    graph.call_function(torch._C._set_grad_enabled, (True,))
    for target, args in ((amp._enter_autocast, ("cpu", torch.bfloat16, True, None)), (predispatch._jvp_increment_nesting, ())):
        graph.call_function(target, args)
    left = graph.call_function(predispatch._enter_dual_level)
    graph.call_function(predispatch._exit_dual_level, kwargs={"level": left})
    graph.call_function(predispatch._enter_dual_level)
    graph.output(graph.call_function(aten.view.default, (x, [size])))
    subgraph = interpreted(fx.GraphModule(torch.nn.Module(), graph), plainly)
    before = region_state()
    with torch.no_grad(), nullcontext() if size == 12 else pytest.raises(RuntimeError, match="invalid for input of size 12"):
        assert subgraph(torch.randn(3, 4)).shape == (12,)
        assert not torch.is_grad_enabled()
    assert region_state() == before


def test_regions_that_cross_one_another_are_each_left_once() -> None:
    before = region_state()
    with entered_regions() as called:
        context = amp._enter_autocast("cpu", torch.bfloat16, True, None)
        called(amp._enter_autocast, context)
        called(predispatch._jvp_increment_nesting, predispatch._jvp_increment_nesting())
        called(predispatch._enter_dual_level, predispatch._enter_dual_level())
        called(amp._exit_autocast, amp._exit_autocast(context))
    assert region_state() == before
    assert torch.autocast_increment_nesting() == 1
    assert torch.autocast_decrement_nesting() == 0
