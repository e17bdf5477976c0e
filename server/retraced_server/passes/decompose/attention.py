"""A decomposition of attention for programs that torch's own decomposition breaks."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import fx

from retraced_server.analysis.graphs import walk_graphs
from retraced_server.torch_compat.decompositions import Decompositions, TableChoice, decompositions, stride_order

_aten = torch.ops.aten
_FLASH = _aten._scaled_dot_product_flash_attention_for_cpu.default
_OPERATORS = frozenset({_FLASH, _aten.scaled_dot_product_attention.default})


def has_attention(module: fx.GraphModule) -> bool:
    """Whether a graph or a subgraph of it calls scaled dot product attention."""
    return any(node.target in _OPERATORS for _, graph in walk_graphs(module) for node in graph.graph.nodes)


def table_of(choice: TableChoice) -> Decompositions:
    """Return a decomposition table, which may decompose attention to a result with the strides of the operator's own.

    Torch's decomposition (torch/_decomp/decompositions.py) gives the result a fixed order of dimensions, so that a view of it in the
    program may be none any more.

    Raises:
        ValueError: There is no operator of a name.
    """
    table = decompositions(choice)
    if choice.keeps_strides and _FLASH in table.python:
        table.python[_FLASH] = _flash_attention
    return table


def keeps_strides_remark(error: Exception) -> str:
    """Return the remark for a program that torch's own decomposition of attention breaks with an error."""
    reason = str(error).partition("\n")[0]
    return f"attention keeps its strides, since torch's own decomposition of it breaks the program: {reason}"


def _flash_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    attn_mask: torch.Tensor | None = None,
    scale: float | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    math: Callable[..., tuple[torch.Tensor, torch.Tensor]] = _aten._scaled_dot_product_attention_math.default
    grouped = query.size(1) != key.size(1)
    output, weights = math(query, key, value, attn_mask, dropout_p, is_causal, None, scale=scale, enable_gqa=grouped)
    # The operator allocates its result with `empty_like(query)`.
    order, _ = stride_order(query)
    back = [order.index(dimension) for dimension in range(len(order))]
    return output.permute(order).contiguous().permute(back), weights
