"""The model record of an output, `models/*.json`, field by field.

It mirrors torch/_export/serde/schema.py, major version 8. Nodes, descriptions of tensors, the signature and the calls of modules that are
as in the program sent are taken as they are; else, what stock torch does with the strings in it, and what may stand there:

| string | stock torch | taken |
|---|---|---|
| names of values, subgraphs, arguments, keywords | pastes them into source that it executes | identifiers |
| names of parameters, buffers, constants, modules | sets attributes by them, quotes them in source | `names`, or as in the program sent |
| targets, operators as arguments | walks from `torch`, `math` or `operator` by `getattr` | see `operators` |
| expressions, names of symbols | evaluates them (`sympify`) | see `expressions` |
| tree specs | imports the modules they name, calls registered functions | see `tree_specs` |
| `guards_code` | executes it when the program is called | guards of the program sent |
| `nn_module_stack` | makes modules and quoted paths of it (`unflatten`) | `names`, or as in the program sent |
| `source_fn_stack` | walks from `torch` by `getattr`, calls nothing | names with points |
| `custom`, `from_node` | parses JSON | any |
| `stack_trace`, `torch_fn`, strings as arguments, `torch_version` | keeps them, or quotes them by `repr` | any |
| `verifiers`, device types | looks them up | closed lists |
| objects of custom classes | unpickles them | refused |
"""

from __future__ import annotations

import json
import re
from keyword import iskeyword
from typing import Any, Final, NoReturn

from retraced.checks.expressions import check_expression, check_size
from retraced.checks.input_baseline import InputBaseline
from retraced.checks.names import Paths
from retraced.checks.names import check_name as name
from retraced.checks.operators import Operators
from retraced.checks.refusal import Refused, shown
from retraced.checks.shapes import (
    Check,
    boolean,
    integer,
    list_of,
    map_of,
    map_unless_known,
    nullable,
    number,
    one_of,
    record,
    refused,
    size,
    text,
    union,
    unless_known,
)
from retraced.checks.tree_specs import TreeSpecs
from retraced_pt2 import SCHEMA_MAJOR
from retraced_pt2.limits import DEEPEST_GRAPH
from retraced_pt2.names import is_quotable
from retraced_pt2.scalar_types import DEVICES, DTYPES, LAYOUTS, MEMORY_FORMATS, STRIDED

_SOURCE_FN: Final = re.compile(r"[^,;]*,[\w.<>-]*")


