"""Common subexpression elimination."""

from __future__ import annotations

import operator
from collections.abc import Callable, Hashable, Iterator
from typing import Any

from torch import fx

from retraced_server.analysis.alias_sets import AliasSets, holds_tensor, is_view
from retraced_server.analysis.effects import draws_random_numbers, has_effect
from retraced_server.analysis.graphs import walk_graphs
from retraced_server.analysis.targets import overload_of
from retraced_server.analysis.value_numbers import UnkeyedError, call_key
from retraced_server.passes._missed_remarks import MissedRemarks
from retraced_server.passes.registry import register_pass
from retraced_server.retrace import Argument, ExportPass, NodeMetadata, PassResult, ProxyValue, pass_context
from retraced_server.retrace.edited_run import reads_only
from retraced_server.retrace.pass_state import state_of
from retraced_server.retrace.regions import Regions
from retraced_server.retrace.values import metadata_key, same_metadata
from retraced_server.torch_compat.operators import HigherOrderOperator, OpOverloadPacket, base_name

_UNINITIALISED = frozenset(
    {"empty", "empty_like", "empty_permuted", "empty_quantized", "empty_strided", "new_empty", "new_empty_strided"}
)


@register_pass("cse")
class CommonSubexpressionElimination(ExportPass):
    """Merge calls of the same operator with the same arguments, in every graph by itself.

    The first call stays, with its name and metadata, and stands for the later ones. Constants are the same by type and value, and it
    does not matter which arguments are given by keyword. Not merged are:

    - calls that draw random numbers, give uninitialised memory, assert, print, communicate, or write to their arguments; higher-order
      operators, and functions that are not known;
    - calls in different regions of functorch's transforms, autocast or gradient modes: each call of `torch.vmap` is a region of its own;
    - calls between which an argument, or anything that may share its storage, is written to;
    - calls whose result, or anything that may share its storage, is written to;
    - calls that would make two outputs of a graph share storage, since whoever writes to the one would change the other, or a user
      output share it with the new value of a buffer or an input;
    - a later call that defines an unbacked symbol, or whose recorded value says something else;
    - values that a preserved module call signature names, and calls in different modules with such signatures.

    In a program that is not functional few calls can be merged, so `decompose` comes first.
    """

    def __init__(self) -> None:
        super().__init__()
        self._stands_for: dict[fx.Node, fx.Node] = {}

    @reads_only
    def __call__(self, graph_module: fx.GraphModule) -> PassResult:
        """Run the pass."""
        missed, context = MissedRemarks(), pass_context()
        self._stands_for = {}
        for path, module in walk_graphs(graph_module):
            finder = _Finder(module, frozenset() if path else context.kept_names, context.preserved_modules, missed)
            self._stands_for.update(finder.find())
        result = super().__call__(graph_module) if self._stands_for else PassResult(graph_module, False)
        context.count_rewrites(len(self._stands_for))
        context.remarks.extend(missed.lines())
        return result

    # The operator is of any of torch's types for them.
    def call_operator(
        self, op: Any, args: tuple[Argument, ...], kwargs: dict[str, Argument], meta: NodeMetadata
    ) -> ProxyValue[Any]:
        """Return the value of an earlier call, if one stands for this one."""
        earlier = self._earlier()
        return super().call_operator(op, args, kwargs, meta) if earlier is None else earlier

    def call_sym(self, target: Callable[..., Any], args: tuple[Argument, ...], meta: NodeMetadata) -> ProxyValue[Any]:
        """Return the value of an earlier call, if one stands for this one."""
        earlier = self._earlier()
        return super().call_sym(target, args, meta) if earlier is None else earlier

    def call_getitem(self, value: ProxyValue[Any], key: int, meta: NodeMetadata) -> ProxyValue[Any]:
        """Return the value of an earlier item, if one stands for this one."""
        earlier = self._earlier()
        return super().call_getitem(value, key, meta) if earlier is None else earlier

    def _earlier(self) -> ProxyValue[Any] | None:
        visited = pass_context().visited
        first = None if visited is None else self._stands_for.get(visited)
        return None if first is None else state_of(self).retrace.results[first]


