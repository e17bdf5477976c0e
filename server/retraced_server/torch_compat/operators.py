"""Operators: their classes, schemas and names, and what the dispatcher knows of them."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import Any, cast

import torch
from torch._C import DispatchKey
from torch._C import _check_schema_allow_fake_script_object as check_schema
from torch._C import _jit_resolve_packet as jit_resolve_packet
from torch._C import _should_allow_numbers_as_tensors as takes_numbers_as_tensors
from torch._higher_order_ops.effects import has_effects
from torch._higher_order_ops.executorch_call_delegate import executorch_call_delegate, is_lowered_module
from torch._library.fake_class_registry import FakeScriptObject
from torch._library.utils import is_builtin, is_impure
from torch._ops import HigherOrderOperator, OpOverload, OpOverloadPacket

__all__ = [
    "OPSET_VERSION",
    "FakeScriptObject",
    "HigherOrderOperator",
    "OpOverload",
    "OpOverloadPacket",
    "base_name",
    "check_schema",
    "executorch_call_delegate",
    "function_named",
    "functional_variant",
    "has_effects",
    "held_operator",
    "is_builtin",
    "is_composite",
    "is_impure",
    "is_lowered_module",
    "nn_functions",
    "overload_name",
    "registered_operators",
    "resolve_overload",
    "schema_of",
    "script_class_name",
    "takes_numbers_as_tensors",
]

OPSET_VERSION: int = torch._C._get_max_operator_version()

nn_functions: Any = torch._C._nn
"""The namespace of the functions of `torch.nn.functional` that are written in C++."""


def function_named(name: str) -> Callable[..., Any]:
    """Return a function by its module and name, such as `_operator.add`; never one that a file names."""
    module, _, attribute = name.rpartition(".")
    found: Callable[..., Any] = getattr(importlib.import_module(module), attribute)
    return found


@functools.cache
def functional_variant(op: object) -> OpOverload | None:
    """Return the operator whose result functionalization puts in the place of the tensor that another writes to and returns.

    That is `aten.add.Tensor` for `aten.add_.Tensor`. There is none where functionalization does anything else.
    """
    if not isinstance(op, OpOverload) or op.namespace != "aten" or not op._schema.is_mutable:
        return None
    packet = getattr(torch.ops.aten, op._opname.removesuffix("_"), None) if op._opname.endswith("_") else None
    found = getattr(packet, op._overloadname, None)
    if found is None or not torch._C._dispatch_has_kernel_for_dispatch_key(op.name(), "Functionalize"):
        return None
    arguments, others = op._schema.arguments, found._schema.arguments
    takes_the_same = [(a.name, str(a.type)) for a in arguments] == [(b.name, str(b.type)) for b in others]
    writes_to_first = [argument.is_write for argument in arguments] == [True, *(False for _ in arguments[1:])]
    if found._schema.is_mutable or torch.Tag.inplace_view in op.tags or len(op._schema.returns) != 1:
        return None
    return found if takes_the_same and writes_to_first else None


def schema_of(op: OpOverload) -> torch.FunctionSchema:
    """Return the schema of an operator."""
    return op._schema


def base_name(op: OpOverload) -> str:
    """Return the name of an operator without namespace and overload: `add_` of `aten::add_.Tensor`."""
    return op._opname


def overload_name(op: OpOverload) -> str:
    """Return the name of an overload: `Tensor` of `aten::add_.Tensor`, `default` where it has none."""
    return op._overloadname


# What a dialect's operator may hold is of any type.
def held_operator(target: object) -> Any:
    """Return what a dialect's operator holds as the operator that it runs; None for any other object."""
    return getattr(target, "_op", None)


def is_composite(op: OpOverload) -> bool:
    """Whether an operator has a kernel that is composed of others (CompositeImplicitAutograd)."""
    return op.has_kernel_for_dispatch_key(DispatchKey.CompositeImplicitAutograd)


# Arguments are whatever a graph has.
def resolve_overload(packet: OpOverloadPacket, args: Any, kwargs: Any) -> OpOverload:
    """Return the overload that a packet would call.

    Raises:
        RuntimeError: None takes the arguments.
    """
    name = jit_resolve_packet(packet._qualified_op_name, *args, **kwargs)
    return cast(OpOverload, getattr(packet, name or "default"))


def script_class_name(value: torch.ScriptObject) -> str:
    """Return the qualified name of a TorchScript object's class."""
    return str(value._type().qualified_name())


def registered_operators() -> list[str]:
    """Return the names of all operators that this process knows, each `namespace::name`."""
    return torch._C._dispatch_get_all_op_names()
