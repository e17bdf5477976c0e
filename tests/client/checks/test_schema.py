"""The client's table of what may stand in each field of a model record is of the schema's fields, all of them."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Collection, Mapping
from types import ModuleType

import msgspec
import pytest

from retraced.checks import model, payloads, shapes
from retraced.checks.input_baseline import InputBaseline
from retraced_pt2 import program_schema, schema

Tables = dict[str, list[tuple[set[str], set[str] | None]]]

# torch's reader does not read it.
_NOT_READ = {"Argument": {"as_optional_tensor"}}


def _again(module: ModuleType) -> ModuleType:
    """The module executed once more, by itself."""
    spec = importlib.util.spec_from_file_location(f"{module.__name__}_again", str(module.__file__))
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch) -> Tables:
    """The fields of each record and union that the client checks, with those that may be missing; None for unions."""
    found: Tables = {}
    record, union = shapes.record, shapes.union

    def told_record(name: str, fields: Mapping[str, shapes.Check], optional: Collection[str] = ()) -> shapes.Check:
        found.setdefault(name, []).append((set(fields), set(optional)))
        return record(name, fields, optional)

    def told_union(name: str, members: Mapping[str, shapes.Check]) -> shapes.Check:
        found.setdefault(name, []).append((set(members), None))
        return union(name, members)

    monkeypatch.setattr(shapes, "record", told_record)
    monkeypatch.setattr(shapes, "union", told_union)
    _again(model)._Schema(InputBaseline())
    check: Callable[..., object] = _again(payloads).check_payloads
    check({"config": {}}, "data/weights/", {}, shapes.text)
    return found


def _is_static(name: str, fields: set[str]) -> bool:
    """Whether it is the union of a payload's sizes, which are integers."""
    return name == "SymInt" and fields == {"as_int"}


def test_the_table_has_the_fields_of_the_schema_and_no_others(tables: Tables) -> None:
    classes = {**vars(schema), **vars(program_schema)}
    compared = set()
    for name, told in tables.items():
        for fields, optional in told:
            if name not in classes or _is_static(name, fields):
                continue
            compared.add(name)
            described = msgspec.structs.fields(classes[name])
            assert fields | _NOT_READ.get(name, set()) == {field.name for field in described}, name
            if optional is not None:
                assert optional == {field.name for field in described if not field.required}, name
    refused = {"CustomObjArgument", "InputToCustomObjSpec", "ModelHeader", "SchemaRecord", "StaticSize", "StaticTensorMeta"}
    structs = {name for name, found in classes.items() if isinstance(found, type) and issubclass(found, msgspec.Struct)}
    assert structs - compared - refused - {"Struct"} <= {"InputTokenSpec", "OutputTokenSpec"}
