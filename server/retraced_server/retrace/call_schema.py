"""Checks calls of operators against their schemas, as torch does when it calls them: what it writes otherwise, it cannot load."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import fx
from torch.export.graph_signature import CustomObjArgument

from retraced_pt2.stack_traces import innermost_source_line
from retraced_server.analysis.attributes import get_attribute
from retraced_server.analysis.graphs import node_key, walk_graphs
from retraced_server.analysis.targets import overload_of
from retraced_server.retrace.errors import NodeError
from retraced_server.retrace.values import SYMBOLIC
from retraced_server.torch_compat.operators import OpOverload, base_name, check_schema, schema_of, takes_numbers_as_tensors


def check_calls(module: fx.GraphModule, keys: Collection[str] | None = None) -> None:
    """Check nodes of a graph and of its subgraphs.

    Args:
        module: The graph module.
        keys: The keys of the nodes; None: all.

    Raises:
        NodeError: A call has too few or too many arguments, a keyword that its operator does not have, or an argument of another type.
    """
    for path, graph_module in walk_graphs(module) if keys is None or keys else ():
        for node in graph_module.graph.nodes:
            wanted = keys is None or node_key(path, node.name) in keys
            if wanted and (op := overload_of(node.target)) is not None:
                _check_call(path, graph_module, node, op)


def _check_call(path: str, module: fx.GraphModule, node: fx.Node, target: OpOverload) -> None:
    objects: list[CustomObjArgument] = []

    def datum(leaf: Any) -> Any:
        if isinstance(leaf, fx.Node):
            leaf = get_attribute(module, leaf.target) if leaf.op == "get_attr" else leaf.meta.get("val")
        if isinstance(leaf, CustomObjArgument):
            objects.append(leaf)
        return leaf

    args: Any = fx.node.map_aggregate(node.args, datum)
    kwargs: Any = fx.node.map_aggregate(node.kwargs, datum)
    if objects:
        return
    if takes_numbers_as_tensors(base_name(target)):
        args, kwargs = _without_numbers(target, args, kwargs)
    try:
        check_schema(schema_of(target), *args, **kwargs)
    except (RuntimeError, TypeError) as error:
        raise NodeError(
            f"node '{node.name}'{f' of graph {path!r}' if path else ''} does not call {target} as its schema says: {error}",
            graph=path,
            node=node.name,
            target=str(target),
            source=innermost_source_line(node.meta.get("stack_trace")),
        ) from error


def _without_numbers(target: OpOverload, args: Any, kwargs: Any) -> tuple[Any, Any]:
    """Put tensors in the place of numbers that torch makes tensors of before it looks at the schema."""
    taken = {argument.name for argument in schema_of(target).arguments if isinstance(argument.type, torch.TensorType)}
    names = [argument.name for argument in schema_of(target).arguments]

    def converted(name: str, value: Any) -> Any:
        return torch.empty(()) if name in taken and isinstance(value, (int, float, complex, *SYMBOLIC)) else value

    named = [converted(name, value) for name, value in zip(names, args, strict=False)]
    return (*named, *args[len(names) :]), {name: converted(name, value) for name, value in kwargs.items()}
