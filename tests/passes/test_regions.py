"""Passes on programs with calls of functorch's transforms: what they compute stays, in any pipeline, and what would break them is said."""

from __future__ import annotations

import functools
import io
import tempfile
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import fx
from torch.export import ExportedProgram
from torch.fx.passes.infra.pass_base import PassResult

from retraced_server.errors import Reason, RetracedError
from retraced_server.passes import run_pipeline
from retraced_server.passes.cse import CommonSubexpressionElimination
from retraced_server.passes.dce import DeadCodeElimination
from retraced_server.program import read_program
from retraced_server.retrace import ExportPass, NodeMetadata
from retraced_server.retrace.values import logical
from tests.passes.support import export, names, targets
from tests.support.case import Inputs
from tests.support.compare import assert_same_results, saved_and_loaded, validate
from tests.support.transforms import RARE_OPERATORS, TRANSFORMS, collectives, jvp, vmap_linear, vmap_mask, vmap_twice

aten = torch.ops.aten
predispatch: Any = torch._functorch.predispatch
Maker = Callable[[], tuple[ExportedProgram, list[Inputs]]]


@functools.cache
def _exported(make: Maker) -> tuple[ExportedProgram, list[Inputs]]:
    """A program, exported once per process: never to be changed."""
    return make()


@functools.cache
def _saved(program: ExportedProgram) -> bytes:
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    return buffer.getvalue()


def _read(program: ExportedProgram) -> ExportedProgram:
    with tempfile.TemporaryFile() as file:
        file.write(_saved(program))
        file.flush()
        return read_program(file).program


@pytest.mark.parametrize("mode", ["incremental", "full"])
@pytest.mark.parametrize("pipeline", ["retrace", "cse", "dce", "cse,dce", "decompose,cse,dce"])
@pytest.mark.parametrize("make", [*TRANSFORMS, *RARE_OPERATORS], ids=lambda make: make.__name__)
def test_program_computes_the_same_after_any_pipeline(make: Maker, pipeline: str, mode: str) -> None:
    program, calls = _exported(make)
    result = run_pipeline(_read(program), pipeline, mode=mode).program
    validate(result)
    assert_same_results(program, saved_and_loaded(result), calls)
    if pipeline == "retrace":
        assert names(result) == names(_read(program))


@pytest.mark.parametrize("pipeline", ["retrace", "cse,dce"])
@pytest.mark.parametrize("make", TRANSFORMS, ids=lambda make: make.__name__)
def test_program_that_was_just_exported_is_taken_too(make: Maker, pipeline: str) -> None:
    program, calls = make()
    result = run_pipeline(program, pipeline, mode="full")
    assert_same_results(program, saved_and_loaded(result.program), calls)


def test_equal_calls_are_merged_before_regions_and_never_across_two() -> None:
    mask = run_pipeline(_read(vmap_mask()[0]), "cse").program
    assert targets(mask)["aten.arange"] == 1
    twice = _read(vmap_twice()[0])
    assert run_pipeline(twice, "cse").program is twice
    assert targets(twice)["aten.sin"] == 2


def test_equal_calls_within_one_region_are_merged() -> None:
    program = _read(export(lambda x: torch.vmap(lambda row: row.sin() * row.sin())(x), torch.randn(3, 4)))
    result = run_pipeline(program, "cse,dce").program
    assert targets(result)["aten.sin"] == 1
    assert_same_results(program, result, [((torch.randn(3, 4),), {})], exact=True)


def test_collectives_are_neither_merged_nor_erased() -> None:
    program = _read(collectives()[0])
    assert run_pipeline(program, "cse,dce").program is program


class _Replaces(ExportPass):
    """Replaces one operator by another, wherever it stands."""

    def __init__(self, old: Any, new: Any, *more: Any) -> None:
        super().__init__()
        self._old, self._new, self._more = old, new, more

    def call_operator(self, op: Any, args: Any, kwargs: Any, meta: NodeMetadata) -> Any:
        if op is not self._old:
            return super().call_operator(op, args, kwargs, meta)
        return super().call_operator(self._new, (*args, *self._more), kwargs, meta)


