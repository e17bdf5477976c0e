"""Edits of graphs by hand: which recorded values still hold after them, and which nodes of the given program the nodes came from.

A pass that overrides `call`, or that holds the graph elsewhere, changes nodes without saying so. A value is recorded for one call, a target
and arguments; so the call is kept beside the value where the two are known to fit: when the program is given, and when a retrace has made
a graph. A node whose call is no longer that one is *dirty*, and is executed again.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import sympy
import torch
from torch import fx

from retraced_server.analysis.attributes import MISSING, find_attribute, get_attribute
from retraced_server.analysis.graphs import node_key, walk_graphs
from retraced_server.analysis.targets import overload_of
from retraced_server.retrace.arguments import same_arguments
from retraced_server.retrace.autocast_states import autocast_states, autocast_states_of_graph
from retraced_server.retrace.execute import has_result
from retraced_server.retrace.node_correspondence import NodeCorrespondence
from retraced_server.retrace.regions import AutocastState
from retraced_server.torch_compat.graphs import PassResult
from retraced_server.torch_compat.operators import schema_of


# Targets, arguments and values are whatever a graph has.
@dataclass(frozen=True, slots=True)
class RecordedCall:
    """What a node's value was recorded for."""

    target: Any
    args: Any
    kwargs: Any


@dataclass(slots=True)
class _Record:
    """What is known of a node.

    `value` is its recorded value, or the attribute that a `get_attr` node reads; `fits` says whether it is what the call computes;
    `origins` are keys of the given program; `input` is the name of the given input that a placeholder stands for; `outputs` are the given
    positions of an output node's results.
    """

    call: RecordedCall
    value: Any
    fits: bool
    origins: tuple[str, ...]
    input: str | None = None
    outputs: list[int | None] | None = None


