"""Texts for things that the messages hold as text: operators, constants, objects.

A text never depends on an address in memory or on the data of a tensor, and making one never runs code of the program.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import BuiltinFunctionType, FunctionType
from typing import Any

import torch
from torch.export.graph_signature import CustomObjArgument
from torch.fx import Node

from retraced_server.torch_compat.operators import (
    FakeScriptObject,
    HigherOrderOperator,
    OpOverload,
    OpOverloadPacket,
    script_class_name,
)
from retraced_server.torch_compat.symbolic_shapes import expression_of


def target_text(target: object) -> str:
    """Name what a node calls: `aten.mm.default`, `higher_order.cond`, `operator.getitem`; a string is its own name."""
    if isinstance(target, str):
        return target
    if isinstance(target, OpOverload | OpOverloadPacket):
        return str(target)
    if isinstance(target, HigherOrderOperator):
        return f"{target.namespace}.{target}"
    return class_text(target if hasattr(target, "__qualname__") else type(target))


def class_text(target: Any) -> str:  # Any: a class or a function, which share only the two names read here.
    """Name a class or a function with its module."""
    # The functions of the `torch` module are methods of a hidden class, by which nobody knows them.
    name = target.__name__ if isinstance(target, BuiltinFunctionType) else target.__qualname__
    module = getattr(target, "__module__", None)
    if module is None or module == "builtins":
        return str(name)
    return f"{'operator' if module == '_operator' else module}.{name}"


def constant_text(value: object) -> str:
    """Write a constant as Python does, name a function or a class; where neither is stable or safe, name its class."""
    if value is None or value is ... or isinstance(value, bool | int | float | complex | str | bytes | range):
        return repr(value)
    if isinstance(value, slice):
        return f"slice({constant_text(value.start)}, {constant_text(value.stop)}, {constant_text(value.step)})"
    if isinstance(value, tuple):
        return "(" + ", ".join(map(constant_text, value)) + ("," if len(value) == 1 else "") + ")"
    if isinstance(value, list):
        return "[" + ", ".join(map(constant_text, value)) + "]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{constant_text(key)}: {constant_text(item)}" for key, item in value.items()) + "}"
    if isinstance(value, Node):
        return value.name
    if isinstance(value, torch.SymInt | torch.SymFloat | torch.SymBool):
        return str(expression_of(value))
    if isinstance(value, torch.dtype | torch.device | torch.layout | torch.memory_format):
        return str(value)
    if isinstance(value, type | FunctionType | BuiltinFunctionType):
        return class_text(value)
    return object_text(value)


def object_text(value: object) -> str:
    """Name the class of an object; of a script object, the class that its program knows it by."""
    if isinstance(value, CustomObjArgument):
        return value.class_fqn
    if isinstance(value, FakeScriptObject):
        return str(value.script_class_name)
    if isinstance(value, torch.ScriptObject):
        return script_class_name(value)
    return class_text(type(value))


def json_text(value: Any) -> str | None:  # Any: metadata of any kind; what is not JSON is left out.
    """Write a value as JSON, of an object those entries that JSON can hold; None where it can hold nothing of it."""
    try:
        return json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        pass
    if not isinstance(value, Mapping):
        return None
    written = []
    for key, entry in value.items():
        try:
            written.append(json.dumps({key: entry}, allow_nan=False)[1:-1])
        except (TypeError, ValueError, RecursionError):
            continue
    return "{" + ", ".join(written) + "}" if written else None
