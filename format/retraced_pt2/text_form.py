"""The text form of a program: for people, for `diff`, for FileCheck. It is made from the model record's JSON, and is not read back.

    # retraced text form 1
    # torch 2.13.0, schema 8.20, dialect TRAINING
    # s77 in [2, 32]

    graph(
      %p_linear_weight: f32[64, 64] = parameter "linear.weight"
      %x: f32[s77, 64] = user_input
    ):
      %linear: f32[s77, 64] = aten.linear(%x, %p_linear_weight)  # model.py:12
      return (
        user_output = %linear
      )

A line is a node. The name of what it defines stands before a colon, once in its graph. The text depends on what the record says and not on how
it is written, such as the order of keys. Nothing in a file can make a line of its own, or look like another part (`argument_text`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from enum import Enum
from typing import Any, Final

from retraced_pt2 import SCHEMA_MAJOR
from retraced_pt2.argument_text import ArgumentText, Object, defined_name, member, quoted, target, typed, value_name, word
from retraced_pt2.errors import Fault, FormatError, invalid, shortened, unsupported
from retraced_pt2.expressions import is_derived_size
from retraced_pt2.limits import DEEPEST_GRAPH
from retraced_pt2.stack_traces import innermost_source_line

_VERSION: Final = "retraced text form 1"
_INDENT: Final = "  "
_PLAIN_TEXT: Final = re.compile(r"[\w.+<=-]+", re.ASCII)
_PLAIN_PATH: Final = re.compile(r"[\w./\\:+~@-]+", re.ASCII)
_SYMBOL: Final = re.compile(r"([a-z]+)(\d+)", re.ASCII)
_BY_POSITION: Final = 1

_LIFTED: Final = {"parameter": "parameter_name", "buffer": "buffer_name", "tensor_constant": "tensor_constant_name"}
_INPUT_TARGETS: Final[dict[str, str | None]] = {
    "user_input": None,
    "token": None,
    **_LIFTED,
    "custom_obj": "custom_obj_name",
    "constant_input": "name",
}
_OUTPUT_TARGETS: Final[dict[str, str | None]] = {
    "user_output": None,
    "loss_output": None,
    "token": None,
    "buffer_mutation": "buffer_name",
    "parameter_mutation": "parameter_name",
    "gradient_to_parameter": "parameter_name",
    "gradient_to_user_input": "user_input_name",
    "user_input_mutation": "user_input_name",
}


class Locations(Enum):
    """How much is shown of the place in the user's source that a node comes from."""

    NONE = "none"
    NAME = "name"
    """The file's name and the number of the line."""
    PATH = "path"
    """The whole path, as the file has it."""


def program_text(
    model: bytes,
    payloads: Mapping[str, str] | None = None,
    *,
    locations: Locations = Locations.NAME,
    constant_shapes: bool = True,
) -> str:
    """Return the text form of a program, in ASCII, which ends with a newline.

    Args:
        model: The model record, `models/*.json`.
        payloads: The payloads of parameters, buffers and constants by their names, to say which share one.
        locations: How much is shown of source locations.
        constant_shapes: Show dtype and sizes of parameters, buffers and constants.

    Raises:
        FormatError: SCHEMA_UNSUPPORTED where the schema is of another major version; PROGRAM_INVALID where the record is no JSON of a program;
            PROGRAM_UNSUPPORTED where it has what the schema did not have when this was written.
    """
    try:
        program = json.loads(model)
    except (ValueError, RecursionError) as error:
        raise invalid(f"the model record is not JSON: {shortened(str(error))}") from error
    try:
        return "\n".join(_Printer(locations, constant_shapes, payloads or {}).program(program)) + "\n"
    except (KeyError, TypeError, AttributeError, IndexError, ValueError, RecursionError) as error:
        what = f"{type(error).__name__} {shortened(str(error))}"
        raise invalid(f"the model record is not an exported program: {what}") from error


