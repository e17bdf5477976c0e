"""What goes wrong in a retrace."""

from __future__ import annotations

import re

from torch import fx

_FRAME = re.compile(r'^\s*File "(?P<file>[^"]+)", line (?P<line>\d+)', re.MULTILINE)


class ExportPassError(RuntimeError):
    """A pass or a program asked for something that a retrace cannot do."""


class PassError(ExportPassError):
    """A pass failed at a node. The error that it raised is the `__cause__`.

    Attributes:
        pass_name: The class of the pass.
        graph: The path of the graph, empty for the root graph.
        node: The name of the node, or None where no node was being visited.
        target: The node's target as text, or None.
        source: `FILE:LINE` of the innermost frame of the user's in the node's recorded stack trace: the model's source, not the pass's.
    """

    def __init__(
        self,
        message: str,
        *,
        pass_name: str,
        graph: str = "",
        node: str | None = None,
        target: str | None = None,
        source: str | None = None,
    ) -> None:
        where = "" if node is None else f" {place(node, graph, target, source)}"
        super().__init__(f"{pass_name} failed{where}: {message}")
        self.pass_name = pass_name
        self.graph = graph
        self.node = node
        self.target = target
        self.source = source


def place(node: str, graph: str = "", target: str | None = None, source: str | None = None) -> str:
    """Return a place in a program as errors and reports write it: `at node 'relu' of graph 'true_graph_0' (OPERATOR), from FILE:LINE`."""
    where = f"at node '{node}'"
    if graph:
        where += f" of graph '{graph}'"
    if target is not None:
        where += f" ({target})"
    return where if source is None else f"{where}, from {source}"


def place_of(node: fx.Node, graph: str = "") -> str:
    """Return the place of a node in the graph of a path."""
    return place(node.name, graph, str(node.target), innermost_source_line(node.meta.get("stack_trace")))


def innermost_source_line(stack_trace: object) -> str | None:
    """Gives `FILE:LINE` of the last frame of a recorded stack trace that is in the user's source, or None where there is none.

    Code that torch generated has no file, and torch's own modules are no place to look for a fault, unless there is no other.
    """
    if not isinstance(stack_trace, str):
        return None
    frames = [frame for frame in _FRAME.finditer(stack_trace) if not frame["file"].startswith("<")]
    own = [frame for frame in frames if "site-packages/torch/" not in frame["file"].replace("\\", "/")]
    frame = next(reversed(own or frames), None)
    return f"{frame['file']}:{frame['line']}" if frame is not None else None
