"""Which operands of a higher-order operator its subgraphs see, and which subgraphs have been visited."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import sympy
import torch
from torch import fx

from retraced_server.analysis.graphs import child_path
from retraced_server.retrace.arguments import Argument
from retraced_server.retrace.graph_retrace import GraphRetrace
from retraced_server.retrace.proxy_value import ProxyValue
from retraced_server.retrace.regions import AutocastState
from retraced_server.retrace.values import same_metadata
from retraced_server.torch_compat.graphs import PassResult


class _Unchanged:
    """Stands for an input of a subgraph that is what it was when the subgraph was recorded."""


UNCHANGED = _Unchanged()


def find_subgraphs(value: Argument) -> Iterator[fx.GraphModule]:
    """Every graph module among arguments, in order."""
    if isinstance(value, fx.GraphModule):
        yield value
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from find_subgraphs(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from find_subgraphs(item)


def replace_subgraphs(value: Argument, new: dict[fx.GraphModule, fx.GraphModule]) -> Argument:
    """Put other graph modules in the place of some among arguments."""
    if isinstance(value, fx.GraphModule):
        return new.get(value, value)
    if type(value) in (tuple, list):
        return type(value)(replace_subgraphs(item, new) for item in value)
    if type(value) is dict:
        return {key: replace_subgraphs(item, new) for key, item in value.items()}
    return value


def trailing_operands(args: Sequence[Argument], subgraph: fx.GraphModule) -> tuple[Argument, ...] | None:
    """Return the operands of an operator that calls its one subgraph with all that follows it, as wrap_with_set_grad_enabled does.

    Returns:
        The operands, or None where what follows the subgraph does not fit its placeholders.
    """
    position = next((at for at, argument in enumerate(args) if argument is subgraph), None)
    if position is None:
        return None
    operands = tuple(args[position + 1 :])
    wanted = sum(1 for node in subgraph.graph.nodes if node.op == "placeholder")
    # invoke_subgraph has the subgraph's identifier in between.
    if len(operands) == wanted + 1 and isinstance(operands[0], str):
        operands = operands[1:]
    nested = any(isinstance(operand, (tuple, list, dict, fx.GraphModule)) for operand in operands)
    return operands if len(operands) == wanted and not nested else None


def slices(operands: Sequence[Argument], retrace: GraphRetrace | None) -> list[Argument]:
    """Return what one step of a map or a scan sees of stacked operands: a slice along the first dimension.

    `retrace` is that of the graph, if any.
    """
    return [
        UNCHANGED if retrace is not None and retrace.is_recorded(operand) else _first_slice(operand) for operand in operands
    ]


def _first_slice(operand: Argument) -> Any:
    data = operand.data if isinstance(operand, ProxyValue) else operand
    return data[0] if isinstance(data, torch.Tensor) else data


class VisitedSubgraphs:
    """The graphs that one call of a pass has visited, so that each is visited once however often it is called."""

    def __init__(self) -> None:
        self._results: dict[fx.GraphModule, list[tuple[tuple[Any, ...], AutocastState, PassResult]]] = {}

    def find(self, module: fx.GraphModule, inputs: tuple[Any, ...], autocast: AutocastState) -> PassResult | None:
        """Return the result of an earlier visit under the same autocast, with inputs that say the same."""
        for known, state, result in self._results.get(module, []):
            if state == autocast and len(known) == len(inputs) and all(map(same_metadata, known, inputs)):
                return result
        return None

    def keep(self, module: fx.GraphModule, inputs: tuple[Any, ...], autocast: AutocastState, result: PassResult) -> None:
        """Note a visit."""
        self._results.setdefault(module, []).append((inputs, autocast, result))


def settle_inputs(module: fx.GraphModule, inputs: Sequence[Argument], caller: GraphRetrace | None) -> tuple[Any, ...]:
    """Turn what a graph is called with into data: the recorded value of a placeholder where the input is what it was.

    Args:
        module: The graph module.
        inputs: ProxyValues, data, or `UNCHANGED`.
        caller: The graph that calls it; None for the root.
    """
    placeholders = [node for node in module.graph.nodes if node.op == "placeholder"]
    return tuple(
        _settled(given, placeholders[at] if at < len(placeholders) else None, caller) for at, given in enumerate(inputs)
    )


def _settled(given: Argument, placeholder: fx.Node | None, caller: GraphRetrace | None) -> Any:
    recorded = None if placeholder is None else placeholder.meta.get("val")
    data = given.data if isinstance(given, ProxyValue) else given
    if caller is None or recorded is None:
        return None if data is UNCHANGED else data
    if data is UNCHANGED or (isinstance(given, ProxyValue) and caller.is_recorded(given)):
        return recorded
    if same_metadata(data, recorded, requires_grad=False) or _is_carried_symbol(recorded):
        return recorded
    return data


def _is_carried_symbol(recorded: Any) -> bool:
    # A loop begins with a number, but its subgraph must hold for every later one: it is recorded with a symbol of its own.
    return isinstance(recorded, torch.SymInt) and isinstance(recorded.node.expr, sympy.Symbol)


def subgraph_path(module: fx.GraphModule, caller: GraphRetrace | None) -> str:
    """Return the path of a subgraph in the program: the caller's path and the attribute that holds it."""
    if caller is None:
        return ""
    name = caller.subgraph_names.get(id(module))
    return caller.path if name is None else child_path(caller.path, name)
