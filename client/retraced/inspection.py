"""Says what a program is from its archive's JSON alone, without torch and without a server.

The JSON is that of torch/_export/serde/schema.py, major version 8. Names and strings in it are reported, never evaluated.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any, TypeVar

from retraced.errors import ProgramInvalid
from retraced.program import InputKind, InputSpec, OutputKind, OutputSpec, ProgramInfo, Symbol

# What json.loads gives: its shape is checked by using it, and the types of what is told by `_typed`.
_Object = dict[str, Any]
_Checked = TypeVar("_Checked")

_SYMBOL = re.compile(r"Symbol\('(\w+)'[^()]*\)")
_INPUT_NAMES = {
    "parameter": (InputKind.PARAMETER, "parameter_name"),
    "buffer": (InputKind.BUFFER, "buffer_name"),
    "tensor_constant": (InputKind.CONSTANT_TENSOR, "tensor_constant_name"),
    "custom_obj": (InputKind.CUSTOM_OBJ, "custom_obj_name"),
    "token": (InputKind.TOKEN, ""),
    "user_input": (InputKind.USER_INPUT, ""),
}
_OUTPUT_NAMES = {
    "user_output": (OutputKind.USER_OUTPUT, ""),
    "loss_output": (OutputKind.LOSS_OUTPUT, ""),
    "buffer_mutation": (OutputKind.BUFFER_MUTATION, "buffer_name"),
    "parameter_mutation": (OutputKind.PARAMETER_MUTATION, "parameter_name"),
    "gradient_to_parameter": (OutputKind.GRADIENT_TO_PARAMETER, "parameter_name"),
    "gradient_to_user_input": (OutputKind.GRADIENT_TO_USER_INPUT, "user_input_name"),
    "user_input_mutation": (OutputKind.USER_INPUT_MUTATION, "user_input_name"),
    "token": (OutputKind.TOKEN, ""),
}


def program_info(model: bytes) -> ProgramInfo:
    """Return what a model record, `models/*.json`, says of its program.

    Raises:
        ProgramInvalid: The record is not the JSON of an exported program.
    """
    try:
        program = json.loads(model)
    except (ValueError, RecursionError) as error:
        raise ProgramInvalid(f"the model record is not JSON: {error}") from error
    try:
        return _program_info(program)
    except (KeyError, TypeError, AttributeError, IndexError, ValueError, RecursionError) as error:
        raise ProgramInvalid(f"the model record is not an exported program: {type(error).__name__} {error}") from error


def _program_info(program: _Object) -> ProgramInfo:
    module = program["graph_module"]
    graphs = list(_graphs(module["graph"]))
    targets = Counter(_target(node["target"]) for graph in graphs for node in graph["nodes"])
    getitems = sum(_getitems(node) for graph in graphs for node in graph["nodes"])
    if getitems:
        targets["_operator.getitem"] += getitems
    # Each graph has an output node, and each use of a subgraph an attribute node; the archive records neither.
    inputs = sum(len(graph["inputs"]) for graph in graphs)
    uses = sum(len(list(_subgraphs(graph))) for graph in graphs)
    nodes = inputs + sum(targets.values()) + len(graphs) + uses
    version = program["schema_version"]
    return ProgramInfo(
        inputs=tuple(map(_input, module["signature"]["input_specs"])),
        outputs=tuple(map(_output, module["signature"]["output_specs"])),
        symbols=tuple(_symbols(program, graphs)),
        schema_version=(_typed(int, version["major"]), _typed(int, version["minor"])),
        torch_version=_typed(str, program.get("torch_version") or ""),
        node_count=nodes,
        graph_count=len(graphs),
        dialect=", ".join(_texts(program.get("verifiers"))),
        guards=_texts(program.get("guards_code")),
        targets=dict(sorted(targets.items(), key=lambda item: (-item[1], item[0]))),
    )


def _graphs(graph: _Object) -> Iterator[_Object]:
    yield graph
    # A subgraph that is used twice is written twice, under the name of one attribute.
    subgraphs = {subgraph["name"]: subgraph["graph"] for subgraph in _subgraphs(graph)}
    for subgraph in subgraphs.values():
        yield from _graphs(subgraph)


def _subgraphs(graph: _Object) -> Iterator[_Object]:
    for node in graph["nodes"]:
        for argument in node["inputs"]:
            if "as_graph" in argument["arg"]:
                yield argument["arg"]["as_graph"]


def _getitems(node: _Object) -> int:
    """Return the getitem nodes that torch makes when it loads a call with several outputs, as its deserialize_outputs does."""
    outputs = node["outputs"]
    if len(outputs) != 1:
        return sum(map(_getitems_of, outputs))
    kind, value = _alternative(outputs[0])
    if isinstance(value, list):
        return len(value)
    single = node.get("is_hop_single_tensor_return")
    return int("torch.ops.higher_order" in node["target"] and single is False and kind != "as_none")


def _getitems_of(output: _Object) -> int:
    _, value = _alternative(output)
    return 1 + len(value) if isinstance(value, list) else 1


def _target(target: str) -> str:
    return target.removeprefix("torch.ops.")


def _input(spec: _Object) -> InputSpec:
    kind, fields = _alternative(spec)
    if kind == "constant_input":
        return InputSpec(InputKind.USER_INPUT, _typed(str, fields["name"]), constant=_constant(fields["value"]))
    known, target = _INPUT_NAMES.get(kind, (InputKind.UNKNOWN, ""))
    name, constant = _argument(fields["arg"])
    persistent = fields.get("persistent")
    return InputSpec(
        known,
        name,
        _typed(str, fields[target]) if target else "",
        None if persistent is None else _typed(bool, persistent),
        constant,
    )


def _output(spec: _Object) -> OutputSpec:
    kind, fields = _alternative(spec)
    known, target = _OUTPUT_NAMES.get(kind, (OutputKind.UNKNOWN, ""))
    name, constant = _argument(fields["arg"])
    return OutputSpec(known, name, _typed(str, fields[target]) if target else "", constant)


def _argument(argument: _Object) -> tuple[str, str | None]:
    """Return the name of the value that an argument is, or the constant that it is."""
    if "name" in argument:
        return _typed(str, argument["name"]), None
    _, value = _alternative(argument)
    if isinstance(value, dict) and (name := value.get("name") or value.get("as_name")):
        return _typed(str, name), None
    return "", _constant(argument)


def _constant(value: _Object) -> str:
    kind, constant = _alternative(value)
    return "None" if kind == "as_none" else repr(constant)


def _symbols(program: _Object, graphs: list[_Object]) -> Iterator[Symbol]:
    hints: dict[str, int | None] = {}
    for graph in graphs:
        for tensor in graph["tensor_values"].values():
            for size in [*tensor["sizes"], *tensor["strides"]]:
                _note_symbols(size, hints)
        for value in graph["sym_int_values"].values():
            _note_symbols(value, hints)
    ranges = program["range_constraints"]
    for name in sorted({*hints, *ranges}, key=_natural):
        bounds = ranges.get(name) or {}
        yield Symbol(name, _bound(bounds.get("min_val")), _bound(bounds.get("max_val")), hints.get(name))


def _bound(value: Any) -> str | None:
    return None if value is None else str(_typed(int, value))


def _note_symbols(value: _Object, hints: dict[str, int | None]) -> None:
    expression = value.get("as_expr")
    if expression is None:
        return
    text = expression["expr_str"]
    for match in _SYMBOL.finditer(text):
        hints.setdefault(match[1], None)
    if whole := _SYMBOL.fullmatch(text):
        hint = (expression.get("hint") or {}).get("as_int")
        hints[whole[1]] = hints[whole[1]] if hint is None else _typed(int, hint)


def _natural(name: str) -> tuple[str, int, str]:
    digits = name.lstrip("abcdefghijklmnopqrstuvwxyz_")
    return name.removesuffix(digits), len(digits), digits


def _alternative(union: _Object) -> tuple[str, Any]:
    """Return the alternative that a union of the schema is, and its value."""
    ((kind, value),) = union.items()
    return kind, value


def _typed(kind: type[_Checked], value: Any) -> _Checked:
    # Not isinstance: a boolean is no integer here.
    if type(value) is not kind:
        raise TypeError(f"{kind.__name__} expected, not {type(value).__name__}")
    return value


def _texts(values: Any) -> tuple[str, ...]:
    return tuple(_typed(str, value) for value in _typed(list, values or []))
