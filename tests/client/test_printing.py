"""The text form of programs: golden files, what torch loads, and files that lie."""

from __future__ import annotations

import contextlib
import io
import json
import random
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from torch import fx
from torch.utils._dtype_abbrs import dtype_abbrs

from retraced.archive import Archive
from retraced.errors import ProgramInvalid, ProgramUnsupported, SchemaUnsupported
from retraced.printing import Locations, program_text
from retraced_pt2.argument_text import SHORT_DTYPES, ArgumentText
from retraced_pt2.program_schema import InputSpec, OutputSpec
from retraced_pt2.scalar_types import DTYPES
from retraced_pt2.schema import Argument
from tests.client import archives
from tests.client.lies import HOSTILE
from tests.client.printed_programs import CASES, EXAMPLE, PRINTED, example, printed
from tests.support.case import ProgramCase
from tests.support.pages import page

_DEFINED = re.compile(r"%(\w+|\"[^\"]*\")(?=: )")


def shown(archive: bytes, **options: Any) -> str:
    with Archive(io.BytesIO(archive)) as file:
        return program_text(file, **options)


def node_names(program: fx.GraphModule) -> Iterator[str]:
    """The names of all nodes but those that an archive does not name: outputs, attributes, results that are none."""
    for module in program.modules():
        if isinstance(module, fx.GraphModule):
            for node in module.graph.nodes:
                if node.op in ("placeholder", "call_function") and (node.users or node.meta.get("val", 0) is not None):
                    yield node.name


def shuffled(value: Any, order: random.Random) -> Any:
    """Some JSON with the keys of all objects in another order."""
    if isinstance(value, list):
        return [shuffled(one, order) for one in value]
    if not isinstance(value, dict):
        return value
    return {key: shuffled(value[key], order) for key in order.sample(sorted(value), len(value))}


@pytest.mark.parametrize("name", CASES)
def test_a_program_is_printed_as_its_golden_file_has_it(name: str) -> None:
    kept = (PRINTED / f"{name}.txt").read_text()
    assert printed(name) == kept, "python -m tests.client.printed_programs writes them anew: read the difference"


def test_the_example_in_the_guide_is_what_is_printed() -> None:
    found = EXAMPLE.search(page("cli"))
    assert found is not None
    assert found[1] == example(), "python -m tests.client.printed_programs writes it anew"


def test_every_node_that_torch_loads_is_defined_once(serializable_case: ProgramCase) -> None:
    text = shown(serializable_case.archive, locations=Locations.NONE)
    constants = {spec.arg.name for spec in serializable_case.program.graph_signature.input_specs if hasattr(spec.arg, "value")}
    expected = Counter(name for name in node_names(serializable_case.reloaded.graph_module) if name not in constants)
    assert Counter(_DEFINED.findall(text)) == expected


def test_the_order_of_keys_changes_nothing(serializable_case: ProgramCase) -> None:
    with Archive(io.BytesIO(serializable_case.archive)) as archive:
        records = {record.name: archive.read(record.name) for record in archive.records()}
    order = random.Random(0)
    other = {
        name: json.dumps(shuffled(json.loads(data), order)).encode() if name.endswith(".json") else data
        for name, data in records.items()
    }
    assert shown(archives.packed(other)) == shown(serializable_case.archive)


def test_dtypes_have_the_short_names_of_torch() -> None:
    of_torch = {str(dtype).removeprefix("torch."): short for dtype, short in dtype_abbrs.items()}
    assert {DTYPES[number]: short for number, short in SHORT_DTYPES.items()} == {
        name: of_torch[name] for name in DTYPES.values()
    }


def test_paths_are_shown_only_when_asked_for() -> None:
    archive = archives.archive()
    assert shown(archive).count("  # model.py:7\n") == 2
    assert shown(archive, locations=Locations.PATH).count("  # /home/someone/secret/model.py:7\n") == 2
    assert "#" not in shown(archive, locations=Locations.NONE).partition("graph(")[2]