class _Finder:
    """Finds the calls of one graph that can be merged.

    Args:
        module: The graph module.
        protected: Names of nodes that must stay values of their own.
        preserved: Names of modules whose calls must not share values.
        missed: Hears of equal calls that cannot be merged.
    """

    def __init__(
        self, module: fx.GraphModule, protected: frozenset[str], preserved: frozenset[str], missed: MissedRemarks
    ) -> None:
        self._module = module
        self._protected = protected
        self._preserved = preserved
        self._missed = missed
        self._aliases = AliasSets(module)
        self._stands_for: dict[fx.Node, fx.Node] = {}

    def find(self) -> dict[fx.Node, fx.Node]:
        """Return, for each call that can be replaced by an earlier one, that one."""
        firsts: dict[Hashable, fx.Node] = {}
        # Equal calls whose values say different things: for each description of a value the call that stands for later ones.
        others: dict[Hashable, fx.Node] = {}
        regions = Regions()
        for node in self._module.graph.nodes:
            regions.visit(node)
            if node.op != "call_function" or not self._is_candidate(node):
                continue
            try:
                key = (self._key(node), self._scope(node), regions.current)
            except UnkeyedError:
                continue
            first = firsts.setdefault(key, node)
            if first is node:
                continue
            hindrance = self._hindrance(first, node)
            if hindrance is not None:
                described = (key, _description(node))
                other = others.get(described)
                if other is None or self._hindrance(other, node) is not None:
                    self._missed.add(hindrance, node.name)
                    if other is None and self._may_stand(node):
                        others[described] = node
                    continue
                first = other
            self._stands_for[node] = first
            self._aliases.merge(first, node)
        return self._stands_for

    def _is_candidate(self, node: fx.Node) -> bool:
        target, op = node.target, overload_of(node.target)
        if isinstance(target, (HigherOrderOperator, OpOverloadPacket)) or (node.kwargs and op is None):
            return False
        if op is not None and base_name(op) in _UNINITIALISED:
            return False
        return not has_effect(self._module, node) and not draws_random_numbers(self._module, node)

    def _key(self, node: fx.Node) -> Hashable:
        def leaf(value: object) -> Hashable | None:
            if not isinstance(value, fx.Node):
                return None
            return (self._stands_for.get(value, value), self._aliases.version(value, node))

        return call_key(node.target, node.args, node.kwargs, leaf)

    def _scope(self, node: fx.Node) -> Hashable:
        """Return the calls of preserved modules that a node is in: values must not go from one to another but by their signatures."""
        if not self._preserved:
            return ()
        return tuple(frame for frame, name in _frames(node) if name.partition("@")[0] in self._preserved)

    def _hindrance(self, first: fx.Node, node: fx.Node) -> str | None:
        if node.name in self._protected or first.name in self._protected:
            return "their values must stay values of their own"
        if node.meta.get("unbacked_bindings") or not same_metadata(first.meta.get("val"), node.meta.get("val")):
            return "their recorded values differ"
        if not self._matters_where(node):
            return None
        if self._aliases.is_written(first) or self._aliases.is_written(node):
            return "their results may be written to"
        if is_view(node.target):
            shared = self._aliases.is_output(first) and self._aliases.is_output(node)
        else:
            shared = self._aliases.escapes(first) and self._aliases.escapes(node)
        return "two outputs would share storage" if shared else None

    def _may_stand(self, node: fx.Node) -> bool:
        """Whether a call may stand for another one at all."""
        return node.name not in self._protected and not (self._matters_where(node) and self._aliases.is_written(node))

    def _matters_where(self, node: fx.Node) -> bool:
        """Whether it matters to anybody in which storage a call's result is."""
        return node.target is not operator.getitem and holds_tensor(node)


def _description(node: fx.Node) -> Hashable:
    """Return what a call's recorded value says to operators; where that has no key, the call itself."""
    try:
        return metadata_key(node.meta.get("val"))
    except TypeError:
        return node


def _frames(node: fx.Node) -> Iterator[tuple[str, str]]:
    return ((frame, name) for frame, (name, _) in (node.meta.get("nn_module_stack") or {}).items())
