"""The schema of model records and payload configs, as typed values that are decoded from JSON.

It mirrors torch/_export/serde/schema.py, major version 8. A class here that stands for a union of the schema has all its members
as optional fields; `only_member` says whether exactly one of them is set. Descriptions of values are left as raw JSON: most of
them repeat, and each distinct one is decoded once.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

Int: TypeAlias = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
Float: TypeAlias = float | Literal["Infinity", "-Infinity", "NaN"]
"""JSON has no word for these three, so torch writes them as strings."""


class _Record(Struct, forbid_unknown_fields=True, gc=False):
    """A dataclass of the schema. A field that the schema does not have is an error: torch would ignore it."""


class Device(_Record):
    """A device by type and, where there may be several, index."""

    type: str
    index: Annotated[int, Meta(ge=-1, le=127)] | None = None


class SymExprHint(_Record):
    """A union: the value that an expression had for the inputs that the program was exported with."""

    as_int: Int | UnsetType = UNSET
    as_bool: bool | UnsetType = UNSET
    as_float: Float | UnsetType = UNSET


class SymExpr(_Record):
    """A symbolic expression as sympy prints it."""

    expr_str: str
    hint: SymExprHint | None = None


class SymInt(_Record):
    """A union: an integer or an expression."""

    as_expr: SymExpr | UnsetType = UNSET
    as_int: Int | UnsetType = UNSET


class SymFloat(_Record):
    """A union: a number or an expression."""

    as_expr: SymExpr | UnsetType = UNSET
    as_float: Float | UnsetType = UNSET


class SymBool(_Record):
    """A union: a truth value or an expression."""

    as_expr: SymExpr | UnsetType = UNSET
    as_bool: bool | UnsetType = UNSET


class TensorMeta(_Record):
    """What is recorded of a tensor."""

    dtype: int
    sizes: list[Raw]
    requires_grad: bool
    device: Device
    strides: list[Raw]
    storage_offset: Raw
    layout: int


class StaticSize(_Record):
    """A `SymInt` that may only be an integer: the sizes of payloads."""

    as_int: Annotated[int, Meta(ge=0, le=2**63 - 1)]


class StaticTensorMeta(_Record):
    """What is recorded of a payload's tensor."""

    dtype: int
    sizes: list[StaticSize]
    requires_grad: bool
    device: Device
    strides: list[StaticSize]
    storage_offset: StaticSize
    layout: int


class SymIntArgument(_Record):
    """A union: the name of a value, or an integer."""

    as_name: str | UnsetType = UNSET
    as_int: Int | UnsetType = UNSET


class SymFloatArgument(_Record):
    """A union: the name of a value, or a number."""

    as_name: str | UnsetType = UNSET
    as_float: Float | UnsetType = UNSET


class SymBoolArgument(_Record):
    """A union: the name of a value, or a truth value."""

    as_name: str | UnsetType = UNSET
    as_bool: bool | UnsetType = UNSET


class TensorArgument(_Record):
    """A tensor by the name of its value."""

    name: str


class TokenArgument(_Record):
    """An effect token by the name of its value."""

    name: str


class OptionalTensorArgument(_Record):
    """A union: a tensor or nothing."""

    as_tensor: TensorArgument | UnsetType = UNSET
    as_none: bool | UnsetType = UNSET


class GraphArgument(_Record):
    """A body of a higher-order operator, under the name that its module has."""

    name: str
    graph: Graph


class CustomObjArgument(_Record):
    """An object of a custom class; programs that have one are refused."""

    name: str
    class_fqn: str


class ComplexValue(_Record):
    """A complex number."""

    real: Float
    imag: Float


class Argument(_Record):
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


class NamedArgument(_Record):
    """An argument and how it is given: 1 by position, 2 by keyword, older minors do not say."""

    name: str
    arg: Argument
    kind: Literal[0, 1, 2] | None = None


class Node(_Record):
    """A call of an operator, with names for all its results."""

    target: str
    inputs: list[NamedArgument]
    outputs: list[Argument]
    metadata: dict[str, str]
    is_hop_single_tensor_return: bool | None = None
    name: str | None = None


class Graph(_Record):
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


class UserInputSpec(_Record):
    """An argument that the caller gives."""

    arg: Argument


class ConstantValue(_Record):
    """A union: a constant that the caller gives."""

    as_none: bool | UnsetType = UNSET
    as_int: Int | UnsetType = UNSET
    as_float: Float | UnsetType = UNSET
    as_string: str | UnsetType = UNSET
    as_bool: bool | UnsetType = UNSET


class InputToConstantInputSpec(_Record):
    """An argument that the caller gives and that the program was specialised on."""

    name: str
    value: ConstantValue


class InputToParameterSpec(_Record):
    """A parameter."""

    arg: TensorArgument
    parameter_name: str


class InputToBufferSpec(_Record):
    """A buffer."""

    arg: TensorArgument
    buffer_name: str
    persistent: bool


class InputToTensorConstantSpec(_Record):
    """A constant tensor."""

    arg: TensorArgument
    tensor_constant_name: str


