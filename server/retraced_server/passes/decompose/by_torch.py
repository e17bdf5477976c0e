"""Decomposes a program as torch does, by tracing it as a whole, and gives the result back what the program had."""

from __future__ import annotations

import dataclasses
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any, TypeVar

import sympy
import torch
from torch import fx
from torch.export import ExportedProgram, ModuleCallEntry, ModuleCallSignature
from torch.export.graph_signature import ConstantArgument, ExportGraphSignature, InputKind, OutputKind

from retraced_server.analysis.graphs import node_key, walk_graphs
from retraced_server.passes.base import ProgramPassResult
from retraced_server.passes.decompose.attention import has_attention, keeps_strides_remark, table_of
from retraced_server.passes.decompose.correspondence import Correspondence
from retraced_server.passes.decompose.naming import adopt, origins
from retraced_server.passes.decompose.rebinding import rebind
from retraced_server.passes.decompose.safe_targets import SafeTargets
from retraced_server.passes.decompose.shared_state import separate_shared_state, shared_written_state
from retraced_server.passes.decompose.working_copy import TAG, working_copy
from retraced_server.retrace.errors import ExportPassError, place_of
from retraced_server.retrace.own_guards import add_own_guards
from retraced_server.torch_compat.decompositions import Decompositions, TableChoice, run_decompositions
from retraced_server.torch_compat.graphs import get_current_meta
from retraced_server.torch_compat.programs import assemble_program, export_graph_module, guards_code, guards_of_shape_env
from retraced_server.torch_compat.shape_env_transaction import ShapeEnvTransaction
from retraced_server.torch_compat.symbolic_shapes import (
    ShapeEnv,
    equate,
    free_unbacked_symbols,
    only_fresh_renamed,
    ranges_of,
    replacements_of,
    shape_env_of,
)

_T = TypeVar("_T")


def decompose_by_torch(program: ExportedProgram, choice: TableChoice) -> ProgramPassResult:
    """Decompose a program as `ExportedProgram.run_decompositions` does, which traces it as a whole.

    Args:
        program: The program.
        choice: The decompositions.

    Raises:
        Exception: Whatever torch raises.
    """
    env = shape_env_of(program.graph_module)
    transaction = ShapeEnvTransaction(env)
    try:
        with transaction.recording_guards(asserts=True), transaction.attributing(partial(_traced_place, program)):
            known = set() if env is None else set(ranges_of(env))
            with only_fresh_renamed(env):
                traced, remarks = _trace(program, choice, transaction)
            correspondence = Correspondence(program.graph_module, traced.graph_module, _placeholders(program, traced), known)
            if correspondence.identical:
                transaction.roll_back()
                return ProgramPassResult(program, modified=False)
            rewrites = correspondence.rewritten()
            if env is not None:
                equate(env, correspondence.renaming)
            stale = set() if env is None else ranges_of(env).keys() & replacements_of(env).keys() - known
            if env is not None and stale:
                rebind(traced.graph_module, env, stale)
            ranges = _range_constraints(program, traced.graph_module, env)
        transaction.forget(stale)
        transaction.commit(program.graph_module, add_own_guards)
        if not (transaction.new_guards or ranges.keys() - program.range_constraints.keys()):
            # What torch has learned, it has learned of operators and assertions that the program had before.
            transaction.roll_back()
        result = _assemble(program, traced, correspondence, ranges)
    except BaseException:
        transaction.roll_back()
        raise
    came_from = origins(correspondence, result.graph_module)
    return ProgramPassResult(result, True, rewrites, tuple(remarks), came_from, transaction.new_guards)


def _trace(
    program: ExportedProgram, choice: TableChoice, transaction: ShapeEnvTransaction
) -> tuple[ExportedProgram, list[str]]:
    try:
        return _run_decompositions(program, table_of(choice)), []
    # Torch raises what it likes.
    except Exception as error:
        if choice.name != "core-aten" or not has_attention(program.graph_module):
            raise
        transaction.roll_back()
        try:
            traced = _run_decompositions(program, table_of(dataclasses.replace(choice, keeps_strides=True)))
        except Exception:  # noqa: BLE001 - the error of torch's own table says more
            raise error from None
        return traced, [keeps_strides_remark(error)]


def _traced_place(program: ExportedProgram) -> str:
    """Return the place of the node of a program that torch is tracing a copy of."""
    key = get_current_meta().get(TAG)
    nodes = ((path, node) for path, module in walk_graphs(program.graph_module) for node in module.graph.nodes)
    return next((place_of(node, path) for path, node in nodes if node_key(path, node.name) == key), "")


def _run_decompositions(program: ExportedProgram, table: Decompositions) -> ExportedProgram:
    with warnings.catch_warnings():
        # torch warns of its own deprecated use of LeafSpec.
        warnings.simplefilter("ignore", FutureWarning)
        targets, copy = SafeTargets(program), working_copy(program)
        separate_shared_state(copy)
        targets.apply(copy)
        try:
            traced = run_decompositions(copy, table)
        except Exception as error:
            targets.undo(copy)
            if shared := shared_written_state(copy):
                names = ", ".join(f"`{name}`" for name in shared)
                raise ExportPassError(
                    f"{names} overlap in memory, and the program writes to one of them, which torch cannot make functional: export the module "
                    "with tensors of their own (`clone`), or with one of them, of which `forward` takes the others"
                ) from error
            raise
        targets.undo(traced)
    _drop_copies(traced)
    return traced


