"""The client's check against the server's reader and against torch: honest outputs pass, and what passes is read."""

from __future__ import annotations

import io
import json
import re
import tempfile
import zipfile
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from retraced._source import BytesSource
from retraced.checks import operators
from retraced.checks.output import OutputCheck
from retraced.errors import OutputUnsafe
from retraced_pt2.errors import FormatError
from retraced_pt2.operators import DEFAULT_NAMESPACES, PRIM
from retraced_server.errors import RetracedError
from retraced_server.passes import run_pipeline
from retraced_server.program import ReadOptions, read_program, write_program
from retraced_server.program import operators as server_operators
from tests.support.examples import examples
from tests.support.models import ALL_CASES, ProgramCase, by_name
from tests.support.programs import PROGRAMS

SAVED = [case for case in ALL_CASES if case.serializable]
PIPELINE = "decompose,cse,dce"
HONEST = [
    *((case, PIPELINE) for case in SAVED),
    *((case, "decompose{table=aten},view-to-view-copy") for case in PROGRAMS),
]
# Namespaces of the operators that the test programs define.
OPTIONS = ReadOptions(namespaces=frozenset({"retraced_tests"}))

# What the server's reader may refuse of an output that the client takes, behind the place that it names: the parts of a program do not fit
# one another. Stock torch finds so too, or makes another program of it, and runs nothing from the file for it.
_NOT_VALID = (
    *("the program is not valid", "no value `", "the value `", "two values are named", "the graph has two different subgraphs"),
    *("`[^`]*` is no name for a subgraph", "the argument `", "the operator has no argument", "no node makes the symbols"),
    *("the keyword `[^`]*` is given twice", "an operator on symbolic numbers has one result", "a result has no name"),
    *(
        "a symbolic result must",
        "the result of a node is neither",
        "result \\d+ of a node is",
        "a graph that returns a single tensor",
    ),
    *("input \\d+ of a graph is neither", "an output of a graph is", "an argument of a kind that torch does not read"),
    *(
        "a tensor has \\d+ sizes and",
        "a tensor has a negative size",
        "only strided tensors",
        "the tensor `[^`]*` cannot be made",
    ),
    *(
        "the expression `[^`]*` contradicts",
        "the range of the symbol",
        "a hint is",
        "this cannot be read here: (?:Assertion|Key)Error",
    ),
    *("`[^`]*` is no entry of a module stack", "the custom metadata", "the provenance"),
    *("the operator `[^`]*` cannot stand in a program: no such operator is registered",),
)
NOT_VALID = re.compile(rf"(?:(?:node `[^`]*`|input \d+|the outputs): )*(?:{'|'.join(_NOT_VALID)})")


def outputs(case: ProgramCase, pipeline: str) -> bytes:
    """What the server makes of a program."""
    with tempfile.TemporaryFile() as file:
        file.write(case.archive)
        file.flush()
        read = read_program(file, options=OPTIONS)
        result = run_pipeline(read.program, pipeline)
        written = io.BytesIO()
        write_program(result.program, written, source=read, records=read.carried())
        return written.getvalue()


def readable(archive: bytes) -> bool:
    """Whether the server's reader takes an archive; the reasons above count as taken."""
    with tempfile.TemporaryFile() as file:
        file.write(archive)
        file.flush()
        try:
            read_program(file, options=OPTIONS)
        except RetracedError as error:
            return NOT_VALID.match(str(error)) is not None
        return True


def taken(output: bytes, sent: bytes) -> bool:
    """Whether the client takes an output."""
    try:
        OutputCheck(BytesSource(sent)).check(BytesSource(output))
    except OutputUnsafe:
        return False
    return True


@pytest.mark.parametrize(("case", "pipeline"), HONEST, ids=str)
def test_every_honest_output_is_taken_and_read(case: ProgramCase, pipeline: str) -> None:
    try:
        output = outputs(case, pipeline)
    except RetracedError as error:
        pytest.skip(f"the pipeline does not take the program: {error}")
    OutputCheck(BytesSource(case.archive)).check(BytesSource(output))
    with tempfile.TemporaryFile() as file:
        file.write(output)
        file.flush()
        read_program(file, options=OPTIONS)


