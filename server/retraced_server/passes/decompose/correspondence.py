"""Which node of a program stands for which of the program that it was made of, after torch has traced it anew."""

from __future__ import annotations

import operator
from collections import defaultdict
from collections.abc import Hashable, Iterator, Mapping, Set
from dataclasses import dataclass, field
from typing import Any

import sympy
import torch
from torch import fx

from retraced_server.analysis.graphs import child_path, node_key, subgraph_of, walk_graphs
from retraced_server.analysis.value_numbers import UnkeyedError, call_key
from retraced_server.passes.decompose.working_copy import TAG, inlined_subgraph
from retraced_server.retrace.values import SYMBOLIC, expression
from retraced_server.torch_compat.pytree import pytree

ASSERT_SCALAR = torch.ops.aten._assert_scalar.default
"""An assertion that torch derives again; its message has the name of a node."""


@dataclass
class GraphMatch:
    """A graph and the graph that it became.

    Attributes:
        path: The path of the graph in the old program; empty for the root graph.
        old: The graph module in the old program.
        new: The graph module in the new program.
        values: For a node of the old graph, or of a subgraph that was inlined into it, the new node with its value.
        sources: For a node of the new graph, the old node that its metadata is of.
        origins: For a node of the new graph, all old nodes that it came from.
        inlined: Whether a subgraph was inlined into it.
        repeated: For a node of the new graph that computes a symbolic number which another node computes too, the old node of that one.
        tags: For a call of the new graph the old node whose tag it has.
        groups: For a node of the old graph the calls of the new one that have its tag, in order.
        items: Of those the items of tuples, by the old node, the tuple and the position.
        taken: The nodes of the new graph that have the value of an old one.
        made: For a node of the old graph the nodes of the new one that came from it.
    """

    path: str
    old: fx.GraphModule
    new: fx.GraphModule
    values: dict[fx.Node, fx.Node] = field(default_factory=dict)
    sources: dict[fx.Node, fx.Node] = field(default_factory=dict)
    origins: dict[fx.Node, tuple[fx.Node, ...]] = field(default_factory=dict)
    inlined: bool = False
    repeated: dict[fx.Node, fx.Node] = field(default_factory=dict)
    tags: dict[fx.Node, fx.Node] = field(default_factory=dict)
    groups: dict[fx.Node, list[fx.Node]] = field(default_factory=lambda: defaultdict(list))
    items: dict[Hashable, fx.Node] = field(default_factory=dict)
    taken: set[fx.Node] = field(default_factory=set)
    made: dict[fx.Node, list[fx.Node]] = field(default_factory=lambda: defaultdict(list))

    def pair(self, old: fx.Node, new: fx.Node) -> None:
        """Record that a new node has the value of an old one."""
        self.values[old] = new
        self.taken.add(new)

    def derive(self, new: fx.Node, source: fx.Node, *others: fx.Node) -> None:
        """Record where a new node comes from."""
        self.sources[new] = source
        self.origins[new] = (source, *others)
        for origin in self.origins[new]:
            self.made[origin].append(new)

    def add_call(self, new: fx.Node, origin: fx.Node) -> None:
        """Record a call of the new graph that has the tag of an old node."""
        self.tags[new] = origin
        self.groups[origin].append(new)
        if new.target is operator.getitem and isinstance(new.args[1], int):
            self.items[origin, new.args] = new
        self.derive(new, origin)


