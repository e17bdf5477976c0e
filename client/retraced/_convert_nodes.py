"""NodeMetadataBatch to NodeMetadata: resolves the tables that a stream's batches share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

from retraced import nodes as domain
from retraced._convert import enum_value
from retraced.errors import ResponseInvalid
from retraced.v1 import node_metadata_pb2 as pb

_T = TypeVar("_T")


def decode_nodes(batches: Iterable[pb.NodeMetadataBatch], request_id: str = "") -> tuple[domain.NodeMetadata, ...]:
    """Return the nodes of one stream's batches, in the order they came.

    Raises:
        ResponseInvalid: An index points at no entry of its table, or a value is of a kind this client does not know.
    """
    tables = _Tables()
    decoded: list[domain.NodeMetadata] = []
    try:
        for batch in batches:
            tables.append(batch)
            decoded.extend(map(tables.node, batch.nodes))
    except _NotInTableError as error:
        raise ResponseInvalid(f"the server's node metadata is inconsistent: {error}", request_id=request_id) from None
    return tuple(decoded)


class _NotInTableError(Exception):
    pass


def _entry(table: Sequence[_T], index: int, what: str) -> _T:
    if not 0 < index < len(table):
        raise _NotInTableError(f"index {index} in a table of {len(table) - 1} {what}")
    return table[index]


class _Tables:
    """The tables of one stream; entry 0 of each is a filler, since index 0 means absent."""

    def __init__(self) -> None:
        self._strings: list[str] = [""]
        self._expressions: list[domain.Expression] = [domain.Expression("")]
        self._tensors: list[domain.TensorValue] = [domain.TensorValue("", (), (), None, "", "", False)]
        self._module_stacks: list[tuple[domain.ModuleFrame, ...]] = [()]
        self._source_fn_stacks: list[tuple[domain.SourceFn, ...]] = [()]

    def append(self, batch: pb.NodeMetadataBatch) -> None:
        self._strings.extend(batch.strings)
        self._expressions.extend(map(_expression, batch.expressions))
        self._tensors.extend(map(self._tensor, batch.tensors))
        for modules in batch.module_stacks:
            self._module_stacks.append(
                tuple(
                    domain.ModuleFrame(self._string(frame.key), self._string(frame.path), self._string(frame.type))
                    for frame in modules.frames
                )
            )
        for calls in batch.source_fn_stacks:
            self._source_fn_stacks.append(
                tuple(domain.SourceFn(self._string(frame.name), self._string(frame.target)) for frame in calls.frames)
            )

    def node(self, node: pb.NodeMetadata) -> domain.NodeMetadata:
        string = self._string
        return domain.NodeMetadata(
            graph=string(node.graph),
            name=string(node.name),
            op=enum_value(pb.NodeOp.Name, node.op, "NODE_OP_", domain.NodeOp.UNKNOWN),
            target=string(node.target),
            args=tuple(map(self._argument, node.args)),
            kwargs=tuple((string(item.name), self._argument(item.value)) for item in node.kwargs),
            users=tuple(map(string, node.users)),
            value=self._value(node.value) if node.HasField("value") else domain.NoValue(),
            unbacked_bindings=tuple(
                domain.UnbackedBinding(string(binding.symbol), string(binding.path)) for binding in node.unbacked_bindings
            ),
            stack_trace=string(node.stack_trace),
            nn_module_stack=_entry(self._module_stacks, node.nn_module_stack, "module stacks") if node.nn_module_stack else (),
            source_fn_stack=(
                _entry(self._source_fn_stacks, node.source_fn_stack, "source function stacks") if node.source_fn_stack else ()
            ),
            torch_fn=tuple(map(string, node.torch_fn)),
            custom=string(node.custom),
            from_nodes=tuple(map(string, node.from_nodes)),
            made_by=string(node.made_by),
            other=string(node.other),
        )

    def _string(self, index: int) -> str:
        return _entry(self._strings, index, "strings") if index else ""

    def _dim(self, dim: pb.Dim) -> domain.Dim:
        if dim.WhichOneof("value") == "expression":
            return _entry(self._expressions, dim.expression, "expressions")
        return dim.size

    def _tensor(self, tensor: pb.TensorDescription) -> domain.TensorValue:
        return domain.TensorValue(
            dtype=tensor.dtype,
            shape=tuple(map(self._dim, tensor.shape)),
            strides=tuple(map(self._dim, tensor.strides)),
            storage_offset=self._dim(tensor.storage_offset) if tensor.HasField("storage_offset") else None,
            device=tensor.device,
            layout=tensor.layout,
            requires_grad=tensor.requires_grad,
        )

    def _value(self, value: pb.Value) -> domain.Value:
        match kind := value.WhichOneof("kind"):
            case "tensor":
                return _entry(self._tensors, value.tensor, "tensors")
            case "sym_int" | "sym_float" | "sym_bool":
                expression = _entry(self._expressions, getattr(value, kind), "expressions")
                return domain.SymbolicValue(kind.removeprefix("sym_"), expression)
            case "int_value" | "float_value" | "bool_value":
                number: int | float | bool = getattr(value, kind)
                return number
            case "string_value":
                return self._string(value.string_value)
            case "list":
                return tuple(map(self._value, value.list.items))
            case "none":
                return None
            case "opaque":
                return domain.OpaqueValue(self._string(value.opaque))
            case None:
                raise _NotInTableError("a value of a kind that this client does not know")

    def _argument(self, argument: pb.Argument) -> domain.Argument:
        match kind := argument.WhichOneof("kind"):
            case "node":
                return domain.NodeRef(self._string(argument.node))
            case "int_value" | "float_value" | "bool_value":
                number: int | float | bool = getattr(argument, kind)
                return number
            case "string_value":
                return self._string(argument.string_value)
            case "none":
                return None
            case "list":
                return list(map(self._argument, argument.list.items))
            case "tuple":
                return tuple(map(self._argument, argument.tuple.items))
            case "map":
                return {self._string(item.name): self._argument(item.value) for item in argument.map.items}
            case "dtype" | "device" | "layout" | "memory_format" | "operator" | "opaque":
                return domain.Constant(domain.ConstantKind(kind), self._string(getattr(argument, kind)))
            case None:
                raise _NotInTableError("an argument of a kind that this client does not know")


def _expression(expression: pb.Expression) -> domain.Expression:
    kind = expression.WhichOneof("hint")
    return domain.Expression(
        text=expression.text,
        hint=None if kind is None else getattr(expression, kind),
        lower=expression.lower if expression.HasField("lower") else None,
        upper=expression.upper if expression.HasField("upper") else None,
    )
