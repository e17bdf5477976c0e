"""Random edits of graphs by hand, as passes of public code make them in `call`: the same on any graph with the same nodes."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any

import torch
from hypothesis import strategies
from torch import fx

from .describe import graphs

aten = torch.ops.aten


def _is_matrix(node: Any) -> bool:
    value = node.meta.get("val") if isinstance(node, fx.Node) else None
    return isinstance(value, torch.Tensor) and value.dim() == 2 and value.dtype is torch.float32


def _change_target(node: fx.Node) -> None:
    others: dict[Any, Any] = {
        aten.relu.default: aten.sigmoid.default,
        aten.sin.default: aten.cos.default,
        aten.add.Tensor: aten.sub.Tensor,
        aten.mul.Tensor: aten.add.Tensor,
        aten.relu_.default: aten.relu.default,
        aten.sum.default: aten.mean.default,
    }
    node.target = others.get(node.target, node.target)


def _swap_arguments(node: fx.Node) -> None:
    if len(node.args) == 2 and all(map(_is_matrix, node.args)):
        node.args = (node.args[1], node.args[0])


def _insert_before(node: fx.Node) -> None:
    if node.args and _is_matrix(node.args[0]):
        with node.graph.inserting_before(node):
            copy = node.graph.call_function(aten.clone.default, (node.args[0],), {"memory_format": torch.contiguous_format})
        node.update_arg(0, copy)


def _insert_after(node: fx.Node) -> None:
    if _is_matrix(node):
        with node.graph.inserting_after(node):
            # Public passes copy the metadata of a neighbour, whatever it says.
            transposed = node.graph.call_function(aten.t.default, (node,))
            transposed.meta = node.meta.copy()
        with node.graph.inserting_after(transposed):
            back = node.graph.call_function(aten.t_copy.default, (transposed,))
        node.replace_all_uses_with(back, delete_user_cb=lambda user: user is not transposed)


def _replace(node: fx.Node) -> None:
    if node.target is aten.relu.default:
        with node.graph.inserting_before(node):
            made = node.graph.call_function(aten.clamp_min.default, (node.args[0], 0))
            made.meta = node.meta.copy()
        node.replace_all_uses_with(made)
        node.graph.erase_node(node)


def _erase(node: fx.Node) -> None:
    if node.target in (aten.relu.default, aten.sin.default, aten.neg.default, aten.relu_.default, aten.add_.Tensor):
        assert isinstance(node.args[0], fx.Node)
        node.replace_all_uses_with(node.args[0])
        node.graph.erase_node(node)


def _move(node: fx.Node) -> None:
    # Down to its first user: past whatever is written in between.
    first = next((other for other in node.graph.nodes if other in node.users), None)
    if first is not None and isinstance(node.target, torch._ops.OpOverload) and not node.target._schema.is_mutable:
        first.prepend(node)


def _forget_value(node: fx.Node) -> None:
    node.meta.pop("val", None)


def _record_other_value(node: fx.Node) -> None:
    if _is_matrix(node):
        node.meta["val"] = node.meta["val"].to(torch.float64)


EDITS: dict[str, Callable[[fx.Node], None]] = {
    "change target": _change_target,
    "swap arguments": _swap_arguments,
    "insert before": _insert_before,
    "insert after": _insert_after,
    "replace": _replace,
    "erase": _erase,
    "move": _move,
    "forget value": _forget_value,
    "record other value": _record_other_value,
}


# Those after which a graph states no value by hand: what is recorded is what torch's class computes, with or without a visit.
STATES_NOTHING = {name: edit for name, edit in EDITS.items() if name != "record other value"}


def edit_by_hand(module: fx.GraphModule, seed: int, share: int, edits: dict[str, Callable[[fx.Node], None]] = EDITS) -> None:
    """Edit some calls of a graph and of its conds' branches, in place.

    Args:
        module: The graph module.
        seed: Decides which nodes are edited and how, by their names.
        share: How many of a hundred nodes are edited.
        edits: How they may be edited, by name.
    """
    names = sorted(edits)
    for path, graph_module in graphs(module):
        if path.startswith("submod"):
            # Torch's class visits no subgraphs but those of cond and map.
            continue
        for node in list(graph_module.graph.nodes):
            drawn = zlib.crc32(f"{seed}:{path}:{node.name}".encode())
            if node.op == "call_function" and drawn % 100 < share and isinstance(node.target, torch._ops.OpOverload):
                edits[names[drawn // 100 % len(names)]](node)
        graph_module.graph.lint()
        graph_module.recompile()


def edit_in_call(base: type, seed: int, share: int, edits: dict[str, Callable[[fx.Node], None]] = EDITS) -> Any:
    """Make a pass on a base class that edits the graph by hand, and has its values computed anew."""

    class EditsInCall(base):  # type: ignore[misc]
        def call(self, graph_module: fx.GraphModule) -> Any:
            edit_by_hand(graph_module, seed, share, edits)
            return super().call(graph_module)

    return EditsInCall


def edit_without_visit(seed: int, share: int) -> Callable[[fx.GraphModule], None]:
    """Make a pass that edits the graph by hand, and leaves it at that: no value is stated by hand."""

    def edits_without_visit(graph_module: fx.GraphModule) -> None:
        edit_by_hand(graph_module, seed, share, STATES_NOTHING)

    return edits_without_visit


seeds = strategies.integers(0, 2**16)
shares = strategies.sampled_from([5, 20, 60])
