"""The main job on every program: what comes back is valid for stock torch, and computes what the original does."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import pytest
import torch
from torch import fx
from torch.export import ExportedProgram

from retraced import Client, TransformResult, errors
from tests.support.case import ProgramCase
from tests.support.compare import assert_computes, loaded, validate
from tests.support.describe import graphs
from tests.support.models import by_name
from tests.support.served_passes import Pair

PIPELINE = "decompose{table=core-aten},cse,dce"
Transform = Callable[[ProgramCase], tuple[TransformResult, ExportedProgram]]

# Programs that `ExportedProgram.run_decompositions` raises an error for, and so does the pass.
_NOT_DECOMPOSED_BY_TORCH = ("hints_wrapper",)


@dataclass
class Other:
    """What the server knows nothing of."""

    value: torch.Tensor


torch.export.register_dataclass(Other, serialized_type_name="tests.Other")


def _live(nodes: Iterable[fx.Node]) -> list[fx.Node]:
    """Nodes without those that torch's reader adds: items of tuples that nobody uses."""
    return [node for node in nodes if node.users or node.target is not operator.getitem]


@pytest.fixture(scope="module")
def decomposed(client: Client) -> Transform:
    """Gives what the server makes of a program, and what torch loads of that, once for each: never to be changed."""

    @functools.cache
    def transform(case: ProgramCase) -> tuple[TransformResult, ExportedProgram]:
        result = client.transform(case.archive, PIPELINE, node_metadata="all")
        return result, loaded(result.to_bytes())

    return transform


def test_decomposed_program_computes_the_same(decomposed: Transform, serializable_case: ProgramCase) -> None:
    if serializable_case.name in _NOT_DECOMPOSED_BY_TORCH:
        with pytest.raises(errors.PassFailed, match="decompose"):
            decomposed(serializable_case)
        return
    _, program = decomposed(serializable_case)
    validate(program)
    assert_computes(serializable_case, program)


def test_decomposed_program_is_functional(decomposed: Transform, real_case: ProgramCase) -> None:
    _, program = decomposed(real_case)
    for _, module in graphs(program.graph_module):
        for node in module.graph.nodes:
            schema = getattr(node.target, "_schema", None)
            assert schema is None or not schema.is_mutable, node.format_node()


def test_summary_says_what_the_archive_holds(decomposed: Transform, real_case: ProgramCase) -> None:
    result, program = decomposed(real_case)
    nodes = _live(node for _, module in graphs(program.graph_module) for node in module.graph.nodes)
    output = result.summary.output
    assert output is not None
    assert output.node_count == len(nodes) == len(result.nodes)
    assert sum(output.targets.values()) == sum(node.op == "call_function" for node in nodes)
    assert [spec.name for spec in output.inputs] == [spec.arg.name for spec in program.graph_signature.input_specs]
    assert {symbol.name for symbol in output.symbols} == {str(symbol) for symbol in program.range_constraints}
    assert result.passes[-1].nodes_after == output.node_count
    assert [report.name for report in result.passes] == ["decompose", "cse", "dce"]


def test_every_new_node_says_where_it_came_from(client: Client, decomposed: Transform, real_case: ProgramCase) -> None:
    result, _ = decomposed(real_case)
    before = {node.name for node in client.transform(real_case.archive, "retrace", node_metadata="all").nodes}
    made = [node for node in result.nodes if node.made_by]
    assert made
    assert all(origin in before for node in result.nodes for origin in node.from_nodes if ":" not in origin)
    assert all(node.from_nodes for node in made if node.stack_trace)


def test_only_changed_nodes_are_described_when_only_they_are_wanted(client: Client) -> None:
    archive = by_name("bert").archive
    everything = client.transform(archive, "add-constant", node_metadata="all").nodes
    changed = client.transform(archive, "add-constant", node_metadata="changed").nodes
    assert 0 < len(changed) < len(everything)
    assert {node.name for node in changed} >= {node.name for node in everything if node.made_by}
    assert client.transform(archive, "retrace", node_metadata="changed").nodes == ()


def test_nodes_that_a_decomposition_leaves_alone_are_not_described_as_changed(client: Client) -> None:
    archive = by_name("bert").archive
    everything = client.transform(archive, PIPELINE, node_metadata="all").nodes
    changed = client.transform(archive, PIPELINE, node_metadata="changed").nodes
    assert {node.name for node in changed} == {node.name for node in everything if node.made_by}
    assert 0 < len(changed) < len(everything)
    assert "placeholder" not in {node.op for node in changed}


@pytest.mark.parametrize("name", ["input_and_id", "preserved_parts", "tied_weights", "no_tensor_inputs", "containers"])
def test_unusual_program_comes_back_valid_from_a_pass_that_adds_a_constant(client: Client, name: str) -> None:
    case = by_name(name)
    result = client.transform(case.archive, "decompose,add-constant,cse,dce")
    program = loaded(result.to_bytes())
    validate(program)
    assert_computes(case, program)
    assert [spec.arg.name for spec in program.graph_signature.input_specs if spec.kind.name == "USER_INPUT"] == [
        spec.arg.name for spec in case.program.graph_signature.input_specs if spec.kind.name == "USER_INPUT"
    ]
    preserved = {entry.fqn for entry in case.program.module_call_graph if entry.signature is not None}
    assert {entry.fqn for entry in program.module_call_graph if entry.signature is not None} == preserved


def test_constant_that_a_pass_adds_is_a_constant_input(client: Client) -> None:
    case = by_name("unused_input")
    result = client.transform(case.archive, "add-constant")
    program = loaded(result.to_bytes())
    assert len(program.constants) == len(case.program.constants) + 2
    validate(program)
    assert_computes(case, program)


def test_exported_program_object_goes_in_and_comes_out(client: Client) -> None:
    case = by_name("residual_net")
    program = client.transform(case.program, PIPELINE).exported_program()
    assert_computes(case, program)


def test_validating_runs_no_pass_and_makes_no_output(client: Client) -> None:
    result = client.transform(by_name("bert").archive, "raise-at", validate_only=True)
    assert result.passes == ()
    assert result.summary.output is None
    assert result.summary.input.node_count > 100


def test_program_that_takes_a_type_of_an_imported_module_is_read_and_written(client: Client) -> None:
    class Swap(torch.nn.Module):
        def forward(self, pair: Pair) -> Pair:
            return Pair(pair.second.relu(), pair.first)

    pair = Pair(torch.randn(3), torch.randn(4))
    program = torch.export.export(Swap(), (pair,))
    # Torch unpickles sample inputs with a warning that it fails to write.
    program._example_inputs = None
    swapped = client.transform(program, "add-constant").exported_program().module()(pair)
    assert isinstance(swapped, Pair)
    torch.testing.assert_close((swapped.first, swapped.second), (pair.second.relu(), pair.first))


def test_program_that_takes_a_type_of_no_imported_module_is_refused_by_its_name(client: Client) -> None:
    class Unpack(torch.nn.Module):
        def forward(self, other: Other) -> torch.Tensor:
            return other.value.relu()

    program = torch.export.export(Unpack(), (Other(torch.randn(3)),))
    with pytest.raises(errors.ProgramUnsupported, match=r"the type `tests.Other` in a tree spec .* --import"):
        client.transform(program, "retrace")
