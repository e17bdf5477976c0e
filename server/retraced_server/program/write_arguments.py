"""From an argument of a node to an argument of the schema.

The order of the cases is that of `GraphModuleSerializer.serialize_input` in torch/_export/serde/serialize.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

import torch
from torch import fx
from torch.export.graph_signature import CustomObjArgument

from retraced_server.program.errors import program_unsupported
from retraced_server.program.operators import operator_name
from retraced_server.program.scalar_types import DTYPE_NUMBERS, LAYOUT_NUMBERS, MEMORY_FORMAT_NUMBERS
from retraced_server.program.write_values import Json, write_device, write_float
from retraced_server.torch_compat.operators import HigherOrderOperator, OpOverload


class NameScope(Protocol):
    """What the names of values mean: a graph that is being written."""

    sym_int_values: dict[str, Json]
    sym_float_values: dict[str, Json]
    sym_bool_values: dict[str, Json]

    def same_value(self, name: str) -> str:
        """Return the name under which a value is written; several `getitem` nodes of one result have one."""

    def subgraph(self, node: fx.Node) -> Json:
        """Return the argument for a node that stands for a subgraph of a higher-order operator."""


def write_argument(argument: Any, scope: NameScope, kind: Any = None) -> Json:
    """Return the argument of the schema for an argument of a node.

    Args:
        argument: The argument. `Any`: it is any value that fx takes.
        scope: The graph that it stands in.
        kind: The type that the operator's schema gives it, where there is one; an empty list is written by it.

    Raises:
        RetracedError: PROGRAM_UNSUPPORTED where it has no serialized form.
    """
    write = _WRITERS.get(type(argument))
    if write is not None:
        return write(argument, scope)
    if isinstance(argument, (list, tuple)):
        return _sequence(argument, scope, kind)
    if isinstance(argument, dict):
        if not all(isinstance(key, str) for key in argument):
            raise program_unsupported("a dictionary whose keys are not strings has no serialized form")
        return {"as_string_to_argument": {key: write_argument(value, scope) for key, value in argument.items()}}
    if isinstance(argument, (OpOverload, HigherOrderOperator)):
        return {"as_operator": operator_name(argument)}
    raise program_unsupported(f"an argument of type {type(argument).__name__} has no serialized form")


def _node(node: fx.Node, scope: NameScope) -> Json:
    name = node.name
    if node.op == "get_attr":
        return scope.subgraph(node)
    if name in scope.sym_int_values:
        return {"as_sym_int": {"as_name": name}}
    if name in scope.sym_float_values:
        return {"as_sym_float": {"as_name": name}}
    if name in scope.sym_bool_values:
        return {"as_sym_bool": {"as_name": name}}
    value = node.meta["val"]
    if isinstance(value, CustomObjArgument):
        raise program_unsupported(f"`{name}` is an object of the custom class `{value.class_fqn}`, which is not written")
    return {"as_tensor": {"name": scope.same_value(name)}}


_FIRST_CASES: Final = ((bool, "as_bools"), (int, "as_ints"), (float, "as_floats"), (str, "as_strings"))


def _sequence(values: Sequence[Any], scope: NameScope, kind: Any) -> Json:
    if not values:
        return {_empty_kind(kind): []}
    for plain, name in _FIRST_CASES:
        if all(type(value) is plain for value in values):
            return {name: [write_float(value) for value in values] if plain is float else list(values)}
    nodes = [value for value in values if isinstance(value, fx.Node)]
    for named, name, number in (
        (scope.sym_int_values, "as_sym_ints", int),
        (scope.sym_float_values, "as_sym_floats", float),
        (scope.sym_bool_values, "as_sym_bools", bool),
    ):
        if all(value.name in named if isinstance(value, fx.Node) else type(value) is number for value in values):
            return {name: [_sym_member(value) for value in values]}
    if len(nodes) == len(values):
        return {"as_tensors": [_tensor(node) for node in nodes]}
    if all(isinstance(inner, (list, tuple)) and all(isinstance(value, fx.Node) for value in inner) for inner in values):
        return {"as_nested_tensors": [[_tensor(node) for node in inner] for inner in values]}
    if all(value is None or isinstance(value, fx.Node) for value in values):
        return {"as_optional_tensors": [{"as_none": True} if node is None else {"as_tensor": _tensor(node)} for node in values]}
    if all(isinstance(inner, tuple) and all(type(value) is int for value in inner) for inner in values):
        return {"as_int_lists": [list(inner) for inner in values]}
    if all(isinstance(inner, (list, tuple)) and all(isinstance(value, float) for value in inner) for inner in values):
        return {"as_float_lists": [[write_float(value) for value in inner] for inner in values]}
    kinds = ", ".join(sorted({type(value).__name__ for value in values}))
    raise program_unsupported(f"a list of {kinds} has no serialized form")


def _sym_member(value: Any) -> Json:
    if isinstance(value, fx.Node):
        return {"as_name": value.name}
    if isinstance(value, bool):
        return {"as_bool": value}
    return {"as_int": value} if isinstance(value, int) else {"as_float": write_float(value)}


def _tensor(node: fx.Node) -> Json:
    if node.op == "get_attr":
        raise program_unsupported(
            f"a list holds `{node.name}`, a subgraph or an attribute of the graph module, so it has no serialized form"
        )
    return {"name": node.name}


def _empty_kind(kind: Any) -> str:
    # Without a schema, torch takes an empty list for one of tensors.
    if kind is None:
        return "as_tensors"
    if isinstance(kind, torch.OptionalType):
        kind = kind.getElementType()
    element = kind.getElementType() if isinstance(kind, torch.ListType) else kind
    if isinstance(element, torch.OptionalType):
        element = element.getElementType()
    for of, name in _EMPTY:
        if isinstance(element, of):
            return name
    raise program_unsupported(f"an empty list of {element} has no serialized form")


_EMPTY: Final = (
    (torch.BoolType, "as_bools"),
    (torch.IntType, "as_ints"),
    (torch.FloatType, "as_floats"),
    (torch.StringType, "as_strings"),
    (torch.TensorType, "as_tensors"),
)
# Any: each writer takes values of its own type.
_WRITERS: Final[dict[type, Callable[[Any, NameScope], Json]]] = {
    fx.Node: _node,
    bool: lambda value, scope: {"as_bool": value},
    str: lambda value, scope: {"as_string": value},
    int: lambda value, scope: {"as_int": value},
    float: lambda value, scope: {"as_float": write_float(value)},
    complex: lambda value, scope: {"as_complex": {"real": write_float(value.real), "imag": write_float(value.imag)}},
    type(None): lambda value, scope: {"as_none": True},
    torch.dtype: lambda value, scope: {"as_scalar_type": DTYPE_NUMBERS[value]},
    torch.device: lambda value, scope: {"as_device": write_device(value)},
    torch.memory_format: lambda value, scope: {"as_memory_format": MEMORY_FORMAT_NUMBERS[value]},
    torch.layout: lambda value, scope: {"as_layout": LAYOUT_NUMBERS[value]},
}
