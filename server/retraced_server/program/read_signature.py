"""From the signature and the module call graph of the schema to those of torch.export."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from msgspec import UNSET
from torch.export import ModuleCallEntry, ModuleCallSignature
from torch.export.graph_signature import (
    ArgumentSpec,
    ConstantArgument,
    ExportGraphSignature,
    InputKind,
    InputSpec,
    OutputKind,
    OutputSpec,
    SymFloatArgument,
    SymIntArgument,
    TensorArgument,
    TokenArgument,
)

from retraced_pt2 import program_schema, schema
from retraced_server.program.errors import program_invalid
from retraced_server.program.names import check_name, check_parameters, check_path
from retraced_server.program.read_arguments import Scope, constant_value, custom_object, output_name, read_argument
from retraced_server.program.tree_specs import TreeSpecs


def read_signature(described: program_schema.GraphSignature, scope: Scope) -> ExportGraphSignature:
    """Return the signature of a program's graph.

    Raises:
        RetracedError: PROGRAM_INVALID where a specification says nothing or several things, PROGRAM_UNSUPPORTED where it needs a custom class.
    """
    return ExportGraphSignature(
        [_input_spec(spec, scope) for spec in described.input_specs],
        [_output_spec(spec, scope) for spec in described.output_specs],
    )


def read_module_calls(entries: list[program_schema.ModuleCallEntry], specs: TreeSpecs, scope: Scope) -> list[ModuleCallEntry]:
    """Return the module call graph of a program.

    Raises:
        RetracedError: PROGRAM_INVALID where an argument or a tree spec cannot be read, or the first entry is not the program's own.
    """
    if not entries or entries[0].fqn != "" or entries[0].signature is None:
        raise program_invalid("the first module call is not of the program itself, with its signature")
    return [
        ModuleCallEntry(
            fqn=check_path(entry.fqn),
            signature=None if entry.signature is None else _call_signature(entry.signature, specs, scope),
        )
        for entry in entries
    ]


def _input_spec(spec: program_schema.InputSpec, scope: Scope) -> InputSpec:
    kind, value = schema.member(spec)
    if kind == "user_input":
        return InputSpec(InputKind.USER_INPUT, _argument_spec(value.arg, scope), None)
    if kind == "constant_input":
        return InputSpec(InputKind.USER_INPUT, ConstantArgument(name=value.name, value=constant_value(value.value)), None)
    if kind == "parameter":
        return InputSpec(InputKind.PARAMETER, TensorArgument(value.arg.name), check_path(value.parameter_name))
    if kind == "buffer":
        return InputSpec(InputKind.BUFFER, TensorArgument(value.arg.name), check_path(value.buffer_name), value.persistent)
    if kind == "tensor_constant":
        return InputSpec(InputKind.CONSTANT_TENSOR, TensorArgument(value.arg.name), check_path(value.tensor_constant_name))
    if kind == "token":
        return InputSpec(InputKind.TOKEN, TokenArgument(value.arg.name), None)
    raise custom_object(value.arg)


# What an output stands for, and the field that names its target, if it has one.
_OUTPUTS: Final[dict[str, tuple[OutputKind, Callable[[Any], str | None]]]] = {
    "loss_output": (OutputKind.LOSS_OUTPUT, lambda value: None),
    "buffer_mutation": (OutputKind.BUFFER_MUTATION, lambda value: check_path(value.buffer_name)),
    "parameter_mutation": (OutputKind.PARAMETER_MUTATION, lambda value: check_path(value.parameter_name)),
    "gradient_to_parameter": (OutputKind.GRADIENT_TO_PARAMETER, lambda value: check_path(value.parameter_name)),
    "gradient_to_user_input": (OutputKind.GRADIENT_TO_USER_INPUT, lambda value: check_path(value.user_input_name)),
    "user_input_mutation": (OutputKind.USER_INPUT_MUTATION, lambda value: check_path(value.user_input_name)),
}


def _output_spec(spec: program_schema.OutputSpec, scope: Scope) -> OutputSpec:
    kind, value = schema.member(spec)
    if kind == "user_output":
        return OutputSpec(OutputKind.USER_OUTPUT, _argument_spec(value.arg, scope), None)
    if kind == "token":
        return OutputSpec(OutputKind.TOKEN, TokenArgument(value.arg.name), None)
    output_kind, target = _OUTPUTS[kind]
    return OutputSpec(output_kind, TensorArgument(value.arg.name), target(value))


def _call_signature(described: program_schema.ModuleCallSignature, specs: TreeSpecs, scope: Scope) -> ModuleCallSignature:
    names, in_spec = described.forward_arg_names or None, specs.read(described.in_spec)
    check_parameters(names or (), in_spec)
    return ModuleCallSignature(
        inputs=[_argument_spec(argument, scope) for argument in described.inputs],
        outputs=[_argument_spec(argument, scope) for argument in described.outputs],
        in_spec=in_spec,
        out_spec=specs.read(described.out_spec),
        forward_arg_names=names,
    )


def _argument_spec(argument: schema.Argument, scope: Scope) -> ArgumentSpec:
    if argument.as_custom_obj is not UNSET:
        raise custom_object(argument.as_custom_obj)
    if argument.as_sym_bool is UNSET:
        name = output_name(argument)
        if name is not None:
            check_name(name)
            if argument.as_tensor is not UNSET:
                return TensorArgument(name=name)
            return SymIntArgument(name=name) if argument.as_sym_int is not UNSET else SymFloatArgument(name=name)
    value: Any = read_argument(argument, scope)
    return ConstantArgument(name="", value=value)