def _drop_copies(traced: ExportedProgram) -> None:
    """Drop the copy of a new value of an input that torch makes each time it traces a program; it drops those of buffers itself."""
    output = traced.graph.output_node()
    specs = traced.graph_signature.output_specs
    assert isinstance(output.args[0], (tuple, list))
    copies = [node for node, spec in zip(output.args[0], specs, strict=True) if spec.kind is OutputKind.USER_INPUT_MUTATION]
    for node in copies:
        if not isinstance(node, fx.Node) or node.target is not torch.ops.aten.copy.default or len(node.users) > 1:
            continue
        old, new = node.args[:2]
        assert isinstance(old, fx.Node)
        assert isinstance(new, fx.Node)
        # No node of the program was traced to it, and it changes neither dtype nor shape.
        if (
            TAG not in node.meta
            and old.meta["val"].dtype == new.meta["val"].dtype
            and old.meta["val"].shape == new.meta["val"].shape
        ):
            # The new value may be a user output too.
            node.replace_all_uses_with(new)
            traced.graph.erase_node(node)
            for spec in specs:
                if spec.arg.name == node.name:
                    spec.arg = dataclasses.replace(spec.arg, name=new.name)


def _placeholders(program: ExportedProgram, traced: ExportedProgram) -> dict[fx.Node, fx.Node]:
    """Pair the inputs of two programs."""
    old = _by_role(program, program.graph.find_nodes(op="placeholder"))
    new = _by_role(traced, traced.graph.find_nodes(op="placeholder"))
    return {node: new[role] for role, node in old.items() if role in new}


def _by_role(program: ExportedProgram, of_inputs: Iterable[_T]) -> dict[tuple[InputKind, str | int], _T]:
    """Key something of each input by what is lifted there, or by its place among the user inputs or tokens."""
    places: Counter[InputKind] = Counter()
    result: dict[tuple[InputKind, str | int], _T] = {}
    for spec, item in zip(program.graph_signature.input_specs, of_inputs, strict=True):
        result[spec.kind, places[spec.kind] if spec.target is None else spec.target] = item
        places[spec.kind] += 1
    return result


def _range_constraints(program: ExportedProgram, root: fx.GraphModule, env: ShapeEnv | None) -> dict[sympy.Symbol, Any]:
    """Keep the program's constraints, but for unbacked symbols that are gone, and add those of symbols that are new."""
    if env is None:
        return dict(program.range_constraints)
    before, used = _unbacked_symbols(program.graph_module), _unbacked_symbols(root)
    kept = {symbol: bounds for symbol, bounds in program.range_constraints.items() if symbol in used or symbol not in before}
    ranges = ranges_of(env)
    return kept | {s: ranges[s] for s in sorted(used - kept.keys(), key=str) if s in ranges}


def _unbacked_symbols(root: fx.GraphModule) -> set[sympy.Symbol]:
    return {
        symbol
        for _, module in walk_graphs(root)
        for node in module.graph.nodes
        if node.op != "output"
        for symbol in free_unbacked_symbols(node.meta.get("val"))
    }


def _assemble(
    program: ExportedProgram,
    traced: ExportedProgram,
    correspondence: Correspondence,
    ranges: dict[sympy.Symbol, Any],
) -> ExportedProgram:
    """Build the new program of what torch traced, which gets its final names here."""
    signature = _signature(program, traced, adopt(correspondence))
    calls = _module_call_graph(program, correspondence)
    module = export_graph_module(traced.graph_module, signature, calls)
    return assemble_program(
        module,
        signature,
        # Weights stay the program's own: what was traced may be made for tracing.
        state_dict={name: program.state_dict.get(name, weight) for name, weight in traced.state_dict.items()},
        ranges=ranges,
        module_calls=calls,
        example_inputs=program.example_inputs,
        constants={name: program.constants.get(name, value) for name, value in traced.constants.items()},
        # With those of a program for training, torch would not take effect tokens out again.
        verifiers=traced.verifiers,
        # The shape environment does not know those that were read from a file.
        guards=list(dict.fromkeys([*guards_code(program), *guards_of_shape_env(module)])),
    )


def _signature(program: ExportedProgram, traced: ExportedProgram, renamed: Mapping[str, str]) -> ExportGraphSignature:
    known = _by_role(program, program.graph_signature.input_specs)

    def rename(spec: Any) -> Any:
        mutates_input = spec.kind is OutputKind.USER_INPUT_MUTATION
        return dataclasses.replace(
            spec,
            arg=spec.arg
            if isinstance(spec.arg, ConstantArgument)
            else dataclasses.replace(spec.arg, name=renamed[spec.arg.name]),
            target=renamed[spec.target] if mutates_input else spec.target,
        )

    inputs = _by_role(traced, traced.graph_signature.input_specs)
    return ExportGraphSignature(
        [dataclasses.replace(known[role]) if role in known else rename(spec) for role, spec in inputs.items()],
        [rename(spec) for spec in traced.graph_signature.output_specs],
    )


def _module_call_graph(program: ExportedProgram, correspondence: Correspondence) -> list[ModuleCallEntry]:
    """Copy the entries, with the signatures that are preserved naming the nodes that have the values now."""
    values = correspondence.graphs[0].values
    nodes = {node.name: node for node in program.graph.nodes}

    def renamed(argument: Any) -> Any:
        node = nodes.get(argument.name)
        # An operator without effect is gone; its value is that of its input.
        while node is not None and node not in values and node.all_input_nodes:
            node = node.all_input_nodes[0]
        return dataclasses.replace(argument, name=values[node].name) if node in values else argument

    def copied(signature: ModuleCallSignature) -> ModuleCallSignature:
        return dataclasses.replace(
            signature, inputs=[renamed(a) for a in signature.inputs], outputs=[renamed(a) for a in signature.outputs]
        )

    return [
        ModuleCallEntry(entry.fqn, None if entry.signature is None else copied(entry.signature))
        for entry in program.module_call_graph
    ]
