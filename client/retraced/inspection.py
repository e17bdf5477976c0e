"""Says what a program is from its archive's JSON alone, without torch and without a server.

The JSON is that of torch/_export/serde/schema.py, major version 8. Names and strings in it are reported, never evaluated.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

from retraced.errors import ProgramInvalid
from retraced.program import InputKind, InputSpec, OutputKind, OutputSpec, ProgramInfo, Symbol

# What json.loads gives: its shape is checked by using it.
_Object = dict[str, Any]

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
    """What a model record, `models/*.json`, says of its program.

    Raises:
        ProgramInvalid: It is not the JSON of an exported program.
    """
    try:
        program = json.loads(model)
        return _program_info(program)
    except (ValueError, RecursionError) as error:
        raise ProgramInvalid(f"the model record is not JSON: {error}") from error
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise ProgramInvalid(f"the model record is not an exported program: {type(error).__name__} {error}") from error


def _program_info(program: _Object) -> ProgramInfo:
    module = program["graph_module"]
    graphs = list(_graphs(module["graph"]))
    targets = Counter(_target(node["target"]) for graph in graphs for node in graph["nodes"])
    getitems = sum(_getitems(node) for graph in graphs for node in graph["nodes"])
    if getitems:
        targets["_operator.getitem"] += getitems
    # Each graph has an output node, and each use of a body an attribute node; the archive records neither.
    inputs = sum(len(graph["inputs"]) for graph in graphs)
    uses = sum(len(list(_bodies(graph))) for graph in graphs)
    nodes = inputs + sum(targets.values()) + len(graphs) + uses
    version = program["schema_version"]
    return ProgramInfo(
        inputs=tuple(map(_input, module["signature"]["input_specs"])),
        outputs=tuple(map(_output, module["signature"]["output_specs"])),
        symbols=tuple(_symbols(program, graphs)),
        schema_version=(int(version["major"]), int(version["minor"])),
        torch_version=program.get("torch_version") or "",
        node_count=nodes,
        graph_count=len(graphs),
        dialect=", ".join(program.get("verifiers") or ()),
        guards=tuple(program.get("guards_code") or ()),
        targets=dict(sorted(targets.items(), key=lambda item: (-item[1], item[0]))),
    )


def _graphs(graph: _Object) -> Iterator[_Object]:
    yield graph
    # A body that is used twice is written twice, under the name of one attribute.
    bodies = {body["name"]: body["graph"] for body in _bodies(graph)}
    for body in bodies.values():
        yield from _graphs(body)


def _bodies(graph: _Object) -> Iterator[_Object]:
    for node in graph["nodes"]:
        for argument in node["inputs"]:
            if "as_graph" in argument["arg"]:
                yield argument["arg"]["as_graph"]


def _getitems(node: _Object) -> int:
    """The getitem nodes that torch makes when it loads a call with several outputs, as its deserialize_outputs does."""
    outputs = node["outputs"]
    if len(outputs) != 1:
        return sum(map(_getitems_of, outputs))
    kind, value = next(iter(outputs[0].items()))
    if isinstance(value, list):
        return len(value)
    single = node.get("is_hop_single_tensor_return")
    return int("torch.ops.higher_order" in node["target"] and single is False and kind != "as_none")


def _getitems_of(output: _Object) -> int:
    value = next(iter(output.values()))
    return 1 + len(value) if isinstance(value, list) else 1


def _target(target: str) -> str:
    return target.removeprefix("torch.ops.")


def _input(spec: _Object) -> InputSpec:
    kind, fields = next(iter(spec.items()))
    if kind == "constant_input":
        return InputSpec(InputKind.USER_INPUT, fields["name"], constant=_constant(fields["value"]))
    known, target = _INPUT_NAMES.get(kind, (InputKind.UNKNOWN, ""))
    name, constant = _argument(fields["arg"])
    return InputSpec(known, name, fields[target] if target else "", fields.get("persistent"), constant)


def _output(spec: _Object) -> OutputSpec:
    kind, fields = next(iter(spec.items()))
    known, target = _OUTPUT_NAMES.get(kind, (OutputKind.UNKNOWN, ""))
    name, constant = _argument(fields["arg"])
    return OutputSpec(known, name, fields[target] if target else "", constant)


def _argument(argument: _Object) -> tuple[str, str | None]:
    """The name of the value that an argument is, or the constant that it is."""
    if "name" in argument:
        return argument["name"], None
    value = next(iter(argument.values()))
    if isinstance(value, dict) and (name := value.get("name") or value.get("as_name")):
        return name, None
    return "", _constant(argument)


def _constant(value: _Object) -> str:
    kind, constant = next(iter(value.items()))
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
        lower, upper = bounds.get("min_val"), bounds.get("max_val")
        yield Symbol(
            name,
            None if lower is None else str(lower),
            None if upper is None else str(upper),
            hints.get(name),
        )


def _note_symbols(value: _Object, hints: dict[str, int | None]) -> None:
    expression = value.get("as_expr")
    if expression is None:
        return
    text = expression["expr_str"]
    for match in _SYMBOL.finditer(text):
        hints.setdefault(match[1], None)
    if whole := _SYMBOL.fullmatch(text):
        hint = (expression.get("hint") or {}).get("as_int")
        hints[whole[1]] = hint if hint is not None else hints[whole[1]]


def _natural(name: str) -> tuple[str, int]:
    digits = name.lstrip("abcdefghijklmnopqrstuvwxyz_")
    return name.removesuffix(digits), int(digits) if digits.isdigit() else 0
