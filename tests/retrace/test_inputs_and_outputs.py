"""Inserting, removing and renaming inputs and outputs updates the signature, the tree specs and the module call graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind

from retraced_server.errors import RetracedError
from retraced_server.passes import run_pipeline
from retraced_server.retrace import ExportPass, NodeMetadata, ProxyValue, pass_context
from tests.support.case import ProgramCase
from tests.support.compare import assert_close, assert_equivalent, run, saved_and_loaded, validate
from tests.support.models import by_name

aten = torch.ops.aten


class Renames(ExportPass):
    """Renames every input of the root graph."""

    def placeholder(self, name: str, arg: Any, meta: NodeMetadata) -> ProxyValue[Any]:
        return super().placeholder(name if pass_context().graph_path else f"new_{name}", arg, meta)


class DropsUnused(ExportPass):
    """Removes the user inputs that nothing reads."""

    def placeholder(self, name: str, arg: Any, meta: NodeMetadata) -> Any:
        context = pass_context()
        if not context.graph_path and context.node is not None and not context.node.users:
            return None
        return super().placeholder(name, arg, meta)


class AddsInput(ExportPass):
    """Adds an input of the first input's kind that the first output is multiplied by."""

    def __init__(self, after: str) -> None:
        super().__init__()
        self.after = after
        self.factor: ProxyValue[Any] | None = None

    def placeholder(self, name: str, arg: Any, meta: NodeMetadata) -> ProxyValue[Any]:
        value = super().placeholder(name, arg, meta)
        if name == self.after and not pass_context().graph_path:
            self.factor = super().placeholder("factor", arg, self._create_dummy_node_metadata())
        return value

    def output(self, results: Any, meta: NodeMetadata) -> ProxyValue[Any]:
        if pass_context().graph_path:
            return super().output(results, meta)
        product = self.call_operator(aten.mul.Tensor, (results[0], self.factor), {}, self._create_dummy_node_metadata())
        return super().output((product, *results[1:]), meta)


class Outputs(ExportPass):
    """Makes the root graph's results from what they are."""

    def __init__(self, change: Callable[[ExportPass, list[Any]], list[Any]]) -> None:
        super().__init__()
        self.change = change

    def output(self, results: Any, meta: NodeMetadata) -> ProxyValue[Any]:
        return super().output(results if pass_context().graph_path else tuple(self.change(self, list(results))), meta)


def added(running: ExportPass, results: list[Any]) -> list[Any]:
    """Appends the negative of the first result."""
    return [*results, running.call_operator(aten.neg.default, (results[0],), {}, running._create_dummy_node_metadata())]


def input_names(program: ExportedProgram) -> list[str]:
    """The user inputs by name, in order."""
    return [spec.arg.name for spec in program.graph_signature.input_specs if spec.kind is InputKind.USER_INPUT]


def round_tripped(program: ExportedProgram) -> ExportedProgram:
    """Validates a program, and gives what stock torch reads of what it saves."""
    validate(program)
    again = saved_and_loaded(program)
    validate(again)
    return again


def test_renaming_inputs_updates_signature_mutations_and_call_graph(serializable_case: ProgramCase) -> None:
    program = run_pipeline(serializable_case.program, [Renames()]).program
    if any(node.op == "placeholder" for node in serializable_case.program.graph.nodes):
        before = serializable_case.program.graph_signature
        assert [spec.arg.name for spec in program.graph_signature.input_specs] == [
            f"new_{s.arg.name}" for s in before.input_specs
        ]
        assert [spec.target for spec in program.graph_signature.input_specs] == [spec.target for spec in before.input_specs]
        for new, old in zip(program.graph_signature.output_specs, before.output_specs, strict=True):
            is_input = old.kind is OutputKind.USER_INPUT_MUTATION
            assert new.target == (f"new_{old.target}" if is_input else old.target)
    validate(program)


