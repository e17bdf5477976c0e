"""Where nodes came from, carried through a pipeline."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from functools import cached_property

from torch import fx

from retraced_server.analysis.graphs import node_key, walk_graphs
from retraced_server.pipeline.domain import Provenance


class ProvenanceLedger:
    """Keeps, for each node of the program as it stands, the nodes of the input program that it came from and the pass that made it.

    Nothing is kept of nodes that no pass has touched: they came from themselves.
    """

    def __init__(self) -> None:
        self._entries: dict[str, Provenance] = {}

    def record(self, text: str, origins: Mapping[str, tuple[str, ...]], copied: Set[str], lifted: Mapping[str, str]) -> None:
        """Note what a pass did.

        Args:
            text: The pass as canonical pipeline text.
            origins: For nodes after the pass the nodes before it that they came from. The others have the keys that they had.
            copied: Which of these are nodes from before that have only another key.
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
        self._entries.update(entries)

    def provenance(self, module: fx.GraphModule) -> Mapping[str, Provenance]:
        """Return the provenance of every node of a graph, subgraphs of higher-order operators included. It is put together when it is read."""
        return _GraphProvenance(module, dict(self._entries))

    def _of(self, key: str) -> Provenance:
        return self._entries.get(key) or Provenance((key,), None)


class _GraphProvenance(Mapping[str, Provenance]):
    def __init__(self, module: fx.GraphModule, entries: dict[str, Provenance]) -> None:
        self._module = module
        self._entries = entries

    @cached_property
    def _all(self) -> dict[str, Provenance]:
        keys = (node_key(path, node.name) for path, child in walk_graphs(self._module) for node in child.graph.nodes)
        return {key: self._entries.get(key) or Provenance((key,), None) for key in keys}

    def __getitem__(self, key: str) -> Provenance:
        return self._all[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._all)

    def __len__(self) -> int:
        return len(self._all)
