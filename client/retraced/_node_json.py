"""Nodes as JSON, one object each. The field names are stable: build scripts read them.

Fields: `graph`, `name`, `op`, `target`, `args`, `kwargs`, `users`, `value`, `unbacked_bindings`, `stack_trace`,
`nn_module_stack`, `source_fn_stack`, `torch_fn`, `custom`, `from_nodes`, `made_by`, `other`; as in `NodeMetadata`. What is
empty or absent is left out, but for `graph`, `name`, `op`, `target` and `args`. `custom` and `other` are JSON values, not text.

A number, a boolean, a string and null are themselves; a list is an array. Everything else is an object with one key that says
what it is: `{"node": "relu"}`, `{"tuple": [...]}`, `{"dict": {...}}`, `{"dtype": "float32"}` (also device, layout,
memory_format, operator, opaque), `{"tensor": {...}}`, `{"sym_int": {"expr": "2*s77", "hint": 6, "lower": 4, "upper": 128}}`
(also sym_float, sym_bool), and `{"float": "nan"}` (also inf, -inf), which JSON has no number for. A symbolic size, stride or
offset of a tensor is the expression's object.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Final

from retraced.nodes import (
    Argument,
    Constant,
    Dim,
    Expression,
    NodeMetadata,
    NodeRef,
    NoValue,
    OpaqueValue,
    SymbolicValue,
    TensorValue,
    Value,
)

# Levels of containers in `custom` and `other`; deeper ones stay text.
_DEEPEST: Final = 64

Json = None | bool | int | float | str | Sequence["Json"] | Mapping[str, "Json"]


def node_to_json(node: NodeMetadata) -> dict[str, Json]:
    """Return the node as an object that `json.dumps(..., allow_nan=False)` takes; see the module for its fields."""
    fields: dict[str, Json] = {
        "graph": node.graph,
        "name": node.name,
        "op": node.op.value,
        "target": node.target,
        "args": [_argument(item) for item in node.args],
    }
    optional: dict[str, Json] = {
        "kwargs": {name: _argument(item) for name, item in node.kwargs},
        "users": node.users,
        "unbacked_bindings": {binding.symbol: binding.path for binding in node.unbacked_bindings},
        "stack_trace": node.stack_trace,
        "nn_module_stack": [{"key": frame.key, "path": frame.path, "type": frame.type} for frame in node.nn_module_stack],
        "source_fn_stack": [{"name": frame.name, "target": frame.target} for frame in node.source_fn_stack],
        "torch_fn": node.torch_fn,
        "custom": _embedded(node.custom),
        "from_nodes": node.from_nodes,
        "made_by": node.made_by,
        "other": _embedded(node.other),
    }
    if not isinstance(node.value, NoValue):
        fields["value"] = _value(node.value)
    fields.update({name: item for name, item in optional.items() if item})
    return fields


def _embedded(text: str) -> Json:
    if not text:
        return None
    try:
        value: Json = json.loads(text, parse_constant=_number, parse_float=_number)
    except (ValueError, RecursionError):
        return {"opaque": text}
    # What is read just so could not be written any more, further down the stack.
    return {"opaque": text} if _nests_deeper(value, _DEEPEST) else value


def _nests_deeper(value: Json, levels: int) -> bool:
    if not isinstance(value, list | dict):
        return False
    items = value.values() if isinstance(value, dict) else value
    return levels == 0 or any(_nests_deeper(item, levels - 1) for item in items)


def _number(text: str) -> Json:
    return _float(float(text))


def _float(number: float) -> Json:
    return number if math.isfinite(number) else {"float": str(number)}


def _expression(expression: Expression) -> Json:
    fields: dict[str, Json] = {"expr": expression.text}
    if expression.hint is not None:
        fields["hint"] = _float(expression.hint) if isinstance(expression.hint, float) else expression.hint
    if expression.lower is not None:
        fields["lower"] = expression.lower
    if expression.upper is not None:
        fields["upper"] = expression.upper
    return fields


def _dim(dim: Dim) -> Json:
    return _expression(dim) if isinstance(dim, Expression) else dim


def _value(value: Value) -> Json:
    match value:
        case TensorValue():
            return {
                "tensor": {
                    "dtype": value.dtype,
                    "shape": [_dim(dim) for dim in value.shape],
                    "strides": [_dim(dim) for dim in value.strides],
                    "storage_offset": None if value.storage_offset is None else _dim(value.storage_offset),
                    "device": value.device,
                    "layout": value.layout,
                    "requires_grad": value.requires_grad,
                }
            }
        case SymbolicValue():
            return {f"sym_{value.type}": _expression(value.expression)}
        case OpaqueValue():
            return {"opaque": value.text}
        case tuple():
            return [_value(item) for item in value]
        case float():
            return _float(value)
        case _:
            return value


def _argument(argument: Argument) -> Json:
    match argument:
        case NodeRef():
            return {"node": argument.name}
        case Constant():
            return {argument.kind.value: argument.text}
        case list():
            return [_argument(item) for item in argument]
        case tuple():
            return {"tuple": [_argument(item) for item in argument]}
        case dict():
            return {"dict": {name: _argument(item) for name, item in argument.items()}}
        case float():
            return _float(argument)
        case _:
            return argument