class Edits:
    """Finds what a pass has edited by hand, from when it was given a program until it gives its result.

    Attributes:
        states_values: Whether a value that was recorded by hand is taken as it is: after the last visit, as on torch's class. Before it,
            the node is executed.
    """

    def __init__(self) -> None:
        self.states_values = False
        self._records: dict[fx.Node, _Record] = {}
        # By their ids, the values that are recorded for known nodes, with these: in the metadata of another, one is not stated by hand
        # but copied.
        self._recorded: dict[int, tuple[Any, list[fx.Node]]] = {}
        # The nodes of each graph in order, when its values were recorded.
        self._orders: dict[fx.Graph, list[fx.Node]] = {}
        # Under which autocast nodes were, when their values were recorded; those under none are not here.
        self._autocast: dict[fx.Node, AutocastState] = {}
        # Copies of graphs in which a write was edited.
        self._disturbed: set[fx.Graph] = set()
        # For nodes of the given root graph the node that has the value now.
        self._holders: dict[str, fx.Node | None] = {}

    # -- what is known -----------------------------------------------------------------------------------------------------------

    def add_given(self, module: fx.GraphModule, *, fits: bool = True) -> None:
        """Note the program that the pass was given.

        Args:
            module: The graph module that the pass may edit.
            fits: Whether the recorded values are known to be what the nodes compute.
        """
        for path, graph_module in walk_graphs(module):
            self._orders[graph_module.graph] = list(graph_module.graph.nodes)
            for node in graph_module.graph.nodes:
                record = _Record(_call(node), _value(graph_module, node), fits, (node_key(path, node.name),))
                self._record(node, record)
                if node.op == "placeholder":
                    record.input = node.name
                elif node.op == "output":
                    record.outputs = list(range(_length(node)))
        self._autocast = autocast_states(module)
        self._holders = {node.name: node for node in module.graph.nodes}

    def add_copy(self, copy: fx.GraphModule, module: fx.GraphModule) -> None:
        """Note a copy of a graph module: what is known of the nodes holds for their copies."""
        copies: dict[fx.Node, fx.Node] = {}
        autocast = autocast_states(module)
        for path, graph_module in walk_graphs(copy):
            original = get_attribute(module, path) if path else module
            copies.update(zip(original.graph.nodes, graph_module.graph.nodes, strict=True))
            for node in original.graph.nodes:
                record = self._records.get(node)
                if record is not None:
                    fits = record.fits and self.holds(node, _attribute(original, node), autocast.get(node, ()))
                    self._record(
                        copies[node],
                        _Record(
                            _call(copies[node]),
                            _value(graph_module, copies[node]),
                            fits,
                            record.origins,
                            record.input,
                            record.outputs,
                        ),
                    )
            if self.is_disturbed(original.graph):
                self._disturbed.add(graph_module.graph)
            if original.graph in self._orders:
                self._orders[graph_module.graph] = [copies[node] for node in original.graph.nodes if node in self._records]
        self._autocast.update((copies[node], state) for node, state in autocast.items())
        self._move_holders(copies.get)

    def add_result(
        self,
        module: fx.GraphModule,
        correspondence: NodeCorrespondence,
        inputs: Mapping[fx.Node, fx.Node | None],
        outputs: list[int | None] | None,
        counterpart: Callable[[fx.Node], fx.Node | None],
        autocast: AutocastState,
    ) -> None:
        """Note a graph that a retrace has made: its values are recorded for the calls that the nodes were made with.

        Args:
            module: The new graph module.
            correspondence: What its nodes are.
            inputs: For its placeholders the old ones that they stand for.
            outputs: The old positions of its results; None if they are as they were.
            counterpart: Gives the node that has the value of an old node, the node itself where it is of another graph.
            autocast: What the graph is called under.
        """
        self._autocast.update(autocast_states_of_graph(module.graph, autocast))
        self._orders[module.graph] = list(module.graph.nodes)
        for node in module.graph.nodes:
            olds = correspondence.origins_of(node) or next(filter(None, map(correspondence.origins_of, node.users)), [])
            origins = [origin for old in olds for origin in self.origins_of(old) or ()]
            made = correspondence.made_with(node)
            call = _call(node) if made is None else RecordedCall(*made)
            record = _Record(call, _value(module, node), True, tuple(dict.fromkeys(origins)))
            self._record(node, record)
            if node.op == "placeholder" and (old := inputs.get(node)) is not None:
                record.input = self.input_of(old)
            elif node.op == "output":
                before = next((self.outputs_of(old) for old in olds), None)
                if before is not None and outputs is not None:
                    before = [None if at is None or at >= len(before) else before[at] for at in outputs]
                record.outputs = before
        self._move_holders(counterpart)

    @contextmanager
    def given_back_unless_modified(self) -> Iterator[list[PassResult]]:
        """Have values where they were, unless what is run with a copy puts a modified result into the list."""
        holders, results = self._holders.copy(), list[PassResult]()
        try:
            yield results
        finally:
            if not (results and results[0].modified):
                self._holders = holders

    def _record(self, node: fx.Node, record: _Record) -> None:
        self._records[node] = record
        self._recorded.setdefault(id(record.value), (record.value, []))[1].append(node)

    def _move_holders(self, counterpart: Callable[[fx.Node], fx.Node | None]) -> None:
        for name, node in self._holders.items():
            if node is not None:
                self._holders[name] = counterpart(node)

    # -- what was edited ---------------------------------------------------------------------------------------------------------

    def holds(self, node: fx.Node, attribute: Any, autocast: AutocastState) -> bool:
        """Whether the value recorded for a node is still that of the node.

        Args:
            node: The node.
            attribute: For a `get_attr` node what it reads.
            autocast: What the node is under.
        """
        if node.op == "output":
            return True
        record = self._records.get(node)
        if record is None:
            is_call = node.op == "call_function"
            needs_value = has_result(node.target) if is_call else isinstance(attribute, torch.Tensor)
            return self.states_values and (not needs_value or self._states_value(node) or self._is_copy(node, autocast))
        value = attribute if node.op == "get_attr" else node.meta.get("val", MISSING)
        if value is not record.value:
            # What an input is, nothing but its value says.
            return self.states_values and node.op == "call_function" and self._states_value(node)
        if node.op == "call_function" and (
            self._autocast.get(node, ()) != autocast or any(map(self.is_stated, node.all_input_nodes))
        ):
            return False
        return record.fits and _is_same_call(node, record.call)

    def is_stated(self, node: fx.Node) -> bool:
        """Whether a call that is known has a value that was recorded by hand, and that is taken as it is."""
        if not self.states_values or node.op != "call_function" or (record := self._records.get(node)) is None:
            return False
        return node.meta.get("val", MISSING) is not record.value and self._states_value(node)

    def _states_value(self, node: fx.Node) -> bool:
        """Whether a value was recorded by hand: not one that came along with metadata copied from another node."""
        value = node.meta.get("val", MISSING)
        return value is not MISSING and id(value) not in self._recorded

    def _is_copy(self, node: fx.Node, autocast: AutocastState) -> bool:
        """Whether an unknown node has the recorded value of a known one along with its call, as in a graph that a pass has copied."""
        _, known = self._recorded.get(id(node.meta.get("val", MISSING)), (None, []))
        return any(
            self._records[other].fits
            and self._autocast.get(other, ()) == autocast
            and _is_same_call(node, self._records[other].call, self._has_value_of)
            for other in known
        )

    def _has_value_of(self, node: Any, known: fx.Node) -> bool:
        """Whether an argument is a known node, or a copy of it."""
        if node is known or not isinstance(node, fx.Node):
            return node is known
        record = self._records.get(known)
        if node.op == "get_attr":
            return known.op == "get_attr" and node.target == known.target
        return record is not None and record.value is not MISSING and node.meta.get("val", MISSING) is record.value

    def is_disturbed(self, graph: fx.Graph) -> bool:
        """Whether any value of a graph may have changed, since what is written in place is no longer, or in another order."""
        before = self._orders.get(graph)
        if before is None or graph in self._disturbed:
            return before is not None
        now = list(graph.nodes)
        gone = set(before).difference(now)
        if any(node in gone or not _is_same_call(node, self._records[node].call) for node in filter(self._wrote, before)):
            return True
        stayed = [node for node in before if node not in gone]
        known = set(stayed)
        return stayed != [node for node in now if node in known] and any(map(self._wrote, stayed))

    def _wrote(self, node: fx.Node) -> bool:
        op = overload_of(self._records[node].call.target)
        return op is not None and schema_of(op).is_mutable

    def has_dirty(self, module: fx.GraphModule) -> bool:
        """Whether a graph or a subgraph of it has a node whose recorded value does not hold."""
        autocast = autocast_states(module)
        return any(
            self.is_disturbed(child.graph)
            or not all(self.holds(node, _attribute(child, node), autocast.get(node, ())) for node in child.graph.nodes)
            for _, child in walk_graphs(module)
        )

    def put_back_values(self, graph: fx.Graph) -> None:
        """Record again what was recorded for nodes whose value was changed by hand, unless it is taken as it is."""
        for node in graph.nodes:
            record = self._records.get(node) if node.op == "call_function" else None
            if record is None or not record.fits or node.meta.get("val", MISSING) is record.value:
                continue
            if not (self.states_values and self._states_value(node)):
                if record.value is MISSING:
                    del node.meta["val"]
                else:
                    node.meta["val"] = record.value

    def knows(self, node: fx.Node) -> bool:
        """Whether a node is one of the given program, or that a retrace has made: not one that was inserted by hand."""
        return node in self._records

    def recorded_call(self, node: fx.Node) -> RecordedCall | None:
        """Return the call that a node's value was recorded for; None where it is not known."""
        record = self._records.get(node)
        return record.call if record is not None and record.fits else None

    def recorded_value(self, node: fx.Node) -> Any:
        """Return the value that was recorded for a node, though it may have been erased since; for a `get_attr` node the attribute."""
        record = self._records.get(node)
        value = node.meta.get("val") if record is None else record.value
        return None if value is MISSING else value

    # -- where nodes came from ---------------------------------------------------------------------------------------------------

    def origins_of(self, node: fx.Node) -> tuple[str, ...] | None:
        """Return the keys of the given nodes that a node came from; None for one that was inserted by hand."""
        record = self._records.get(node)
        return None if record is None else record.origins

    def input_of(self, node: fx.Node) -> str | None:
        """Return the name of the given input that a placeholder stands for."""
        record = self._records.get(node)
        return None if record is None else record.input

    def outputs_of(self, node: fx.Node) -> list[int | None] | None:
        """Return the given position of each result of an output node, None for a new one; None as a whole where they cannot be told."""
        record = self._records.get(node)
        outputs = None if record is None else record.outputs
        return outputs if outputs is None or len(outputs) == _length(node) else None

    def holder(self, name: str) -> fx.Node | None:
        """Return the node that has the value of a node of the given root graph."""
        return self._holders.get(name)


