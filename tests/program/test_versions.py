"""Schema versions: older minors are read as torch reads them; other majors and newer minors are refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from retraced_server.errors import Reason, RetracedError
from retraced_server.program import SCHEMA_VERSION, ReadOptions
from tests.program.archives import edited, read_bytes
from tests.support.compare import loaded
from tests.support.describe import describe_program
from tests.support.models import by_name

MAJOR, MINOR = SCHEMA_VERSION


def _nodes(graph: Any) -> Iterator[Any]:
    for node in graph["nodes"]:
        yield node
        for named in node["inputs"]:
            if "as_graph" in named["arg"]:
                yield from _nodes(named["arg"]["as_graph"]["graph"])


def _make_older(model: Any) -> None:
    """Takes away what minors of the major version have added."""
    model["schema_version"]["minor"] = 1
    model.pop("guards_code")
    model["graph_module"].pop("treespec_namedtuple_fields")
    model["graph_module"].pop("metadata")
    for node in _nodes(model["graph_module"]["graph"]):
        node.pop("name")
        for named in node["inputs"]:
            named.pop("kind")
    for entry in model["graph_module"]["module_call_graph"]:
        if entry["signature"]:
            entry["signature"].pop("forward_arg_names")


# Not those with operators that return nothing or several results: torch names them after a count.
@pytest.mark.parametrize(
    "name", ["bert", "cond", "llama", "containers", "residual_net", "set_grad", "multiple_results", "everything"]
)
def test_older_minor_is_read_as_torch_reads_it(name: str, tmp_path: Path) -> None:
    archive = edited(by_name(name).archive, _make_older)
    source = read_bytes(archive, tmp_path)
    assert source.schema_version == (MAJOR, 1)
    theirs = loaded(archive)
    theirs._example_inputs = None
    ours = describe_program(source.program)
    assert _names_and_arguments(ours) == _names_and_arguments(describe_program(theirs))


def _names_and_arguments(described: Any) -> Any:
    graph = described["graph"]
    return [(node["name"], node["target"], node["args"], node["kwargs"]) for node in graph["nodes"]]


@pytest.mark.parametrize("version", [(MAJOR + 1, 0), (MAJOR - 1, 9), (MAJOR, MINOR + 1), (0, 0), (-1, -1)])
def test_other_versions_are_refused_with_both_named(version: tuple[int, int], tmp_path: Path) -> None:
    def change(model: Any) -> None:
        model["schema_version"] = {"major": version[0], "minor": version[1]}
        # What else is in it does not matter.
        model["graph_module"] = {"from": "the future"}

    with pytest.raises(RetracedError, match=rf"schema version {version[0]}\.{version[1]} ") as caught:
        read_bytes(edited(by_name("bert").archive, change), tmp_path)
    assert caught.value.reason is Reason.SCHEMA_UNSUPPORTED
    assert caught.value.metadata == {
        "schema_version": f"{version[0]}.{version[1]}",
        "supported_schema_version": f"{MAJOR}.{MINOR}",
    }


def test_newer_minor_is_read_on_request_when_every_field_is_known(tmp_path: Path) -> None:
    options = ReadOptions(newer_minors=True)
    newer = edited(by_name("bert").archive, lambda model: model["schema_version"].update(minor=MINOR + 1))
    assert read_bytes(newer, tmp_path, options=options).schema_version == (MAJOR, MINOR + 1)
    unknown = edited(newer, lambda model: model.update(more=1))
    with pytest.raises(RetracedError, match="unknown field `more`"):
        read_bytes(unknown, tmp_path, options=options)


def test_each_verifier_checks_a_program_once(tmp_path: Path) -> None:
    archive = edited(by_name("bert").archive, lambda model: model.update(verifiers=["ATEN", "", "ATEN"] * 1000))
    names = [verifier.dialect for verifier in read_bytes(archive, tmp_path).program.verifiers]
    assert len(names) == len(set(names)) <= 2
