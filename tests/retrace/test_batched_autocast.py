"""Autocast within levels of vmap: it casts what batching rules call, so that what an operator gives depends on which arguments are batched."""

from __future__ import annotations

import functools
import sys
import tempfile
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.export import Dim, ExportedProgram

from retraced_server.passes import run_pipeline
from retraced_server.program import read_program
from retraced_server.retrace import ExportPass, NodeMetadata
from retraced_server.retrace.values import logical
from tests.passes.support import export
from tests.support.compare import assert_same_results, validate

aten = torch.ops.aten
amp: Any = torch.amp.autocast_mode
predispatch: Any = torch._functorch.predispatch
Function = Callable[..., Any]

# What an edit replaces.
_times: Function = torch.mul

ROWS, CUBE = torch.randn(3, 4), torch.randn(2, 3, 4)


def _cast(function: Function) -> Function:
    def under_autocast(*args: Any) -> Any:
        with torch.autocast("cpu", torch.bfloat16):
            return function(*args)

    return under_autocast


def _without_gradients(function: Function) -> Function:
    def without(*args: Any) -> Any:
        with torch.no_grad():
            return function(*args)

    return without


def _with_gradients(function: Function) -> Function:
    def within(*args: Any) -> Any:
        with torch.enable_grad():
            return function(*args)

    return within


def _mv(row: torch.Tensor) -> torch.Tensor:
    return torch.mv(_times(torch.ones(4, 4), row), row)


def _mapped(function: Function) -> Function:
    return lambda x: torch.vmap(lambda row: function(row).sin())(x)


def _of_the_outer_level(rows: torch.Tensor) -> Any:
    # What is cast is batched at the outer level only.
    return torch.vmap(lambda row: _cast(_mv)(rows[0]) + row.to(torch.bfloat16))(rows)


def _asserted(rows: torch.Tensor) -> Any:
    # `to` leaves an assertion of the dtype in the subgraph.
    return torch.vmap(lambda row: _cast(lambda a, b: _mv(a).to(torch.float32) + b)(rows[0], row))(rows)


def _not_batched(row: torch.Tensor) -> Any:
    def both() -> Any:
        return torch.mm(torch.ones(4, 4), torch.ones(4, 4)).float(), _mv(row)

    one, other = _cast(both)()
    one = one.sin()
    return _cast(lambda: torch.mv(one, torch.ones(4)))() + 1, other


PROGRAMS: dict[str, tuple[Function, torch.Tensor]] = {
    "mv": (_mapped(_cast(_mv)), ROWS),
    "dot": (_mapped(_cast(lambda row: torch.dot(row, _times(row, 2)))), ROWS),
    "bmm": (_mapped(_cast(lambda row: torch.bmm(row[None, :, None], row[None, None, :]))), ROWS),
    "linear": (_mapped(_cast(lambda row: torch.nn.functional.linear(row, torch.ones(5, 4)))), ROWS),
    "autocast around the level": (_cast(_mapped(_mv)), ROWS),
    "around two levels": (_cast(lambda x: torch.vmap(_mapped(_mv))(x).cos()), CUBE),
    "in the inner level": (lambda x: torch.vmap(_mapped(_cast(_mv)))(x).cos(), CUBE),
    "between two levels": (lambda x: torch.vmap(_cast(_mapped(_mv)))(x).exp(), CUBE),
    "no_grad between two levels": (lambda x: torch.vmap(_without_gradients(_mapped(torch.cos)))(x).exp(), CUBE),
    "batched at the outer level": (torch.vmap(_of_the_outer_level), CUBE),
    "asserted at the outer level": (torch.vmap(_asserted), CUBE),
    "result that is not batched": (torch.vmap(_not_batched), ROWS),
    "autocast in no_grad": (_mapped(_without_gradients(lambda row: _cast(_mv)(row).cos())), ROWS),
    "in enable_grad in no_grad": (_mapped(_without_gradients(_with_gradients(lambda row: _cast(_mv)(row).cos()))), ROWS),
    "no_grad in autocast": (_mapped(_cast(lambda row: _without_gradients(_mv)(row).cos())), ROWS),
}

# The programs are exported once, so that what is known of one from the test before is to be forgotten.
pytestmark = pytest.mark.usefixtures("_nothing_known")
every_program = pytest.mark.parametrize("name", PROGRAMS)
# torch.export records no value for some calls of subgraphs in subgraphs, and torch cannot load what it then writes.
_SAVED = [name for name in PROGRAMS if name not in ("in enable_grad in no_grad", "no_grad in autocast")]


def _exported(name: str) -> tuple[ExportedProgram, torch.Tensor]:
    return _exported_once(name, _times)


@functools.cache
def _exported_once(name: str, times: Function) -> tuple[ExportedProgram, torch.Tensor]:
    """A program, whose function calls what `_times` is now: never to be changed."""
    assert times is _times
    function, x = PROGRAMS[name]
    return export(function, x), x