@pytest.mark.parametrize("name", ["containers", "everything_functional", "preserved_parts", "odd_outputs", "input_and_id"])
def test_renamed_inputs_compute_and_load(name: str) -> None:
    case = by_name(name)
    assert_equivalent(case, run_pipeline(case.program, [Renames()]).program)


def test_call_signatures_of_submodules_follow_renamed_nodes() -> None:
    program = run_pipeline(by_name("preserved_parts").program, [Renames()]).program
    entries = {entry.fqn: entry.signature for entry in program.module_call_graph if entry.signature is not None}
    assert entries["first"].inputs[0].name == "new_x"
    unflattened = torch.export.unflatten(program)
    x = torch.randn(3, 8)
    torch.testing.assert_close(unflattened(x), by_name("preserved_parts").program.module()(x))


def test_unused_input_is_removed() -> None:
    case = by_name("unused_input")
    program = run_pipeline(case.program, [DropsUnused()]).program
    assert input_names(program) == ["x", "passed"]
    assert program.example_inputs is None
    x, _, passed = case.inputs()[1][0]
    for candidate in (program, round_tripped(program)):
        assert_close("outputs", run(case.program, *case.inputs()[1])[0], run(candidate, (x, passed), {})[0])


def test_unused_leaf_of_a_container_is_removed() -> None:
    class PartOfList(nn.Module):
        def forward(self, items: list[torch.Tensor], named: dict[str, torch.Tensor], *, scale: torch.Tensor) -> torch.Tensor:
            return items[1] * named["a"] * scale

    call = (([torch.ones(2), torch.ones(2)], {"a": torch.ones(2), "b": torch.ones(2)}), {"scale": torch.ones(2)})
    case = ProgramCase("part_of_list", PartOfList, lambda: [call])
    program = run_pipeline(case.program, [DropsUnused()]).program
    assert input_names(program) == ["items_1", "named_a", "scale"]
    for candidate in (program, round_tripped(program)):
        result = candidate.module()([torch.full((2,), 3.0)], {"a": torch.ones(2)}, scale=torch.full((2,), 2.0))
        torch.testing.assert_close(result, torch.full((2,), 6.0))


@pytest.mark.parametrize(("name", "after"), [("input_and_id", "input"), ("unused_input", "x")])
def test_added_input_is_the_last_positional_argument(name: str, after: str) -> None:
    case = by_name(name)
    program = run_pipeline(case.program, [AddsInput(after)]).program
    assert input_names(program) == [*input_names(case.program), "factor"]
    args, kwargs = case.inputs()[1]
    factor = torch.full_like(args[0], 2.0)
    for candidate in (program, round_tripped(program)):
        expected, actual = run(case.program, args, kwargs)[0], run(candidate, (*args, factor), kwargs)[0]
        first, *rest = expected
        assert_close("outputs", (first * 2, *rest), actual)


def test_added_input_stands_before_keyword_arguments() -> None:
    class Scaled(nn.Module):
        def forward(self, x: torch.Tensor, *, scale: torch.Tensor) -> torch.Tensor:
            return x * scale

    case = ProgramCase("scaled", Scaled, lambda: [((torch.ones(3),), {"scale": torch.ones(3)})])
    program = run_pipeline(case.program, [AddsInput("scale")]).program
    assert input_names(program) == ["x", "factor", "scale"]
    for candidate in (program, round_tripped(program)):
        result = candidate.module()(torch.ones(3), torch.full((3,), 3.0), scale=torch.full((3,), 2.0))
        torch.testing.assert_close(result, torch.full((3,), 6.0))


@pytest.mark.parametrize("name", ["input_and_id", "custom_ops", "multiple_results", "in_place_functional"])
def test_added_output_comes_last(name: str) -> None:
    case = by_name(name)
    program = run_pipeline(case.program, [Outputs(added)]).program
    args, kwargs = case.inputs()[0]
    for candidate in (program, round_tripped(program)):
        expected, actual = run(case.program, args, kwargs)[0], run(candidate, args, kwargs)[0]
        several = expected if isinstance(expected, tuple) else (expected,)
        assert_close("outputs", (*several, -several[0]), actual)