def test_of_all_operators_of_torch_the_client_takes_none_that_the_server_does_not() -> None:
    schemas = torch._C._jit_get_all_schemas()
    # Beyond the server's list, its operator may allow any that only computes.
    allowed = (f"{one.name.replace('::', '.')}.{one.overload_name or 'default'}" for one in schemas)
    ours, theirs = operators.Operators(()), server_operators.Operators(frozenset(), frozenset(allowed))
    differ = []
    for name in {(schema.name, schema.overload_name or "default") for schema in schemas}:
        namespace, _, packet = name[0].partition("::")
        if namespace in DEFAULT_NAMESPACES:
            full = f"torch.ops.{namespace}.{packet}.{name[1]}"
            if _accepts(ours.check, full) and not _accepts(theirs.find, full):
                differ.append(full)
    assert len(schemas) > 3_000
    assert differ == []


@pytest.mark.parametrize("own", [(), ("prim",)])
def test_of_torchscripts_own_namespace_only_questions_to_tensors_are_taken_whatever_the_program_sent_uses(
    own: tuple[str, ...],
) -> None:
    judge = operators.Operators(own)
    names = {
        f"torch.ops.prim.{schema.name.removeprefix('prim::')}.{schema.overload_name or 'default'}"
        for schema in torch._C._jit_get_all_schemas()
        if schema.name.startswith("prim::")
    }
    taken = {name for name in names if _accepts(judge.check, name)}
    assert taken == {f"torch.ops.prim.{name}.default" for name in PRIM}
    assert len(names) > len(taken)


def _accepts(judge: Any, value: str) -> bool:
    try:
        judge(value)
    except (FormatError, RetracedError):
        return False
    return True


_strange = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from(("x", "torch.load", "__class__", "print(1)", "'", "a.b", "Integer(1)", "torch.ops.aten.relu.default")),
    st.just([]),
    st.just({}),
    st.sampled_from(({"as_int": 3}, {"as_none": True}, {"as_tensor": {"name": "x"}}, {"name": "x"})),
)


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, item in items for place in _places(item, (*path, key)))]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tied_weights", "cond", "containers"])
@settings(deadline=None, max_examples=examples(6), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_changed_program_that_the_client_takes_is_read_or_not_valid(name: str, data: st.DataObject) -> None:
    case = by_name(name)
    output = _OUTPUTS.setdefault(name, outputs(case, PIPELINE))
    with zipfile.ZipFile(io.BytesIO(output)) as archive:
        held = {entry: archive.read(entry) for entry in archive.namelist()}
    record = data.draw(st.sampled_from([entry for entry in held if entry.endswith(".json")]))
    value = json.loads(held[record])
    places = _places(value)
    for _ in range(data.draw(st.integers(1, 3))):
        *path, last = data.draw(st.sampled_from(places[1:]))
        holder = value
        try:
            for key in path:
                holder = holder[key]
            match data.draw(st.sampled_from(("replace", "remove", "rename", "copy"))):
                case "replace":
                    holder[last] = data.draw(_strange)
                case "remove":
                    del holder[last]
                case "rename":
                    holder[data.draw(st.text(max_size=8))] = holder.pop(last)
                case _:
                    holder[last] = json.loads(json.dumps(holder))
        # An earlier change has taken the place away.
        except (KeyError, IndexError, TypeError, AttributeError):
            continue
    held[record] = json.dumps(value).encode()
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for entry, content in held.items():
            archive.writestr(zipfile.ZipInfo(entry), content)
    if taken(packed.getvalue(), case.archive):
        assert readable(packed.getvalue())


@pytest.mark.slow
@settings(deadline=None, max_examples=examples(16))
@given(data=st.data())
def test_changed_bytes_are_refused_or_read(data: st.DataObject) -> None:
    case = by_name("tied_weights")
    output = bytearray(_OUTPUTS.setdefault(case.name, outputs(case, PIPELINE)))
    for _ in range(data.draw(st.integers(1, 4))):
        output[data.draw(st.integers(0, len(output) - 1))] ^= data.draw(st.integers(1, 255))
    if taken(bytes(output), case.archive):
        assert readable(bytes(output))


_OUTPUTS: dict[str, bytes] = {}
