"""What is no program gives a typed error that names the fault, and nothing in it is run."""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retraced_server.errors import Reason, RetracedError
from retraced_server.program.errors import program_invalid, program_unsupported
from tests.program.archives import MODEL, edited, model_of, read_bytes, records, zipped
from tests.support.case import ProgramCase
from tests.support.models import by_name


def _error(archive: bytes, tmp_path: Path) -> RetracedError:
    with pytest.raises(RetracedError) as caught:
        read_bytes(archive, tmp_path)
    return caught.value


def _case() -> ProgramCase:
    return by_name("everything")


# -- archives --------------------------------------------------------------------------------------------------------------------


def test_empty_file_is_refused(tmp_path: Path) -> None:
    error = _error(b"", tmp_path)
    assert (error.reason, error.message) == (Reason.ARCHIVE_INVALID, "the archive is empty: it has 0 bytes")


def test_file_that_is_no_zip_is_refused(tmp_path: Path) -> None:
    assert _error(b"program" * 100, tmp_path).reason is Reason.ARCHIVE_INVALID


@pytest.mark.parametrize("part", [0.01, 0.3, 0.9, 0.999])
def test_truncated_archive_is_refused(tmp_path: Path, part: float) -> None:
    archive = _case().archive
    assert _error(archive[: int(len(archive) * part)], tmp_path).reason is Reason.ARCHIVE_INVALID


def test_zip_that_holds_no_program_is_refused(tmp_path: Path) -> None:
    assert _error(zipped({"archive/readme": b"hello"}), tmp_path).reason is Reason.PROGRAM_MISSING
    assert _error(zipped({"readme": b"hello"}), tmp_path).reason is Reason.PROGRAM_MISSING


def test_archive_of_several_programs_is_refused(tmp_path: Path) -> None:
    contents = records(_case().archive)
    contents["archive/models/other.json"] = contents[MODEL]
    assert "several programs" in _error(zipped(contents), tmp_path).message


@pytest.mark.parametrize(
    ("record", "data", "message"),
    [
        ("archive/archive_format", b"zip", "`archive_format` is b'zip'"),
        ("archive/archive_version", b"1", "`archive_version` is b'1'"),
        ("archive/byteorder", b"big", "`byteorder` is b'big'"),
    ],
)
def test_archive_of_another_format_is_refused(tmp_path: Path, record: str, data: bytes, message: str) -> None:
    assert message in _error(zipped({**records(_case().archive), record: data}), tmp_path).message


def test_compressed_record_is_refused(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in records(_case().archive).items():
            file.writestr(name, data)
    assert "is compressed or encrypted" in _error(buffer.getvalue(), tmp_path).message


def test_records_under_two_roots_are_refused(tmp_path: Path) -> None:
    assert "two roots" in _error(zipped({**records(_case().archive), "other/model": b""}), tmp_path).message


@pytest.mark.parametrize("record", ["models/model.json", "data/weights/model_weights_config.json"])
def test_missing_record_is_named(tmp_path: Path, record: str) -> None:
    contents = records(_case().archive)
    del contents[f"archive/{record}"]
    assert _error(zipped(contents), tmp_path).reason in (Reason.PROGRAM_MISSING, Reason.PROGRAM_INVALID)


def test_damaged_model_record_is_refused_though_checksums_are_not_asked_for(tmp_path: Path) -> None:
    archive = bytearray(_case().archive)
    archive[archive.index(b'"graph_module"') + 3] ^= 1
    with pytest.raises(RetracedError, match=r"models/model\.json` is damaged"):
        read_bytes(bytes(archive), tmp_path, check=False)


@pytest.mark.parametrize("damage", [b"", b'{"schema_version": ', b'"graph_module": 7'])
def test_file_of_a_refused_archive_is_closed(tmp_path: Path, damage: bytes) -> None:
    error = _error(zipped({**records(_case().archive), MODEL: damage}), tmp_path)
    # What it was raised through is kept alive by it, so nothing is closed for being forgotten.
    assert error.__traceback__ is not None
    assert not [name for name in os.listdir("/proc/self/fd") if _target(name).startswith(str(tmp_path))]


def _target(descriptor: str) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}")
    except FileNotFoundError:
        return ""