def test_operator_is_replaced_within_a_region_and_what_leaves_it_follows() -> None:
    x = torch.randn(3, 4)
    program = _read(export(lambda x: torch.vmap(lambda row: row.sin())(x).t(), x))
    result = run_pipeline(program, [_Replaces(aten.sin.default, aten.cumsum.default, 0)]).program
    assert_same_results(export(lambda x: torch.vmap(lambda row: row.cumsum(0))(x).t(), x), result, [((x,), {})], exact=True)
    smaller = run_pipeline(program, [_Replaces(aten.sin.default, aten.narrow.default, 0, 1, 2)]).program
    executed = export(lambda x: torch.vmap(lambda row: row.narrow(0, 1, 2))(x).t(), x)
    assert_same_results(executed, smaller, [((x,), {})], exact=True)
    left = [next(node for node in of.graph.nodes if node.target is predispatch._remove_batch_dim) for of in (executed, smaller)]
    wanted, found = (node.meta["val"] for node in left)
    assert (found.shape, found.stride()) == (wanted.shape, wanted.stride())
    validate(smaller)


def test_operator_is_replaced_around_a_region_whose_inputs_change_size() -> None:
    x = torch.randn(3, 4)
    program = _read(export(lambda x: torch.vmap(lambda row: row.sin())(x.exp()).cos(), x))
    result = run_pipeline(program, [_Replaces(aten.exp.default, aten.narrow.default, 1, 0, 2)]).program
    assert next(node for node in result.graph.nodes if node.name == "cos").meta["val"].shape == (3, 2)
    assert_same_results(
        export(lambda x: torch.vmap(lambda row: row.sin())(x.narrow(1, 0, 2)).cos(), x), result, [((x,), {})], exact=True
    )


def test_operator_is_replaced_in_a_forward_derivative() -> None:
    x, v = torch.randn(3), torch.randn(3)
    result = run_pipeline(_read(jvp()[0]), [_Replaces(aten.sin.default, aten.exp.default)]).program
    expected = torch.func.jvp(lambda a: (a**3).exp(), (x,), (v,))
    torch.testing.assert_close(tuple(result.module()(x, v)), expected)


def test_operator_is_replaced_in_a_forward_derivative_whose_results_change_size() -> None:
    x, v = torch.randn(3), torch.randn(3)
    result = run_pipeline(_read(jvp()[0]), [_Replaces(aten.sin.default, aten.narrow.default, 0, 1, 2)]).program
    expected = torch.func.jvp(lambda a: (a**3).narrow(0, 1, 2), (x,), (v,))
    torch.testing.assert_close(tuple(result.module()(x, v)), expected)
    validate(result)


def _erases_sin(module: fx.GraphModule) -> Any:
    (sin,) = module.graph.find_nodes(op="call_function", target=aten.sin.default)
    sin.replace_all_uses_with(sin.args[0])
    module.graph.erase_node(sin)
    return PassResult(module, True)