class Correspondence:
    """Compares a program with what torch made of its `working_copy`.

    Args:
        old: The root graph module of the program.
        new: The root graph module of the result, whose nodes carry tags.
        placeholders: For each placeholder of the old root graph its counterpart in the new one.
        symbols: The symbols that the old program has.

    Attributes:
        graphs: The graphs of the two programs that stand for one another, a subgraph after the graph that holds it.
        keys: For each node of the old program how provenance writes it.
        renaming: For symbols that executing the program again made, those of the old program in their places.
    """

    def __init__(
        self,
        old: fx.GraphModule,
        new: fx.GraphModule,
        placeholders: Mapping[fx.Node, fx.Node],
        symbols: Set[sympy.Symbol] = frozenset(),
    ) -> None:
        self.graphs: list[GraphMatch] = []
        self._values = _Values(symbols)
        self.renaming = self._values.renaming
        self.keys: dict[fx.Node, str] = {}
        self._by_key: dict[str, fx.Node] = {}
        # Of inlined subgraphs: a placeholder is the operand, an item of the results is the result.
        self._aliases: dict[fx.Node, fx.Node] = {}
        for path, module in walk_graphs(old):
            for node in module.graph.nodes:
                self.keys[node] = node_key(path, node.name)
                self._by_key[self.keys[node]] = node
        self._match("", old, new, placeholders)

    @property
    def identical(self) -> bool:
        """Whether the two programs compute the same by the same calls, whatever the names and the order of independent nodes."""
        return all(_identical(match) for match in self.graphs)

    def rewritten(self) -> int:
        """Count the calls of the old program that are not in the new one as they were."""
        count = 0
        for match in self.graphs:
            back = self._back(match)
            for node in self._old_nodes(match.old):
                counterpart = match.values.get(node)
                if node.op != "call_function" or node in self._aliases:
                    continue
                if counterpart is None or _key(node, self._aliases) != _key(counterpart, back):
                    count += 1
        return count

    def _back(self, match: GraphMatch) -> dict[fx.Node, fx.Node]:
        return {new: self._aliases.get(old, old) for old, new in match.values.items()}

    def _match(self, path: str, old: fx.GraphModule, new: fx.GraphModule, placeholders: Mapping[fx.Node, fx.Node]) -> None:
        match = GraphMatch(path, old, new)
        self.graphs.append(match)
        nodes = list(self._old_nodes(old))
        members = set(nodes)
        for node in new.graph.nodes:
            origin = self._by_key.get(str(node.meta.get(TAG)))
            # Nodes of subgraphs that torch traces by themselves have the tag of the call.
            if origin in members and node.op == "call_function":
                match.add_call(node, origin)
        for before, after in placeholders.items():
            match.pair(before, after)
            match.derive(after, before)
        match.inlined = any(node.graph is not old.graph for node in nodes)
        for node in nodes:
            self._match_node(match, node)
        self._match_untagged(match, nodes)
        match.pair(old.graph.output_node(), new.graph.output_node())
        match.derive(new.graph.output_node(), old.graph.output_node())

    def _match_node(self, match: GraphMatch, node: fx.Node) -> None:
        subgraph = inlined_subgraph(match.old, node) if node.op == "call_function" else None
        if subgraph is not None:
            self._match_inlined(match, node, subgraph)
            return
        found = self._choose(node, node, match)
        if found is not None:
            match.pair(node, found)
            self._match_subgraphs(match, node, found)
        elif node.target is operator.getitem and isinstance(node.args[0], fx.Node) and node not in match.values:
            self._match_item(match, node, node.args[0])

    def _match_inlined(self, match: GraphMatch, node: fx.Node, subgraph: fx.GraphModule) -> None:
        results = subgraph.graph.output_node().args[0]
        assert isinstance(results, (tuple, list))
        for user in node.users:
            result = results[user.args[1]]  # type: ignore[index]  # `inlined_subgraph` saw that users are items
            if not isinstance(result, fx.Node):
                continue
            self._aliases[user] = self._aliases.get(result, result)
            if result in match.values:
                match.pair(user, match.values[result])

    def _match_item(self, match: GraphMatch, node: fx.Node, parent: fx.Node) -> None:
        """Find an item of a tuple among the nodes that the tuple's operator became."""
        counterpart = match.values.get(parent)
        item = match.items.get((parent, (counterpart, node.args[1])))
        found = self._choose(node, parent, match) if counterpart is None else item
        if found is not None:
            match.pair(node, found)
            match.derive(found, node, parent)

    def _match_subgraphs(self, match: GraphMatch, old: fx.Node, new: fx.Node) -> None:
        old_subgraphs, new_subgraphs = list(_subgraphs(match.old, old)), list(_subgraphs(match.new, new))
        if len(old_subgraphs) != len(new_subgraphs):
            return
        matched = {id(graph.new) for graph in self.graphs}
        for (old_attribute, old_subgraph), (new_attribute, new_subgraph) in zip(old_subgraphs, new_subgraphs, strict=True):
            match.pair(old_attribute, new_attribute)
            match.derive(new_attribute, old_attribute)
            if id(new_subgraph) not in matched:
                path = child_path(match.path, old_attribute.target)
                self._match(path, old_subgraph, new_subgraph, _subgraph_placeholders(old_subgraph, new_subgraph))

    def _choose(self, node: fx.Node, origin: fx.Node, match: GraphMatch) -> fx.Node | None:
        """Find the node that has the value of an old one among those with the tag of `origin`."""
        recorded = node.meta.get("val")
        for candidate in _candidates(node, origin, match):
            if candidate in match.taken or (recorded is None and candidate.target != node.target):
                continue
            if self._values.same(recorded, candidate.meta.get("val")):
                self._values.rename(recorded, candidate.meta.get("val"))
                return candidate
        return None

    def _match_untagged(self, match: GraphMatch, nodes: list[fx.Node]) -> None:
        """Match assertions and sizes that torch derived anew with those of the old graph that compute the same."""
        waiting: dict[Hashable, list[fx.Node]] = defaultdict(list)
        for node in nodes:
            if node.op == "call_function" and node not in match.values:
                waiting[_key(node, self._aliases)].append(node)
        back = self._back(match)
        matched = {_key(old, self._aliases): old for old in match.values if old.op == "call_function"}
        for node in match.new.graph.nodes:
            if node.op != "call_function" or node in match.origins:
                continue
            key = _key(node, back)
            same = waiting.get(key)
            if same:
                old = matched[key] = same.pop(0)
                self._values.rename(old.meta.get("val"), node.meta.get("val"))
                match.pair(old, node)
                match.derive(node, old)
                back[node] = old
            else:
                made_of = [origin for value in node.all_input_nodes for origin in match.origins.get(value, ())]
                match.origins[node] = tuple(dict.fromkeys(made_of))
                # Torch computes a symbolic number once for each assertion about it.
                if key in matched and isinstance(node.meta.get("val"), SYMBOLIC):
                    match.repeated[node] = back[node] = matched[key]

    def _old_nodes(self, old: fx.GraphModule) -> Iterator[fx.Node]:
        """Yield the nodes of a graph in order, those of subgraphs that were inlined before the node that calls them."""
        for node in old.graph.nodes:
            subgraph = inlined_subgraph(old, node) if node.op == "call_function" else None
            if subgraph is not None:
                operands = zip(subgraph.graph.find_nodes(op="placeholder"), node.args[2:], strict=True)
                self._aliases.update((inner, self._aliases.get(outer, outer)) for inner, outer in operands)
                yield from (n for n in self._old_nodes(subgraph) if n.op == "call_function")
            yield node


