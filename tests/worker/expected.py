"""What the metadata of a node must say, asked of the node itself through torch's own public and printed forms."""

from __future__ import annotations

import json
from typing import Any

import torch
from torch import fx
from torch._C._functorch import is_functorch_wrapped_tensor
from torch.fx.node import _get_qualified_name
from torch.utils import _pytree as pytree

from .decode import Plain

_KNOWN = {"val", "tensor_meta", "stack_trace", "nn_module_stack", "source_fn_stack", "torch_fn", "custom", "from_node"}


def expected_node(path: str, node: fx.Node) -> Plain:
    """Describes a node of the graph at `path` as `decode` does, but for its provenance."""
    meta = node.meta
    stack, functions = meta.get("nn_module_stack"), meta.get("source_fn_stack")
    return {
        "graph": path,
        "name": node.name,
        "op": node.op,
        "target": expected_target(node.target),
        "args": [expected_argument(argument) for argument in node.args],
        "kwargs": [(name, expected_argument(argument)) for name, argument in node.kwargs.items()],
        "users": [user.name for user in node.users],
        "value": expected_value(meta["val"]) if "val" in meta else None,
        "unbacked_bindings": [(str(s), pytree.keystr(path)) for s, path in meta.get("unbacked_bindings", {}).items()],
        "stack_trace": meta.get("stack_trace"),
        "nn_module_stack": None if stack is None else [(key, path, type_name(type_)) for key, (path, type_) in stack.items()],
        "source_fn_stack": None if functions is None else [(name, expected_target(fn)) for name, fn in functions],
        "torch_fn": meta.get("torch_fn"),
        "custom": json.dumps(meta["custom"]) if "custom" in meta else None,
        "other": _others({key: value for key, value in meta.items() if key not in _KNOWN | {"unbacked_bindings"}}),
    }


def _others(meta: dict[str, Any]) -> str | None:
    kept = {}
    for key, value in meta.items():
        try:
            json.dumps(value)
        except TypeError:
            continue
        kept[key] = value
    return json.dumps(kept) if kept else None


def type_name(type_: Any) -> str:
    return type_ if isinstance(type_, str) else f"{type_.__module__}.{type_.__qualname__}"


def expected_target(target: Any) -> str:
    if isinstance(target, str):
        return target
    if isinstance(target, type):
        return type_name(target)
    if isinstance(target, torch._ops.OpOverload):
        return f"{target.namespace}.{target._schema.name.split('::')[1]}.{target._overloadname}"
    return str(_get_qualified_name(target)).removeprefix("torch.ops.").removeprefix("_")


def expected_argument(value: Any) -> Any:
    if isinstance(value, fx.Node):
        return ("node", value.name)
    if isinstance(value, (list, tuple)):
        return ("list" if isinstance(value, list) else "tuple", [expected_argument(item) for item in value])
    if isinstance(value, dict):
        return ("map", [(key, expected_argument(item)) for key, item in value.items()])
    if value is None:
        return ("none",)
    if isinstance(value, (torch._ops.OpOverload, torch._ops.HigherOrderOperator)):
        return ("operator", expected_target(value))
    for type_, kind in ((torch.dtype, "dtype"), (torch.layout, "layout"), (torch.memory_format, "memory_format")):
        if isinstance(value, type_):
            return (kind, str(value).split(".")[1])
    if isinstance(value, torch.device):
        return ("device", str(value))
    if isinstance(value, str):
        return ("string_value", value)
    for plain, kind in ((bool, "bool_value"), (int, "int_value"), (float, "float_value")):
        if isinstance(value, plain):
            return (kind, repr(value))
    return ("opaque", repr(value))


def expected_value(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        if is_functorch_wrapped_tensor(value):
            return ("opaque", "torch.Tensor")
        return ("tensor", expected_tensor(value))
    if isinstance(value, (list, tuple)):
        return ("list", [expected_value(item) for item in value])
    for type_, kind in ((torch.SymInt, "sym_int"), (torch.SymFloat, "sym_float"), (torch.SymBool, "sym_bool")):
        if isinstance(value, type_):
            return (kind, expected_dim(value))
    return expected_argument(value)


def expected_dim(dim: Any) -> Any:
    return dim if isinstance(dim, int) else (str(dim), dim.node.hint)


def expected_tensor(tensor: torch.Tensor) -> Plain:
    strided = tensor.layout is torch.strided
    return {
        "dtype": str(tensor.dtype).split(".")[1],
        "shape": [expected_dim(size) for size in tensor.shape],
        "strides": [expected_dim(stride) for stride in tensor.stride()] if strided else [],
        "storage_offset": expected_dim(tensor.storage_offset()) if strided else None,
        "device": str(tensor.device),
        "layout": str(tensor.layout).split(".")[1],
        "requires_grad": tensor.requires_grad,
    }
