"""The schema of programs and payload configs: signatures, module calls, ranges and versions around graphs.

It mirrors torch/_export/serde/schema.py, major version 8, as `schema` does.
"""

from __future__ import annotations

from typing import Any

from msgspec import UNSET, Struct, UnsetType, field

from retraced_pt2.schema import (
    Argument,
    CustomObjArgument,
    Float,
    Graph,
    Int,
    SchemaRecord,
    StaticTensorMeta,
    TensorArgument,
    TokenArgument,
)


class UserInputSpec(SchemaRecord):
    """An argument that the caller gives."""

    arg: Argument


class ConstantValue(SchemaRecord):
    """A union: a constant that the caller gives."""

    as_none: bool | UnsetType = UNSET
    as_int: Int | UnsetType = UNSET
    as_float: Float | UnsetType = UNSET
    as_string: str | UnsetType = UNSET
    as_bool: bool | UnsetType = UNSET


class InputToConstantInputSpec(SchemaRecord):
    """An argument that the caller gives and that the program was specialised on."""

    name: str
    value: ConstantValue


class InputToParameterSpec(SchemaRecord):
    """A parameter."""

    arg: TensorArgument
    parameter_name: str


class InputToBufferSpec(SchemaRecord):
    """A buffer."""

    arg: TensorArgument
    buffer_name: str
    persistent: bool


class InputToTensorConstantSpec(SchemaRecord):
    """A constant tensor."""

    arg: TensorArgument
    tensor_constant_name: str


class InputToCustomObjSpec(SchemaRecord):
    """An object of a custom class; programs that have one are refused."""

    arg: CustomObjArgument
    custom_obj_name: str


class InputTokenSpec(SchemaRecord):
    """An effect token that comes in."""

    arg: TokenArgument


class InputSpec(SchemaRecord):
    """A union: what an input of the graph stands for."""

    user_input: UserInputSpec | UnsetType = UNSET
    parameter: InputToParameterSpec | UnsetType = UNSET
    buffer: InputToBufferSpec | UnsetType = UNSET
    tensor_constant: InputToTensorConstantSpec | UnsetType = UNSET
    custom_obj: InputToCustomObjSpec | UnsetType = UNSET
    token: InputTokenSpec | UnsetType = UNSET
    constant_input: InputToConstantInputSpec | UnsetType = UNSET


class UserOutputSpec(SchemaRecord):
    """A result that the caller gets."""

    arg: Argument


class LossOutputSpec(SchemaRecord):
    """The loss of a joint graph."""

    arg: TensorArgument


class BufferMutationSpec(SchemaRecord):
    """What a buffer becomes."""

    arg: TensorArgument
    buffer_name: str


class ParameterMutationSpec(SchemaRecord):
    """What a parameter becomes."""

    arg: TensorArgument
    parameter_name: str


class GradientToParameterSpec(SchemaRecord):
    """The gradient of a parameter."""

    arg: TensorArgument
    parameter_name: str


class GradientToUserInputSpec(SchemaRecord):
    """The gradient of an argument."""

    arg: TensorArgument
    user_input_name: str


class UserInputMutationSpec(SchemaRecord):
    """What an argument becomes."""

    arg: TensorArgument
    user_input_name: str


class OutputTokenSpec(SchemaRecord):
    """An effect token that goes out."""

    arg: TokenArgument


class OutputSpec(SchemaRecord):
    """A union: what an output of the graph stands for."""

    user_output: UserOutputSpec | UnsetType = UNSET
    loss_output: LossOutputSpec | UnsetType = UNSET
    buffer_mutation: BufferMutationSpec | UnsetType = UNSET
    gradient_to_parameter: GradientToParameterSpec | UnsetType = UNSET
    gradient_to_user_input: GradientToUserInputSpec | UnsetType = UNSET
    user_input_mutation: UserInputMutationSpec | UnsetType = UNSET
    token: OutputTokenSpec | UnsetType = UNSET
    parameter_mutation: ParameterMutationSpec | UnsetType = UNSET


class GraphSignature(SchemaRecord):
    """What the inputs and outputs of the graph stand for, in order."""

    input_specs: list[InputSpec]
    output_specs: list[OutputSpec]


class RangeConstraint(SchemaRecord):
    """The range of a symbol; None is infinite."""

    min_val: Int | None
    max_val: Int | None


class ModuleCallSignature(SchemaRecord):
    """How a module was called: its arguments and results, and tree specs in JSON."""

    inputs: list[Argument]
    outputs: list[Argument]
    in_spec: str
    out_spec: str
    forward_arg_names: list[str] | None = None


class ModuleCallEntry(SchemaRecord):
    """A module, and how it was called where that was preserved."""

    fqn: str
    signature: ModuleCallSignature | None = None


class NamedTupleDef(SchemaRecord):
    """The fields of a named tuple."""

    field_names: list[str]


class GraphModule(SchemaRecord):
    """The graph of a program with its signature."""

    graph: Graph
    signature: GraphSignature
    module_call_graph: list[ModuleCallEntry]
    metadata: dict[str, str] = field(default_factory=dict)
    treespec_namedtuple_fields: dict[str, NamedTupleDef] = field(default_factory=dict)


class SchemaVersion(SchemaRecord):
    """A version of the schema."""

    major: Int
    minor: Int


class ExportedProgram(SchemaRecord):
    """A model record."""

    graph_module: GraphModule
    opset_version: dict[str, Int]
    range_constraints: dict[str, RangeConstraint]
    schema_version: SchemaVersion
    verifiers: list[str] = field(default_factory=list)
    torch_version: str = "<=2.4"
    guards_code: list[str] = field(default_factory=list)


class ModelHeader(Struct):
    """The part of a model record that says whether the rest can be read."""

    schema_version: SchemaVersion
    torch_version: Any = ""


class PayloadMeta(SchemaRecord):
    """What a payload holds."""

    path_name: str
    is_param: bool
    use_pickle: bool
    tensor_meta: StaticTensorMeta | None


class PayloadConfig(SchemaRecord):
    """The payloads by the names of their tensors."""

    config: dict[str, PayloadMeta]
