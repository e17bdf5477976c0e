"""The retrace engine: passes that visit a program's nodes under fake tensors. It knows neither gRPC nor processes.

Write a pass as a subclass of `ExportPass`, and run it on a graph module, or on a whole program with
`retraced_server.passes.run_pipeline`.
"""

from retraced_server.retrace.arguments import Argument
from retraced_server.retrace.errors import ExportPassBaseError, ExportPassError, PassError
from retraced_server.retrace.export_pass import ExportPass
from retraced_server.retrace.map_args import map_args
from retraced_server.retrace.node_metadata import NodeMetadata
from retraced_server.retrace.outcome import RetraceOutcome
from retraced_server.retrace.pass_context import PassContext, pass_context
from retraced_server.retrace.proxy_value import ProxyValue, value_of
from retraced_server.retrace.weights import Weights
from retraced_server.torch_compat.graphs import PassBase, PassResult

__all__ = [
    "Argument",
    "ExportPass",
    "ExportPassBaseError",
    "ExportPassError",
    "NodeMetadata",
    "PassBase",
    "PassContext",
    "PassError",
    "PassResult",
    "ProxyValue",
    "RetraceOutcome",
    "Weights",
    "map_args",
    "pass_context",
    "value_of",
]
