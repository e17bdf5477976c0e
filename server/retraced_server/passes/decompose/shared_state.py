"""Parameters, buffers and constants of a program that share storage, one of which it writes to."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import torch
from torch import fx
from torch.export import ExportedProgram
from torch.export.graph_signature import OutputKind

from retraced_server.analysis.alias_sets import aliased_arguments
from retraced_server.analysis.effects import written_arguments
from retraced_server.torch_compat.fake_tensors import FakeTensor, storage_id

_PLAIN = (torch.Tensor, torch.nn.Parameter, FakeTensor)
_MUTATIONS = (OutputKind.BUFFER_MUTATION, OutputKind.PARAMETER_MUTATION)


@dataclass(frozen=True)
class _Lifted:
    """A parameter, buffer or constant: its input of the graph, its name, and its value."""

    node: fx.Node
    name: str
    tensor: torch.Tensor


def separate_shared_state(program: ExportedProgram) -> None:
    """Make a program, in place, use one of several parameters, buffers or constants that are the same tensor, if it writes to one of them.

    AOTAutograd has no graph for inputs that share storage and are written to (torch/_functorch/_aot_autograd/graph_compile.py,
    `aot_stage2_export`). Of inputs that are the same tensor whichever is used gives the same; of the others a tensor of their own takes the
    place, which nothing reads.
    """
    for group in _written_groups(program):
        same: dict[object, list[_Lifted]] = defaultdict(list)
        for lifted in group:
            tensor = lifted.tensor
            same[tensor.dtype, tensor.shape, tensor.stride(), tensor.storage_offset()].append(lifted)
        for used, *others in same.values():
            for lifted in others:
                lifted.node.replace_all_uses_with(used.node)
                _replace(program, lifted)


def shared_written_state(program: ExportedProgram) -> list[str]:
    """Return the names of parameters, buffers and constants that overlap in memory with another, where the program writes to one of them."""
    return [
        lifted.name
        for group in _written_groups(program)
        for lifted in group
        if any(other is not lifted and _overlap(lifted.tensor, other.tensor) for other in group)
    ]


def _overlap(one: torch.Tensor, other: torch.Tensor) -> bool:
    (start, end), (other_start, other_end) = _extent(one), _extent(other)
    return start < other_end and other_start < end


def _extent(tensor: torch.Tensor) -> tuple[int, int]:
    """Return where in its storage a tensor begins and ends, in bytes."""
    start = int(tensor.storage_offset())
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    length = last + 1 if tensor.numel() else 0
    return start * tensor.element_size(), (start + length) * tensor.element_size()


def _written_groups(program: ExportedProgram) -> list[list[_Lifted]]:
    """Find what shares storage and is written to; in each group, what the program writes to comes first."""
    groups: dict[int, list[_Lifted]] = defaultdict(list)
    placeholders = program.graph.find_nodes(op="placeholder")
    for node, spec in zip(placeholders, program.graph_signature.input_specs, strict=True):
        value = program.state_dict.get(spec.target, program.constants.get(spec.target)) if spec.target is not None else None
        if isinstance(value, torch.Tensor) and type(value) in _PLAIN and value.layout is torch.strided:
            groups[storage_id(value)].append(_Lifted(node, str(spec.target), value))
    shared = [group for group in groups.values() if len(group) > 1]
    written = _written_inputs(program) if shared else set()
    return [
        sorted(group, key=lambda lifted: lifted.node not in written)
        for group in shared
        if any(lifted.node in written for lifted in group)
    ]


def _written_inputs(program: ExportedProgram) -> set[fx.Node]:
    """Find the inputs that a program writes to, in its graph or when it ends."""
    mutated = {spec.target for spec in program.graph_signature.output_specs if spec.kind in _MUTATIONS}
    written: set[fx.Node] = set()
    # A value -> the inputs whose storage it may share.
    sources: dict[fx.Node, set[fx.Node]] = {}
    specs = iter(program.graph_signature.input_specs)
    for node in program.graph.nodes:
        if node.op == "placeholder":
            sources[node] = {node}
            if next(specs).target in mutated:
                written.add(node)
        elif node.op == "call_function":
            sources[node] = {source for argument in aliased_arguments(node) for source in sources.get(argument, ())}
            for argument in written_arguments(program.graph_module, node):
                written |= sources.get(argument, set())
    return written


def _replace(program: ExportedProgram, lifted: _Lifted) -> None:
    own = torch.empty_like(lifted.tensor)
    state = program.state_dict if lifted.name in program.state_dict else program.constants
    state[lifted.name] = (
        torch.nn.Parameter(own, lifted.tensor.requires_grad) if isinstance(lifted.tensor, torch.nn.Parameter) else own
    )
