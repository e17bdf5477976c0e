"""What goes wrong in a retrace."""

from __future__ import annotations

import re

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
        source: `FILE:LINE` of the innermost frame of the node's recorded stack trace: the model's source, not the pass's.
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
        where = "" if node is None else f" at node '{node}'"
        if graph:
            where += f" of graph '{graph}'"
        if target is not None:
            where += f" ({target})"
        if source is not None:
            where += f", from {source}"
        super().__init__(f"{pass_name} failed{where}: {message}")
        self.pass_name = pass_name
        self.graph = graph
        self.node = node
        self.target = target
        self.source = source


def innermost_source_line(stack_trace: object) -> str | None:
    """Gives `FILE:LINE` of the last frame of a recorded stack trace, or None where there is none."""
    if not isinstance(stack_trace, str):
        return None
    frames = list(_FRAME.finditer(stack_trace))
    return f"{frames[-1]['file']}:{frames[-1]['line']}" if frames else None
