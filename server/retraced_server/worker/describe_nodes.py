"""Every node's metadata, in batches with shared tables, as `retraced/v1/node_metadata.proto` describes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch.export import ExportedProgram
from torch.fx import Node

from retraced.v1 import node_metadata_pb2 as pb
from retraced_server.analysis.graphs import walk_graphs
from retraced_server.pipeline.domain import NodeSelection, Provenance
from retraced_server.torch_compat.pytree import keystr
from retraced_server.worker.describe_arguments import write_argument, write_value
from retraced_server.worker.describe_tables import Tables
from retraced_server.worker.describe_text import json_text

MAX_BATCH_BYTES = 1024 * 1024
"""A batch is closed when it has grown to this size, so that one message holds it; only a single node can exceed it."""

_OPS = {
    "placeholder": pb.NODE_OP_PLACEHOLDER,
    "call_function": pb.NODE_OP_CALL_FUNCTION,
    "get_attr": pb.NODE_OP_GET_ATTR,
    "output": pb.NODE_OP_OUTPUT,
}

# Keys with a field of their own; and `tensor_meta`, which says again what the value says, and `from_node`, torch's own record
# of earlier passes by addresses of graphs. Neither of the two is JSON, and finding that out at each node would cost dearly.
_KNOWN = frozenset(
    {
        "val",
        "unbacked_bindings",
        "stack_trace",
        "nn_module_stack",
        "source_fn_stack",
        "torch_fn",
        "custom",
        "tensor_meta",
        "from_node",
    }
)


def describe_nodes(
    program: ExportedProgram,
    *,
    provenance: Mapping[str, Provenance],
    selection: NodeSelection,
    batch_size: int = 512,
) -> Iterator[pb.NodeMetadataBatch]:
    """Describe the nodes of a program, graph by graph, each subgraph right after the graph that holds it.

    Reads only: no guard is added, no symbol specialised, no version of the shape environment changed.

    Args:
        program: The program. It must not change while this runs.
        provenance: For every node of the program, by `name` (`true_graph_0:name` in a subgraph), where it came from.
        selection: Which nodes; CHANGED are those that a pass made.
        batch_size: The largest number of nodes in a batch.

    Yields:
        Batches that are not empty, in order; each at most about `MAX_BATCH_BYTES`.

    Raises:
        KeyError: A node has no provenance.
    """
    if selection is NodeSelection.NONE:
        return
    tables = Tables(program.range_constraints)
    node_bytes = 0
    for path, module in walk_graphs(program.graph_module):
        prefix = f"{path}:" if path else ""
        for node in module.graph.nodes:
            origin = provenance[prefix + node.name]
            if selection is NodeSelection.CHANGED and origin.made_by is None:
                continue
            message = tables.batch.nodes.add()
            if path:
                message.graph = tables.string(path)
            _write_node(node, message, tables)
            _write_meta(node.meta, message, tables)
            _write_origin(origin, message, tables)
            node_bytes += message.ByteSize()
            if len(tables.batch.nodes) >= batch_size or node_bytes + tables.entry_bytes >= MAX_BATCH_BYTES:
                yield tables.take()
                node_bytes = 0
    if tables.batch.nodes:
        yield tables.take()


def _write_node(node: Node, out: pb.NodeMetadata, tables: Tables) -> None:
    out.name = tables.string(node.name)
    out.op = _OPS[node.op]
    out.target = tables.target(node.target)
    for argument in node.args:
        write_argument(argument, out.args.add(), tables)
    for name, argument in node.kwargs.items():
        write_argument(argument, out.kwargs.add(name=tables.string(name)).value, tables)
    out.users.extend([tables.string(user.name) for user in node.users])


def _write_meta(meta: dict[str, Any], out: pb.NodeMetadata, tables: Tables) -> None:  # Any: fx's type for metadata.
    if "val" in meta:
        write_value(meta["val"], out.value, tables)
    for symbol, path in meta.get("unbacked_bindings", {}).items():
        out.unbacked_bindings.add(symbol=tables.string(str(symbol)), path=tables.string(keystr(path)))
    if (trace := meta.get("stack_trace")) is not None:
        out.stack_trace = tables.string(trace)
    if (modules := meta.get("nn_module_stack")) is not None:
        out.nn_module_stack = tables.module_stack(modules)
    if (functions := meta.get("source_fn_stack")) is not None:
        out.source_fn_stack = tables.source_fn_stack(functions)
    if (pair := meta.get("torch_fn")) is not None:
        out.torch_fn.extend([tables.string(text) for text in pair])
    if (custom := meta.get("custom")) is not None and (text := json_text(custom)) is not None:
        out.custom = tables.string(text)
    if not meta.keys() <= _KNOWN:
        others = {key: value for key, value in meta.items() if key not in _KNOWN}
        if (text := json_text(others)) is not None:
            out.other = tables.string(text)


def _write_origin(origin: Provenance, out: pb.NodeMetadata, tables: Tables) -> None:
    out.from_nodes.extend([tables.string(name) for name in origin.from_nodes])
    if origin.made_by is not None:
        out.made_by = tables.string(origin.made_by)
