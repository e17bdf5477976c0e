"""Unbacked symbols are stable: what an operator makes again is called what the program calls it, and nothing is left over."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.export import Dim, ExportedProgram

from retraced_server.passes import run_pipeline
from retraced_server.retrace import ExportPass, ProxyValue
from tests.support.case import ProgramCase, of_sizes
from tests.support.compare import assert_equivalent, assert_shape_env_unchanged, fake_mode_of, shape_env_snapshot
from tests.support.describe import graphs, values
from tests.support.models import by_name

aten = torch.ops.aten

_MAKERS = (
    aten.item.default,
    aten._local_scalar_dense.default,
    aten.nonzero.default,
    aten.masked_select.default,
)


class MakesAnew(ExportPass):
    """Gives each operator that makes unbacked symbols a copy of what it takes, so that it is executed anew."""

    def call_operator(self, op: Any, args: Any, kwargs: Any, meta: Any) -> ProxyValue[Any]:
        if op in _MAKERS:
            args = (super().call_operator(aten.clone.default, args[:1], {}, meta), *args[1:])
        return super().call_operator(op, args, kwargs, meta)


class ClonesSources(ExportPass):
    """Copies what the makers of symbols give, so that symbols go through a new node."""

    def call_operator(self, op: Any, args: Any, kwargs: Any, meta: Any) -> ProxyValue[Any]:
        value = super().call_operator(op, args, kwargs, meta)
        if op in (aten.nonzero.default, aten.masked_select.default):
            return super().call_operator(aten.clone.default, (value,), {}, meta)
        return value


def bindings(program: ExportedProgram) -> dict[tuple[str, str], dict[str, str]]:
    """Which node binds which unbacked symbols, and where in its value."""
    return {
        (path, node.name): {str(symbol): str(place) for symbol, place in bound.items()}
        for path, module in graphs(program.graph_module)
        for node in module.graph.nodes
        if (bound := node.meta.get("unbacked_bindings"))
    }


def symbols_in_values(program: ExportedProgram) -> set[str]:
    """The unbacked symbols that recorded values name."""
    found: set[str] = set()
    for _, leaf in values(program):
        numbers = [*leaf.shape, *leaf.stride()] if isinstance(leaf, torch.Tensor) else [leaf]
        for number in numbers:
            if isinstance(number, (torch.SymInt, torch.SymFloat, torch.SymBool)):
                found |= {symbol.name for symbol in number.node.expr.free_symbols}
    return {name for name in found if name.startswith(("u", "zuf"))}


def test_symbols_made_anew_are_called_as_before(unbacked_case: ProgramCase) -> None:
    before = shape_env_snapshot(unbacked_case.program)
    program = run_pipeline(unbacked_case.program, [MakesAnew()]).program
    assert program is not unbacked_case.program
    assert bindings(program) == bindings(unbacked_case.program)
    assert symbols_in_values(program) == symbols_in_values(unbacked_case.program)
    assert program.range_constraints == unbacked_case.program.range_constraints
    after = shape_env_snapshot(unbacked_case.program)
    for fact in ("var_to_range", "pending_fresh_unbacked_symbols", "guards", "unbacked_renamings"):
        assert after[fact] == before[fact], fact
    assert_equivalent(unbacked_case, program)


def test_new_node_between_a_symbol_and_its_users_moves_no_binding(unbacked_case: ProgramCase) -> None:
    program = run_pipeline(unbacked_case.program, [ClonesSources()]).program
    assert symbols_in_values(program) == symbols_in_values(unbacked_case.program)
    bound = [symbol for places in bindings(program).values() for symbol in places]
    assert sorted(bound) == sorted(s for places in bindings(unbacked_case.program).values() for s in places)
    assert program.range_constraints == unbacked_case.program.range_constraints
    assert_equivalent(unbacked_case, program)


def test_symbols_are_stable_over_many_passes(unbacked_case: ProgramCase) -> None:
    program = run_pipeline(unbacked_case.program, [MakesAnew() for _ in range(4)]).program
    assert bindings(program) == bindings(unbacked_case.program)
    assert program.range_constraints == unbacked_case.program.range_constraints


class ItemTwice(nn.Module):
    """Reads a tensor, writes to it through a view, and reads it again: two symbols of one tensor."""

    def forward(self, t: torch.Tensor) -> tuple[Any, ...]:
        t = t.clone()
        view = t.view(-1)
        first = t.item()
        view.add_(1)
        return first, t.item()


ITEM_TWICE = ProgramCase("item_twice", ItemTwice, lambda: [((torch.tensor(3),), {}), ((torch.tensor(5),), {})])


@pytest.mark.parametrize("pass_type", [ExportPass, MakesAnew])
def test_reading_a_tensor_again_after_a_write_is_another_symbol(pass_type: type[ExportPass]) -> None:
    program = run_pipeline(ITEM_TWICE.program, [pass_type()]).program
    assert [list(places) for places in bindings(program).values()] == [["u0"], ["u1"]]
    assert_equivalent(ITEM_TWICE, program)


class ReadsAnew(ExportPass):
    """Makes a node of its own of what an operator gave, and gives back what the operator gave."""

    def call_operator(self, op: Any, args: Any, kwargs: Any, meta: Any) -> ProxyValue[Any]:
        result = super().call_operator(op, args, kwargs, meta)
        if result.is_tensor():
            super().call_operator(aten.neg.default, (result,), {}, meta)
        return result


@pytest.mark.parametrize("mode", ["incremental", "full"])
def test_symbols_of_a_node_that_stays_are_not_forgotten_when_a_hook_makes_another_of_it(mode: str) -> None:
    class Counts(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * torch.nonzero(x[:, 0].sin()).shape[0]

    program = torch.export.export(Counts(), (torch.randn(5, 4),), dynamic_shapes=({0: Dim("batch", min=2, max=9)},))
    before = bindings(program)
    for _ in range(2):
        program = run_pipeline(program, [ReadsAnew()], mode=mode).program
        assert bindings(program) == before


def test_symbol_of_a_new_operator_is_new_and_bound() -> None:
    class CountsPositive(ExportPass):
        """Adds an output: the rows of the first output that are not zero."""

        def output(self, results: Any, meta: Any) -> ProxyValue[Any]:
            positions = self.call_operator(aten.nonzero.default, (results[0],), {}, self._create_dummy_node_metadata())
            return super().output((*results, positions), meta)

    case = by_name("custom_ops_functional")
    program = run_pipeline(case.program, [CountsPositive()]).program
    ((place, bound),) = bindings(program).items()
    assert place == ("", "nonzero")
    assert list(bound) == ["u0"]
    assert [str(symbol) for symbol in program.range_constraints] == ["u0"]
    assert program.module()(torch.ones(4, 8), torch.ones(4, 8))[1].shape == (32, 2)


def test_operator_that_is_replaced_leaves_no_symbol_behind() -> None:
    class CountsNothing(ExportPass):
        """Uses a fixed number for what the program reads from data."""

        def call_operator(self, op: Any, args: Any, kwargs: Any, meta: Any) -> Any:
            if op is aten.nonzero.default:
                return super().call_operator(aten.zeros.default, ([5, 1],), {"dtype": torch.int64, "pin_memory": False}, meta)
            return super().call_operator(op, args, kwargs, meta)

    class Rows(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.nonzero(x).sum(0)

    case = ProgramCase("rows", Rows, of_sizes(lambda n: ((torch.ones(n),), {}), (5,)), ({0: Dim("n", min=2, max=9)},))
    program = run_pipeline(case.program, [CountsNothing()]).program
    assert bindings(program) == {}
    assert symbols_in_values(program) == set()
    assert not [symbol for symbol in program.range_constraints if symbol.name.startswith("u")]
    program.validate()


def test_failing_after_new_symbols_leaves_none(unbacked_case: ProgramCase) -> None:
    class Fails(MakesAnew):
        def output(self, results: Any, meta: Any) -> ProxyValue[Any]:
            raise ValueError("not this one")

    before = shape_env_snapshot(unbacked_case.program)
    with pytest.raises(Exception, match="not this one"):
        run_pipeline(unbacked_case.program, [Fails()])
    assert_shape_env_unchanged(before, unbacked_case.program)
    mode = fake_mode_of(unbacked_case.program)
    assert mode is not None
    assert mode.shape_env is not None
    assert not mode.shape_env.pending_fresh_unbacked_symbols
