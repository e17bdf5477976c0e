"""`cse` merges equal calls, and says why it did not where it did not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from retraced_server.passes import run_pipeline
from retraced_server.passes.cse import CommonSubexpressionElimination
from retraced_server.retrace import PassContext
from tests.passes.support import QUICK, Function, decomposed, export, names, targets
from tests.support.case import ProgramCase
from tests.support.compare import assert_same_results, assert_shape_env_unchanged, shape_env_snapshot, validate
from tests.support.describe import alias_sets, describe_program, graphs
from tests.support.models import by_name

_X = torch.randn(3, 4)


def _merged(function: Any, *args: Any, **options: Any) -> Any:
    program = export(function, *(args or (_X,)), **options)
    result = run_pipeline(program, "cse")
    validate(result.program)
    assert_same_results(program, result.program, [(args or (_X,), {})], exact=True)
    return result


def test_equal_calls_become_the_first_of_them() -> None:
    result = _merged(lambda x: (x.sin() + 1) * (x.sin() + 1))
    assert names(result.program) == ["args_0", "sin", "add", "mul", "output"]
    assert result.reports[0].rewrites == 2
    assert result.provenance["sin"].from_nodes == ("sin", "sin_1")
    assert result.provenance["sin"].made_by is None


def test_chains_are_merged_in_one_run() -> None:
    result = _merged(lambda x: x.sin().cos().exp() + x.sin().cos().exp())
    assert targets(result.program) == {"aten.sin": 1, "aten.cos": 1, "aten.exp": 1, "aten.add": 1}


def test_keywords_and_written_defaults_make_no_difference() -> None:
    aten = torch.ops.aten
    result = _merged(lambda x: aten.add.Tensor(x, x) * aten.add.Tensor(x, other=x) * aten.add.Tensor(x, x, alpha=1))
    assert targets(result.program)["aten.add"] == 1


@pytest.mark.parametrize(("a", "b"), [(1, 1.0), (0.0, -0.0), (1, True), (2, 3)])
def test_other_constants_are_other_calls(a: Any, b: Any) -> None:
    result = _merged(lambda x: torch.ops.aten.mul.Tensor(x, a) + torch.ops.aten.mul.Tensor(x, b))
    assert targets(result.program)["aten.mul"] == 2
    assert not result.modified


def test_operands_in_another_order_are_another_call() -> None:
    assert targets(_merged(lambda x, y: (x - y) * (y - x), _X, _X + 1).program)["aten.sub"] == 2


def test_items_of_a_tuple_are_merged() -> None:
    result = _merged(lambda x: x.max(0).values + x.max(0).values)
    assert targets(result.program)["aten.max"] == 1
    assert targets(result.program)["<built-in function getitem>"] == 2


def test_symbolic_numbers_are_merged_and_the_assertions_on_them_stay() -> None:
    # torch computes a number once more for each assertion that it derives.
    before = run_pipeline(by_name("data_dependent").program, "decompose{by=torch}").program
    result = run_pipeline(before, "cse")
    assert_same_results(before, result.program, by_name("data_dependent").inputs())
    assert targets(before) - targets(result.program) == {"<built-in function gt>": 1}


def test_subgraphs_are_visited_each_by_itself() -> None:
    def branches(x: torch.Tensor) -> torch.Tensor:
        return torch.cond(x.sum() > 0, lambda x: x.sin() * x.sin(), lambda x: x.cos() + x.sin(), (x.sin(),))

    result = _merged(branches)
    # One in the root graph, one in each branch.
    assert targets(result.program)["aten.sin"] == 3
    assert result.provenance["true_graph_0:sin_1"].from_nodes == ("true_graph_0:sin_1", "true_graph_0:sin_2")


def test_subgraph_that_is_called_three_times_is_changed_once() -> None:
    program = decomposed(by_name("invoke_subgraph")).program
    before = [path for path, _ in graphs(program.graph_module)]
    result = run_pipeline(program, "cse")
    assert [path for path, _ in graphs(result.program.graph_module)] == before


def test_merged_value_has_the_metadata_of_the_first_call() -> None:
    program = export(lambda x: x.sin() * x.sin(), _X)
    old = {node.name: node for node in program.graph.nodes}
    new = {node.name: node for node in run_pipeline(program, "cse").program.graph.nodes}
    assert new["sin"].meta["val"] is old["sin"].meta["val"]
    assert new["sin"].meta["stack_trace"] == old["sin"].meta["stack_trace"]


def test_item_that_defines_a_symbol_of_its_own_stays() -> None:
    def twice(x: torch.Tensor) -> Any:
        first = x.item()
        y = x + 1
        return first, (y - 1).item() + y.item()

    result = _merged(twice, torch.tensor(3))
    assert targets(result.program)["aten.item"] == 3


def test_reading_the_same_number_twice_is_merged_where_it_has_one_symbol() -> None:
    result = _merged(lambda x: (x.item() + 1, x.item() + 1), torch.tensor(3))
    assert targets(result.program)["aten.item"] == 1


def test_pass_reports_no_change_and_gives_the_same_module() -> None:
    module = by_name("unused_input").program.graph_module
    with PassContext() as context:
        result = CommonSubexpressionElimination()(module)
    assert result.graph_module is module
    assert not result.modified
    assert (context.rewrites, context.remarks) == (0, [])


def test_one_pass_object_forgets_what_it_found_before() -> None:
    instance = CommonSubexpressionElimination()
    with PassContext() as first:
        assert instance(export(lambda x: x.sin() + x.sin(), _X).graph_module).modified
    with PassContext() as second:
        assert not instance(export(lambda x: x.sin() + x.cos(), _X).graph_module).modified
    assert (first.rewrites, second.rewrites) == (1, 0)


@pytest.mark.parametrize("case", QUICK, ids=str)
def test_input_program_is_left_alone_and_no_symbol_or_guard_is_added(case: ProgramCase) -> None:
    program = decomposed(case).program
    before, aliases, env = describe_program(program), alias_sets(program), shape_env_snapshot(program)
    result = run_pipeline(program, "cse")
    assert describe_program(program) == before
    assert alias_sets(program) == aliases
    assert_shape_env_unchanged(env, program)
    assert result.program.range_constraints == program.range_constraints
    assert result.program._guards_code == program._guards_code
    assert result.reports[0].nodes_before - result.reports[0].nodes_after == result.reports[0].rewrites


class _Shared(nn.Module):
    """Two modules that compute the same of the same value."""

    def __init__(self) -> None:
        super().__init__()
        self.first = Function(lambda x: x.sin() + 1)
        self.second = Function(lambda x: x.sin() + 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.first(x) * self.second(x)


def test_modules_with_preserved_signatures_do_not_share_values() -> None:
    program = export(_Shared(), _X, preserve_module_call_signature=("first", "second"))
    assert targets(run_pipeline(program, "cse").program)["aten.sin"] == 2
    assert targets(run_pipeline(export(_Shared(), _X), "cse").program)["aten.sin"] == 1


def test_values_that_a_preserved_signature_names_stay_values_of_their_own() -> None:
    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.part = Function(lambda x: x.sin())

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.part(x) * self.part(x)

    program = export(Outer(), _X, preserve_module_call_signature=("part",))
    result = run_pipeline(program, "cse")
    assert targets(result.program)["aten.sin"] == 2
    assert [entry.fqn for entry in result.program.module_call_graph] == ["", "part", "part@1"]
    assert result.remarks == ()
