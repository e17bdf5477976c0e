"""Whether a program is of the level of the intermediate representation that a pass takes, and what to run before the pass where not."""

from __future__ import annotations

from collections.abc import Iterator

from torch import fx

from retraced_pt2.stack_traces import innermost_source_line
from retraced_server.analysis.effects import written_arguments
from retraced_server.analysis.graphs import walk_graphs
from retraced_server.pipeline.catalogue import IrLevel
from retraced_server.retrace.errors import PassError
from retraced_server.torch_compat.decompositions import TableChoice, decompositions

_ORDER = (IrLevel.ANY, IrLevel.FUNCTIONAL, IrLevel.CORE_ATEN)


def require_level(module: fx.GraphModule, level: IrLevel, pass_name: str) -> None:
    """Raise an error where a program is not of the level that a pass takes.

    The program itself is looked at, and not the dialect that it was exported in: of both `TRAINING` and `ATEN` some programs write to values,
    and others do not.

    Args:
        module: The program's root graph module.
        level: `functional`: no node writes to a value. `core-aten`: neither is there an operator that the table `core-aten` rewrites.
        pass_name: The pass, for the error.

    Raises:
        PassError: It is not, at the node that the error names.
    """
    for path, node, why in _obstacles(module, level):
        raise PassError(
            f"it takes {level.value} programs, and {why}; run `decompose` before",
            pass_name=pass_name,
            graph=path,
            node=node.name,
            target=str(node.target),
            source=innermost_source_line(node.meta.get("stack_trace")),
        )


def is_above(one: IrLevel, other: IrLevel) -> bool:
    """Return whether a level promises more than another."""
    return _ORDER.index(one) > _ORDER.index(other)


def _obstacles(module: fx.GraphModule, level: IrLevel) -> Iterator[tuple[str, fx.Node, str]]:
    if level is IrLevel.ANY:
        return
    table = decompositions(TableChoice("core-aten")) if level is IrLevel.CORE_ATEN else None
    rewritten = set() if table is None else table.composite.keys() | table.python.keys()
    for path, graph in walk_graphs(module):
        for node in graph.graph.nodes:
            if node.op != "call_function":
                continue
            if written_arguments(graph, node):
                yield path, node, "this node writes to its arguments"
            elif node.target in rewritten:
                yield path, node, "this operator is not of the Core ATen set"
