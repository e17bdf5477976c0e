"""Makes writes functional: what a program writes to is traced on functional tensors, as torch does with all of a program."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import fx

from retraced_server.analysis.alias_sets import holds_tensor
from retraced_server.analysis.effects import arguments_by_name, written_arguments
from retraced_server.analysis.storages import WriteSets, storages
from retraced_server.analysis.targets import overload_of
from retraced_server.passes.decompose.emit import Emitter
from retraced_server.passes.decompose.template import (
    Emitted,
    NotLocalError,
    NotReplacedError,
    Template,
    datum,
    identity_of,
    map_inputs,
)
from retraced_server.passes.decompose.templates import Templates, effects_after, needed
from retraced_server.passes.decompose.working_copy import SETS_GRADIENTS
from retraced_server.retrace import NodeMetadata, ProxyValue
from retraced_server.torch_compat.functional_trace import FunctionalTensor, FunctionalTrace
from retraced_server.torch_compat.operators import HigherOrderOperator, schema_of


class WrittenTogether:
    """The nodes of a graph whose values may share storage with one that is written to. It errs on the side of more.

    Args:
        module: The graph module.

    Attributes:
        placeholders: Those that are inputs.
        whole: The nodes whose value is one tensor, of which there is no view, each with the first node that has it.

    Raises:
        NotLocalError: Two inputs share storage that is written to, or results of a subgraph that is to be inlined do.
    """

    def __init__(self, module: fx.GraphModule) -> None:
        writes = {node: values for node in module.graph.nodes if (values := written_arguments(module, node))}
        written = [value for values in writes.values() for value in values]
        members: dict[fx.Node, list[fx.Node]] = {}
        if written:
            sets = WriteSets(module.graph)
            members = {sets.written_with(value): [] for value in written}
            for node in module.graph.nodes:
                # A file's program has a recorded value at the output too, which is none of its own.
                if node.op != "output" and sets.written_with(node) in members and _has_tensor(node):
                    members[sets.written_with(node)].append(node)
        self._nodes = frozenset(node for nodes in members.values() for node in nodes)
        self.whole = {node: nodes[0] for nodes in members.values() if nodes and _are_one(nodes) for node in nodes}
        self.placeholders = [node for node in module.graph.find_nodes(op="placeholder") if node in self._nodes]
        for node in self._nodes:
            if node.target is SETS_GRADIENTS:
                raise NotLocalError(f"results of '{node.name}', a subgraph without gradients, are written to")
        held = [storage for node in self.placeholders for storage in storages(node.meta["val"])]
        if len(set(held)) < len(held):
            raise NotLocalError("the program writes to an input that shares storage with another")
        self._writes = writes
        # What makes, takes or returns such a value.
        self._concerned = self._nodes | {user for node in self._nodes for user in node.users}

    def __contains__(self, node: object) -> bool:
        return node in self._nodes

    def concern(self, node: fx.Node) -> bool:
        """Whether a node makes, takes or returns such a value."""
        return node in self._concerned

    def writes(self, node: fx.Node) -> bool:
        """Whether a node writes to such a value."""
        return node in self._writes

    def written_by(self, node: fx.Node) -> list[fx.Node]:
        """Return the values that a node writes to."""
        return self._writes.get(node, [])

    def targets(self) -> set[Any]:
        """Return what the nodes call that these values concern."""
        return {node.target for node in self._concerned if node.op == "call_function"}


class WrittenValues:
    """What the values of a graph are, at each point of the program, that share storage with one that is written to.

    A call that writes to a tensor of which there is no view becomes what its template has. Each other call that takes a view of such a value
    or writes to one is executed on functional tensors, and what functionalization makes of it stands in the program in its place. Calls that
    do neither are given what the values are at that point.

    Args:
        written: The values.
        templates: Begins the trace.
        emitter: Makes calls.
        find: Finds the template of a call, as `Templates.find` does.
        results: Returns what the pass has for each node of the graph that was visited.
    """

    def __init__(
        self,
        written: WrittenTogether,
        templates: Templates,
        emitter: Emitter,
        find: Callable[[Any, Any, Any], tuple[Template, list[Any]]],
        results: Callable[[], Mapping[fx.Node, Any]],
    ) -> None:
        self._templates = templates
        self._emitter = emitter
        self._find = find
        self._results = results
        self._written = written
        # What a tensor without views is now that was written to, by the first node that has it.
        self._current: dict[fx.Node, Any] = {}
        self._trace: FunctionalTrace | None = None
        # Of nodes of the graph: functional tensors, and containers of these.
        self._functional: dict[fx.Node, Any] = {}
        # Inputs of the trace by the nodes that compute them, or by the identity of an attribute.
        self._inputs: dict[object, Any] = {}
        # Items of containers by container and place.
        self._items: dict[object, fx.Node] = {}
        self._emitted: Emitted = {}
        self._last: fx.Node | None = None

    def concern(self, node: fx.Node) -> bool:
        """Whether a node makes, takes or returns such a value."""
        return self._written.concern(node)

    def is_view_or_write(self, node: fx.Node) -> bool:
        """Whether a node's value is such a value, made of others."""
        if node.target is operator.getitem:
            # Results of an operator that makes new values are such values as well, and no views.
            return node.args[0] in self._functional
        if isinstance(node.target, HigherOrderOperator):
            # torch lets none return what it takes, nor a view of it.
            return False
        is_made_of = node in self._written and any(value in self._written for value in node.all_input_nodes)
        return is_made_of or self._written.writes(node)

    # Arguments and values are whatever a graph has.
    def current(self, arguments: Any, meta: NodeMetadata) -> Any:
        """Return what nodes among arguments are at this point of the program."""
        results = self._results()

        def value(leaf: Any) -> Any:
            if not isinstance(leaf, fx.Node):
                return leaf
            first = self._written.whole.get(leaf)
            if first is not None and first not in self._functional:
                return self._now(first)
            leaf = first or leaf
            # A container of new values has nothing written to it: its items do.
            may_differ = leaf in self._written and (leaf in self._functional or isinstance(leaf.meta.get("val"), torch.Tensor))
            return self._emit(self._functional_value(leaf), meta) if may_differ else results[leaf]

        return fx.node.map_aggregate(arguments, value)

    def call(self, node: fx.Node, meta: NodeMetadata) -> Any:
        """Make what a call becomes that takes a view or writes, and return what its value is at this point."""
        if self._takes_no_views(node):
            try:
                return self._call_by_template(node, meta)
            except NotReplacedError:
                # A functional tensor goes on whatever it was written.
                pass
        args, kwargs = fx.node.map_aggregate(
            (node.args, node.kwargs), lambda leaf: self._functional_value(leaf) if isinstance(leaf, fx.Node) else leaf
        )
        assert callable(node.target)
        value = self._functional[self._written.whole.get(node, node)] = self._tracing().call(node.target, args, kwargs)
        return self._emit(value, meta)

    def _takes_no_views(self, node: fx.Node) -> bool:
        """Whether what a call takes and gives of these values are tensors without views, of which none was executed on yet."""
        concerned = [value for value in (node, *node.all_input_nodes) if value in self._written]
        firsts = [self._written.whole.get(value) for value in concerned]
        return overload_of(node.target) is not None and all(first and first not in self._functional for first in firsts)

    def _call_by_template(self, node: fx.Node, meta: NodeMetadata) -> Any:
        args, kwargs = self.current((node.args, node.kwargs), meta)
        template, given = self._find(node.target, args, kwargs)
        places = {identity_of(value): place for place, value in enumerate(given)}
        firsts = {self._written.whole[value] for value in self._written.written_by(node)}
        written_at = {first: places[identity_of(self.current(first, meta))] for first in firsts}
        results, written = self._emitter.emit_template(template, given, meta)
        self._current |= {first: written[place] for first, place in written_at.items() if written[place] is not None}
        return results

    def written_inputs(self, meta: NodeMetadata) -> Iterator[tuple[fx.Node, Any]]:
        """Yield the inputs that were written to, each with its value at the end.

        Raises:
            NotLocalError: The sizes or strides of one have changed.
        """
        for node in self._written.placeholders:
            functional, trace = self._functional.get(node), self._trace
            if not isinstance(functional, FunctionalTensor) or trace is None:
                if node in self._current:
                    yield node, self._current[node]
                continue
            if trace.is_resized(functional, datum(self._results()[node], self._templates.fake_mode)):
                raise NotLocalError(f"the program changes the sizes or strides of its input '{node.name}'")
            if trace.is_written(functional) or node in self._current:
                yield node, self._emit(functional, meta)

    def _tracing(self) -> FunctionalTrace:
        if self._trace is None:
            self._trace = self._templates.trace()
        return self._trace

    def _functional_value(self, node: fx.Node) -> Any:
        node = self._written.whole.get(node, node)
        if node in self._functional:
            return self._functional[node]
        if node.target is operator.getitem:
            # Another item of the same place is the same value.
            first = self._items.setdefault(node.args, node)
            if first is not node:
                return self._functional_value(first)
        value = map_inputs(self._now(node), self._input)
        if node in self._written:
            self._functional[node] = value
        return value

    def _now(self, node: fx.Node) -> Any:
        """Return what stands for a value that no functional tensor was made of yet."""
        return self._current[node] if node in self._current else self._results()[node]

    def _input(self, value: Any) -> Any:
        key = value.node if isinstance(value, ProxyValue) else id(value)
        if key not in self._inputs:
            self._inputs[key], placeholder = self._tracing().input(datum(value, self._templates.fake_mode))
            self._emitted[placeholder] = value
        return self._inputs[key]

    def _emit(self, functional: Any, meta: NodeMetadata) -> Any:
        trace = self._tracing()
        results = trace.read(functional)
        nodes = needed(results, self._emitted, effects_after(trace.graph, self._last))
        self._last = next(reversed(trace.graph.nodes))
        return self._emitter.emit(self._emitted, nodes, results, meta)


def _are_one(nodes: Sequence[fx.Node]) -> bool:
    """Whether the values of nodes that share storage are one tensor: the first of them, and what operators return that have written to it."""
    first, *others = nodes
    is_new = isinstance(first.meta.get("val"), torch.Tensor) and first.target is not operator.getitem
    return is_new and all(_returned_argument(node) in nodes for node in others)


def _returned_argument(node: fx.Node) -> Any:
    """Return the argument that an operator writes to and returns, if it returns nothing else."""
    op = overload_of(node.target)
    results = [] if op is None else [result.alias_info for result in schema_of(op).returns]
    if op is None or len(results) != 1 or results[0] is None or not results[0].is_write:
        return None
    given = arguments_by_name(op, node.args, node.kwargs)
    arguments = ((argument.name, argument.alias_info) for argument in schema_of(op).arguments)
    return next((given.get(name) for name, info in arguments if info and info.before_set == results[0].before_set), None)


def _has_tensor(node: fx.Node) -> bool:
    return node.meta.get("val") is not None and holds_tensor(node)
