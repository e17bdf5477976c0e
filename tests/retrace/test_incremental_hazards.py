"""The hazards of reusing recorded values, one by one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import nn
from torch.export import Dim, ExportedProgram

from retraced_server.passes import run_pipeline
from retraced_server.retrace import ExportPass, NodeMetadata, ProxyValue, pass_context
from tests.support.compare import (
    assert_shape_env_unchanged,
    fake_mode_of,
    loaded,
    saved_and_loaded,
    shape_env_snapshot,
    validate,
)
from tests.support.describe import alias_sets, graphs
from tests.support.models import by_name
from tests.support.passes import Hooked

aten = torch.ops.aten
_MODES = pytest.mark.parametrize("mode", ["incremental", "full"])


def _copied(call: Any, op: Any, args: Any, kwargs: Any, meta: Any) -> Any:
    return call(aten.clone.default, (call(op, args, kwargs, meta),), {}, meta)


def _dropped(call: Any, op: Any, args: Any, kwargs: Any, meta: Any) -> Any:
    return args[0]


def _after_a_write(call: Any, op: Any, args: Any, kwargs: Any, meta: Any) -> Any:
    call(aten.add_.Tensor, (args[0], 1), {}, meta)
    return call(op, args, kwargs, meta)


def _export(module: nn.Module, *args: Any, shapes: Any = None) -> ExportedProgram:
    return torch.export.export(module, args, dynamic_shapes=shapes)


def _values(program: ExportedProgram) -> dict[str, Any]:
    return {node.name: node.meta.get("val") for node in program.graph.nodes}


def _storage(value: torch.Tensor) -> int:
    return int(value.untyped_storage()._cdata)


# -- values loaded from a file lack storage offset and aliasing -------------------------------------------------------------------


class Views(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x.relu()
        row = y[1]
        return row.view(2, 2).transpose(0, 1) + 1


def test_view_of_a_copy_is_dirty_though_a_file_has_lost_that_it_was_a_view() -> None:
    program = saved_and_loaded(_export(Views(), torch.randn(3, 4)))
    before = _values(program)
    assert _storage(before["select"]) != _storage(before["view"])
    after = _values(run_pipeline(program, [Hooked(select=_copied)]).program)
    assert _storage(after["view"]) == _storage(after["select"])
    assert after["add"] is before["add"]


def test_storage_offset_that_a_file_has_lost_changes_nothing_after_the_views() -> None:
    program = saved_and_loaded(_export(Views(), torch.randn(3, 4)))
    before = _values(program)
    assert before["select"].storage_offset() == 0
    after = _values(run_pipeline(program, [Hooked(relu=_dropped)]).program)
    assert _storage(after["transpose"]) == _storage(after["x"])
    assert after["add"] is before["add"]


# -- unbacked symbols -------------------------------------------------------------------------------------------------------------


def _symbols(program: ExportedProgram) -> set[str]:
    return {str(symbol) for node in program.graph.nodes for symbol in node.meta.get("unbacked_bindings", {})}


@pytest.mark.parametrize("name", ["data_dependent", "everything", "scalars_from_data"])
def test_unbacked_symbols_of_green_nodes_stay_with_their_bindings(name: str) -> None:
    program = by_name(name).build()
    before, symbols, env = _values(program), _symbols(program), shape_env_snapshot(program)
    output = next(
        node for node in program.graph.nodes if node.op == "call_function" and isinstance(node.meta.get("val"), torch.Tensor)
    )
    result = run_pipeline(program, [Hooked(**{output.name: _copied})])
    assert result.modified
    assert _symbols(result.program) == symbols
    assert result.program.range_constraints == program.range_constraints
    after = _values(result.program)
    assert all(after[key] is value for key, value in before.items() if isinstance(value, (torch.SymInt, torch.SymFloat)))
    assert_shape_env_unchanged(env, program)


@_MODES
def test_unbacked_symbols_of_dirty_nodes_are_called_what_they_were(mode: str) -> None:
    class Model(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.nonzero(x.sin() > 0).float().sum(0)

    program = _export(Model(), torch.randn(5))

    def widened(call: Any, op: Any, args: Any, kwargs: Any, meta: Any) -> Any:
        return call(aten.to.dtype, (args[0], torch.float64), {}, meta)

    result = run_pipeline(program, [Hooked(sin=widened)], mode=mode)
    assert _symbols(result.program) == _symbols(program) != set()
    assert result.program.range_constraints == program.range_constraints
    fake_mode = fake_mode_of(program)
    assert fake_mode is not None
    assert fake_mode.shape_env is not None
    assert not fake_mode.shape_env.pending_fresh_unbacked_symbols


@_MODES
def test_dirty_node_is_executed_under_the_facts_that_green_assertions_state(mode: str) -> None:
    class Model(nn.Module):
        def forward(self, x: torch.Tensor, n: torch.Tensor) -> torch.Tensor:
            size: Any = n.item()
            torch._check(size >= 2)
            torch._check(size <= x.shape[0])
            return (x.sin()[:size] * 2).sum(0)

    # In a program read from a file only the assertions say that the size fits.
    program = saved_and_loaded(
        _export(Model(), torch.randn(6, 4), torch.tensor(3), shapes=({0: Dim("batch", min=4, max=32)}, None))
    )

    def widened(call: Any, op: Any, args: Any, kwargs: Any, meta: Any) -> Any:
        return call(aten.to.dtype, (call(op, args, kwargs, meta), torch.float64), {}, meta)

    env = shape_env_snapshot(program)
    result = run_pipeline(program, [Hooked(sin=widened)], mode=mode)
    assert result.reports[0].new_guards == ()
    assert result.program.graph.output_node().args[0][0].meta["val"].dtype is torch.float64
    assert_shape_env_unchanged(env, program)
    validate(result.program)


# -- in-place operators, views ----------------------------------------------------------------------------------------------------


@_MODES
def test_dirty_write_makes_every_later_alias_dirty(mode: str) -> None:
    class Model(nn.Module):
        def forward(self, n: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
            number = n.clone()
            view = number.view(1)
            size: Any = number.item()
            return x * size + view

    program = _export(Model(), torch.tensor(3), torch.randn(4))
    # A second read has the symbol of the first, since nothing is written in between. Exporting drops it, other passes may not.
    first = next(node for node in program.graph.nodes if node.name == "item")
    reader = next(iter(first.users))
    with program.graph.inserting_before(reader):
        second = program.graph.call_function(first.target, first.args)
    second.meta["val"] = first.meta["val"]
    reader.replace_input_with(first, second)
    before = _values(program)

    class Writes(ExportPass):
        def call_operator(self, op: Any, args: tuple[Any, ...], kwargs: dict[str, Any], meta: NodeMetadata) -> ProxyValue[Any]:
            visited = pass_context().node
            assert visited is not None
            if visited.name == "view":
                self.view = super().call_operator(op, args, kwargs, meta)
                return self.view
            if visited is second:
                # Through the view, not through what is read.
                super().call_operator(aten.add_.Tensor, (self.view, 1), {}, meta)
            return super().call_operator(op, args, kwargs, meta)

    result = run_pipeline(program, [Writes()], mode=mode)
    after = _values(result.program)
    assert str(after["item"]) == str(before["item"])
    assert str(after[second.name]) != str(after["item"])
    bound = [symbol for node in result.program.graph.nodes for symbol in node.meta.get("unbacked_bindings", {})]
    assert len(set(bound)) == len(bound) == 2
    validate(result.program)


@_MODES
def test_write_that_is_gone_makes_later_reads_dirty(mode: str) -> None:
    class Model(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            copied = x.clone()
            copied.unsqueeze_(0)
            return copied.sum(0)

    program = _export(Model(), torch.randn(4, 3))
    result = run_pipeline(program, [Hooked(unsqueeze_=_dropped)], mode=mode)
    assert result.program.graph.output_node().args[0][0].meta["val"].shape == (3,)


@_MODES
def test_green_change_of_sizes_in_place_holds_for_the_dirty_nodes_after_it(mode: str) -> None:
    class Model(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            copied = x.clone()
            copied.unsqueeze_(0)
            return copied.sin().sum(0)

    program = _export(Model(), torch.randn(4, 3))
    result = run_pipeline(program, [Hooked(sin=_copied)], mode=mode)
    assert result.program.graph.output_node().args[0][0].meta["val"].shape == (4, 3)
    assert _values(result.program)["sin"] is _values(program)["sin"]


@_MODES
def test_recorded_values_are_not_written_to(mode: str) -> None:
    program = by_name("residual_net").build()
    versions = {name: value._version for name, value in _values(program).items() if isinstance(value, torch.Tensor)}
    aliases = alias_sets(program)
    run_pipeline(program, [Hooked(batch_norm=_copied, batch_norm_3=_copied, add__1=_copied)], mode=mode)
    assert {name: value._version for name, value in _values(program).items() if isinstance(value, torch.Tensor)} == versions
    assert alias_sets(program) == aliases


# -- cut-off across view and copy -------------------------------------------------------------------------------------------------


@_MODES
def test_copy_in_place_of_a_view_is_not_taken_for_the_view(mode: str) -> None:
    class Model(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.relu().view(-1).view(2, 6).sin()

    program = _export(Model(), torch.randn(3, 4))
    before = _values(program)

    def copy(call: Any, op: Any, args: Any, kwargs: Any, meta: Any) -> Any:
        return call(aten.view_copy.default, args, kwargs, meta)

    result = run_pipeline(program, [Hooked(view=copy)], mode=mode)
    after = _values(result.program)
    assert _storage(after["view"]) != _storage(after["relu"])
    assert _storage(after["view_1"]) == _storage(after["view"])
    # Metadata and alias set are what they were.
    assert after["sin"] is before["sin"]
    assert after["relu"] is before["relu"]


@_MODES
def test_view_in_place_of_a_copy_is_not_taken_for_the_copy(mode: str) -> None:
    class Model(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.relu().clone().view(-1).sin()

    program = _export(Model(), torch.randn(3, 4))
    result = run_pipeline(program, [Hooked(clone=_dropped)], mode=mode)
    after = _values(result.program)
    assert _storage(after["view"]) == _storage(after["relu"])
    assert after["sin"] is _values(program)["sin"]


@_MODES
def test_value_that_a_hook_wrote_to_shares_its_storage_with_what_the_write_gave(mode: str) -> None:
    class Model(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.relu().sin()

    def written(call: Any, op: Any, args: Any, kwargs: Any, meta: Any) -> Any:
        result = call(aten.clamp_min.default, (args[0], 0), {}, meta)
        call(aten.mul_.Scalar, (result, 1), {}, meta)
        return result

    program = _export(Model(), torch.randn(3, 4))
    before = _values(program)
    after = _values(run_pipeline(program, [Hooked(relu=written)], mode=mode).program)
    assert _storage(after["relu"]) == _storage(after["mul_"])
    assert after["sin"] is before["sin"]


# -- asserts, effect tokens, mutation ---------------------------------------------------------------------------------------------


@_MODES
@pytest.mark.parametrize("name", ["everything", "data_dependent", "effects", "in_place", "custom_ops"])
def test_asserts_tokens_and_mutations_keep_their_order(name: str, mode: str) -> None:
    program = by_name(name).build()
    order = [node.name for node in program.graph.nodes]
    operators = [node for node in program.graph.nodes if isinstance(node.target, torch._ops.OpOverload)]
    first = next(node for node in operators if isinstance(node.meta.get("val"), torch.Tensor))
    result = run_pipeline(program, [Hooked(**{first.name: _copied})], mode=mode)
    after = [node.name for node in result.program.graph.nodes]
    assert [name for name in after if name in order] == order
    validate(result.program)


# -- random operators -------------------------------------------------------------------------------------------------------------


@_MODES
def test_equal_random_operators_stay_apart(mode: str) -> None:
    class Model(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.rand_like(x.relu()) - torch.rand_like(x.relu()) + torch.rand(3, 4)

    program = _export(Model(), torch.randn(3, 4))
    random = ["rand_like", "rand_like_1", "rand"]
    result = run_pipeline(program, [Hooked(relu=_copied, relu_1=_copied)], mode=mode)
    assert [node.name for node in result.program.graph.nodes if node.name in random] == random
    assert all(_values(result.program)[name] is _values(program)[name] for name in random)


# -- hooks with side effects ------------------------------------------------------------------------------------------------------


@_MODES
@pytest.mark.parametrize("name", ["bert", "everything", "symbolic_scalars", "multiple_results", "nested"])
def test_hooks_are_called_for_every_node_every_time(name: str, mode: str) -> None:
    class Counts(ExportPass):
        def __init__(self) -> None:
            super().__init__()
            self.names: list[str] = []

        def _count(self) -> None:
            context = pass_context()
            assert context.node is not None
            self.names.append(f"{context.graph_path}:{context.node.name}")

        def call_operator(self, op: Any, args: tuple[Any, ...], kwargs: dict[str, Any], meta: NodeMetadata) -> ProxyValue[Any]:
            self._count()
            return super().call_operator(op, args, kwargs, meta)

        def call_sym(self, target: Any, args: tuple[Any, ...], meta: NodeMetadata) -> ProxyValue[Any]:
            self._count()
            return super().call_sym(target, args, meta)

        def call_getitem(self, value: ProxyValue[Any], key: int, meta: NodeMetadata) -> ProxyValue[Any]:
            self._count()
            return super().call_getitem(value, key, meta)

        def output(self, results: Any, meta: NodeMetadata) -> ProxyValue[Any]:
            self._count()
            return super().output(results, meta)

    program = by_name(name).program
    expected: Sequence[str] = [
        f"{path}:{node.name}"
        for path, module in graphs(program.graph_module)
        for node in module.graph.nodes
        if node.op in ("call_function", "output") and not isinstance(node.target, torch._ops.HigherOrderOperator)
    ]
    counting = Counts()
    for _ in range(2):
        counting.names.clear()
        assert run_pipeline(program, [counting], mode=mode).program is program
        assert sorted(counting.names) == sorted(expected)


def test_file_and_memory_agree_on_what_a_pass_makes() -> None:
    case = by_name("residual_net")
    for program in (case.program, loaded(case.archive)):
        result = run_pipeline(program, [Hooked(conv2d_1=_copied)])
        assert [node.name for node in result.program.graph.nodes if node.target is aten.clone.default] == ["conv2d_1"]
