"""What became of a program's nodes in one run of a pass, for the signature, the module call graph and provenance."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from torch import fx

from retraced_server.analysis.graphs import node_key, walk_graphs
from retraced_server.retrace.graph_retrace import GraphRetrace
from retraced_server.torch_compat.graphs import is_erased


@dataclass
class RetraceOutcome:
    """What became of each node. Of nodes that are as they were nothing is said, so that what follows costs no more than what changed.

    Attributes:
        origins: For each node of the new program that is not an old one with its old key: the keys of the old nodes that it came from.
        copied: Which of these are an old node as it was, in a subgraph that was moved.
        renamed: For nodes of the old root graph whose value a node of another name has now: that name, None if no node has the value.
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

    @classmethod
    def of(cls, retraces: Iterable[GraphRetrace], module: fx.GraphModule) -> RetraceOutcome:
        """Gather what became of the graphs that one call of a pass has visited.

        Args:
            retraces: The graphs.
            module: The new root graph.
        """
        outcome = cls()
        paths = {id(graph): path for path, graph in walk_graphs(module)}
        for retrace in retraces:
            path = paths.get(id(retrace.result))
            # None: a subgraph that is called no more, or one visited again since with other inputs.
            if path is not None:
                outcome._add(retrace, path)
            if not retrace.path:
                outcome._add_root(retrace)
        return outcome

    def _add(self, retrace: GraphRetrace, path: str) -> None:
        if not retrace.modified and path == retrace.path:
            return
        for node in retrace.result.graph.nodes if retrace.modified else ():
            if retrace.correspondence.is_plain_copy(node) and path == retrace.path:
                continue
            # Attributes that became nodes on the way came from what reads them.
            olds = retrace.correspondence.origins_of(node) or next(
                filter(None, map(retrace.correspondence.origins_of, node.users)), []
            )
            key = node_key(path, node.name)
            self.origins[key] = tuple(node_key(retrace.path, old.name) for old in olds)
            if retrace.correspondence.is_copy(node):
                self.copied.add(key)
            else:
                self.new_nodes += 1
        for node in retrace.result.graph.nodes if not retrace.modified else ():
            key = node_key(path, node.name)
            self.origins[key] = (node_key(retrace.path, node.name),)
            self.copied.add(key)

    def _add_root(self, retrace: GraphRetrace) -> None:
        for old in retrace.results:
            stands = retrace.counterpart(old)
            name = None if stands is None else stands.name
            if name != old.name:
                self.renamed[old.name] = name
        self.placeholders = [
            (node.name, None if old is None else old.name) for node, old in retrace.placeholders.items() if not is_erased(node)
        ]
        self.outputs = retrace.outputs