def _read(program: ExportedProgram) -> ExportedProgram:
    with tempfile.TemporaryFile() as file:
        torch.export.save(program, file)
        file.flush()
        return read_program(file).program


@pytest.mark.parametrize("mode", ["full", "incremental"])
@every_program
def test_untouched_program_is_given_back(name: str, mode: str) -> None:
    program, _ = _exported(name)
    result = run_pipeline(program, "retrace", mode=mode)
    assert result.program is program
    assert not result.reports[0].remarks


@pytest.mark.parametrize("name", _SAVED)
def test_untouched_program_that_was_read_is_given_back(name: str) -> None:
    program = _read(_exported(name)[0])
    assert run_pipeline(program, "retrace", mode="full").program is program


@every_program
def test_every_call_gives_what_is_recorded_where_all_are_executed(name: str) -> None:
    assert not ExportPass().call(_exported(name)[0].graph_module).modified


class _Replaces(ExportPass):
    """Replaces `mul` in the region by `sub`, so that what follows it is executed."""

    def call_operator(self, op: Any, args: Any, kwargs: Any, meta: NodeMetadata) -> Any:
        return super().call_operator(aten.sub.Tensor if op is aten.mul.Tensor else op, args, kwargs, meta)


@pytest.mark.parametrize("mode", ["full", "incremental"])
@pytest.mark.parametrize("name", [name for name in PROGRAMS if name not in ("bmm", "linear", "no_grad between two levels")])
def test_what_follows_an_edit_has_the_dtypes_that_it_computes(name: str, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    program, x = _exported(name)
    result = run_pipeline(program, [_Replaces()], mode=mode)
    assert result.modified
    monkeypatch.setattr(sys.modules[__name__], "_times", torch.sub)
    executed, _ = _exported(name)
    assert_same_results(executed, result.program, [((x,), {})], exact=True)
    validate(result.program)
    recorded = [node.meta["val"].dtype for node in result.program.graph.output_node().args[0]]
    assert recorded == [node.meta["val"].dtype for node in executed.graph.output_node().args[0]]
    assert run_pipeline(result.program, "retrace", mode="full").program is result.program


def test_size_of_a_level_may_be_symbolic() -> None:
    def multiplied(row: torch.Tensor) -> torch.Tensor:
        return torch.mv(torch.outer(row, row), row)

    program = export(_mapped(_cast(multiplied)), ROWS, dynamic_shapes=(({0: Dim.AUTO},),))
    assert run_pipeline(program, "retrace", mode="full", refuse_new_guards=True).program is program


def _with_mv_under_autocast(program: ExportedProgram, dtype: torch.dtype) -> None:
    graph = program.graph
    (mv,) = graph.find_nodes(op="call_function", target=aten.mv.default)
    with graph.inserting_before(mv):
        entered = graph.call_function(amp._enter_autocast, ("cpu", torch.bfloat16, True, None))
    with graph.inserting_after(mv):
        left = graph.call_function(amp._exit_autocast, (entered,))
    entered.meta["val"] = left.meta["val"] = None
    for node in (mv, *mv.users):
        node.meta["val"] = torch.empty_like(logical(node.meta["val"]), dtype=dtype)
    program.graph_module.recompile()


@pytest.mark.parametrize("batched", [True, False])
def test_calls_that_enter_autocast_within_a_level_cast_what_is_batched_in_it(batched: bool) -> None:
    def multiplied(row: torch.Tensor) -> Any:
        square = torch.outer(row, row) if batched else torch.ones(4, 4)
        return row.cos(), torch.mv(square, row if batched else square[0])

    program, dtype = export(torch.vmap(multiplied), ROWS), torch.bfloat16 if batched else torch.float32
    _with_mv_under_autocast(program, dtype)
    assert program.module()(ROWS)[1].dtype is dtype
    assert run_pipeline(program, "retrace", mode="full").program is program


@pytest.mark.parametrize("randomness", ["different", "same"])
def test_random_values_are_batched_where_each_example_has_its_own(randomness: str) -> None:
    def drawn(row: torch.Tensor, chances: torch.Tensor) -> Any:
        return row.cos(), torch.mv(torch.ones(4, 4), torch.bernoulli(chances))

    inputs, dtype = (ROWS, torch.rand(4)), torch.bfloat16 if randomness == "different" else torch.float32
    program = export(torch.vmap(drawn, in_dims=(0, None), randomness="same"), *inputs)
    # torch.export cannot export those that differ.
    (level,) = program.graph.find_nodes(op="call_function", target=predispatch._vmap_increment_nesting)
    level.args = (3, randomness)
    _with_mv_under_autocast(program, dtype)
    assert program.module()(*inputs)[1].dtype is dtype
    assert run_pipeline(program, "retrace", mode="full").program is program


def test_forward_derivative_of_what_is_cast_is_given_back() -> None:
    x = torch.randn(4)
    program = export(lambda x: torch.func.jvp(lambda a: _cast(_mv)(a).sin(), (x,), (x,)), x, strict=True)
    assert run_pipeline(program, "retrace", mode="full").program is program
