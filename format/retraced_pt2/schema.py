"""The schema of graphs, as typed values that are decoded from JSON; what is around them is in `program_schema`.

It mirrors torch/_export/serde/schema.py, major version 8. A class here that stands for a union of the schema has all its members
as optional fields; `only_member` says whether exactly one of them is set. Descriptions of values are left as raw JSON: most of
them repeat, and each distinct one is decoded once.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from retraced_pt2.errors import invalid

Int: TypeAlias = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
Float: TypeAlias = float | Literal["Infinity", "-Infinity", "NaN"]
"""JSON has no word for these three, so torch writes them as strings."""


class SchemaRecord(Struct, forbid_unknown_fields=True, gc=False):
    """A dataclass of the schema. A field that the schema does not have is an error: torch would ignore it."""


class Device(SchemaRecord):
    """A device by type and, where there may be several, index."""

    type: str
    index: Annotated[int, Meta(ge=0, le=127)] | None = None


class SymExprHint(SchemaRecord):
    """A union: the value that an expression had for the inputs that the program was exported with."""

    as_int: Int | UnsetType = UNSET
    as_bool: bool | UnsetType = UNSET
    as_float: Float | UnsetType = UNSET


class SymExpr(SchemaRecord):
    """A symbolic expression as sympy prints it."""

    expr_str: str
    hint: SymExprHint | None = None


class SymInt(SchemaRecord):
    """A union: an integer or an expression."""

    as_expr: SymExpr | UnsetType = UNSET
    as_int: Int | UnsetType = UNSET


class SymFloat(SchemaRecord):
    """A union: a number or an expression."""

    as_expr: SymExpr | UnsetType = UNSET
    as_float: Float | UnsetType = UNSET


class SymBool(SchemaRecord):
    """A union: a truth value or an expression."""

    as_expr: SymExpr | UnsetType = UNSET
    as_bool: bool | UnsetType = UNSET


class TensorMeta(SchemaRecord):
    """What is recorded of a tensor."""

    dtype: int
    sizes: list[Raw]
    requires_grad: bool
    device: Device
    strides: list[Raw]
    storage_offset: Raw
    layout: int


class StaticSize(SchemaRecord):
    """A `SymInt` that may only be an integer: the sizes of payloads."""

    as_int: Annotated[int, Meta(ge=0, le=2**63 - 1)]


class StaticTensorMeta(SchemaRecord):
    """What is recorded of a payload's tensor."""

    dtype: int
    sizes: list[StaticSize]
    requires_grad: bool
    device: Device
    strides: list[StaticSize]
    storage_offset: StaticSize
    layout: int


class SymIntArgument(SchemaRecord):
    """A union: the name of a value, or an integer."""

    as_name: str | UnsetType = UNSET
    as_int: Int | UnsetType = UNSET


class SymFloatArgument(SchemaRecord):
    """A union: the name of a value, or a number."""

    as_name: str | UnsetType = UNSET
    as_float: Float | UnsetType = UNSET


class SymBoolArgument(SchemaRecord):
    """A union: the name of a value, or a truth value."""

    as_name: str | UnsetType = UNSET
    as_bool: bool | UnsetType = UNSET


class TensorArgument(SchemaRecord):
    """A tensor by the name of its value."""

    name: str


class TokenArgument(SchemaRecord):
    """An effect token by the name of its value."""

    name: str


class OptionalTensorArgument(SchemaRecord):
    """A union: a tensor or nothing."""

    as_tensor: TensorArgument | UnsetType = UNSET
    as_none: bool | UnsetType = UNSET


class GraphArgument(SchemaRecord):
    """A subgraph of a higher-order operator, under the name that its module has."""

    name: str
    graph: Graph


class CustomObjArgument(SchemaRecord):
    """An object of a custom class; programs that have one are refused."""

    name: str
    class_fqn: str


class ComplexValue(SchemaRecord):
    """A complex number."""

    real: Float
    imag: Float


