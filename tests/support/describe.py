"""Turns programs into plain data that can be compared with `==` and read in a failing test's diff."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import sympy
import torch
from torch import fx
from torch._subclasses import FakeTensor
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

_SYMBOLIC = (torch.SymInt, torch.SymFloat, torch.SymBool)
_PLAIN = (bool, int, str, bytes, type(None), torch.dtype, torch.device, torch.layout, torch.memory_format)


def describe_symbolic(value: Any) -> Any:
    """A size or symbolic scalar: a number as it is, a symbol by type, expression and hint."""
    if not isinstance(value, _SYMBOLIC):
        return value
    node = value.node
    return (type(value).__name__, str(node.expr), node.pytype.__name__, str(node._hint) if node._hint is not None else None)


def describe_tensor(tensor: torch.Tensor) -> dict[str, Any]:
    """Everything that a fake tensor says, but whose storage it shares; of a real one also the values."""
    described: dict[str, Any] = {
        "type": type(tensor).__name__,
        "dtype": tensor.dtype,
        "shape": tuple(describe_symbolic(size) for size in tensor.shape),
        "device": tensor.device,
        "layout": tensor.layout,
        "requires_grad": tensor.requires_grad,
        "conj": tensor.is_conj(),
        "neg": tensor.is_neg(),
    }
    if tensor.layout is torch.strided:
        described["strides"] = tuple(describe_symbolic(stride) for stride in tensor.stride())
        described["offset"] = describe_symbolic(tensor.storage_offset())
    if isinstance(tensor, FakeTensor):
        described["constant"] = None if tensor.constant is None else describe_tensor(tensor.constant)
    elif not tensor.is_meta:
        described["values"] = _Values(tensor)
    return described


class _Values:
    """A real tensor's numbers, compared by value and shown shortly."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self._tensor = tensor.detach()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Values):
            return False
        a, b = self._tensor, other._tensor
        if a.is_quantized or b.is_quantized:
            return bool(torch.equal(a, b))
        return a.shape == b.shape and bool(torch.allclose(a, b, rtol=0, atol=0, equal_nan=a.is_floating_point()))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"values({self._tensor.flatten()[:4].tolist()}...)"


def describe(value: Any) -> Any:
    """Describes any value found in a node's metadata or arguments."""
    if isinstance(value, torch.Tensor):
        return describe_tensor(value)
    if isinstance(value, _SYMBOLIC):
        return describe_symbolic(value)
    if isinstance(value, float):
        return ("float", repr(value))
    if isinstance(value, _PLAIN):
        return (type(value).__name__, value)
    if isinstance(value, fx.Node):
        return ("node", value.name)
    if isinstance(value, fx.GraphModule):
        return describe_graph(value)
    if isinstance(value, sympy.Basic):
        return str(value)
    if isinstance(value, slice):
        return ("slice", describe(value.start), describe(value.stop), describe(value.step))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = dataclasses.fields(value)
        return (type(value).__name__, {field.name: describe(getattr(value, field.name)) for field in fields})
    if isinstance(value, Mapping):
        return ("mapping", [(describe(key), describe(item)) for key, item in value.items()])
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return (type(value).__name__, [describe(item) for item in value])
    if isinstance(value, (set, frozenset)):
        return ("set", sorted(map(str, value)))
    if isinstance(value, Sequence):
        return ("tuple" if isinstance(value, tuple) else "list", [describe(item) for item in value])
    if isinstance(value, (torch._ops.OpOverload, torch._ops.OpOverloadPacket, torch._ops.HigherOrderOperator)):
        return ("op", str(value))
    if callable(value) and hasattr(value, "__qualname__"):
        return ("callable", f"{value.__module__}.{value.__qualname__}")
    if hasattr(value, "to_dict"):
        return (type(value).__name__, value.to_dict())
    return (type(value).__name__, str(value))


