"""Reads batches of node metadata back into plain data, written from what the proto file says of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from retraced.v1 import node_metadata_pb2 as pb

#: A node by plain names. `Any`: a nest of strings, numbers, tuples and dictionaries that tests compare with `==`.
Plain = dict[str, Any]


class Decoder:
    """The tables of one stream of batches. Index 0 is absent: it decodes to None."""

    def __init__(self) -> None:
        self.strings: list[str | None] = [None]
        self.expressions: list[pb.Expression | None] = [None]
        self.tensors: list[pb.TensorDescription | None] = [None]
        self.module_stacks: list[pb.ModuleStack | None] = [None]
        self.source_fn_stacks: list[pb.SourceFnStack | None] = [None]

    def batch(self, batch: pb.NodeMetadataBatch) -> list[Plain]:
        self.strings += batch.strings
        self.expressions += batch.expressions
        self.tensors += batch.tensors
        self.module_stacks += batch.module_stacks
        self.source_fn_stacks += batch.source_fn_stacks
        return [self.node(node) for node in batch.nodes]

    def text(self, index: int) -> str:
        text = self.strings[index]
        assert text is not None
        return text

    def node(self, node: pb.NodeMetadata) -> Plain:
        stack = self.module_stacks[node.nn_module_stack]
        functions = self.source_fn_stacks[node.source_fn_stack]
        return {
            "graph": self.strings[node.graph] or "",
            "name": self.text(node.name),
            "op": pb.NodeOp.Name(node.op).removeprefix("NODE_OP_").lower(),
            "target": self.text(node.target),
            "args": [self.argument(argument) for argument in node.args],
            "kwargs": [(self.text(entry.name), self.argument(entry.value)) for entry in node.kwargs],
            "users": [self.text(user) for user in node.users],
            "value": self.value(node.value) if node.HasField("value") else None,
            "unbacked_bindings": [(self.text(entry.symbol), self.text(entry.path)) for entry in node.unbacked_bindings],
            "stack_trace": self.strings[node.stack_trace],
            "nn_module_stack": None
            if stack is None
            else [(self.text(frame.key), self.text(frame.path), self.text(frame.type)) for frame in stack.frames],
            "source_fn_stack": None
            if functions is None
            else [(self.text(frame.name), self.text(frame.target)) for frame in functions.frames],
            "torch_fn": tuple(self.text(text) for text in node.torch_fn) or None,
            "custom": self.strings[node.custom],
            "other": self.strings[node.other],
            "from_nodes": tuple(self.text(name) for name in node.from_nodes),
            "made_by": self.strings[node.made_by],
        }

    def argument(self, argument: pb.Argument) -> Any:
        kind = argument.WhichOneof("kind")
        assert kind is not None
        if kind == "none":
            return (kind,)
        if kind in ("list", "tuple"):
            return (kind, [self.argument(item) for item in getattr(argument, kind).items])
        if kind == "map":
            return (kind, [(self.text(item.name), self.argument(item.value)) for item in argument.map.items])
        if kind in ("int_value", "float_value", "bool_value"):
            return (kind, repr(getattr(argument, kind)))
        return (kind, self.text(getattr(argument, kind)))

    def value(self, value: pb.Value) -> Any:
        kind = value.WhichOneof("kind")
        assert kind is not None
        if kind == "none":
            return (kind,)
        if kind == "list":
            return (kind, [self.value(item) for item in value.list.items])
        if kind == "tensor":
            return (kind, self.tensor(value.tensor))
        if kind in ("sym_int", "sym_float", "sym_bool"):
            return (kind, self.expression(getattr(value, kind)))
        if kind in ("int_value", "float_value", "bool_value"):
            return (kind, repr(getattr(value, kind)))
        return (kind, self.text(getattr(value, kind)))

    def expression(self, index: int) -> tuple[str, Any]:
        expression = self.expressions[index]
        assert expression is not None
        hint = expression.WhichOneof("hint")
        return expression.text, None if hint is None else getattr(expression, hint)

    def tensor(self, index: int) -> Plain:
        tensor = self.tensors[index]
        assert tensor is not None
        return {
            "dtype": tensor.dtype,
            "shape": [self.dim(dim) for dim in tensor.shape],
            "strides": [self.dim(dim) for dim in tensor.strides],
            "storage_offset": self.dim(tensor.storage_offset) if tensor.HasField("storage_offset") else None,
            "device": tensor.device,
            "layout": tensor.layout,
            "requires_grad": tensor.requires_grad,
        }

    def dim(self, dim: pb.Dim) -> Any:
        kind = dim.WhichOneof("value")
        assert kind is not None
        return dim.size if kind == "size" else self.expression(dim.expression)


def decode(batches: Iterable[pb.NodeMetadataBatch]) -> list[Plain]:
    """Decodes a whole stream, batch by batch, so that an index that points forward fails."""
    decoder = Decoder()
    return [node for batch in batches for node in decoder.batch(batch)]
