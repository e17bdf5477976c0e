"""Keys under which two calls of an operator are the same call."""

from __future__ import annotations

import operator
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import torch

from retraced_server.analysis.targets import overload_of
from retraced_server.torch_compat.operators import OpOverload, schema_of


class UnkeyedError(Exception):
    """An argument has no key: it is equal to nothing but itself."""


def call_key(target: Any, args: Sequence[Any], kwargs: Mapping[str, Any], leaf: Callable[[Any], Hashable | None]) -> Hashable:
    """Return a key that is equal for two calls of the same target with the same arguments.

    Arguments of an operator overload are bound to its schema, so that it does not matter which are given by keyword and which
    defaults are written out. Constants are the same by type and value: 1, 1.0 and True differ, as do 0.0 and -0.0; nan is nan.

    Args:
        target: What is called.
        args: Its positional arguments.
        kwargs: Its keyword arguments.
        leaf: Gives the identity of a value that is computed (a node, a proxy value), or None for anything else.

    Raises:
        UnkeyedError: An argument is neither computed, nor a constant, nor a container of these.
    """
    given = dict(kwargs)
    if (op := overload_of(target)) is not None:
        names = [argument.name for argument in schema_of(op).arguments]
        given.update(zip(names, args, strict=False))
        args = [given.pop(a.name, a.default_value if a.has_default_value() else None) for a in schema_of(op).arguments]
    elif target is operator.getitem:
        args = list(args)
    return (target, _key(list(args), leaf), _key(given, leaf))


def _key(value: Any, leaf: Callable[[Any], Hashable | None]) -> Hashable:
    computed = leaf(value)
    if computed is not None:
        return ("computed", computed)
    # A schema does not tell lists from tuples.
    if isinstance(value, (list, tuple)):
        return ("sequence", *(_key(item, leaf) for item in value))
    if isinstance(value, dict):
        return ("mapping", *((name, _key(value[name], leaf)) for name in sorted(value)))
    if isinstance(value, slice):
        return ("slice", _key(value.start, leaf), _key(value.stop, leaf), _key(value.step, leaf))
    if value is None or isinstance(
        value, (bool, int, float, complex, str, torch.dtype, torch.layout, torch.memory_format, torch.device)
    ):
        return (type(value).__name__, repr(value))
    # Higher-order operators are given operators as arguments.
    if isinstance(value, OpOverload):
        return ("operator", value)
    raise UnkeyedError(type(value).__name__)