def _candidates(node: fx.Node, origin: fx.Node, match: GraphMatch) -> Iterator[fx.Node]:
    """Yield the nodes with the tag of `origin`, the last first: those used come before others, by what the old users became first.

    Of the nodes that an operator with many results became, few are looked at for each result.
    """

    def is_used(candidate: fx.Node) -> bool:
        return any(match.tags.get(user) is not origin for user in candidate.users)

    users = (new for user in node.users for new in match.made.get(user, ()))
    wanted = {value for user in users for value in user.all_input_nodes if match.tags.get(value) is origin and is_used(value)}
    yield from sorted(wanted, reverse=True)
    group = match.groups.get(origin, ())
    yield from filter(is_used, reversed(group))
    yield from reversed(group)


def _subgraphs(module: fx.GraphModule, node: fx.Node) -> Iterator[tuple[fx.Node, fx.GraphModule]]:
    for argument in node.all_input_nodes:
        subgraph = subgraph_of(module, argument)
        if subgraph is not None:
            yield argument, subgraph


def _subgraph_placeholders(old: fx.GraphModule, new: fx.GraphModule) -> dict[fx.Node, fx.Node]:
    before, after = old.graph.find_nodes(op="placeholder"), new.graph.find_nodes(op="placeholder")
    if len(before) == len(after):
        return dict(zip(before, after, strict=True))
    named = {node.name: node for node in after}
    return {node: named[node.name] for node in before if node.name in named}


