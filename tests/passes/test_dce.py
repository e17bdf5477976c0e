"""`dce` removes what nothing uses, and no call that does more than compute."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import fx, nn

import tests.support.programs  # noqa: F401 - registers operators
from retraced_server.passes import PipelineResult, run_pipeline
from retraced_server.passes.dce import DeadCodeElimination
from tests.passes.support import export, names, node_keys, targets
from tests.support.case import ProgramCase
from tests.support.compare import (
    assert_same_results,
    assert_shape_env_unchanged,
    saved_and_loaded,
    shape_env_snapshot,
    validate,
)
from tests.support.describe import alias_sets, describe_node, describe_program, graphs
from tests.support.models import by_name

_X = torch.randn(3, 4)
aten = torch.ops.aten


def _checked(function: Any, *args: Any, **options: Any) -> PipelineResult:
    program = export(function, *(args or (_X,)), **options)
    result = run_pipeline(program, "dce")
    validate(result.program)
    assert_same_results(program, result.program, [(args or (_X,), {})], exact=True)
    return result


def _discard(value: object) -> None:
    """Exporting drops a value at once if nothing ever names it; a call does."""


def test_unused_calls_go_with_what_only_they_used() -> None:
    def wasteful(x: torch.Tensor) -> torch.Tensor:
        _discard(x.sin().cos() + 1)
        return x.exp()

    result = _checked(wasteful)
    assert names(result.program) == ["args_0", "exp", "output"]
    assert result.reports[0].rewrites == 3
    assert result.reports[0].nodes_before - result.reports[0].nodes_after == 3
    assert {entry.made_by for entry in result.provenance.values()} == {None}


def test_nodes_that_stay_are_as_they_were() -> None:
    program = by_name("multiple_results").program
    result = run_pipeline(program, "dce")
    assert result.modified
    old = {node.name: node for node in program.graph.nodes}
    for node in result.program.graph.nodes:
        before, after = describe_node(old[node.name]), describe_node(node)
        assert set(after.pop("users")) <= set(before.pop("users"))
        assert after == before
        assert node.meta.get("val") is old[node.name].meta.get("val")


@pytest.mark.parametrize("name", ["multiple_results", "llama", "everything", "data_dependent", "in_place", "nested", "cond"])
def test_removes_what_torchs_own_elimination_does(name: str) -> None:
    program = by_name(name).program
    stock = copy.deepcopy(program.graph_module)
    stock.graph.eliminate_dead_code()
    ours = run_pipeline(program, "dce").program.graph_module
    assert [node.name for node in ours.graph.nodes] == [node.name for node in stock.graph.nodes]


def test_removes_nothing_that_torchs_own_elimination_keeps(any_case: ProgramCase) -> None:
    program = any_case.program
    stock = copy.deepcopy(program.graph_module)
    stock.graph.eliminate_dead_code()
    ours = run_pipeline(program, "dce").program.graph_module
    assert _calls(stock) <= _calls(ours)


def _calls(root: fx.GraphModule) -> set[str]:
    return {f"{path}:{n.name}" for path, module in graphs(root) for n in module.graph.nodes if n.op == "call_function"}


def test_eliminating_again_changes_nothing(any_case: ProgramCase) -> None:
    program = run_pipeline(any_case.program, "dce").program
    result = run_pipeline(program, "dce")
    assert result.program is program
    assert result.reports[0].rewrites == 0


def test_input_program_is_left_alone(any_case: ProgramCase) -> None:
    program = any_case.program
    before, aliases, env = describe_program(program), alias_sets(program), shape_env_snapshot(program)
    result = run_pipeline(program, "dce")
    assert describe_program(program) == before
    assert alias_sets(program) == aliases
    assert_shape_env_unchanged(env, program)
    assert result.provenance.keys() == node_keys(result.program)


def test_pass_alone_gives_the_same_module_where_nothing_is_dead() -> None:
    module = by_name("unused_input").program.graph_module
    result = DeadCodeElimination()(module)
    assert result is not None
    assert result.graph_module is module
    assert not result.modified


def test_inputs_that_nothing_uses_stay() -> None:
    assert names(_checked(lambda x, y: x + 1, _X, _X).program)[:2] == ["args_0", "args_1"]


def test_random_numbers_stay_since_the_generator_moves_on() -> None:
    def wasteful(x: torch.Tensor) -> torch.Tensor:
        _discard(torch.rand_like(x))
        return x + torch.rand_like(x)

    result = _checked(wasteful)
    assert targets(result.program)["aten.rand_like"] == 2
    assert "random number generator" in result.reports[0].remarks[0]


def test_writes_stay_even_to_what_nothing_reads_again() -> None:
    def writes(x: torch.Tensor) -> torch.Tensor:
        x.view(-1)[0] = 7.0
        torch.ops.retraced_tests.increment(x)
        return x.sum()

    assert {"aten.copy_", "retraced_tests.increment"} <= targets(_checked(writes).program).keys()


class _Normalised(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        _discard(self.norm(x))
        return x + 1


def test_batch_norm_in_training_stays_since_it_updates_its_statistics() -> None:
    assert targets(_checked(_Normalised().train()).program)["aten.batch_norm"] == 1
    assert "aten.batch_norm" not in targets(_checked(_Normalised().eval()).program)


def test_assertions_stay_with_what_they_check() -> None:
    def checked(x: torch.Tensor, n: torch.Tensor) -> torch.Tensor:
        size: Any = n.item()
        torch._check(size > 2)
        aten._assert_async.msg(x.sum() > -1e9, "sum")
        return x + 1

    result = _checked(checked, _X, torch.tensor(5))
    called = targets(result.program)
    assert called["aten.item"] == called["aten.sum"] == called["aten._assert_async"] == 1
    with pytest.raises(RuntimeError):
        result.program.module()(_X, torch.tensor(1))


def test_assertion_in_functional_form_stays() -> None:
    def checked(x: torch.Tensor) -> torch.Tensor:
        _discard(aten._functional_assert_async.msg(x.sum() > -1e9, "sum", torch.ones(())))
        return x + 1

    assert targets(_checked(checked).program)["aten._functional_assert_async"] == 1


def test_effects_that_are_ordered_by_a_token_stay() -> None:
    program = by_name("effects").program
    assert run_pipeline(program, "dce").program is program


def test_unused_conditional_goes_with_its_branches() -> None:
    def wasteful(x: torch.Tensor) -> torch.Tensor:
        _discard(torch.cond(x.sum() > 0, torch.sin, torch.cos, (x,)))
        return x + 1

    result = _checked(wasteful)
    assert names(result.program) == ["args_0", "add", "output"]
    assert dict(result.program.graph_module.named_children()) == {}
    # The sum, the comparison, the call, its item, two attributes, and two branches of three nodes.
    assert result.reports[0].rewrites == 12


def test_unused_conditional_with_an_assertion_in_a_branch_stays() -> None:
    def checked(x: torch.Tensor) -> torch.Tensor:
        def branch(x: torch.Tensor) -> torch.Tensor:
            aten._assert_async.msg(x.sum() > -1e9, "sum")
            return x.sin()

        _discard(torch.cond(x.sum() > 0, branch, torch.cos, (x,)))
        return x + 1

    assert targets(_checked(checked).program)["cond"] == 1


def _add_dead_call(subgraph: fx.GraphModule) -> None:
    value = next(node for node in subgraph.graph.nodes if node.op == "call_function")
    with subgraph.graph.inserting_after(value):
        subgraph.graph.call_function(aten.exp.default, (value,)).meta = dict(value.meta)


def _with_dead_code_in_a_branch() -> torch.export.ExportedProgram:
    # Exporting drops dead code in branches.
    program = export(lambda x: torch.cond(x.sum() > 0, torch.sin, torch.cos, (x,)), _X)
    _add_dead_call(program.graph_module.true_graph_0)
    return program


def test_dead_code_in_a_branch_goes() -> None:
    program = _with_dead_code_in_a_branch()
    result = run_pipeline(program, "dce")
    assert targets(program) - targets(result.program) == {"aten.exp": 1}
    assert_same_results(program, result.program, [((_X,), {})])
    assert result.reports[0].rewrites == 1
    assert result.provenance["true_graph_0:sin"].from_nodes == ("true_graph_0:sin",)


def test_branches_that_do_not_change_stay_the_same_objects() -> None:
    program = _with_dead_code_in_a_branch()
    result = DeadCodeElimination()(program.graph_module)
    assert result is not None
    assert result.graph_module.false_graph_0 is program.graph_module.false_graph_0
    assert result.graph_module.true_graph_0 is not program.graph_module.true_graph_0


def test_subgraph_that_is_called_three_times_stays_one_subgraph() -> None:
    module = copy.deepcopy(by_name("invoke_subgraph").program.graph_module)
    (subgraph,) = [child for _, child in module.named_children() if isinstance(child, fx.GraphModule)]
    _add_dead_call(subgraph)
    result = DeadCodeElimination()(module)
    assert result is not None
    (_, root), (_, smaller) = graphs(result.graph_module)
    assert all(getattr(root, str(node.target)) is smaller for node in root.graph.find_nodes(op="get_attr"))
    assert len(smaller.graph.nodes) == len(subgraph.graph.nodes) - 1


def _without_assertions(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    # They keep alive what they are about.
    for node in program.graph.find_nodes(op="call_function", target=aten._assert_scalar.default):
        program.graph.erase_node(node)
    return program


def test_call_that_defines_a_symbol_stays_while_another_size_is_written_with_it() -> None:
    # The second call has the symbol of the first, by torch's memo of the tensor's number of nonzero items.
    def positions(x: torch.Tensor) -> torch.Tensor:
        _discard(torch.nonzero(x))
        return torch.nonzero(x) * 2

    program = _without_assertions(export(positions, _X))
    result = run_pipeline(program, "dce")
    assert names(result.program) == ["args_0", "nonzero", "nonzero_1", "mul", "output"]
    assert "define symbols" in result.reports[0].remarks[0]
    assert result.program.range_constraints == program.range_constraints
    assert_same_results(program, saved_and_loaded(result.program), [((_X,), {})])


def test_symbol_that_nothing_is_written_with_goes_with_its_range() -> None:
    def wasteful(x: torch.Tensor) -> torch.Tensor:
        _discard(torch.nonzero(x))
        return x + 1

    program = _without_assertions(export(wasteful, _X))
    result = run_pipeline(program, "dce").program
    assert names(result) == ["args_0", "add", "output"]
    assert len(program.range_constraints) == 1
    assert result.range_constraints == {}


class _Outer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        _discard(self.linear(x))
        return x + 1


def test_values_that_a_preserved_signature_names_stay() -> None:
    program = export(_Outer(), _X, preserve_module_call_signature=("linear",))
    assert targets(run_pipeline(program, "dce").program)["aten.linear"] == 1
    assert "aten.linear" not in targets(run_pipeline(export(_Outer(), _X), "dce").program)


def test_program_without_its_dead_nodes_has_its_recorded_values_and_call_signature() -> None:
    program = export(lambda x: (x.relu(), x.sin())[1].exp(), torch.randn(2, 3))
    result = run_pipeline(program, "dce")
    assert result.modified
    assert result.program.module_call_graph == program.module_call_graph
    assert result.remarks == ()
    old = {node.name: node.meta["val"] for node in program.graph.nodes if node.op != "output"}
    assert all(node.meta["val"] is old[node.name] for node in result.program.graph.nodes if node.op != "output")