def parse_json(data: bytes) -> Any:
    """Return what stock torch makes of a JSON record.

    Raises:
        Refused: It is not JSON.
    """
    try:
        # Without the words that Python takes for numbers and JSON does not have.
        return json.loads(data.decode(), parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise Refused(f"it is not JSON: {error}") from error


def check_model(model: Any, baseline: InputBaseline) -> None:
    """Check a model record.

    Raises:
        Refused: It holds what is not of a plain program, nor of the caller's own.
    """
    _Schema(baseline).program(model)


DEVICE: Final = record("Device", {"type": one_of(*DEVICES), "index": nullable(one_of(*range(-1, 128)))}, ["index"])
_DTYPE: Final = one_of(*DTYPES)
_LAYOUT: Final = one_of(*LAYOUTS)
_HINT: Final = nullable(union("SymExprHint", {"as_int": integer, "as_bool": boolean, "as_float": number}))
_KIND: Final = nullable(one_of(0, 1, 2))
_RANGE: Final = record("RangeConstraint", {"min_val": nullable(integer), "max_val": nullable(integer)})
_STATIC: Final = list_of(union("SymInt", {"as_int": size}))
STATIC_TENSOR: Final = record(
    "TensorMeta",
    {
        "dtype": _DTYPE,
        "sizes": _STATIC,
        "requires_grad": boolean,
        "device": DEVICE,
        "strides": _STATIC,
        "storage_offset": union("SymInt", {"as_int": size}),
        "layout": one_of(STRIDED),
    },
)
_TENSOR_ARGUMENT: Final = record("TensorArgument", {"name": name})
_TOKEN_ARGUMENT: Final = record("TokenArgument", {"name": name})
_SYM_INT_ARGUMENT: Final = union("SymIntArgument", {"as_name": name, "as_int": integer})
_SYM_FLOAT_ARGUMENT: Final = union("SymFloatArgument", {"as_name": name, "as_float": number})
_SYM_BOOL_ARGUMENT: Final = union("SymBoolArgument", {"as_name": name, "as_bool": boolean})
_OPTIONAL_TENSOR: Final = union("OptionalTensorArgument", {"as_tensor": _TENSOR_ARGUMENT, "as_none": boolean})


class _Schema:
    """The checks of one output; those of strings that repeat remember what they took."""

    def __init__(self, baseline: InputBaseline) -> None:
        self._baseline = baseline
        self._operators = Operators(baseline.namespaces)
        self._tree_specs = TreeSpecs(baseline.registered, baseline.keys)
        self._path = Paths(baseline.paths).check
        self._expressions: set[str] = set()
        self._frames: set[str] = set()
        self._depth = 0
        symbolic = record("SymExpr", {"expr_str": self._expression, "hint": _HINT}, ["hint"])
        self._sym_int = union("SymInt", {"as_expr": symbolic, "as_int": integer})
        self._sym_float = union("SymFloat", {"as_expr": symbolic, "as_float": number})
        self._sym_bool = union("SymBool", {"as_expr": symbolic, "as_bool": boolean})
        self._tensor = self._tensor_meta()
        self.argument = union("Argument", self._arguments())
        self._node = self._node_check()
        self._graph = self._graph_check()
        self.program = self._program_check()

    def _tensor_meta(self) -> Check:
        sizes = list_of(self._sym_int)
        return record(
            "TensorMeta",
            {
                "dtype": _DTYPE,
                "sizes": sizes,
                "requires_grad": boolean,
                "device": DEVICE,
                "strides": sizes,
                "storage_offset": self._sym_int,
                "layout": _LAYOUT,
            },
        )

    def _arguments(self) -> dict[str, Check]:
        return {
            "as_none": boolean,
            "as_tensor": _TENSOR_ARGUMENT,
            "as_tensors": list_of(_TENSOR_ARGUMENT),
            "as_int": integer,
            "as_ints": list_of(integer),
            "as_float": number,
            "as_floats": list_of(number),
            "as_string": text,
            "as_strings": list_of(text),
            "as_sym_int": _SYM_INT_ARGUMENT,
            "as_sym_ints": list_of(_SYM_INT_ARGUMENT),
            "as_scalar_type": _DTYPE,
            "as_memory_format": one_of(*MEMORY_FORMATS),
            "as_layout": _LAYOUT,
            "as_device": DEVICE,
            "as_bool": boolean,
            "as_bools": list_of(boolean),
            "as_sym_bool": _SYM_BOOL_ARGUMENT,
            "as_sym_bools": list_of(_SYM_BOOL_ARGUMENT),
            "as_graph": record("GraphArgument", {"name": name, "graph": self._subgraph}),
            "as_optional_tensors": list_of(_OPTIONAL_TENSOR),
            "as_custom_obj": refused,
            "as_operator": self._operators.check_argument,
            "as_sym_float": _SYM_FLOAT_ARGUMENT,
            "as_sym_floats": list_of(_SYM_FLOAT_ARGUMENT),
            "as_complex": record("ComplexValue", {"real": number, "imag": number}),
            "as_nested_tensors": list_of(list_of(_TENSOR_ARGUMENT)),
            "as_int_lists": list_of(list_of(integer)),
            "as_string_to_argument": map_of(text, lambda value: self.argument(value)),
            "as_float_lists": list_of(list_of(number)),
        }

    def _node_check(self) -> Check:
        named = record("NamedArgument", {"name": _argument_name, "arg": self.argument, "kind": _KIND}, ["kind"])
        metadata = record(
            "metadata",
            {
                "stack_trace": text,
                "nn_module_stack": self._module_stack,
                "source_fn_stack": _source_fn_stack,
                "torch_fn": text,
                "custom": text,
                "from_node": text,
            },
            ["stack_trace", "nn_module_stack", "source_fn_stack", "torch_fn", "custom", "from_node"],
        )
        node = record(
            "Node",
            {
                "target": self._operators.check,
                "inputs": list_of(named),
                "outputs": list_of(self.argument),
                "metadata": metadata,
                "is_hop_single_tensor_return": nullable(boolean),
                "name": nullable(_name_or_none),
            },
            ["is_hop_single_tensor_return", "name"],
        )
        return unless_known(node, self._baseline.nodes)

    def _graph_check(self) -> Check:
        return record(
            "Graph",
            {
                "inputs": list_of(self.argument),
                "outputs": list_of(self.argument),
                "nodes": list_of(self._node),
                "tensor_values": map_unless_known(name, self._tensor, self._baseline.tensors),
                "sym_int_values": map_of(name, self._sym_int),
                "sym_bool_values": map_of(name, self._sym_bool),
                "is_single_tensor_return": boolean,
                "custom_obj_values": map_of(refused, refused),
                "sym_float_values": map_of(name, self._sym_float),
            },
            ["is_single_tensor_return", "custom_obj_values", "sym_float_values"],
        )

    def _program_check(self) -> Check:
        call = record(
            "ModuleCallSignature",
            {
                "inputs": list_of(self.argument),
                "outputs": list_of(self.argument),
                "in_spec": self._tree_specs.check_arguments,
                "out_spec": self._tree_specs.check,
                "forward_arg_names": nullable(list_of(name)),
            },
            ["forward_arg_names"],
        )
        entry = record("ModuleCallEntry", {"fqn": self._path, "signature": nullable(call)}, ["signature"])
        module = record(
            "GraphModule",
            {
                "graph": self._graph,
                "signature": unless_known(self._signature(), self._baseline.signature),
                "module_call_graph": unless_known(list_of(entry), self._baseline.calls),
                "metadata": record("metadata", {"custom": text}, ["custom"]),
                "treespec_namedtuple_fields": map_of(self._path, record("NamedTupleDef", {"field_names": list_of(name)})),
            },
            ["metadata", "treespec_namedtuple_fields"],
        )
        return record(
            "ExportedProgram",
            {
                "graph_module": module,
                "opset_version": map_of(text, integer),
                "range_constraints": map_of(check_size, _RANGE),
                "schema_version": record("SchemaVersion", {"major": one_of(SCHEMA_MAJOR), "minor": integer}),
                "verifiers": list_of(one_of("", "ATEN", "TRAINING")),
                "torch_version": text,
                "guards_code": list_of(self._guard),
            },
            ["verifiers", "torch_version", "guards_code"],
        )

    def _signature(self) -> Check:
        constant = union(
            "ConstantValue",
            {"as_none": boolean, "as_int": integer, "as_float": number, "as_string": text, "as_bool": boolean},
        )
        argument = {"arg": _TENSOR_ARGUMENT}
        buffer = {**argument, "buffer_name": self._path}
        parameter = {**argument, "parameter_name": self._path}
        token = record("TokenSpec", {"arg": _TOKEN_ARGUMENT})
        user_input = {**argument, "user_input_name": name}
        inputs = union(
            "InputSpec",
            {
                "user_input": record("UserInputSpec", {"arg": self.argument}),
                "parameter": record("InputToParameterSpec", parameter),
                "buffer": record("InputToBufferSpec", {**buffer, "persistent": boolean}),
                "tensor_constant": record("InputToTensorConstantSpec", {**argument, "tensor_constant_name": self._path}),
                "custom_obj": refused,
                "token": token,
                "constant_input": record("InputToConstantInputSpec", {"name": name, "value": constant}),
            },
        )
        outputs = union(
            "OutputSpec",
            {
                "user_output": record("UserOutputSpec", {"arg": self.argument}),
                "loss_output": record("LossOutputSpec", argument),
                "buffer_mutation": record("BufferMutationSpec", buffer),
                "gradient_to_parameter": record("GradientToParameterSpec", parameter),
                "gradient_to_user_input": record("GradientToUserInputSpec", user_input),
                "user_input_mutation": record("UserInputMutationSpec", user_input),
                "token": token,
                "parameter_mutation": record("ParameterMutationSpec", parameter),
            },
        )
        return record("GraphSignature", {"input_specs": list_of(inputs), "output_specs": list_of(outputs)})

    def _subgraph(self, value: Any) -> None:
        self._depth += 1
        if self._depth > DEEPEST_GRAPH:
            raise Refused(f"graphs are deeper than {DEEPEST_GRAPH} subgraphs")
        self._graph(value)
        self._depth -= 1

    def _expression(self, value: Any) -> None:
        if type(value) is not str or value not in self._expressions:
            check_expression(value)
            self._expressions.add(value)

    def _guard(self, value: Any) -> None:
        if type(value) is not str or value not in self._baseline.guards:
            raise Refused(f"the guard {shown(value)} is not of the program sent, and guards are executed")

    def _module_stack(self, value: Any) -> None:
        text(value)
        if value in self._frames:
            return
        for frame in value.split(";"):
            if not is_quotable(frame) and frame not in self._baseline.frames:
                raise Refused(f"{shown(frame)} is no entry of a module stack, nor one of the program sent")
        self._frames.add(value)


def _name_or_none(value: Any) -> None:
    if value != "":
        name(value)


def _argument_name(value: Any) -> None:
    # Some operators have arguments named by keywords of Python, such as `from`; those are given by position.
    if type(value) is not str or not (value == "" or iskeyword(value)):
        name(value)


def _source_fn_stack(value: Any) -> None:
    text(value)
    for entry in value.split(";"):
        if value and _SOURCE_FN.fullmatch(entry) is None:
            raise Refused(f"{shown(entry)} is no entry of a source function stack")


def _no_number(word: str) -> NoReturn:
    raise ValueError(f"{word} is no number of JSON")