# -- models ----------------------------------------------------------------------------------------------------------------------


def _graph(model: Any) -> Any:
    return model["graph_module"]["graph"]


def _node(model: Any, target: str) -> Any:
    return next(node for node in _graph(model)["nodes"] if target in node["target"])


def _meta(model: Any) -> Any:
    return next(meta for meta in _graph(model)["tensor_values"].values() if meta["sizes"])


def _first_input(model: Any) -> Any:
    return _node(model, "aten.add.Tensor")["inputs"][0]


_FAULTS: list[tuple[str, Callable[[Any], Any], str]] = [
    ("wrong type", lambda model: _graph(model).update(nodes="x"), r"does not fit the schema.*nodes"),
    ("field missing", lambda model: _graph(model).pop("tensor_values"), r"tensor_values"),
    ("unknown field", lambda model: _graph(model).update(more=1), r"unknown field `more`"),
    ("huge integer", lambda model: _first_input(model).update(arg={"as_int": 2**70}), r"does not fit the schema"),
    ("two kinds at once", lambda model: _first_input(model)["arg"].update(as_int=1), r"this one says as_tensor, as_int"),
    ("no kind", lambda model: _first_input(model).update(arg={}), r"this one says nothing"),
    ("unknown kind", lambda model: _first_input(model).update(arg={"as_code": "x"}), r"unknown field `as_code`"),
    ("undefined value", lambda model: _first_input(model).update(arg={"as_tensor": {"name": "gone"}}), r"no value `gone`"),
    ("unknown argument", lambda model: _first_input(model).update(name="self2"), r"the argument `self` is missing"),
    ("argument twice", lambda model: _node(model, "add.Tensor")["inputs"].append(_first_input(model)), r"given twice"),
    ("unknown operator", lambda model: _node(model, "add.Tensor").update(target="torch.load"), r"`torch\.load` cannot stand"),
    ("name that is code", lambda model: _node(model, "add.Tensor").update(name="x; import os"), r"must be an identifier"),
    ("name that is a keyword", lambda model: _node(model, "add.Tensor").update(name="lambda"), r"must be an identifier"),
    (
        "argument that is code",
        lambda model: model["graph_module"]["module_call_graph"][0]["signature"].update(forward_arg_names=["x=y()"]),
        r"must be an identifier",
    ),
    (
        "input that is code",
        lambda model: _graph(model)["inputs"][0]["as_tensor"].update(name="x=__import__('os')"),
        r"must be an identifier",
    ),
    (
        "unknown metadata",
        lambda model: _node(model, "add.Tensor")["metadata"].update(code="x"),
        r"metadata of a node has the key",
    ),
    (
        "bad module stack",
        lambda model: _node(model, "add.Tensor")["metadata"].update(nn_module_stack="x"),
        r"no entry of a module",
    ),
    (
        "bad provenance",
        lambda model: _node(model, "add.Tensor")["metadata"].update(from_node="x"),
        r"provenance `x` cannot be read",
    ),
    (
        "bad custom data",
        lambda model: _node(model, "add.Tensor")["metadata"].update(custom="x"),
        r"custom metadata `x` is not JSON",
    ),
    ("no such dtype", lambda model: _meta(model).update(dtype=77), r"no dtype 77"),
    ("no such layout", lambda model: _meta(model).update(layout=99), r"no layout 99"),
    ("sparse value", lambda model: _meta(model).update(layout=2), r"values of the layout torch.sparse_csr are not read"),
    ("no such device", lambda model: _meta(model).update(device={"type": "x", "index": None}), r"no type of device"),
    ("device below zero", lambda model: _meta(model).update(device={"type": "cuda", "index": -1}), r">= 0"),
    ("too few strides", lambda model: _meta(model)["strides"].pop(), r"sizes and \d+ strides"),
    ("negative size", lambda model: _meta(model)["sizes"].insert(0, {"as_int": -1}), r"negative|sizes and"),
    (
        "size that overflows",
        lambda model: _meta(model).update(sizes=[{"as_int": 2**62}] * 2, strides=[{"as_int": 2**62}] * 2),
        r".",
    ),
    ("size that is text", lambda model: _meta(model)["sizes"].__setitem__(0, {"as_int": "3"}), r"Expected `int`"),
    (
        "expression that is code",
        lambda model: _meta(model)["sizes"].__setitem__(0, {"as_expr": {"expr_str": "__import__('os')", "hint": None}}),
        r"is no function of shape expressions",
    ),
    (
        "hint of another kind",
        lambda model: _meta(model)["sizes"].__setitem__(
            0, {"as_expr": {"expr_str": "Symbol('s77', positive=True, integer=True)", "hint": {"as_float": 1.0}}}
        ),
        r"a hint is `as_float`",
    ),
    ("range that is empty", lambda model: model["range_constraints"].update(s77={"min_val": 5, "max_val": 4}), r"is empty"),
    (
        "range of no symbol",
        lambda model: model["range_constraints"].update({"x()": {"min_val": 1, "max_val": 4}}),
        r"no name of a symbol",
    ),
    (
        "range of what no size is",
        lambda model: model["range_constraints"].update({"2*s77 + __import__('os')": {"min_val": 1, "max_val": 4}}),
        r"no name of a symbol",
    ),
    (
        "huge symbol number",
        lambda model: model["range_constraints"].update(u999999999={"min_val": 1, "max_val": 4}),
        r"has a number over",
    ),
    ("unknown dialect", lambda model: model.update(verifiers=["EDGE"]), r"dialect `EDGE`"),
    (
        "bad tree spec",
        lambda model: model["graph_module"]["module_call_graph"][0]["signature"].update(in_spec="x"),
        r"tree spec `x`",
    ),
    (
        "signature of nothing",
        lambda model: model["graph_module"]["signature"]["input_specs"].__setitem__(0, {}),
        r"an? InputSpec says exactly one thing",
    ),
    ("signature too short", lambda model: model["graph_module"]["signature"]["input_specs"].pop(), r"the program is not valid"),
    (
        "parameter that is not there",
        lambda model: next(
            spec["parameter"] for spec in model["graph_module"]["signature"]["input_specs"] if "parameter" in spec
        ).update(parameter_name="gone"),
        r"the program is not valid",
    ),
    (
        "parameter whose name is code",
        lambda model: next(
            spec["parameter"] for spec in model["graph_module"]["signature"]["input_specs"] if "parameter" in spec
        ).update(parameter_name='a"); import os; ("b'),
        r"puts names of parameters.*between double quotes",
    ),
    (
        "custom object",
        lambda model: _graph(model)["inputs"].insert(0, {"as_custom_obj": {"name": "o", "class_fqn": "mylib.Queue"}}),
        r"object of the custom class `mylib\.Queue`",
    ),
    ("another major", lambda model: model["schema_version"].update(major=9), r"schema version 9\."),
]


