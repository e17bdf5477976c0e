"""Where nodes came from, carried through a pipeline."""

from __future__ import annotations

from collections.abc import Mapping, Set

from torch import fx

from retraced_server.pipeline.domain import Provenance
from retraced_server.retrace.graphs import walk_graphs
from retraced_server.retrace.outcome import node_key


class ProvenanceLedger:
    """Keeps, for each node of the program as it stands, the nodes of the input program that it came from and the pass that made it."""

    def __init__(self) -> None:
        # None until a pass changes something: every node came from itself.
        self._entries: dict[str, Provenance] | None = None

    def record(self, text: str, origins: Mapping[str, tuple[str, ...]], copied: Set[str], lifted: Mapping[str, str]) -> None:
        """Notes what a pass did.

        Args:
            text: The pass as canonical pipeline text.
            origins: For each node after the pass the nodes before it that it came from.
            copied: The nodes that the pass left as they were.
            lifted: Inputs that hold a constant the pass made, with the name of the node that read it.
        """
        entries: dict[str, Provenance] = {}
        for key, olds in {**origins, **{name: origins.get(reader, ()) for name, reader in lifted.items()}}.items():
            made_by = self._of(olds[0]).made_by if key in copied and olds else text
            # Most nodes come from one; a dict keeps the order of those that come from several.
            found = (
                self._of(olds[0]).from_nodes
                if len(olds) == 1
                else tuple(dict.fromkeys(n for o in olds for n in self._of(o).from_nodes))
            )
            entries[key] = Provenance(found, made_by)
        self._entries = entries

    def provenance(self, module: fx.GraphModule) -> dict[str, Provenance]:
        """Gives the provenance of every node of a graph, bodies of higher-order operators included."""
        return {
            key: self._of(key)
            for path, child in walk_graphs(module)
            for key in (node_key(path, node.name) for node in child.graph.nodes)
        }

    def _of(self, key: str) -> Provenance:
        if self._entries is None:
            return Provenance((key,), None)
        return self._entries.get(key, Provenance((), None))