def symbols_bound(nodes: Iterable[fx.Node]) -> set[sympy.Symbol]:
    """Return the unbacked symbols that nodes define."""
    return {symbol for node in nodes for symbol in node.meta.get("unbacked_bindings") or ()}


def _call(node: fx.Node) -> RecordedCall:
    return RecordedCall(node.target, node.args, node.kwargs)


# A leaf of arguments is whatever a graph has.
def _is_same_call(node: fx.Node, call: RecordedCall, same_node: Callable[[Any, fx.Node], bool] = operator.is_) -> bool:
    if node.target is not call.target and node.target != call.target:
        return False
    if node.args is call.args and node.kwargs is call.kwargs:
        return True
    return same_arguments(node.args, call.args, same_node) and same_arguments(node.kwargs, call.kwargs, same_node)


def _value(module: fx.GraphModule, node: fx.Node) -> Any:
    return _attribute(module, node) if node.op == "get_attr" else node.meta.get("val", MISSING)


# An attribute is whatever a `get_attr` node reads.
def _attribute(module: fx.GraphModule, node: fx.Node) -> Any:
    return find_attribute(module, node.target, MISSING) if node.op == "get_attr" else None


def _length(output: fx.Node) -> int:
    results = output.args[0] if output.args else None
    return len(results) if isinstance(results, (tuple, list)) else 1
