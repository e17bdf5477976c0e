"""A value under retrace: its data under fake tensors, and the node that computes it. Follows torch/_export/pass_infra/proxy_value.py."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import fx

from retraced_server.retrace.errors import ExportPassError

_T = TypeVar("_T")


class CopiesNodes(Protocol):
    """A graph under construction, in which nodes that are as they were get copies when somebody asks for one."""

    def proxy_of(self, old: fx.Node) -> fx.Proxy:
        """Return the proxy of an old node's copy."""


class PendingCopy:
    """Stands for the copy of an old node, which is made when somebody asks for it.

    Args:
        graph: The graph under construction.
        old: The old node.
    """

    __slots__ = ("graph", "old")

    def __init__(self, graph: CopiesNodes, old: fx.Node) -> None:
        self.graph = graph
        self.old = old


# Any: a value is whatever an operator returns.
def value_of(value: fx.Node | ProxyValue[Any]) -> Any:
    """Return what is recorded for a node or held by a `ProxyValue`: a fake tensor, a symbolic or plain number, or a sequence of these.

    Decide by it what to rewrite: dtype, rank, device, and sizes that are plain numbers. It is never to be written to.

    Raises:
        ExportPassError: Nothing is recorded for the node.
    """
    if isinstance(value, ProxyValue):
        return value.data
    if value.meta.get("val") is None:
        raise ExportPassError(
            f"nothing is recorded for the value of '{value.name}' ({value.op} of {value.target}): it is an output, a subgraph or None, or "
            "it was made by hand and has not been visited yet (`super().call(graph_module)` does)"
        )
    return value.meta["val"]


class ProxyValue(Generic[_T]):
    """The result of a node of the graph under construction.

    Attributes:
        data: A fake tensor, a symbolic or plain number, or a nested sequence of these.
    """

    __slots__ = ("_source", "data")

    # `data` is whatever an operator returns.
    def __init__(self, data: Any, proxy: fx.Proxy | fx.Node | PendingCopy) -> None:
        self.data = data
        self._source = proxy

    @property
    def pending(self) -> fx.Node | None:
        """The old node that it stands for as it was, where nobody has asked for a copy of that."""
        source = self._source
        return source.old if type(source) is PendingCopy else None

    @property
    def proxy_or_node(self) -> fx.Proxy | fx.Node:
        """The `fx.Proxy` or `fx.Node` that stands for it in the graph."""
        source = self._source
        if isinstance(source, PendingCopy):
            self._source = source = source.graph.proxy_of(source.old)
        return source

    @proxy_or_node.setter
    def proxy_or_node(self, source: fx.Proxy | fx.Node) -> None:
        self._source = source

    @property
    def node(self) -> fx.Node:
        """The node that computes the value."""
        source = self.proxy_or_node
        return source if isinstance(source, fx.Node) else source.node

    @property
    def proxy(self) -> fx.Proxy:
        """The proxy that stands for the value.

        Raises:
            RuntimeError: The value was made with a bare node.
        """
        source = self.proxy_or_node
        if isinstance(source, fx.Proxy):
            return source
        raise RuntimeError(f"ProxyValue doesn't have attached Proxy object. Node: {source.format_node()}")

    def to_tensor(self) -> torch.Tensor:
        """Return the data as a tensor.

        Raises:
            AssertionError: It is not a tensor.
        """
        if not isinstance(self.data, torch.Tensor):
            raise AssertionError(f"expected Tensor, got {type(self.data)}")
        return self.data

    def is_tensor(self) -> bool:
        """Whether the data is a tensor."""
        return isinstance(self.data, torch.Tensor)

    def __iter__(self) -> Iterator[_T]:
        yield from self.data

    def __bool__(self) -> bool:
        return bool(self._concrete("bool", "used in a boolean context"))

    def __int__(self) -> int:
        return int(self._concrete("int", "converted to int"))

    def __float__(self) -> float:
        return float(self._concrete("float", "converted to float"))

    def __index__(self) -> int:
        return operator.index(self._concrete("index", "used in index context"))

    def __repr__(self) -> str:
        return f"ProxyValue({self.node.name}: {self.data!r})"

    def _concrete(self, kind: str, how: str) -> Any:
        if isinstance(self.data, (torch.Tensor, torch.SymInt, torch.SymFloat, torch.SymBool)):
            what = "a tensor" if isinstance(self.data, torch.Tensor) else f"the symbolic expression {self.data}"
            raise ExportPassError(
                f"{kind}() of '{self.node.name}' would specialise the program, {how}: its value is {what}, which is not known before the "
                "program runs. Decide by facts that hold for every input (dtype, rank, a size that is a plain number), or "
                "compute with it through call_operator or call_sym"
            )
        return self.data
