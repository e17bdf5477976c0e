"""The graphs of a program: the root and the bodies of higher-order operators."""

from __future__ import annotations

from collections.abc import Iterator
from operator import attrgetter

from torch.export import ExportedProgram
from torch.fx import GraphModule


def graphs(program: ExportedProgram) -> Iterator[tuple[str, GraphModule]]:
    """Walk every graph of a program with its path, each body right after the graph that holds it, in the order of its nodes.

    The path is that of attributes from the root: empty for the root, `true_graph_0`, `true_graph_0.body_graph_0`. A body that
    several nodes name is walked once, under the path that is met first.
    """
    return _walk("", program.graph_module, {id(program.graph_module)})


def _walk(path: str, module: GraphModule, seen: set[int]) -> Iterator[tuple[str, GraphModule]]:
    yield path, module
    for node in module.graph.nodes:
        if node.op != "get_attr":
            continue
        body = attrgetter(node.target)(module)
        if isinstance(body, GraphModule) and id(body) not in seen:
            seen.add(id(body))
            yield from _walk(f"{path}.{node.target}" if path else node.target, body, seen)