@pytest.mark.parametrize("prepare", [lambda program: program, _read], ids=["exported", "read"])
@pytest.mark.parametrize(
    ("edit", "computed"),
    [
        (_Replaces(aten.sin.default, aten.tanh.default), lambda a: (a**3).tanh()),
        (_Replaces(aten.sin.default, aten.cumsum.default, 0), lambda a: (a**3).cumsum(0)),
        (_erases_sin, lambda a: a**3),
    ],
    ids=["other operator", "other schema", "erased by hand"],
)
def test_forward_derivative_is_executed_as_a_whole_after_any_edit(
    prepare: Callable[[ExportedProgram], ExportedProgram], edit: Any, computed: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    x, v = torch.randn(3), torch.randn(3)
    result = run_pipeline(prepare(jvp()[0]), [edit]).program
    torch.testing.assert_close(tuple(result.module()(x, v)), torch.func.jvp(computed, (x,), (v,)))
    validate(result)
    # What is recorded is what is executed.
    assert run_pipeline(result, "retrace", mode="full").program is result


# Of a program that was read, composed operators that give views have recorded values that share no storage, and are given ones that do.
@pytest.mark.parametrize(
    ("make", "prepare"),
    [
        *(
            (make, prepare)
            for make in (vmap_linear, vmap_mask, vmap_twice, jvp)
            for prepare in (lambda program: program, _read)
        ),
        *((make, lambda program: program) for make in TRANSFORMS[4:]),
    ],
)
def test_region_is_executed_as_a_whole_by_a_call_without_dunder_call_and_given_back_where_nothing_changes(
    make: Maker, prepare: Callable[[ExportedProgram], ExportedProgram]
) -> None:
    program = prepare(make()[0])
    values = [node.meta.get("val") for node in program.graph.nodes]
    result = ExportPass().call(program.graph_module)
    assert not result.modified
    assert result.graph_module is program.graph_module
    assert all(node.meta.get("val") is value for node, value in zip(program.graph.nodes, values, strict=True))


def test_call_without_dunder_call_executes_what_was_edited_in_a_region_and_what_leaves_it() -> None:
    x = torch.randn(3, 4)
    module = _read(export(lambda x: torch.vmap(lambda row: row.sin())(x), x)).graph_module
    (sin,) = module.graph.find_nodes(op="call_function", target=aten.sin.default)
    sin.target, sin.args = aten.narrow.default, (*sin.args, 0, 1, 2)
    module.recompile()
    result = ExportPass().call(module)
    assert result.modified
    (left,) = result.graph_module.graph.find_nodes(op="call_function", target=predispatch._remove_batch_dim)
    assert left.meta["val"].shape == (3, 2)
    torch.testing.assert_close(result.graph_module(x)[0], x[:, 1:3])


def _without_gradients(inner: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    def row(x: torch.Tensor) -> Any:
        with torch.no_grad():
            y = x.cos()
        return inner(y)

    return row


@pytest.mark.parametrize("prepare", [lambda program: program, _read], ids=["exported", "read"])
def test_region_that_calls_a_subgraph_is_executed_as_a_whole(prepare: Callable[[ExportedProgram], ExportedProgram]) -> None:
    x = torch.randn(3, 4)
    program = prepare(export(lambda x: torch.vmap(_without_gradients(torch.sin))(x), x))
    assert targets(program)["wrap_with_set_grad_enabled"] == 1
    assert run_pipeline(program, "retrace", mode="full").program is program
    result = run_pipeline(program, [_Replaces(aten.sin.default, aten.narrow.default, 0, 1, 2)], check=True).program
    executed = export(lambda x: torch.vmap(_without_gradients(lambda row: row.narrow(0, 1, 2)))(x), x)
    assert_same_results(executed, result, [((x,), {})], exact=True)
    validate(result)


@pytest.mark.parametrize("prepare", [lambda program: program, _read], ids=["exported", "read"])
def test_attribute_that_an_edit_reads_within_a_region_is_what_the_region_computes_with(
    prepare: Callable[[ExportedProgram], ExportedProgram],
) -> None:
    x, weight = torch.randn(3, 4), torch.randn(2, 4)

    def multiplies(module: fx.GraphModule) -> Any:
        module.register_buffer("weight", weight)
        (sin,) = module.graph.find_nodes(op="call_function", target=aten.sin.default)
        with module.graph.inserting_before(sin):
            attribute = module.graph.get_attr("weight")
        sin.target, sin.args = aten.mul.Tensor, (attribute, sin.args[0])
        return ExportPass().call(module)

    program = prepare(export(lambda x: torch.vmap(lambda row: row.sin() + 1)(x), x))
    result = run_pipeline(program, [multiplies]).program
    assert_same_results(export(lambda x: torch.vmap(lambda row: weight * row + 1)(x), x), result, [((x,), {})], exact=True)
    assert result.graph_module.graph.output_node().args[0][0].meta["val"].shape == (3, 2, 4)


@pytest.mark.parametrize("prepare", [lambda program: program, _read], ids=["exported", "read"])
def test_operator_is_replaced_in_a_region_within_another(prepare: Callable[[ExportedProgram], ExportedProgram]) -> None:
    def nested(inner: Any) -> ExportedProgram:
        return export(lambda x: torch.vmap(lambda rows: torch.vmap(inner)(rows).cos())(x).exp(), x)

    x = torch.randn(3, 4, 5)
    program = prepare(nested(torch.sin))
    assert run_pipeline(program, "retrace", mode="full").program is program
    result = run_pipeline(program, [_Replaces(aten.sin.default, aten.narrow.default, 0, 1, 2)], check=True).program
    executed = nested(lambda value: value.narrow(0, 1, 2))
    assert_same_results(executed, result, [((x,), {})], exact=True)
    validate(result)
    for wanted, found in zip(executed.graph.output_node().args[0], result.graph.output_node().args[0], strict=True):
        assert (found.meta["val"].shape, found.meta["val"].stride()) == (wanted.meta["val"].shape, wanted.meta["val"].stride())


def test_autocast_within_a_region_is_entered_for_the_calls_after_it_only() -> None:
    def rows(x: torch.Tensor, weight: torch.Tensor) -> Any:
        return torch.mm(x, weight), torch.mm(x.cos(), weight)

    program = export(lambda x, w: torch.vmap(lambda row: rows(row, w))(x), torch.randn(3, 2, 4), torch.randn(4, 4))
    graph, amp = program.graph, torch.amp.autocast_mode
    _, second = graph.find_nodes(op="call_function", target=aten.mm.default)
    (ended,) = graph.find_nodes(op="call_function", target=predispatch._vmap_decrement_nesting)
    with graph.inserting_before(second):
        entered = graph.call_function(amp._enter_autocast, ("cpu", torch.bfloat16, True, None))
    with graph.inserting_before(ended):
        left = graph.call_function(amp._exit_autocast, (entered,))
    entered.meta["val"] = left.meta["val"] = None
    for node in (second, *second.users):
        node.meta["val"] = torch.empty_like(logical(node.meta["val"]), dtype=torch.bfloat16)
    program.graph_module.recompile()
    assert run_pipeline(program, "retrace", mode="full").program is program


def test_operator_that_the_transform_does_not_take_is_an_error_at_what_leaves_the_region() -> None:
    program = _read(export(lambda x: torch.vmap(lambda row: row.sin())(x), torch.randn(3, 4)))
    with pytest.raises(RetracedError, match=r"_remove_batch_dim.*the region that `_vmap_increment_nesting") as caught:
        run_pipeline(program, [_Replaces(aten.sin.default, aten.multinomial.default, 2)])
    assert caught.value.reason is Reason.PASS_FAILED
    assert torch._C._functorch.maybe_current_level() is None


def test_hooks_run_outside_of_the_levels_that_their_nodes_are_in() -> None:
    levels = set()

    class Looks(ExportPass):
        def call_operator(self, op: Any, args: Any, kwargs: Any, meta: NodeMetadata) -> Any:
            levels.add(torch._C._functorch.maybe_current_level())
            return super().call_operator(op, args, kwargs, meta)

    run_pipeline(_read(vmap_linear()[0]), [Looks()], mode="full")
    assert levels == {None}


def _erases(name: str) -> Callable[[fx.GraphModule], Any]:
    def erases(module: fx.GraphModule) -> Any:
        for node in list(module.graph.nodes):
            if name in node.name:
                node.replace_all_uses_with(node.args[0] if node.args else node)
                module.graph.erase_node(node)
        return PassResult(module, True)

    return erases


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("increment", r"is of level 1, and 0 have been entered"),
        ("decrement", r"nothing leaves the region that `_vmap_increment_nesting"),
        ("remove_batch", r"`output` uses a value of the region that `_vmap_increment_nesting.* outside of it"),
    ],
)
def test_pass_that_breaks_a_region_is_told_which(name: str, message: str) -> None:
    program = _read(vmap_linear()[0])
    with pytest.raises(RetracedError, match=message) as caught:
        run_pipeline(program, [_erases(name)])
    assert caught.value.reason is Reason.PASS_OUTPUT_INVALID


def test_torchs_own_elimination_of_dead_code_is_found_out() -> None:
    def eliminates(module: fx.GraphModule) -> Any:
        return PassResult(module, module.graph.eliminate_dead_code())

    with pytest.raises(RetracedError, match="level 1"):
        run_pipeline(_read(vmap_linear()[0]), [eliminates])


def test_function_that_is_not_known_is_neither_erased_nor_merged_over() -> None:
    seen: list[object] = []

    def unknown(x: object) -> None:
        seen.append(x)

    program = _read(export(lambda x: x.sin() * x.sin(), torch.randn(3)))
    module = program.graph_module
    first = next(node for node in module.graph.nodes if node.name == "sin")
    with module.graph.inserting_after(first):
        module.graph.call_function(unknown, (first,)).meta["val"] = None
    for instance in (CommonSubexpressionElimination(), DeadCodeElimination()):
        result = instance(module)
        assert result is not None
        assert not result.modified