def test_removed_output_leaves_the_others() -> None:
    case = by_name("input_and_id")
    program = run_pipeline(case.program, [Outputs(lambda _, results: results[1:])]).program
    assert len(program.graph_signature.user_outputs) == 1
    args, kwargs = case.inputs()[1]
    for candidate in (program, round_tripped(program)):
        assert_close("outputs", run(case.program, args, kwargs)[0][1:], run(candidate, args, kwargs)[0])


def test_removed_leaf_of_nested_results() -> None:
    case = by_name("containers")
    program = run_pipeline(case.program, [Outputs(lambda _, results: results[1:])]).program
    args, kwargs = case.inputs()[1]
    expected = run(case.program, args, kwargs)[0]
    del expected["z"]
    for candidate in (program, round_tripped(program)):
        assert_close("outputs", expected, run(candidate, args, kwargs)[0])


def test_removed_mutation_is_no_longer_written_back() -> None:
    case = by_name("everything_functional")
    kinds = [spec.kind for spec in case.program.graph_signature.output_specs]
    at = kinds.index(OutputKind.BUFFER_MUTATION)
    program = run_pipeline(case.program, [Outputs(lambda _, results: results[:at] + results[at + 1 :])]).program
    assert [spec.kind for spec in program.graph_signature.output_specs] == kinds[:at] + kinds[at + 1 :]
    args, kwargs = case.inputs()[1]
    outputs, inputs, state = run(round_tripped(program), args, kwargs)
    expected_outputs, expected_inputs, _ = run(case.program, args, kwargs)
    assert_close("outputs", (expected_outputs, expected_inputs), (outputs, inputs))
    assert state["count"] == 0


def test_removed_parameter_is_gone_from_the_state() -> None:
    class ForgetsBias(ExportPass):
        def placeholder(self, name: str, arg: Any, meta: NodeMetadata) -> Any:
            return None if name == "b_bias" else super().placeholder(name, arg, meta)

        def call_operator(self, op: Any, args: Any, kwargs: Any, meta: NodeMetadata) -> Any:
            return args[0] if op is aten.add.Tensor else super().call_operator(op, args, kwargs, meta)

    case = by_name("only_a_constant_input")
    program = run_pipeline(case.program, [ForgetsBias()]).program
    assert list(program.state_dict) == ["weight"]
    assert list(program.graph_signature.buffers) == []
    weight = case.program.state_dict["weight"]
    torch.testing.assert_close(round_tripped(program).module()(3)[0], weight @ weight)


def test_preserved_signature_whose_value_is_gone_is_dropped_with_a_remark() -> None:
    class Doubles(ExportPass):
        """Forgets what the second part is scaled by."""

        def call_operator(self, op: Any, args: Any, kwargs: Any, meta: NodeMetadata) -> Any:
            if op is aten.sum.default:
                return 1.0
            return super().call_operator(op, args, kwargs, meta)

    case = by_name("preserved_parts")
    result = run_pipeline(case.program, [Doubles()])
    signatures = {entry.fqn: entry.signature for entry in result.program.module_call_graph}
    assert signatures["second"] is None
    assert signatures["first"] is not None
    assert ["second" in remark for remark in result.remarks] == [True]
    round_tripped(result.program)


@pytest.mark.parametrize("pass_type", [Renames, ExportPass])
def test_user_inputs_keep_their_guards(pass_type: type[ExportPass]) -> None:
    case = by_name("llama")
    assert run_pipeline(case.program, [pass_type()]).program._guards_code == case.program._guards_code


def test_output_that_no_program_can_have_is_refused() -> None:
    with pytest.raises(RetracedError, match="output"):
        run_pipeline(by_name("input_and_id").program, [Outputs(lambda _, results: [object()])])