class _Values:
    """Compares recorded values, and learns which symbols of the one program are those of the other.

    Args:
        symbols: The symbols that the old program has.
    """

    def __init__(self, symbols: Set[sympy.Symbol]) -> None:
        self.renaming: dict[sympy.Symbol, sympy.Symbol] = {}
        self._symbols = symbols

    def same(self, old: Any, new: Any) -> bool:
        """Whether two values agree: for tensors in dtype, device and sizes. A symbol that is new may be any that is not given away."""
        if isinstance(old, torch.Tensor) or isinstance(new, torch.Tensor):
            if not (isinstance(old, torch.Tensor) and isinstance(new, torch.Tensor)):
                return False
            return old.dtype == new.dtype and old.device == new.device and self.same(tuple(old.shape), tuple(new.shape))
        if isinstance(old, (tuple, list)):
            return isinstance(new, (tuple, list)) and len(old) == len(new) and all(map(self.same, old, new))
        if not (isinstance(old, SYMBOLIC) and isinstance(new, SYMBOLIC)):
            return str(old) == str(new)
        known, made = expression(old), expression(new)
        # As text, since torch's reader makes sympy's own Max of what the shape environment has a function for.
        return self._may_rename(known, made) or str(known) == str(made.xreplace(self.renaming))

    def rename(self, old: Any, new: Any) -> None:
        """Note that two values that agree are one: new symbols in the one are what stands in their places in the other."""
        for known, made in zip(pytree.tree_leaves(old), pytree.tree_leaves(new), strict=False):
            if isinstance(known, torch.Tensor) and isinstance(made, torch.Tensor):
                self.rename(tuple(known.shape), tuple(made.shape))
            elif self._may_rename(expression(known), expression(made)):
                self.renaming[expression(made)] = expression(known)

    def _may_rename(self, known: Any, made: Any) -> bool:
        if not isinstance(known, sympy.Symbol) or not isinstance(made, sympy.Symbol) or made in self._symbols:
            return False
        return made not in self.renaming and known not in self.renaming.values() and type(known) is type(made)


def _key(node: fx.Node, back: Mapping[fx.Node, fx.Node]) -> Hashable:
    """Return a key of a call with its inputs taken back to the old program."""
    args = node.args[:1] if node.target is ASSERT_SCALAR else node.args
    try:
        return call_key(
            node.target, args, node.kwargs, lambda value: back.get(value, value) if isinstance(value, fx.Node) else None
        )
    except UnkeyedError:
        return node


def _identical(match: GraphMatch) -> bool:
    # Dead code alone is no difference: reading a program from a file adds unused items of tuples.
    live = {node for node in match.old.graph.nodes if node in match.values}
    if match.inlined or len(live) + len(match.repeated) != len(match.new.graph.nodes):
        return False
    if any(user in live for node in match.old.graph.nodes if node not in live for user in node.users):
        return False
    back = {new: old for old, new in match.values.items()} | match.repeated
    return all(node.op in ("placeholder", "get_attr") or _key(node, {}) == _key(match.values[node], back) for node in live)