class Argument(SchemaRecord):
    """A union: an argument of an operator, an input or output of a graph."""

    as_none: bool | UnsetType = UNSET
    as_tensor: TensorArgument | UnsetType = UNSET
    as_tensors: list[TensorArgument] | UnsetType = UNSET
    as_int: Int | UnsetType = UNSET
    as_ints: list[Int] | UnsetType = UNSET
    as_float: Float | UnsetType = UNSET
    as_floats: list[Float] | UnsetType = UNSET
    as_string: str | UnsetType = UNSET
    as_strings: list[str] | UnsetType = UNSET
    as_sym_int: SymIntArgument | UnsetType = UNSET
    as_sym_ints: list[SymIntArgument] | UnsetType = UNSET
    as_scalar_type: int | UnsetType = UNSET
    as_memory_format: int | UnsetType = UNSET
    as_layout: int | UnsetType = UNSET
    as_device: Device | UnsetType = UNSET
    as_bool: bool | UnsetType = UNSET
    as_bools: list[bool] | UnsetType = UNSET
    as_sym_bool: SymBoolArgument | UnsetType = UNSET
    as_sym_bools: list[SymBoolArgument] | UnsetType = UNSET
    as_graph: GraphArgument | UnsetType = UNSET
    as_optional_tensors: list[OptionalTensorArgument] | UnsetType = UNSET
    as_custom_obj: CustomObjArgument | UnsetType = UNSET
    as_operator: str | UnsetType = UNSET
    as_sym_float: SymFloatArgument | UnsetType = UNSET
    as_sym_floats: list[SymFloatArgument] | UnsetType = UNSET
    as_optional_tensor: OptionalTensorArgument | UnsetType = UNSET
    as_complex: ComplexValue | UnsetType = UNSET
    as_nested_tensors: list[list[TensorArgument]] | UnsetType = UNSET
    as_int_lists: list[list[Int]] | UnsetType = UNSET
    as_string_to_argument: dict[str, Argument] | UnsetType = UNSET
    as_float_lists: list[list[Float]] | UnsetType = UNSET


class NamedArgument(SchemaRecord):
    """An argument and how it is given: 1 by position, 2 by keyword, older minors do not say."""

    name: str
    arg: Argument
    kind: Literal[0, 1, 2] | None = None


class Node(SchemaRecord):
    """A call of an operator, with names for all its results."""

    target: str
    inputs: list[NamedArgument]
    outputs: list[Argument]
    metadata: dict[str, str]
    is_hop_single_tensor_return: bool | None = None
    name: str | None = None


class Graph(SchemaRecord):
    """A graph, and descriptions of all its values by name."""

    inputs: list[Argument]
    outputs: list[Argument]
    nodes: list[Node]
    tensor_values: dict[str, Raw]
    sym_int_values: dict[str, Raw]
    sym_bool_values: dict[str, Raw]
    is_single_tensor_return: bool = False
    custom_obj_values: dict[str, CustomObjArgument] = {}
    sym_float_values: dict[str, Raw] = {}


_astuple = msgspec.structs.astuple


def only_member(union: Struct) -> bool:
    """Whether exactly one member of a union is set."""
    members = _astuple(union)
    return members.count(UNSET) == len(members) - 1


def member(union: Struct) -> tuple[str, Any]:
    """Return the one member of a union that is set, by name. `Any`: each has its own type.

    Raises:
        FormatError: PROGRAM_INVALID where none is set, or several.
    """
    found = [(name, value) for name, value in zip(union.__struct_fields__, _astuple(union), strict=True) if value is not UNSET]
    if len(found) != 1:
        names = ", ".join(name for name, _ in found) or "nothing"
        raise invalid(f"a {type(union).__name__} says exactly one thing, and this one says {names}")
    return found[0]


def number(value: float | str) -> float:
    """Return a `Float` of the schema as a number."""
    return float(value)
