"""Metadata of nodes and graphs, guards and named tuples come through as they were."""

from __future__ import annotations

import copy
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils import _pytree as pytree

from retraced_server.errors import RetracedError
from retraced_server.program import ReadOptions
from retraced_server.program.node_metadata import MetadataReader
from retraced_server.program.operators import Operators
from tests.program.archives import model_of, read_bytes, read_case, records, saved, written, zipped
from tests.support.compare import loaded
from tests.support.describe import describe_program
from tests.support.models import by_name

Pair = namedtuple("Pair", ["left", "right"])


@pytest.fixture
def pair() -> Iterator[str]:
    name = "retraced_tests.Pair"
    pytree._register_namedtuple(Pair, serialized_type_name=name)
    yield name
    pytree._deregister_pytree_node(Pair)


class _Pairs(nn.Module):
    def forward(self, pair: Any) -> Any:
        return Pair(pair.left + 1, pair.right * 2)


def test_annotations_and_named_tuples_are_those_of_torch(tmp_path: Path, pair: str) -> None:
    program = torch.export.export(_Pairs(), (Pair(torch.ones(2), torch.ones(2)),))
    annotations = {"stage": 1, "tags": ["a", {"deep": None}], "ratio": float("inf")}
    for node in program.graph.nodes:
        node.meta["custom"] = annotations
    program.graph_module.meta["custom"] = annotations
    options = ReadOptions(tree_types=frozenset({pair}))
    # torch unpickles the sample inputs, and knows no such tuple.
    archive = zipped({**records(saved(program)), "archive/data/sample_inputs/model.pt": b""})
    ours = read_bytes(archive, tmp_path, options=options).program
    theirs = loaded(archive)
    assert describe_program(ours) == describe_program(theirs)
    assert ours.graph_module.meta["custom"] == annotations
    assert [node.meta.get("custom") for node in ours.graph.nodes if node.op == "call_function"] == [annotations] * 2
    assert model_of(written(ours, tmp_path / "out.pt2")) == model_of(saved(program))
    assert model_of(written(ours, tmp_path / "out.pt2"))["graph_module"]["treespec_namedtuple_fields"] == {
        pair: {"field_names": ["left", "right"]}
    }


def test_guards_are_kept_as_text(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    guard = f"__import__('pathlib').Path({str(marker)!r}).touch()"
    program = copy.copy(by_name("bert").program)
    program._guards_code = [*program._guards_code, guard]
    source = read_bytes(saved(program), tmp_path)
    assert source.program._guards_code == program._guards_code
    assert model_of(written(source.program, tmp_path / "out.pt2"))["guards_code"] == program._guards_code
    assert not marker.exists()


def test_no_code_is_generated_while_a_program_is_read_and_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = by_name("cond")
    assert case.archive

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("source was executed")

    monkeypatch.setattr("torch.fx.graph_module._exec_with_source", refuse)
    source = read_case(case, tmp_path)
    written(source.program, tmp_path / "out.pt2")
    with pytest.raises(AssertionError, match="source was executed"):
        source.program.graph_module(torch.ones(1))


def test_metadata_of_one_node_is_not_that_of_another(tmp_path: Path) -> None:
    program = read_case(by_name("multiple_results"), tmp_path).program
    for key in ("nn_module_stack", "from_node"):
        held = [node.meta[key] for node in program.graph.nodes if key in node.meta]
        assert len({id(value) for value in held}) == len(held)


def test_module_stack_with_commas_in_types_is_split_as_torch_does() -> None:
    metadata = MetadataReader(Operators(frozenset()))
    read = metadata.read({"nn_module_stack": "L__self__,a,Module[(int, str)];k,b(0, 1),C"})
    assert read == {"nn_module_stack": {"L__self__": ("a", "Module[(int, str)]"), "k": ("b(0, 1)", "C")}}


def test_source_function_that_is_unknown_stays_a_name() -> None:
    metadata = MetadataReader(Operators(frozenset()))
    read = metadata.read({"source_fn_stack": "linear,torch.nn.functional.linear;x,os.system;y,torch.nn.modules.linear.Linear"})
    assert read["source_fn_stack"] == [("linear", "torch.nn.functional.linear"), ("x", "os.system"), ("y", nn.Linear)]


def test_provenance_that_is_too_deep_is_refused() -> None:
    deep = "[" + '{"name": "x", "target": "x", "graph_id": 1, "from_node": [' * 500 + "]}" * 500 + "]"
    with pytest.raises(RetracedError, match=r"deeper|cannot be read"):
        MetadataReader(Operators(frozenset())).read({"from_node": deep})
