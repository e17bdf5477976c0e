"""Builds graphs by the hooks of a pass that is not running, as ExecuTorch's graph builder and its tests do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import fx

from retraced_server.retrace.arguments import Argument, data_of, with_proxies
from retraced_server.retrace.errors import ExportPassError
from retraced_server.retrace.node_metadata import NodeMetadata
from retraced_server.retrace.proxy_value import ProxyValue
from retraced_server.torch_compat.graphs import PassResult, name_for_target
from retraced_server.torch_compat.operators import OpOverload

if TYPE_CHECKING:
    from retraced_server.retrace.export_pass import ExportPass
    from retraced_server.retrace.tracer import ExportTracer


def build_input(builder: ExportPass, name: str, value: Argument, meta: NodeMetadata) -> ProxyValue[Any]:
    """Add an input with a value to the graph of a pass's own tracer.

    Raises:
        ExportPassError: The pass has not been given a fake mode, as a builder is.
    """
    proxy = _tracer_of(builder).create_proxy("placeholder", name, (), {})
    proxy.node.meta.update(meta.held)
    builder.tracer.set_metadata(proxy.node, value)
    return ProxyValue(value, proxy)


# The target is of any of fx's types for them.
def build_node(builder: ExportPass, kind: str, target: Any, args: Any, kwargs: Any, meta: NodeMetadata) -> ProxyValue[Any]:
    """Add a node to the graph of a pass's own tracer, with the value that the pass's own interpreter computes.

    Raises:
        ExportPassError: The pass has not been given a fake mode, as a builder is.
    """
    tracer = _tracer_of(builder)
    value = getattr(builder.interpreter, kind)(target, data_of(args), data_of(kwargs))
    name = name_for_target(tracer.graph, target.overloadpacket.__name__) if isinstance(target, OpOverload) else None
    args, kwargs = with_proxies((args, kwargs), tracer)
    proxy = tracer.create_proxy(kind, target, args, kwargs, name=name)
    proxy.node.meta.update(meta.held)
    tracer.set_metadata(proxy.node, value)
    return ProxyValue(value, proxy)


def build_subgraph(builder: ExportPass, module: fx.GraphModule) -> PassResult:
    """Take a subgraph as it is.

    Raises:
        ExportPassError: The pass has not been given a fake mode, as a builder is.
    """
    _tracer_of(builder)
    return PassResult(module, False)


def _tracer_of(builder: ExportPass) -> ExportTracer:
    if builder.tracer.fake_tensor_mode is None:
        raise ExportPassError(
            "hooks can only be called while the pass runs; call the pass with a graph module, or, to build a graph with them, set "
            "`fake_tensor_mode` of its tracer"
        )
    return builder.tracer
