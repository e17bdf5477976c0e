"""What became of a program's nodes in one run of a pass, for the signature, the module call graph and provenance."""

from __future__ import annotations

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
    """What became of each node.

    Attributes:
        origins: For each node of the new program, by key, the keys of the old nodes that it came from.
        copied: Keys of nodes of the new program that are as they were, with the old key, which is the same unless a body was moved.
        renamed: For each node of the old root graph the name of the node whose value stands for it now, None if no node does.
        placeholders: Inputs of the new root graph in order, with the name of the old input that each stands for, None for a new one.
        outputs: For each output of the new root graph the old position, None for a new one; None as a whole if they are as they were.
        new_nodes: How many nodes the pass made.
    """

    origins: dict[str, tuple[str, ...]] = field(default_factory=dict)
    copied: set[str] = field(default_factory=set)
    renamed: dict[str, str | None] = field(default_factory=dict)
    placeholders: list[tuple[str, str | None]] = field(default_factory=list)
    outputs: list[int | None] | None = None
    new_nodes: int = 0

    def add(self, retrace: GraphRetrace) -> None:
        """Adds what became of one graph."""
        path = retrace.path
        alive = dict.fromkeys(retrace.tracer.graph.nodes)
        for node in alive:
            # Attributes that became nodes on the way came from what reads them.
            olds = retrace.origins.get(node) or next(
                (retrace.origins[user] for user in node.users if user in retrace.origins), []
            )
            key = node_key(path, node.name)
            self.origins[key] = tuple(node_key(path, old.name) for old in olds)
            if retrace.is_copy(node):
                self.copied.add(key)
            else:
                self.new_nodes += 1
        if path:
            return
        for old, result in retrace.results.items():
            stands = result.node if isinstance(result, ProxyValue) else retrace.attribute_node(old)
            self.renamed[old.name] = stands.name if isinstance(stands, fx.Node) and stands in alive else None
        self.placeholders = [
            (node.name, None if old is None else old.name) for node, old in retrace.placeholders.items() if node in alive
        ]
        self.outputs = retrace.outputs

    def covers(self, new: fx.GraphModule) -> bool:
        """Whether it tells of exactly the nodes of a graph."""
        return {
            node_key(path, node.name) for path, module in walk_graphs(new) for node in module.graph.nodes
        } == self.origins.keys()

    def add_by_name(self, old: fx.GraphModule, new: fx.GraphModule) -> None:
        """Adds what became of a program whose pass kept no account: nodes correspond by their names."""
        old_graphs = dict(walk_graphs(old))
        for path, module in walk_graphs(new):
            before = {node.name: node for node in old_graphs[path].graph.nodes} if path in old_graphs else {}
            for node in module.graph.nodes:
                key = node_key(path, node.name)
                same = before.get(node.name)
                self.origins[key] = () if same is None else (key,)
                if same is not None and _same_call(node, same):
                    self.copied.add(key)
                else:
                    self.new_nodes += 1
        names = {node.name for node in new.graph.nodes}
        self.renamed = {node.name: node.name if node.name in names else None for node in old.graph.nodes}


def _same_call(a: fx.Node, b: fx.Node) -> bool:
    return a.op == b.op and a.target == b.target and str(a.args) == str(b.args) and str(a.kwargs) == str(b.kwargs)