def describe_node(node: fx.Node) -> dict[str, Any]:
    """A node with its metadata, without the metadata's own order."""
    target = node.target if isinstance(node.target, str) else describe(node.target)
    return {
        "op": node.op,
        "name": node.name,
        "target": target,
        "args": describe(tuple(node.args)),
        "kwargs": describe(dict(node.kwargs)),
        "users": sorted(user.name for user in node.users),
        "meta": {key: describe(item) for key, item in sorted(node.meta.items())},
    }


def describe_graph(module: fx.GraphModule) -> dict[str, Any]:
    """A graph module: its nodes in order, what it holds, its meta, and the subgraphs in it."""
    return {
        "nodes": [describe_node(node) for node in module.graph.nodes],
        "subgraphs": {
            name: describe_graph(child) for name, child in module.named_children() if isinstance(child, fx.GraphModule)
        },
        "other modules": sorted(n for n, child in module.named_children() if not isinstance(child, fx.GraphModule)),
        "attributes": {
            name: describe(tensor)
            for name, tensor in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False))
        },
        "meta": {key: describe(value) for key, value in sorted(module.meta.items())},
        "codegen": type(module.graph._codegen).__name__,
        "training": module.training,
    }


def describe_program(program: ExportedProgram) -> dict[str, Any]:
    """A whole program, but for which values share storage; `alias_sets` tells that."""
    return {
        "graph": describe_graph(program.graph_module),
        "signature inputs": [describe(spec) for spec in program.graph_signature.input_specs],
        "signature outputs": [describe(spec) for spec in program.graph_signature.output_specs],
        "ranges": {str(symbol): str(interval) for symbol, interval in program.range_constraints.items()},
        "guards": list(program._guards_code),
        "module calls": [describe_module_call(entry) for entry in program.module_call_graph],
        "in spec": str(program.call_spec.in_spec),
        "out spec": str(program.call_spec.out_spec),
        "constants": {name: describe(value) for name, value in program.constants.items()},
        "state": {name: describe(value) for name, value in program.state_dict.items()},
        "example inputs": describe(pytree.tree_leaves(program.example_inputs)),
        "verifiers": [verifier.__name__ for verifier in program.verifiers],
    }


def describe_module_call(entry: Any) -> Any:
    """One entry of the module call graph. Tree specs are described by their text."""
    if entry.signature is None:
        return (entry.fqn, None)
    signature = entry.signature
    return (
        entry.fqn,
        [describe(argument) for argument in signature.inputs],
        [describe(argument) for argument in signature.outputs],
        str(signature.in_spec),
        str(signature.out_spec),
        signature.forward_arg_names,
    )


def graphs(module: fx.GraphModule, path: str = "") -> Iterator[tuple[str, fx.GraphModule]]:
    """Yields a graph module and the subgraphs in it, depth first, with their paths; each module once."""
    seen: set[int] = set()

    def visit(module: fx.GraphModule, path: str) -> Iterator[tuple[str, fx.GraphModule]]:
        if id(module) in seen:
            return
        seen.add(id(module))
        yield path, module
        for name, child in module.named_children():
            if isinstance(child, fx.GraphModule):
                yield from visit(child, f"{path}.{name}" if path else name)

    yield from visit(module, path)


def values(program: ExportedProgram) -> Iterator[tuple[str, Any]]:
    """Yields every leaf of every recorded value with the path of its node, subgraphs included."""
    for path, module in graphs(program.graph_module):
        for node in module.graph.nodes:
            for position, leaf in enumerate(pytree.tree_leaves(node.meta.get("val"))):
                yield f"{path}:{node.name}[{position}]", leaf


def alias_sets(program: ExportedProgram) -> list[tuple[str, ...]]:
    """The sets of recorded values that share a storage, where there is more than one."""
    owners: dict[int, list[str]] = {}
    for name, leaf in values(program):
        if isinstance(leaf, FakeTensor) and leaf.layout is torch.strided:
            owners.setdefault(leaf.untyped_storage()._cdata, []).append(name)
    return sorted(tuple(names) for names in owners.values() if len(names) > 1)