def test_shapes_of_constants_can_be_left_out() -> None:
    assert '\n  %p_weight: i8[64] = parameter "weight"\n' in shown(archives.archive())
    assert '\n  %p_weight = parameter "weight"\n' in shown(archives.archive(), constant_shapes=False)


def arguments() -> Iterator[tuple[Any, str]]:
    tensor, size = {"name": "x"}, {"as_name": "n"}
    yield {"as_none": True}, "None"
    yield {"as_tensors": [tensor, tensor]}, "[%x, %x]"
    yield {"as_nested_tensors": [[tensor], []]}, "[[%x], []]"
    yield {"as_optional_tensors": [{"as_tensor": tensor}, {"as_none": True}]}, "[%x, None]"
    yield {"as_optional_tensor": {"as_none": True}}, "None"
    yield {"as_sym_ints": [size, {"as_int": -1}]}, "[%n, -1]"
    yield {"as_sym_float": {"as_float": 0.1}}, "0.1"
    yield {"as_floats": [1e-05, "Infinity", "-Infinity", "NaN", 1.0]}, "[1e-05, inf, -inf, nan, 1.0]"
    yield {"as_complex": {"real": 1.0, "imag": -0.0}}, "complex(1.0, -0.0)"
    yield {"as_bools": [True, False]}, "[True, False]"
    yield {"as_strings": ["a", 'b"\\\n']}, r'["a", "b\"\\\n"]'
    yield {"as_string": "größe\u202e\ud800"}, r'"gr\xf6\xdfe\u202e\ud800"'
    yield {"as_string": "it's"}, '"it\'s"'
    yield {"as_int_lists": [[1], [2, 3]]}, "[[1], [2, 3]]"
    yield {"as_scalar_type": 13}, "bf16"
    yield {"as_scalar_type": 99}, "dtype(99)"
    yield {"as_memory_format": 2}, "channels_last"
    yield {"as_layout": 1}, "sparse_coo"
    yield {"as_device": {"type": "cuda", "index": 1}}, "cuda:1"
    yield {"as_operator": "torch.ops.aten.add.Tensor"}, "aten.add.Tensor"
    yield {"as_string_to_argument": {"b": {"as_int": 1}, "a": {"as_tensor": tensor}}}, '{"a": %x, "b": 1}'


@pytest.mark.parametrize(("argument", "text"), list(arguments()), ids=lambda value: value if isinstance(value, str) else "")
def test_an_argument_is_readable(argument: Any, text: str) -> None:
    def change(model: Any) -> None:
        node = model["graph_module"]["graph"]["nodes"][0]
        node["inputs"] = [{"name": "a", "arg": argument, "kind": 1}, {"name": "b", "arg": argument, "kind": 2}]

    assert f"%relu: i8[s77] = aten.relu({text}, b={text})  # " in shown(archives.changed(change))


@pytest.mark.parametrize("kind", Argument.__struct_fields__)
def test_every_argument_of_the_schema_is_known(kind: str) -> None:
    with contextlib.suppress(TypeError, AttributeError):
        ArgumentText().argument({kind: object()})


@pytest.mark.parametrize(
    ("field", "kind"),
    [
        *(("input_specs", kind) for kind in InputSpec.__struct_fields__),
        *(("output_specs", kind) for kind in OutputSpec.__struct_fields__),
    ],
)
def test_every_input_and_output_of_the_schema_is_known(field: str, kind: str) -> None:
    def change(model: Any) -> None:
        model["graph_module"]["signature"][field][0] = {kind: 1}

    # One of another kind is not supported.
    with pytest.raises(ProgramInvalid):
        shown(archives.changed(change))


def test_what_is_unusual_of_a_tensor_is_shown() -> None:
    def change(model: Any) -> None:
        value = model["graph_module"]["graph"]["tensor_values"]["relu"]
        value.update(device={"type": "cuda", "index": 0}, layout=1)

    assert "%relu: i8[s77] cuda:0 sparse_coo = " in shown(archives.changed(change))