@pytest.mark.parametrize(("fault", "message"), [fault[1:] for fault in _FAULTS], ids=[fault[0] for fault in _FAULTS])
def test_faulty_model_is_refused_with_the_fault(tmp_path: Path, fault: Callable[[Any], Any], message: str) -> None:
    with pytest.raises(RetracedError, match=message) as caught:
        read_bytes(edited(_case().archive, fault), tmp_path)
    assert caught.value.reason in (Reason.PROGRAM_INVALID, Reason.PROGRAM_UNSUPPORTED, Reason.SCHEMA_UNSUPPORTED)


def test_fault_in_a_node_names_the_node(tmp_path: Path) -> None:
    archive = edited(_case().archive, lambda model: _node(model, "add.Tensor").update(target="torch.load"))
    name = _node(model_of(archive), "torch.load")["name"]
    assert _error(archive, tmp_path).message.startswith(f"node `{name}`: ")


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"\xff\xfe", b"null", b'{"schema_version": {}}', b"[" * 100_000])
def test_model_that_is_no_json_object_is_refused(tmp_path: Path, data: bytes) -> None:
    assert _error(zipped({**records(_case().archive), MODEL: data}), tmp_path).reason is Reason.PROGRAM_INVALID


def test_subgraphs_that_nest_without_end_are_refused(tmp_path: Path) -> None:
    def nest(model: Any) -> None:
        inner: Any = {"name": "body", "graph": {**_graph(by_name_model("nothing_at_all")), "nodes": []}}
        for _ in range(60):
            node: Any = {
                "target": "torch.ops.higher_order.wrap",
                "outputs": [],
                "metadata": {},
                "is_hop_single_tensor_return": None,
            }
            node |= {"name": "w", "inputs": [{"name": "", "arg": {"as_graph": inner}, "kind": 1}]}
            inner = {"name": "body", "graph": {**inner["graph"], "nodes": [node]}}
        _graph(model)["nodes"] = [node]

    error = _error(edited(by_name("nothing_at_all").archive, nest), tmp_path)
    assert "nested deeper" in error.message or "recursion" in error.message.lower()


