"""From the signature and the module call graph of torch.export to those of the schema."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from torch.export import ModuleCallEntry, ModuleCallSignature
from torch.export.graph_signature import (
    ConstantArgument,
    CustomObjArgument,
    ExportGraphSignature,
    InputKind,
    InputSpec,
    OutputKind,
    OutputSpec,
    SymFloatArgument,
    SymIntArgument,
    TensorArgument,
)

from retraced_server.program.errors import cause, program_unsupported
from retraced_server.program.tree_specs import dump_tree_spec, spec_nodes
from retraced_server.program.write_arguments import NameScope, write_argument
from retraced_server.program.write_values import Json, write_float
from retraced_server.torch_compat.pytree import TreeSpec, pytree

# What each kind is called in the schema, with the field for its target.
_INPUTS: Final = {
    InputKind.PARAMETER: ("parameter", "parameter_name"),
    InputKind.BUFFER: ("buffer", "buffer_name"),
    InputKind.CONSTANT_TENSOR: ("tensor_constant", "tensor_constant_name"),
}
_OUTPUTS: Final = {
    OutputKind.LOSS_OUTPUT: ("loss_output", None),
    OutputKind.BUFFER_MUTATION: ("buffer_mutation", "buffer_name"),
    OutputKind.PARAMETER_MUTATION: ("parameter_mutation", "parameter_name"),
    OutputKind.GRADIENT_TO_PARAMETER: ("gradient_to_parameter", "parameter_name"),
    OutputKind.GRADIENT_TO_USER_INPUT: ("gradient_to_user_input", "user_input_name"),
    OutputKind.USER_INPUT_MUTATION: ("user_input_mutation", "user_input_name"),
}


def write_signature(signature: ExportGraphSignature, scope: NameScope) -> Json:
    """Return the signature of a program's graph.

    Raises:
        RetracedError: PROGRAM_UNSUPPORTED where a specification has no serialized form.
    """
    return {
        "input_specs": [_input_spec(spec, scope) for spec in signature.input_specs],
        "output_specs": [_output_spec(spec, scope) for spec in signature.output_specs],
    }


class ModuleCallWriter:
    """Writes the module call graph of one program.

    Args:
        scope: The program's graph.

    Attributes:
        named_tuples: The fields of the named tuples that were met, by serialized name.
    """

    def __init__(self, scope: NameScope) -> None:
        self._scope = scope
        self._specs: dict[int, str] = {}
        self.named_tuples: dict[str, Json] = {}

    def write(self, entries: Sequence[ModuleCallEntry]) -> Json:
        """Return the module call graph.

        Raises:
            RetracedError: PROGRAM_UNSUPPORTED where a signature has no serialized form.
        """
        return [
            {"fqn": entry.fqn, "signature": self._signature(entry.signature) if entry.signature else None} for entry in entries
        ]

    def _signature(self, signature: ModuleCallSignature) -> Json:
        return {
            "inputs": [_argument(argument, self._scope) for argument in signature.inputs],
            "outputs": [_argument(argument, self._scope) for argument in signature.outputs],
            "in_spec": self._tree_spec(signature.in_spec),
            "out_spec": self._tree_spec(signature.out_spec),
            "forward_arg_names": signature.forward_arg_names or None,
        }

    def _tree_spec(self, spec: TreeSpec) -> str:
        # The specs live as long as the program, so their addresses stay their own.
        text = self._specs.get(id(spec))
        if text is None:
            try:
                text = self._specs[id(spec)] = dump_tree_spec(spec)
            except (NotImplementedError, TypeError, ValueError) as error:
                raise program_unsupported(
                    f"a tree spec has no serialized form: {cause(error)}; give `tuple(...)` in the place of torch's own and other "
                    "unregistered types"
                ) from error
            for node in spec_nodes(spec):
                self._note_named_tuple(node)
        return text

    def _note_named_tuple(self, spec: TreeSpec) -> None:
        if spec.type is not None and (spec.context is not None and pytree.is_namedtuple_class(spec.context)):
            name = pytree.SUPPORTED_SERIALIZED_TYPES[spec.context].serialized_type_name
            self.named_tuples[name] = {"field_names": list(spec.context._fields)}


def _input_spec(spec: InputSpec, scope: NameScope) -> Json:
    argument: Any = spec.arg
    if spec.kind is InputKind.USER_INPUT:
        if isinstance(argument, ConstantArgument):
            return {"constant_input": {"name": argument.name, "value": _constant(argument.value)}}
        return {"user_input": {"arg": _argument(argument, scope)}}
    if spec.kind is InputKind.TOKEN:
        return {"token": {"arg": {"name": argument.name}}}
    if spec.kind not in _INPUTS or not isinstance(argument, TensorArgument) or spec.target is None:
        raise program_unsupported(f"the input `{argument.name}` of kind {spec.kind.name} has no serialized form")
    name, target = _INPUTS[spec.kind]
    written: dict[str, Json] = {"arg": {"name": argument.name}, target: spec.target}
    if spec.kind is InputKind.BUFFER:
        written["persistent"] = spec.persistent
    return {name: written}


def _output_spec(spec: OutputSpec, scope: NameScope) -> Json:
    argument: Any = spec.arg
    if spec.kind is OutputKind.USER_OUTPUT:
        return {"user_output": {"arg": _argument(argument, scope)}}
    if spec.kind is OutputKind.TOKEN:
        return {"token": {"arg": {"name": argument.name}}}
    name, target = _OUTPUTS[spec.kind]
    if not isinstance(argument, TensorArgument) or (target is not None and spec.target is None):
        raise program_unsupported(f"the output `{argument.name}` of kind {spec.kind.name} has no serialized form")
    return {name: {"arg": {"name": argument.name}} | ({} if target is None else {target: spec.target})}


def _argument(argument: Any, scope: NameScope) -> Json:
    if isinstance(argument, TensorArgument):
        return {"as_tensor": {"name": argument.name}}
    if isinstance(argument, SymIntArgument):
        return {"as_sym_int": {"as_name": argument.name}}
    if isinstance(argument, SymFloatArgument):
        return {"as_sym_float": {"as_name": argument.name}}
    if isinstance(argument, ConstantArgument):
        return write_argument(argument.value, scope)
    if isinstance(argument, CustomObjArgument):
        raise program_unsupported(
            f"`{argument.name}` is an object of the custom class `{argument.class_fqn}`, which is not written"
        )
    raise program_unsupported(f"an argument of type {type(argument).__name__} in the signature has no serialized form")


def _constant(value: Any) -> Json:
    for kind, name in ((int, "as_int"), (bool, "as_bool"), (str, "as_string")):
        if type(value) is kind:
            return {name: value}
    if type(value) is float:
        return {"as_float": write_float(value)}
    if value is None:
        return {"as_none": True}
    raise program_unsupported(f"a constant input of type {type(value).__name__} has no serialized form")
