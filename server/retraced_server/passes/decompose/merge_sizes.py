"""Computes each size once: torch has one node for an expression of symbols, wherever it is needed."""

from __future__ import annotations

import sympy
import torch
from torch import fx

from retraced_server.analysis.targets import SIZE_OPERATORS, SYM_OPERATORS
from retraced_server.torch_compat.symbolic_shapes import raw_expression

_PURE = SIZE_OPERATORS | SYM_OPERATORS


def merge_sizes(graph: fx.Graph, protected: frozenset[str]) -> None:
    """Have users of nodes that compute the same expression of symbols use the first of them, in place.

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
        if known is not node and node.target in _PURE and node.name not in protected:
            node.replace_all_uses_with(known)
