"""Computes each size once: torch has one node for an expression of symbols, wherever it is needed."""

from __future__ import annotations

import sympy
import torch
from torch import fx

from retraced_server.analysis.graphs import walk_graphs
from retraced_server.analysis.targets import SYM_OPERATORS
from retraced_server.retrace.values import SYMBOLIC

_aten = torch.ops.aten
SIZES = frozenset((_aten.sym_size.int, _aten.sym_stride.int, _aten.sym_numel.default, _aten.sym_storage_offset.default))
"""The operators that tell a size of a tensor, which stay as they are."""
_PURE = SIZES | SYM_OPERATORS


def merge_sizes(module: fx.GraphModule, protected: frozenset[str]) -> None:
    """Have nodes that compute the same expression of symbols use the first of them, in place, in each graph.

    Args:
        module: The graph module.
        protected: Names of nodes of the root graph that stay in use.
    """
    for path, graph_module in walk_graphs(module):
        first: dict[tuple[type, sympy.Basic], fx.Node] = {}
        for node in graph_module.graph.nodes:
            value = node.meta.get("val")
            if not isinstance(value, SYMBOLIC):
                continue
            known = first.setdefault((type(value), value.node.expr), node)
            if (
                known is not node
                and (node.target in SIZES or node.target in SYM_OPERATORS)
                and (path or node.name not in protected)
            ):
                node.replace_all_uses_with(known)
