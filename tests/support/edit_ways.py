"""The ways in which a pass may edit a graph by hand: on torch's base class and on ours, before a visit, after one, or without any."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import fx
from torch.fx.passes.infra.pass_base import PassBase

from retraced_server.retrace import ExportPass, PassResult

Edit = Callable[[fx.GraphModule], None]


class _Edits:
    """Edits a graph, and visits nothing."""

    def __init__(self, edit: Edit) -> None:
        super().__init__()
        self.edit = edit

    def call(self, graph_module: fx.GraphModule) -> PassResult:
        self.edit(graph_module)
        return PassResult(graph_module, True)


class OnTorchsBase(_Edits, PassBase):
    """Does so on torch's base class."""


class WithoutVisit(_Edits, ExportPass):
    """Does so on ours."""


class BeforeVisit(WithoutVisit):
    """Edits a graph and visits it."""

    def call(self, graph_module: fx.GraphModule) -> PassResult:
        self.edit(graph_module)
        return ExportPass.call(self, graph_module)


class AfterVisit(WithoutVisit):
    """Visits a graph and edits it."""

    def call(self, graph_module: fx.GraphModule) -> PassResult:
        module = ExportPass.call(self, graph_module).graph_module
        self.edit(module)
        return PassResult(module, True)


def as_a_function(edit: Edit) -> Edit:
    """Give the edit itself, which is a pass as well."""
    return edit


#: Each makes a pass of an edit.
WAYS: list[Callable[[Edit], Any]] = [OnTorchsBase, WithoutVisit, BeforeVisit, AfterVisit, as_a_function]


def find_call(module: fx.GraphModule, target: Any) -> fx.Node:
    """Return the first call of an operator or a function in a graph."""
    return module.graph.find_nodes(op="call_function", target=target)[0]


def described_values(module: fx.GraphModule) -> dict[str, tuple[Any, ...]]:
    """Return the dtype and the sizes of each tensor that a call of a graph gives, by the node's name."""
    values = {node.name: node.meta.get("val") for node in module.graph.nodes if node.op == "call_function"}
    return {name: (value.dtype, *value.shape) for name, value in values.items() if isinstance(value, torch.Tensor)}