def test_a_subgraph_that_is_used_twice_is_printed_once_and_another_of_its_name_too() -> None:
    def change(model: Any) -> None:
        graph = model["graph_module"]["graph"]
        inner = {**graph, "nodes": graph["nodes"][:1]}
        other = {**graph, "nodes": []}
        node = graph["nodes"][1]
        node["inputs"] = [
            {"name": "", "arg": {"as_graph": {"name": "body", "graph": one}}, "kind": 1} for one in (inner, inner, other)
        ]

    text = shown(archives.changed(change))
    assert "aten.relu(@body, @body, @body)" in text
    assert text.count("\n    @body(") == 2


def hostile_changes() -> Iterator[Any]:
    """Changes that put a hostile text where a file has one of its own."""
    forged = f'x"{HOSTILE}\n  %forged: f32[] = aten.relu(%x)  # model.py:1'
    places: tuple[tuple[Any, ...], ...] = (
        ("torch_version",),
        ("verifiers", 0),
        ("guards_code", 0),
        ("graph_module", "graph", "nodes", 0, "target"),
        ("graph_module", "graph", "nodes", 0, "name"),
        ("graph_module", "graph", "nodes", 0, "inputs", 0, "arg", "as_tensor", "name"),
        ("graph_module", "graph", "tensor_values", "relu", "device", "type"),
        ("graph_module", "graph", "tensor_values", "relu", "sizes", 0, "as_expr", "expr_str"),
        ("graph_module", "signature", "input_specs", 0, "parameter", "parameter_name"),
    )
    for place in places:
        *before, last = place

        def change(model: Any, before: list[Any] = before, last: Any = last) -> None:
            holder = model
            for key in before:
                holder = holder[key]
            holder[last] = forged

        yield pytest.param(change, id=".".join(map(str, place[-3:])))

    def keyword(model: Any) -> None:
        model["graph_module"]["graph"]["nodes"][0]["inputs"][0].update(name=forged, kind=2)

    def string(model: Any) -> None:
        model["graph_module"]["graph"]["nodes"][0]["inputs"][0]["arg"] = {"as_string": forged}

    def symbol(model: Any) -> None:
        model["range_constraints"][forged] = {"min_val": None, "max_val": 3}

    def source(model: Any) -> None:
        trace = f'  File "/a/{HOSTILE}b\r\n  %forged: f32[] = x.py", line 3, in forward\n    x()'
        model["graph_module"]["graph"]["nodes"][0]["metadata"]["stack_trace"] = trace

    yield from (keyword, string, symbol, source)


@pytest.mark.parametrize("change", list(hostile_changes()))
def test_a_hostile_text_makes_no_line_and_commands_no_terminal(change: Any) -> None:
    text = shown(archives.changed(change), locations=Locations.PATH)
    plain = shown(archives.archive())
    assert "owned" in text
    assert text.isascii()
    assert all(character.isprintable() or character == "\n" for character in text)
    # A range of its own is a line more.
    assert text.count("\n") - plain.count("\n") == (change.__name__ == "symbol")
    assert not re.search(r"^\s*%forged", text, re.MULTILINE)


def test_what_is_no_program_is_an_error_that_says_so() -> None:
    def schema(model: Any) -> None:
        model["schema_version"]["major"] = 9

    def argument(model: Any) -> None:
        model["graph_module"]["graph"]["nodes"][0]["inputs"][0]["arg"] = {"as_thing": 1}

    def order(model: Any) -> None:
        model["graph_module"]["signature"]["input_specs"].reverse()

    def kind(model: Any) -> None:
        model["graph_module"]["graph"]["nodes"][0]["inputs"][0]["arg"] = {"as_int": True}

    for change, error, why in (
        (schema, SchemaUnsupported, "version 9"),
        (argument, ProgramUnsupported, "`as_thing`"),
        (order, ProgramInvalid, "another order"),
        (kind, ProgramInvalid, "int expected, not bool"),
        (lambda model: model.pop("graph_module"), ProgramInvalid, "graph_module"),
    ):
        with pytest.raises(error, match=why):
            shown(archives.changed(change))
    config: Any = archives.changed(lambda config: config.update(config=[]), archives.WEIGHTS_CONFIG)
    with pytest.raises(ProgramInvalid, match="not a payload config"):
        shown(config)
