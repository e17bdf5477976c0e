"""Turns tensors that a pass made attributes into inputs: a program that is saved may hold no tensor attributes.

Follows torch/_export/passes/lift_constants_pass.py for the root graph; out of subgraphs of higher-order operators, tensors go as operands.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx
from torch.export.graph_signature import InputKind

from retraced_server.analysis.attributes import get_attribute, set_attribute
from retraced_server.retrace.errors import ExportPassError
from retraced_server.retrace.weights import AddedWeight
from retraced_server.torch_compat.fake_tensors import FakeTensor
from retraced_server.torch_compat.graphs import LazyGraphModule, codegen_of, copy_node, reserve_names
from retraced_server.torch_compat.operators import HigherOrderOperator

# Where operands can be added: the position of the argument that lists them. All other operators take them last.
_OPERANDS = {"cond": 3, "while_loop": 3, "map_impl": 2, "scan": 3, "associative_scan": 2, "hints_wrapper": 1}
_TRAILING = frozenset(
    {
        "wrap_with_set_grad_enabled",
        "wrap_with_autocast",
        "tag_activation_checkpoint",
        "wrap_activation_checkpoint",
        "invoke_subgraph",
        "strict_mode",
    }
)


# As torch.export names the inputs that stand for them.
_PREFIXES = {InputKind.PARAMETER: "p_", InputKind.BUFFER: "b_", InputKind.CONSTANT_TENSOR: "c_"}
LIFTED_KINDS = tuple(_PREFIXES)
"""The kinds of inputs that stand for tensors, in the order that torch.export gives them."""


@dataclass(frozen=True)
class LiftedTensor:
    """A tensor attribute that became an input.

    Attributes:
        placeholder: The input.
        next_input: The node right before which it stands.
        weight: The parameter, buffer or constant that it stands for.
        reader: The node that read the attribute, which is gone.
    """

    placeholder: fx.Node
    next_input: fx.Node
    weight: AddedWeight
    reader: fx.Node


def has_tensor_attributes(module: fx.GraphModule) -> bool:
    """Whether a graph or a subgraph of it reads a tensor attribute."""
    return any(True for graph_module in _graph_modules(module) for _ in _tensor_nodes(graph_module))


def _graph_modules(module: fx.GraphModule) -> Iterator[fx.GraphModule]:
    return (child for child in module.modules() if isinstance(child, fx.GraphModule))


def _tensor_nodes(module: fx.GraphModule) -> Iterator[tuple[fx.Node, torch.Tensor]]:
    for node in module.graph.nodes:
        if node.op == "get_attr" and isinstance(value := get_attribute(module, node.target), torch.Tensor):
            yield node, value


def copy_graph_module(module: fx.GraphModule) -> fx.GraphModule:
    """Copy a graph, with names and metadata; attributes are shared."""
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    graph.set_codegen(codegen_of(module.graph))
    reserve_names(graph, module.graph.nodes)
    for node in module.graph.nodes:
        args, kwargs = fx.map_arg(node.args, copies.__getitem__), fx.map_arg(node.kwargs, copies.__getitem__)
        copies[node] = copy_node(graph, node, args, kwargs)
    result = LazyGraphModule(module, graph)
    result.meta.update(module.meta)
    return result


def pull_out_of_subgraphs(module: fx.GraphModule) -> fx.GraphModule:
    """Make tensor attributes of subgraphs attributes of the graph, given to the subgraphs as operands.

    Returns:
        A new graph module, or the one that was given where no subgraph has any.

    Raises:
        ExportPassError: A subgraph's operator is not known to take further operands.
    """
    if not any(True for child in _graph_modules(module) if child is not module for _ in _tensor_nodes(child)):
        return module
    module = copy_graph_module(module)
    # New subgraphs with what they take: a subgraph may have several callers.
    changed: dict[fx.GraphModule, tuple[list[torch.Tensor], list[Any]]] = {}
    for node in list(module.graph.nodes):
        if node.op != "call_function" or not isinstance(node.target, HigherOrderOperator):
            continue
        attributes = [n for n in node.all_input_nodes if n.op == "get_attr"]
        subgraphs = {n: b for n in attributes if isinstance(b := get_attribute(module, n.target), fx.GraphModule)}
        tensors, values = next((changed[subgraph] for subgraph in subgraphs.values() if subgraph in changed), ([], []))
        if not tensors:
            inner = {attribute: pull_out_of_subgraphs(subgraph) for attribute, subgraph in subgraphs.items()}
            for subgraph in inner.values():
                for reader, tensor in _tensor_nodes(subgraph):
                    if not any(tensor is known for known in tensors):
                        tensors.append(tensor)
                        values.append(reader.meta.get("val"))
            if not tensors:
                continue
            for attribute, subgraph in inner.items():
                new = _with_operands(subgraph, tensors, values)
                changed[new] = (tensors, values)
                set_attribute(module, attribute.target, new)
        _add_operands(module, node, tensors, values)
    return module


def _with_operands(subgraph: fx.GraphModule, tensors: list[torch.Tensor], values: list[Any]) -> fx.GraphModule:
    subgraph = copy_graph_module(subgraph)
    inputs = [node for node in subgraph.graph.nodes if node.op == "placeholder"]
    first_other = next(node for node in subgraph.graph.nodes if node.op != "placeholder")
    readers = list(_tensor_nodes(subgraph))
    for tensor, value in zip(tensors, values, strict=True):
        with subgraph.graph.inserting_after(inputs[-1]) if inputs else subgraph.graph.inserting_before(first_other):
            operand = subgraph.graph.placeholder(f"lifted_tensor_{len(inputs)}")
        operand.target = operand.name
        operand.meta["val"] = value
        inputs.append(operand)
        for reader, read in readers:
            if read is tensor:
                reader.replace_all_uses_with(operand)
                subgraph.graph.erase_node(reader)
    result = LazyGraphModule(subgraph, subgraph.graph)
    result.meta.update(subgraph.meta)
    return result


def _add_operands(module: fx.GraphModule, node: fx.Node, tensors: list[torch.Tensor], values: list[Any]) -> None:
    with module.graph.inserting_before(node):
        operands = [_read(module, tensor, value) for tensor, value in zip(tensors, values, strict=True)]
    name = node.target.name() if isinstance(node.target, HigherOrderOperator) else str(node.target)
    if name in _OPERANDS:
        at = _OPERANDS[name]
        given = node.args[at]
        grown = [*given, *operands] if isinstance(given, (tuple, list)) else operands
        node.args = (*node.args[:at], grown if isinstance(given, list) else tuple(grown), *node.args[at + 1 :])
    elif name in _TRAILING:
        node.args = (*node.args, *operands)
    else:
        raise ExportPassError(
            f"a pass made a tensor constant in a subgraph of {name} (node '{node.name}'), which takes no further operands: "
            "give the subgraph the value as an input instead"
        )


def _read(module: fx.GraphModule, tensor: torch.Tensor, value: Any) -> fx.Node:
    for node, known in _tensor_nodes(module):
        if known is tensor:
            return node
    number = 0
    while hasattr(module, f"_tensor_constant{number}"):
        number += 1
    set_attribute(module, f"_tensor_constant{number}", tensor)
    node = module.graph.get_attr(f"_tensor_constant{number}")
    node.meta["val"] = value
    return node


def lift_to_inputs(
    module: fx.GraphModule, before: Callable[[InputKind], fx.Node], taken: set[str], added: Mapping[int, AddedWeight]
) -> list[LiftedTensor]:
    """Make the root graph's tensor attributes inputs. Changes the graph module.

    Args:
        module: The graph module.
        before: Before which node inputs of a kind go.
        taken: Names of constants that exist; the new ones are added.
        added: Those that the pass has named, as parameters and buffers, by the ids of the tensors. The others become constants.

    Returns:
        The new inputs, in order.
    """
    lifted: list[LiftedTensor] = []
    placeholders: dict[int, fx.Node] = {}
    number = sum(1 for name in taken if name.startswith("lifted_tensor_"))

    def order(read: tuple[fx.Node, torch.Tensor]) -> int:
        return LIFTED_KINDS.index(added[id(read[1])].kind if id(read[1]) in added else InputKind.CONSTANT_TENSOR)

    for node, tensor in sorted(_tensor_nodes(module), key=order):
        known = placeholders.get(id(tensor))
        if known is None:
            weight = added.get(id(tensor))
            if weight is None:
                while f"lifted_tensor_{number}" in taken:
                    number += 1
                weight = AddedWeight(f"lifted_tensor_{number}", tensor.detach(), InputKind.CONSTANT_TENSOR)
                taken.add(weight.name)
            next_input = before(weight.kind)
            with module.graph.inserting_before(next_input):
                known = module.graph.placeholder(f"{_PREFIXES[weight.kind]}{weight.name.replace('.', '_')}")
            known.target = known.name
            known.meta["val"] = node.meta["val"]
            constant = weight.kind is InputKind.CONSTANT_TENSOR
            if constant and isinstance(known.meta["val"], FakeTensor) and known.meta["val"].constant is None:
                known.meta["val"].constant = weight.tensor
            placeholders[id(tensor)] = known
            lifted.append(LiftedTensor(known, next_input, weight, node))
        node.replace_all_uses_with(known)
        module.graph.erase_node(node)
    return lifted
