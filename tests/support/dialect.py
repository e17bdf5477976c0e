"""A dialect that wraps torch's operators, as ExecuTorch's edge dialect does: for tests that run where executorch is not installed."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from torch import fx
from torch._ops import OpOverload

from retraced_server.retrace import ExportPass, NodeMetadata, ProxyValue
from retraced_server.retrace.copies import copy_with_subgraphs
from retraced_server.retrace.graphs import walk_graphs


class DialectOperator:
    """An operator of the dialect, with the protocol of `executorch.exir.dialects.edge._ops.EdgeOpOverload`."""

    def __init__(self, op: OpOverload) -> None:
        self._op = op
        self._schema = op._schema
        self.__name__ = f"{op.namespace}.{op.__name__}"

    def __getattr__(self, name: str) -> Any:
        return getattr(self._op, name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._op(*args, **kwargs)


@functools.cache
def in_dialect(op: OpOverload) -> DialectOperator:
    """Returns the dialect's operator for one of torch's; it is one object, as ExecuTorch's are."""
    return DialectOperator(op)


def module_in_dialect(module: fx.GraphModule) -> fx.GraphModule:
    """Returns a copy of a graph module, subgraphs included, that calls the dialect's operators. Recorded values are shared."""
    copy = copy_with_subgraphs(module)
    for _, graph_module in walk_graphs(copy):
        for node in graph_module.graph.nodes:
            if isinstance(node.target, OpOverload):
                node.target = in_dialect(node.target)
    return copy


def pass_in_dialect(pass_type: type[ExportPass]) -> Callable[..., ExportPass]:
    """Returns a pass that does on the dialect what a pass for torch's operators does on these."""

    class Wraps(ExportPass):
        def call_operator(self, op: Any, args: Any, kwargs: Any, meta: NodeMetadata) -> ProxyValue[Any]:
            return super().call_operator(in_dialect(op), args, kwargs, meta)

    class InDialect(pass_type, Wraps):  # type: ignore[misc, valid-type]
        def call_operator(self, op: Any, args: Any, kwargs: Any, meta: NodeMetadata) -> Any:
            return super().call_operator(op._op, args, kwargs, meta)

    return InDialect