def by_name_model(name: str) -> Any:
    return model_of(by_name(name).archive)


# -- anything --------------------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32))
def test_any_mutation_of_a_model_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    """Values of the record are replaced, exchanged and dropped at random; any other error fails the test."""
    case = by_name(("cond", "in_place", "data_dependent", "containers")[seed % 4])
    chance = random.Random(seed)
    model = model_of(case.archive)
    for _ in range(chance.randint(1, 3)):
        _mutate(model, chance)
    contents = records(case.archive)
    contents[MODEL] = json.dumps(model).encode()
    with contextlib.suppress(RetracedError):
        read_bytes(zipped(contents), tmp_path_factory.mktemp("mutated"))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32))
def test_any_damage_to_an_archive_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    chance = random.Random(seed)
    archive = bytearray(by_name("cond").archive)
    for _ in range(chance.randint(1, 8)):
        # The directory, at the end, is where a zip is most easily hurt.
        at = chance.randrange(len(archive)) if chance.random() < 0.5 else len(archive) - 1 - chance.randrange(1500)
        archive[at] = chance.randrange(256)
    with contextlib.suppress(RetracedError):
        read_bytes(bytes(archive), tmp_path_factory.mktemp("damaged"))


_REPLACEMENTS: tuple[Any, ...] = (
    None,
    True,
    0,
    -1,
    7,
    2**63 - 1,
    2**64,
    1.5,
    "",
    "x",
    "self",
    "NaN",
    [],
    {},
    [1],
    {"as_int": 1},
    {"as_none": True},
)


def _mutate(model: Any, chance: random.Random) -> None:
    places: list[tuple[Any, Any]] = []

    def visit(value: Any) -> None:
        entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        for key, item in entries:
            places.append((value, key))
            visit(item)

    visit(model)
    holder, key = chance.choice(places)
    kind = chance.randrange(3)
    if kind == 0:
        holder[key] = chance.choice(_REPLACEMENTS)
    elif kind == 1:
        other, other_key = chance.choice(places)
        holder[key] = json.loads(json.dumps(other[other_key]))
    else:
        del holder[key]


@pytest.mark.parametrize("make", [program_invalid, program_unsupported])
def test_message_that_repeats_a_long_name_of_the_file_is_cut(make: Callable[[str], RetracedError]) -> None:
    message = make(f"the value `{'x' * 10_000}` has no description").message
    assert message.startswith("the value `xxx")
    assert len(message) <= 2_001
