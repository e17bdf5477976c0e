"""Makes the calls of a trace in the program."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any, Protocol

from torch import fx

from retraced_server.passes.decompose.template import Emitted, Template
from retraced_server.retrace import NodeMetadata
from retraced_server.retrace.fake_result_cache import FakeResult
from retraced_server.retrace.tracer import ExportTracer
from retraced_server.retrace.values import SYMBOLIC
from retraced_server.torch_compat.functional_trace import Number


class MakesCalls(Protocol):
    """The pass: what it visits, and how it makes a call."""

    tracer: ExportTracer

    # Targets and arguments are whatever a graph has.
    def expect(self, target: Any, args: Any, kwargs: Any, value: FakeResult) -> None:
        """Take what a call gives, so that it need not be executed."""

    # As here.
    def emit_call(self, target: Any, args: Any, kwargs: Any, meta: NodeMetadata) -> Any:
        """Make a call."""


class Emitter:
    """Makes the calls of traces.

    Sizes are computed where they are needed, and only where no node of the program computes them already: there is one node for an
    expression.

    Args:
        callback: The pass.
    """

    def __init__(self, callback: MakesCalls) -> None:
        self._callback = callback

    def emit_template(self, template: Template, given: Sequence[Any], meta: NodeMetadata) -> tuple[Any, Sequence[Any]]:
        """Make the calls of a template, and return what stands for its results, and what each input becomes that it writes to.

        Args:
            template: The template.
            given: What stands for its inputs.
            meta: The metadata of the node that is visited.
        """
        inputs = dict(zip(template.inputs, given, strict=True))
        results, written = self.emit(inputs, template.nodes, template.results, meta, template.values)
        return results, written

    def emit(
        self,
        emitted: Emitted,
        nodes: Sequence[fx.Node],
        results: Any,
        meta: NodeMetadata,
        values: Sequence[FakeResult | None] = (),
    ) -> Any:
        """Make calls, and return what stands for the results.

        Args:
            emitted: What stands for nodes of the trace already, its inputs at least; the calls are added.
            nodes: The calls, in order.
            results: Nodes, constants and containers of these.
            meta: The metadata of the node that is visited.
            values: What each of the calls gives, as far as that is known.
        """
        for node, value in zip(nodes, values or (None,) * len(nodes), strict=True):
            emitted[node] = self._call(emitted, node, meta, value)
        return self._values(emitted, results)

    def _call(self, emitted: Emitted, node: fx.Node, meta: NodeMetadata, value: FakeResult | None) -> Any:
        args, kwargs = self._values(emitted, (node.args, node.kwargs))
        if node.target is operator.getitem and isinstance(args[0], (tuple, list)):
            return args[0][args[1]]
        if value is not None:
            self._callback.expect(node.target, args, kwargs, value)
        return self._callback.emit_call(node.target, args, kwargs, meta)

    # Arguments are whatever a graph has.
    def _values(self, emitted: Emitted, arguments: Any) -> Any:
        def value(leaf: Any) -> Any:
            if isinstance(leaf, fx.Node):
                return emitted[leaf]
            number = leaf.value if isinstance(leaf, Number) else leaf
            return self._callback.tracer.computed(number) if isinstance(number, SYMBOLIC) else leaf

        return fx.node.map_aggregate(arguments, value)
