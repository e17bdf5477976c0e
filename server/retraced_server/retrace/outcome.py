"""What became of a program's nodes in one run of a pass, for the signature, the module call graph and provenance."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from torch import fx

from retraced_server.retrace.graph_retrace import GraphRetrace
from retraced_server.retrace.graphs import walk_graphs
from retraced_server.retrace.proxy_value import ProxyValue


def node_key(path: str, name: str) -> str:
    """How a node is written in provenance: `name` in the root graph, `true_graph_0.body_graph_0:name` in a body."""
    return f"{path}:{name}" if path else name


@dataclass
class RetraceOutcome:
    """What became of each node. Of nodes that are as they were nothing is said, so that what follows costs no more than what changed.

    Attributes:
        origins: For each node of the new program that is not an old one with its old key: the keys of the old nodes that it came from.
        copied: Which of these are an old node as it was, in a body that was moved.
        renamed: For nodes of the old root graph whose value a node of another name has now: that name, None if no node has the value.
        placeholders: Inputs of the new root graph in order, with the name of the old input that each stands for, None for a new one.
        outputs: For each output of the new root graph the old position, None for a new one; None as a whole if they are as they were.
        new_nodes: How many nodes the pass made.
        keys: The keys of all nodes of the new program, where that was asked for.
    """

    origins: dict[str, tuple[str, ...]] = field(default_factory=dict)
    copied: set[str] = field(default_factory=set)
    renamed: dict[str, str | None] = field(default_factory=dict)
    placeholders: list[tuple[str, str | None]] = field(default_factory=list)
    outputs: list[int | None] | None = None
    new_nodes: int = 0
    keys: frozenset[str] | None = None

    @classmethod
    def of(cls, retraces: Iterable[GraphRetrace], module: fx.GraphModule, *, with_keys: bool = False) -> RetraceOutcome:
        """Gathers what became of the graphs that one call of a pass has visited.

        Args:
            retraces: The graphs.
            module: The new root graph.
            with_keys: Whether to keep all nodes' keys, for `covers`.
        """
        outcome = cls(keys=_keys(module) if with_keys else None)
        paths = {id(graph): path for path, graph in walk_graphs(module)}
        for retrace in retraces:
            path = paths.get(id(retrace.result))
            # None: a body that is called no more, or one visited again since with other inputs.
            if path is not None:
                outcome._add(retrace, path)
            if not retrace.path:
                outcome._add_root(retrace)
        return outcome

    def _add(self, retrace: GraphRetrace, path: str) -> None:
        if not retrace.modified and path == retrace.path:
            return
        for node in retrace.result.graph.nodes if retrace.modified else ():
            if retrace.account.is_plain_copy(node) and path == retrace.path:
                continue
            # Attributes that became nodes on the way came from what reads them.
            olds = retrace.account.origins_of(node) or next(filter(None, map(retrace.account.origins_of, node.users)), [])
            key = node_key(path, node.name)
            self.origins[key] = tuple(node_key(retrace.path, old.name) for old in olds)
            if retrace.account.is_copy(node):
                self.copied.add(key)
            else:
                self.new_nodes += 1
        for node in retrace.result.graph.nodes if not retrace.modified else ():
            key = node_key(path, node.name)
            self.origins[key] = (node_key(retrace.path, node.name),)
            self.copied.add(key)

    def _add_root(self, retrace: GraphRetrace) -> None:
        for old, result in retrace.results.items():
            stands = result.node if isinstance(result, ProxyValue) else retrace.attribute_node(old)
            name = stands.name if isinstance(stands, fx.Node) and not stands._erased else None
            if name != old.name:
                self.renamed[old.name] = name
        self.placeholders = [
            (node.name, None if old is None else old.name) for node, old in retrace.placeholders.items() if not node._erased
        ]
        self.outputs = retrace.outputs

    def covers(self, new: fx.GraphModule) -> bool:
        """Whether it tells of exactly the nodes of a graph."""
        return self.keys == _keys(new)

    def add_by_name(self, old: fx.GraphModule, new: fx.GraphModule) -> None:
        """Adds what became of a program whose pass kept no account: nodes correspond by their names."""
        old_graphs = dict(walk_graphs(old))
        for path, module in walk_graphs(new):
            before = {node.name: node for node in old_graphs[path].graph.nodes} if path in old_graphs else {}
            for node in module.graph.nodes:
                key = node_key(path, node.name)
                same = before.get(node.name)
                if same is None or not _same_call(node, same):
                    self.origins[key] = () if same is None else (key,)
                    self.new_nodes += 1
        names = {node.name for node in new.graph.nodes}
        self.renamed = {node.name: None for node in old.graph.nodes if node.name not in names}


def _keys(module: fx.GraphModule) -> frozenset[str]:
    return frozenset(node_key(path, node.name) for path, graph in walk_graphs(module) for node in graph.graph.nodes)


def _same_call(a: fx.Node, b: fx.Node) -> bool:
    return a.op == b.op and a.target == b.target and str(a.args) == str(b.args) and str(a.kwargs) == str(b.kwargs)
