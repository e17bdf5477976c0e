"""What `decompose` keeps of a program, where torch's own decomposition does not: names, metadata, symbols, guards, signatures."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import fx
from torch.export import Dim, ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind
from torch.export.unflatten import unflatten
from torch.fx.experimental.symbolic_shapes import free_symbols

from retraced_server.passes import run_pipeline
from retraced_server.passes._keys import call_key
from retraced_server.retrace.graphs import node_key
from tests.passes.support import DECOMPOSABLE, QUICK, decomposed, export, names, node_keys
from tests.support.case import ProgramCase
from tests.support.compare import assert_shape_env_unchanged, loaded, shape_env_snapshot
from tests.support.describe import alias_sets, describe, describe_program, graphs, values
from tests.support.models import by_name

# Each of their operators is rewritten as others.
_ALL_DECOMPOSED = ("no_tensor_inputs", "only_a_constant_input", "nothing_at_all", "residual_net")


@pytest.mark.parametrize("case", QUICK, ids=str)
def test_input_program_and_its_shape_environment_are_left_alone(case: ProgramCase) -> None:
    program = case.program
    before, aliases, env = describe_program(program), alias_sets(program), shape_env_snapshot(program)
    run_pipeline(program, "decompose")
    assert describe_program(program) == before
    assert alias_sets(program) == aliases
    assert_shape_env_unchanged(env, program)


@pytest.mark.parametrize("case", DECOMPOSABLE, ids=str)
def test_inputs_symbols_and_guards_are_kept(case: ProgramCase) -> None:
    old, new = case.program, decomposed(case).program
    assert new.graph_signature.input_specs == old.graph_signature.input_specs
    assert new.range_constraints.items() <= old.range_constraints.items()
    used = {symbol for _, leaf in values(new) for symbol in free_symbols(leaf) or ()}
    assert not (old.range_constraints.keys() - new.range_constraints.keys()) & used
    assert new._guards_code == old._guards_code
    assert str(new.call_spec) == str(old.call_spec)
    assert [entry.fqn for entry in new.module_call_graph] == [entry.fqn for entry in old.module_call_graph]


@pytest.mark.parametrize("case", DECOMPOSABLE, ids=str)
def test_operator_that_stays_keeps_its_name_and_metadata(case: ProgramCase) -> None:
    new_graphs = dict(graphs(decomposed(case).program.graph_module))
    compared = 0
    for path, old in graphs(case.program.graph_module):
        new = {node.name: node for node in new_graphs[path].graph.nodes} if path in new_graphs else {}
        for node in old.graph.nodes:
            other = new.get(node.name)
            if other is None or other.target != node.target or node.op in ("placeholder", "output"):
                continue
            compared += 1
            for key in node.meta.keys() - {"val", "tensor_meta"}:
                assert other.meta.get(key) == node.meta[key], (node.name, key)
            assert other.meta.keys() <= node.meta.keys(), node.name
    assert compared or case.name in _ALL_DECOMPOSED


@pytest.mark.parametrize("case", DECOMPOSABLE, ids=str)
def test_new_nodes_have_the_names_of_old_ones_only_with_their_value(case: ProgramCase) -> None:
    new_graphs = dict(graphs(decomposed(case).program.graph_module))
    for path, old in graphs(case.program.graph_module):
        recorded = {node.name: node.meta.get("val") for node in old.graph.nodes}
        for node in new_graphs[path].graph.nodes if path in new_graphs else ():
            before, now = recorded.get(node.name), node.meta.get("val")
            if isinstance(before, torch.Tensor):
                assert (now.dtype, str(now.shape)) == (before.dtype, str(before.shape)), node.name


@pytest.mark.parametrize("case", DECOMPOSABLE, ids=str)
def test_provenance_tells_of_every_node_and_only_of_nodes_of_the_input(case: ProgramCase) -> None:
    result = decomposed(case)
    known = node_keys(case.program)
    assert result.provenance.keys() == node_keys(result.program)
    for key, provenance in result.provenance.items():
        assert set(provenance.from_nodes) <= known, key
        assert provenance.made_by == "decompose" or provenance.from_nodes == (key,), key


@pytest.mark.parametrize("case", DECOMPOSABLE, ids=str)
def test_nodes_that_are_as_they_were_are_not_said_to_be_made_by_the_pass(case: ProgramCase) -> None:
    result = decomposed(case)
    before, after = (_nodes_as_data(program) for program in (case.program, result.program))
    changed = {key for key, node in after.items() if node != before.get(key)}
    assert {key for key, provenance in result.provenance.items() if provenance.made_by} == changed
    assert changed or not result.modified


def _nodes_as_data(program: ExportedProgram) -> dict[str, Any]:
    """What each node is by its key: its call, whichever arguments are given by keyword, its value, and what is recorded beside."""
    return {
        node_key(path, node.name): (
            node.op,
            call_key(node.target, node.args, node.kwargs, lambda value: value.name if isinstance(value, fx.Node) else None),
            {key: describe(value) for key, value in node.meta.items() if key != "tensor_meta"},
        )
        for path, module in graphs(program.graph_module)
        for node in module.graph.nodes
    }


def test_provenance_names_what_a_node_was_decomposed_from() -> None:
    provenance = decomposed(by_name("cond")).provenance
    made = {key: entry.from_nodes for key, entry in provenance.items() if key.startswith("true_graph_0:")}
    assert made["true_graph_0:linear"] == ("true_graph_0:linear",)
    assert made["true_graph_0:permute"] == ("true_graph_0:linear",)


def test_metadata_is_that_of_the_operator_that_was_decomposed() -> None:
    old = {node.name: node for node in by_name("tied_weights").program.graph.nodes}
    for node in decomposed(by_name("tied_weights")).program.graph.nodes:
        if node.name in ("permute", "view", "mm"):
            assert node.meta["stack_trace"] == old["linear"].meta["stack_trace"]
            assert node.meta["nn_module_stack"] == old["linear"].meta["nn_module_stack"]


def test_unbacked_symbols_of_subgraphs_keep_their_names_and_bindings() -> None:
    old, new = (
        {node.name: node for node in program.graph_module.true_graph_0.graph.nodes}
        for program in (by_name("cond_with_item").program, decomposed(by_name("cond_with_item")).program)
    )
    assert str(new["item"].meta["val"]) == str(old["item"].meta["val"])
    assert new["item"].meta["unbacked_bindings"] == old["item"].meta["unbacked_bindings"]


def test_inputs_keep_names_that_are_python_builtins() -> None:
    program = export(lambda input, id: torch.nn.functional.linear(input, id), torch.randn(2, 3), torch.randn(4, 3))
    case = by_name("input_and_id")
    assert names(run_pipeline(case.program, "decompose{table=none}").program)[:2] == ["input", "id"]
    assert names(run_pipeline(program, "decompose").program)[:2] == names(program)[:2]


def test_mutations_become_outputs_with_their_targets() -> None:
    signature = decomposed(by_name("everything")).program.graph_signature
    kinds = {spec.kind: spec.target for spec in signature.output_specs}
    assert kinds[OutputKind.BUFFER_MUTATION] == "count"
    assert kinds[OutputKind.USER_INPUT_MUTATION] == "x"
    assert [spec.kind for spec in signature.input_specs].count(InputKind.CONSTANT_TENSOR) > 0


def test_preserved_module_signatures_name_the_values_that_they_named() -> None:
    case = by_name("preserved_parts")
    program = decomposed(case).program
    present = set(names(program))
    entries = [entry for entry in program.module_call_graph if entry.fqn and entry.signature is not None]
    assert [entry.fqn for entry in entries] == ["first", "second"]
    for entry in entries:
        assert {a.name for a in (*entry.signature.inputs, *entry.signature.outputs)} <= present


def test_decomposed_program_with_preserved_modules_can_be_unflattened() -> None:
    case = by_name("preserved_parts")
    (args, kwargs), *_ = case.inputs()
    # Unflattening changes the program that it is given.
    program = case.build()
    decomposed_program = run_pipeline(program, "decompose").program
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = unflatten(program)(*args, **kwargs)
        actual = unflatten(decomposed_program)(*args, **kwargs)
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("name", ["everything", "cond_with_item", "symbolic_scalars", "nested", "vit"])
def test_program_read_from_a_file_is_decomposed_like_the_one_in_memory(name: str) -> None:
    program = loaded(by_name(name).archive)
    env = shape_env_snapshot(program)
    result = run_pipeline(program, "decompose").program
    assert_shape_env_unchanged(env, program)
    in_memory = decomposed(by_name(name)).program
    assert [node.name for node in result.graph.nodes] == [node.name for node in in_memory.graph.nodes]
    assert [str(node.meta.get("val")) for node in result.graph.nodes if node.op != "output"] == [
        str(node.meta.get("val")) for node in in_memory.graph.nodes if node.op != "output"
    ]


def test_dynamic_shapes_stay_dynamic() -> None:
    batch = Dim("batch", min=2, max=64)
    program = export(torch.nn.Linear(4, 3), torch.randn(5, 4), dynamic_shapes=({0: batch},))
    result = run_pipeline(program, "decompose").program
    (bounds,) = result.range_constraints.values()
    assert (int(bounds.lower), int(bounds.upper)) == (2, 64)
    assert result.module()(torch.randn(17, 4)).shape == (17, 3)