class _Printer:
    def __init__(self, locations: Locations, constant_shapes: bool, payloads: Mapping[str, str]) -> None:
        self._locations = locations
        self._constant_shapes = constant_shapes
        self._payloads = payloads
        # The first input with each payload.
        self._sharers: dict[str, str] = {}
        self._text = ArgumentText()
        self._lines: list[str] = []

    def program(self, program: Object) -> list[str]:
        self._header(program)
        module = program["graph_module"]
        graph, signature = module["graph"], module["signature"]
        self._lines += ["", "graph("]
        for argument, spec in zip(graph["inputs"], signature["input_specs"], strict=True):
            self._lines.append(_INDENT + self._input(graph, argument, spec))
        self._lines.append("):")
        self._nodes(graph, depth=1)
        self._lines.append(f"{_INDENT}return (")
        for argument, spec in zip(graph["outputs"], signature["output_specs"], strict=True):
            kind, of = _stands_for(argument, spec, _OUTPUT_TARGETS)
            self._lines.append(f"{_INDENT * 2}{kind}{of} = {self._text.argument(argument)}")
        self._lines.append(f"{_INDENT})")
        return self._lines

    def _header(self, program: Object) -> None:
        version = program["schema_version"]
        major, minor = typed(int, version["major"]), typed(int, version["minor"])
        if major != SCHEMA_MAJOR:
            raise FormatError(Fault.SCHEMA_UNSUPPORTED, f"the schema is version {major}, and {SCHEMA_MAJOR} is what is read")
        torch = _bare(program.get("torch_version") or "unknown", _PLAIN_TEXT)
        dialects = "".join(f", dialect {word(name)}" for name in typed(list, program.get("verifiers") or []))
        self._lines += [f"# {_VERSION}", f"# torch {torch}, schema {major}.{minor}{dialects}"]
        ranges = program["range_constraints"]
        for name in sorted(ranges, key=_natural):
            shown = name if _SYMBOL.fullmatch(name) or is_derived_size(name) else quoted(name)
            least, most = ranges[name]["min_val"], ranges[name]["max_val"]
            self._lines.append(f"# {shown} in [{_bound(least, '-inf')}, {_bound(most, 'inf')}]")
        self._lines += [f"# guard {quoted(guard)}" for guard in typed(list, program.get("guards_code") or [])]

    def _input(self, graph: Object, argument: Object, spec: Object) -> str:
        kind, of = _stands_for(argument, spec, _INPUT_TARGETS)
        if kind == "buffer" and not typed(bool, spec[kind]["persistent"]):
            of += " not persistent"
        name = defined_name(argument)
        if name is None:
            return f"{kind}{of} = {self._text.argument(argument)}"
        typeless = kind in _LIFTED and not self._constant_shapes
        shown = value_name(name) if typeless else self._text.definition(graph, argument)
        return f"{shown} = {kind}{of}{self._sharing(kind, spec[kind], name)}"

    def _sharing(self, kind: str, fields: Object, name: str) -> str:
        """Return which input before this one has the same payload, as a comment; nothing where there is none."""
        payload = self._payloads.get(fields[_LIFTED[kind]]) if kind in _LIFTED else None
        first = name if payload is None else self._sharers.setdefault(payload, name)
        return "" if first == name else f"  # shares its data with {value_name(first)}"

    def _nodes(self, graph: Object, depth: int) -> None:
        if depth > DEEPEST_GRAPH:
            raise unsupported(f"subgraphs more than {DEEPEST_GRAPH} deep are not read")
        printed: dict[str, list[str]] = {}
        for node in typed(list, graph["nodes"]):
            arguments = ", ".join(map(self._argument, typed(list, node["inputs"])))
            subgraphs = self._text.take_subgraphs()
            call = f"{self._results(graph, node)} = {target(node['target'])}({arguments})"
            self._lines.append(f"{_INDENT * depth}{call}{self._location(node['metadata'])}")
            for subgraph in subgraphs:
                self._subgraph(subgraph, depth + 1, printed)

    def _argument(self, argument: Object) -> str:
        name, shown = typed(str, argument["name"]), self._text.argument(argument["arg"])
        # Older minor versions do not say how an argument is given, and leave out those with their defaults: there the name says which it is.
        return shown if argument.get("kind") == _BY_POSITION or not name else f"{word(name)}={shown}"

    def _results(self, graph: Object, node: Object) -> str:
        """Return what a node defines, `%add: f32[8]`; of a call with several results the node and them, `%max: (%a: f32[8], %b: i64[8])`."""
        outputs, name = typed(list, node["outputs"]), node.get("name")
        results = [self._text.definition(graph, output) for output in outputs]
        if len(outputs) == 1 and (name is None or defined_name(outputs[0]) == name):
            return results[0]
        # A list of tensors is one result.
        whole = results[0] if len(outputs) == 1 and type(member(outputs[0])[1]) is list else f"({', '.join(results)})"
        return whole if name is None else f"{value_name(name)}: {whole}"

    def _location(self, metadata: Object) -> str:
        line = None if self._locations is Locations.NONE else innermost_source_line(metadata.get("stack_trace"))
        if line is None:
            return ""
        if self._locations is Locations.NAME:
            line = re.split(r"[/\\]", line)[-1]
        return f"  # {_bare(line, _PLAIN_PATH)}"

    def _subgraph(self, subgraph: Object, depth: int, printed: dict[str, list[str]]) -> None:
        """Print a subgraph; one that is used twice in a graph is written twice, and printed once."""
        graph, name, start = subgraph["graph"], word(subgraph["name"]), len(self._lines)
        inputs = ", ".join(self._text.definition(graph, argument) for argument in typed(list, graph["inputs"]))
        self._lines.append(f"{_INDENT * depth}@{name}({inputs}):")
        self._nodes(graph, depth + 1)
        outputs = ", ".join(map(self._text.argument, typed(list, graph["outputs"])))
        single = typed(bool, graph["is_single_tensor_return"])
        self._lines.append(f"{_INDENT * (depth + 1)}return {outputs if single else f'({outputs})'}")
        lines = self._lines[start:]
        if printed.setdefault(name, lines) is not lines and printed[name] == lines:
            del self._lines[start:]


def _stands_for(argument: Object, spec: Object, targets: Mapping[str, str | None]) -> tuple[str, str]:
    """Return what an input or output stands for: its kind, and the quoted name of what it is in the module."""
    kind, fields = member(spec)
    if kind not in targets:
        raise unsupported(f"an input or output of the kind `{shortened(kind, 64)}` is not read")
    key = targets[kind]
    if kind != "constant_input":
        own = fields["arg"]
        named = typed(str, own["name"]) if "name" in own else defined_name(own)
        if named != defined_name(argument):
            raise ValueError("the signature has another order than the graph")
    return kind, "" if key is None else f" {quoted(fields[key])}"


def _bare(text: Any, plain: re.Pattern[str]) -> str:
    return text if plain.fullmatch(typed(str, text)) else quoted(text)


def _bound(value: Any, infinite: str) -> str:
    return infinite if value is None else str(typed(int, value))


def _natural(name: str) -> tuple[str, int, str]:
    """Order symbols by kind and number, `s2` before `s10`, and what is none of them behind."""
    match = _SYMBOL.fullmatch(name)
    return (match[1], int(match[2]), "") if match else ("~", 0, name)
