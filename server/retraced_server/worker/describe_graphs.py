"""The graphs of a program: the root and the subgraphs of higher-order operators."""

from __future__ import annotations

from collections.abc import Iterator

from torch.export import ExportedProgram
from torch.fx import GraphModule

from retraced_server.retrace.graphs import walk_graphs


def graphs(program: ExportedProgram) -> Iterator[tuple[str, GraphModule]]:
    """Walk every graph of a program with its path, as provenance writes it: see `walk_graphs`."""
    return walk_graphs(program.graph_module)
