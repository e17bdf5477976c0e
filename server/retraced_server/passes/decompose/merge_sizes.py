"""Computes each size once: torch has one node for an expression of symbols, wherever it is needed."""

from __future__ import annotations

import sympy
import torch
from torch import fx

from retraced_server.analysis.targets import SIZE_OPERATORS, SYM_OPERATORS
from retraced_server.torch_compat.symbolic_shapes import raw_expression

_PURE = SIZE_OPERATORS | SYM_OPERATORS


def merge_sizes(graph: fx.Graph, protected: frozenset[str]) -> None:
    """Have users of nodes that compute the same expression of symbols use the first of them, and of sizes without symbols the number, in place.

    Expressions are compared as they are, without what assertions have taught the shape environment: what is asserted to be equal must not
    become the same node, or nothing would be left to assert. Conditions are not merged at all, for they are true once they are known.

    Args:
        graph: The graph.
        protected: Names of nodes that stay in use.
    """
    first: dict[sympy.Basic, fx.Node] = {}
    for node in graph.nodes:
        value = node.meta.get("val")
        if not isinstance(value, torch.SymInt):
            continue
        known = first.setdefault(raw_expression(value), node)
        if node.target not in _PURE or node.name in protected:
            continue
        if (size := _static_size(node)) is not None:
            _use_constant(node, size)
        elif known is not node:
            node.replace_all_uses_with(known)


def _static_size(node: fx.Node) -> int | None:
    """Return the size that a node reads, where the dimension has come to be static since the node was made."""
    tensor = (
        node.args[0].meta.get("val")
        if node.target is torch.ops.aten.sym_size.int and isinstance(node.args[0], fx.Node)
        else None
    )
    size = tensor.shape[node.args[1]] if isinstance(tensor, torch.Tensor) and isinstance(node.args[1], int) else None
    return size if isinstance(size, int) else None


def _use_constant(node: fx.Node, value: int) -> None:
    for user in list(node.users):
        user.args, user.kwargs = fx.map_arg((user.args, user.kwargs), lambda used: value if used is node else used)