class InputToCustomObjSpec(_Record):
    """An object of a custom class; programs that have one are refused."""

    arg: CustomObjArgument
    custom_obj_name: str


class InputTokenSpec(_Record):
    """An effect token that comes in."""

    arg: TokenArgument


class InputSpec(_Record):
    """A union: what an input of the graph stands for."""

    user_input: UserInputSpec | UnsetType = UNSET
    parameter: InputToParameterSpec | UnsetType = UNSET
    buffer: InputToBufferSpec | UnsetType = UNSET
    tensor_constant: InputToTensorConstantSpec | UnsetType = UNSET
    custom_obj: InputToCustomObjSpec | UnsetType = UNSET
    token: InputTokenSpec | UnsetType = UNSET
    constant_input: InputToConstantInputSpec | UnsetType = UNSET


class UserOutputSpec(_Record):
    """A result that the caller gets."""

    arg: Argument


class LossOutputSpec(_Record):
    """The loss of a joint graph."""

    arg: TensorArgument


class BufferMutationSpec(_Record):
    """What a buffer becomes."""

    arg: TensorArgument
    buffer_name: str


class ParameterMutationSpec(_Record):
    """What a parameter becomes."""

    arg: TensorArgument
    parameter_name: str


class GradientToParameterSpec(_Record):
    """The gradient of a parameter."""

    arg: TensorArgument
    parameter_name: str


class GradientToUserInputSpec(_Record):
    """The gradient of an argument."""

    arg: TensorArgument
    user_input_name: str


class UserInputMutationSpec(_Record):
    """What an argument becomes."""

    arg: TensorArgument
    user_input_name: str


class OutputTokenSpec(_Record):
    """An effect token that goes out."""

    arg: TokenArgument


class OutputSpec(_Record):
    """A union: what an output of the graph stands for."""

    user_output: UserOutputSpec | UnsetType = UNSET
    loss_output: LossOutputSpec | UnsetType = UNSET
    buffer_mutation: BufferMutationSpec | UnsetType = UNSET
    gradient_to_parameter: GradientToParameterSpec | UnsetType = UNSET
    gradient_to_user_input: GradientToUserInputSpec | UnsetType = UNSET
    user_input_mutation: UserInputMutationSpec | UnsetType = UNSET
    token: OutputTokenSpec | UnsetType = UNSET
    parameter_mutation: ParameterMutationSpec | UnsetType = UNSET


class GraphSignature(_Record):
    """What the inputs and outputs of the graph stand for, in order."""

    input_specs: list[InputSpec]
    output_specs: list[OutputSpec]


class RangeConstraint(_Record):
    """The range of a symbol; None is infinite."""

    min_val: Int | None
    max_val: Int | None


class ModuleCallSignature(_Record):
    """How a module was called: its arguments and results, and tree specs in JSON."""

    inputs: list[Argument]
    outputs: list[Argument]
    in_spec: str
    out_spec: str
    forward_arg_names: list[str] | None = None


class ModuleCallEntry(_Record):
    """A module, and how it was called where that was preserved."""

    fqn: str
    signature: ModuleCallSignature | None = None


class NamedTupleDef(_Record):
    """The fields of a named tuple."""

    field_names: list[str]


class GraphModule(_Record):
    """The graph of a program with its signature."""

    graph: Graph
    signature: GraphSignature
    module_call_graph: list[ModuleCallEntry]
    metadata: dict[str, str] = {}
    treespec_namedtuple_fields: dict[str, NamedTupleDef] = {}


class SchemaVersion(_Record):
    """A version of the schema."""

    major: Int
    minor: Int


class ExportedProgram(_Record):
    """A model record."""

    graph_module: GraphModule
    opset_version: dict[str, Int]
    range_constraints: dict[str, RangeConstraint]
    schema_version: SchemaVersion
    verifiers: list[str] = []
    torch_version: str = "<=2.4"
    guards_code: list[str] = []


class ModelHeader(Struct):
    """The part of a model record that says whether the rest can be read."""

    schema_version: SchemaVersion
    torch_version: Any = ""


class PayloadMeta(_Record):
    """What a payload holds."""

    path_name: str
    is_param: bool
    use_pickle: bool
    tensor_meta: StaticTensorMeta | None


class PayloadConfig(_Record):
    """The payloads by the names of their tensors."""

    config: dict[str, PayloadMeta]


_astuple = msgspec.structs.astuple


def only_member(union: Struct) -> bool:
    """Whether exactly one member of a union is set."""
    members = _astuple(union)
    return members.count(UNSET) == len(members) - 1


def member(union: Struct) -> tuple[str, Any]:
    """The one member of a union that is set, by name. `Any`: each has its own type.

    Raises:
        ValueError: None is set, or several.
    """
    found = [(name, value) for name, value in zip(union.__struct_fields__, _astuple(union), strict=True) if value is not UNSET]
    if len(found) != 1:
        names = ", ".join(name for name, _ in found) or "nothing"
        raise ValueError(f"a {type(union).__name__} says exactly one thing, and this one says {names}")
    return found[0]


def number(value: float | str) -> float:
    """A `Float` of the schema as a number."""
    return float(value)
