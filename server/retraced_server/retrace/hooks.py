"""The hooks of a pass, as the interpreter, the tracer and what builds nodes know them: `ExportPass` has them, and nothing below imports it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from torch import fx

from retraced_server.retrace.arguments import Argument
from retraced_server.retrace.node_metadata import NodeMetadata
from retraced_server.retrace.proxy_value import ProxyValue
from retraced_server.torch_compat.graphs import PassResult

# Operators and functions are of several unrelated types in torch.
Target = Any


class MakesNodes(Protocol):
    """Makes nodes of the graph that is visited, and hears of its attributes."""

    def on_attr(self, attr: ProxyValue[Any]) -> None:
        """Hear of a tensor attribute."""

    def _fx(
        self, kind: str, target: Target, args: tuple[Argument, ...], kwargs: dict[str, Argument], meta: NodeMetadata
    ) -> ProxyValue[Any]:
        """Make a node without asking a hook; the name is that of torch's class."""


class PassHooks(MakesNodes, Protocol):
    """The hooks that nodes are handed to; see `ExportPass` for what each is given."""

    def call(self, graph_module: fx.GraphModule) -> PassResult:
        """Run the pass on a graph module."""

    def placeholder(self, name: str, arg: Argument, meta: NodeMetadata) -> ProxyValue[Any]:
        """Visit an input."""

    def output(self, results: Argument, meta: NodeMetadata) -> ProxyValue[Any]:
        """Visit the outputs."""

    def call_operator(
        self, op: Target, args: tuple[Argument, ...], kwargs: dict[str, Argument], meta: NodeMetadata
    ) -> ProxyValue[Any]:
        """Visit a call of an operator."""

    def call_sym(self, target: Callable[..., Any], args: tuple[Argument, ...], meta: NodeMetadata) -> ProxyValue[Any]:
        """Visit a call of a function on symbolic numbers."""

    def call_getitem(self, value: ProxyValue[Any], key: int, meta: NodeMetadata) -> ProxyValue[Any]:
        """Visit the taking of an item."""

    def call_cond(
        self,
        pred: ProxyValue[Any],
        true_fn: fx.GraphModule,
        false_fn: fx.GraphModule,
        inputs: Sequence[Argument],
        meta: NodeMetadata,
    ) -> ProxyValue[Any]:
        """Visit a `torch.cond`."""

    def call_map(
        self, f: fx.GraphModule, mapped_args: Sequence[Argument], operands: Sequence[Argument], meta: NodeMetadata
    ) -> ProxyValue[Any]:
        """Visit a map."""

    def call_while(
        self,
        cond_fn: fx.GraphModule,
        body_fn: fx.GraphModule,
        carried_inputs: Sequence[Argument],
        additional_inputs: Sequence[Argument],
        meta: NodeMetadata,
    ) -> ProxyValue[Any]:
        """Visit a while loop."""

    def call_scan(
        self,
        combine_fn: fx.GraphModule,
        init: Sequence[Argument],
        xs: Sequence[Argument],
        additional_inputs: Sequence[Argument],
        meta: NodeMetadata,
    ) -> ProxyValue[Any]:
        """Visit a scan."""

    # What ExecuTorch lowered is a module of a class of its own.
    def call_delegate(
        self, lowered_module: Any, args: tuple[Argument, ...], kwargs: dict[str, Argument], meta: NodeMetadata
    ) -> ProxyValue[Any]:
        """Visit a call of a lowered program."""

    def call_higher_order(
        self, op: Target, args: tuple[Any, ...], kwargs: dict[str, Any], meta: NodeMetadata
    ) -> ProxyValue[Any]:
        """Visit a call of any other higher-order operator."""
