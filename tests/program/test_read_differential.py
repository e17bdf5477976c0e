"""Our reader gives what torch's gives, and the storage offsets and aliases that torch's drops."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._subclasses import FakeTensor
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from tests.program.archives import read_bytes, read_case, saved, without_offsets
from tests.support.case import ProgramCase
from tests.support.compare import assert_identical_programs, assert_same_results, loaded, shape_env_snapshot, validate
from tests.support.describe import alias_sets, describe_program, describe_tensor, graphs, values
from tests.support.models import LLAMA_LIKE, by_name

# The number of steps of a while_loop is a symbol that only storage offsets name: torch's reader drops both.
_SYMBOLS_IN_OFFSETS = frozenset({"while_loop", "nested"})
# Its strides hold torch's own Min, for which torch's reader puts sympy's.
_TORCH_MINIMA = frozenset({"gpt2"})
# Ranges of expressions, which torch's reader puts among those of symbols: then it can no longer decompose the program.
_DERIVED_SIZES = frozenset({"derived_sizes"})
_OTHERWISE = _SYMBOLS_IN_OFFSETS | _TORCH_MINIMA | _DERIVED_SIZES


def _assert_reads_like_torch(theirs: ExportedProgram, ours: ExportedProgram) -> None:
    theirs = copy.copy(theirs)
    theirs._example_inputs = None
    assert without_offsets(describe_program(ours)) == without_offsets(describe_program(theirs))
    assert shape_env_snapshot(ours) == shape_env_snapshot(theirs)


def test_reads_what_torch_reads(serializable_case: ProgramCase, tmp_path: Path) -> None:
    if serializable_case.name in _OTHERWISE:
        pytest.skip("compared with the program in memory, which torch's reader does not restore")
    _assert_reads_like_torch(serializable_case.reloaded, read_case(serializable_case, tmp_path).program)


@pytest.mark.parametrize("case_name", sorted(_OTHERWISE))
def test_reads_what_was_saved_where_torch_does_not(case_name: str, tmp_path: Path) -> None:
    case = by_name(case_name)
    ours = read_case(case, tmp_path).program
    assert [str(symbol) for symbol in ours.range_constraints] == [str(symbol) for symbol in case.program.range_constraints]
    read = dict(_tensors(ours))
    for name, recorded in _tensors(case.program):
        # The values of constants are not recorded with the graph.
        assert describe_tensor(read[name]) == {**describe_tensor(recorded), "constant": None}, name


def test_program_with_derived_sizes_can_be_decomposed_after_it_was_read(tmp_path: Path) -> None:
    case = by_name("derived_sizes")
    program = read_case(case, tmp_path).program
    decomposed = program.run_decompositions()
    ranges = {str(size): bounds for size, bounds in case.program.range_constraints.items()}
    assert {str(size): bounds for size, bounds in decomposed.range_constraints.items()} == ranges


def test_reads_what_torch_reads_of_decomposed_programs(real_case: ProgramCase, tmp_path: Path) -> None:
    try:
        archive = saved(real_case.decomposed)
    except ValueError:
        pytest.skip("torch cannot decompose it")
    _assert_reads_like_torch(loaded(archive), read_bytes(archive, tmp_path).program)


@pytest.mark.parametrize("case", [LLAMA_LIKE], ids=str)
def test_reads_the_benchmark_program(case: ProgramCase, tmp_path: Path) -> None:
    _assert_reads_like_torch(case.reloaded, read_case(case, tmp_path).program)


def test_what_is_read_is_valid(serializable_case: ProgramCase, tmp_path: Path) -> None:
    validate(read_case(serializable_case, tmp_path).program)


def test_what_is_read_computes_the_same(serializable_case: ProgramCase, tmp_path: Path) -> None:
    ours = read_case(serializable_case, tmp_path).program
    assert_same_results(serializable_case.reloaded, ours, serializable_case.inputs()[:1], exact=True)


def test_reading_twice_gives_identical_programs(tmp_path: Path) -> None:
    case = by_name("everything")
    assert_identical_programs(read_case(case, tmp_path).program, read_case(case, tmp_path).program)


def test_storage_offsets_are_those_of_the_saved_program(serializable_case: ProgramCase, tmp_path: Path) -> None:
    ours = read_case(serializable_case, tmp_path).program
    recorded = dict(_tensors(serializable_case.program))
    for name, tensor in _tensors(ours):
        # Results that no node takes, and outputs, are recorded only in a program that was read.
        if name in recorded:
            assert str(tensor.storage_offset()) == str(recorded[name].storage_offset()), name


def test_aliases_are_those_of_execution(serializable_case: ProgramCase, tmp_path: Path) -> None:
    """Each node, executed alone on what is recorded of its arguments, returns what shares their storages as recorded."""
    ours = read_case(serializable_case, tmp_path).program
    for _, module in graphs(ours.graph_module):
        for node in module.graph.nodes:
            if node.op == "call_function" and isinstance(node.target, torch._ops.OpOverload):
                _assert_aliases_of_execution(node)


def test_aliases_between_nodes_of_a_graph_are_those_of_the_saved_program(tmp_path: Path) -> None:
    for name in ("in_place", "in_place_functional", "multiple_results", "set_grad", "tied_weights", "llama"):
        case = by_name(name)
        ours = read_case(case, tmp_path).program
        assert _within_graphs(ours) == _within_graphs(case.program), name


def test_values_that_share_no_storage_have_their_own(tmp_path: Path) -> None:
    for name in ("bert", "llama"):
        ours = read_case(by_name(name), tmp_path).program
        owners: dict[int, set[int]] = {}
        for _, tensor in _tensors(ours):
            owners.setdefault(tensor.untyped_storage()._cdata, set()).add(id(tensor))
        assert len(owners) > len(list(_tensors(ours))) / 3


def _tensors(program: ExportedProgram) -> Any:
    return ((name, leaf) for name, leaf in values(program) if isinstance(leaf, FakeTensor))


def _within_graphs(program: ExportedProgram) -> list[tuple[str, ...]]:
    """The alias sets, cut at the bounds of subgraphs, and without the outputs, which only repeat."""
    found = []
    for names in alias_sets(program):
        by_graph: dict[str, list[str]] = {}
        for name in names:
            if ":output[" not in name:
                by_graph.setdefault(name.partition(":")[0], []).append(name)
        found += [tuple(group) for group in by_graph.values() if len(group) > 1]
    return sorted(found)


def _storages(value: Any) -> list[int | None]:
    leaves = pytree.tree_leaves(value)
    return [leaf.untyped_storage()._cdata if isinstance(leaf, FakeTensor) else None for leaf in leaves]


def _assert_aliases_of_execution(node: torch.fx.Node) -> None:
    target: Any = node.target

    def detached(argument: torch.fx.Node) -> Any:
        return pytree.tree_map_only(FakeTensor, lambda leaf: leaf.detach(), argument.meta["val"])

    if target._schema.is_mutable:
        return
    args, kwargs = torch.fx.node.map_arg((node.args, node.kwargs), detached)
    recorded = [leaf for leaf in pytree.tree_leaves(node.meta.get("val")) if isinstance(leaf, FakeTensor)]
    if not recorded or recorded[0].fake_mode.shape_env is None:
        return
    env = recorded[0].fake_mode.shape_env
    counter = env.unbacked_symint_counter
    with env.suppress_guards(), recorded[0].fake_mode, torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        results = target(*args, **kwargs)
    if env.unbacked_symint_counter != counter:
        return
    owned = set(_storages((args, kwargs))) - {None}
    executed = [storage if storage in owned else None for storage in _storages(results)]
    ours = [storage if storage in owned else None for storage in _storages(recorded)]
    assert ours == executed, f"{node.name}: {target}"
