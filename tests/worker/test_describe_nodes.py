"""Every node's metadata, decoded again and compared with the program it was taken from."""

from __future__ import annotations

import functools
import io
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.export import ExportedProgram
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from retraced.v1 import node_metadata_pb2 as pb
from retraced_server.pipeline.domain import NodeSelection, Provenance
from retraced_server.worker.describe_nodes import MAX_BATCH_BYTES, describe_nodes
from tests.support.case import ProgramCase
from tests.support.describe import graphs, values
from tests.support.models import by_name

from .decode import Plain, decode
from .expected import expected_node

_ORIGIN = ("from_nodes", "made_by")


def keys(program: ExportedProgram) -> list[str]:
    return [
        f"{path}:{node.name}" if path else node.name
        for path, module in graphs(program.graph_module)
        for node in module.graph.nodes
    ]


def unchanged(program: ExportedProgram) -> dict[str, Provenance]:
    return {key: Provenance((key,), None) for key in keys(program)}


def describe(program: ExportedProgram, batch_size: int = 512) -> list[pb.NodeMetadataBatch]:
    provenance = unchanged(program)
    return list(describe_nodes(program, provenance=provenance, selection=NodeSelection.ALL, batch_size=batch_size))


def shape_env_of(program: ExportedProgram) -> ShapeEnv | None:
    for _, value in values(program):
        if isinstance(value, torch._subclasses.FakeTensor):
            return value.fake_mode.shape_env
    return None


def knowledge(shape_env: ShapeEnv | None) -> Any:
    if shape_env is None:
        return None
    return (
        list(shape_env.guards),
        shape_env._version_counter,
        shape_env._replacements_version_counter,
        dict(shape_env.replacements),
        dict(shape_env.var_to_range),
        dict(shape_env.backed_var_to_val),
        {symbol: len(asserts) for symbol, asserts in shape_env.deferred_runtime_asserts.items()},
        list(shape_env.pending_fresh_unbacked_symbols),
    )


def test_decoded_nodes_are_those_of_the_program_and_its_shapes_learn_nothing(any_case: ProgramCase) -> None:
    program = any_case.program
    before = knowledge(shape_env_of(program))
    decoded = decode(describe(program))
    assert knowledge(shape_env_of(program)) == before
    expected = {
        (path, node.name): expected_node(path, node)
        for path, module in graphs(program.graph_module)
        for node in module.graph.nodes
    }
    assert len(decoded) == len(expected)
    for node in decoded:
        origin = {key: node.pop(key) for key in _ORIGIN}
        assert node == expected[node["graph"], node["name"]]
        key = f"{node['graph']}:{node['name']}" if node["graph"] else node["name"]
        assert origin == {"from_nodes": (key,), "made_by": None}


def test_nodes_come_graph_by_graph_with_subgraphs_after_what_holds_them() -> None:
    program = by_name("nested").program
    decoded = decode(describe(program))
    paths = list(dict.fromkeys(node["graph"] for node in decoded))
    assert paths == [
        "",
        "while_loop_cond_graph_0",
        "while_loop_body_graph_0",
        "while_loop_body_graph_0.true_graph_0",
        "while_loop_body_graph_0.false_graph_0",
    ]
    for path, module in graphs(program.graph_module):
        assert [node["name"] for node in decoded if node["graph"] == path] == [node.name for node in module.graph.nodes]


def test_subgraph_that_several_nodes_call_is_described_once() -> None:
    program = by_name("invoke_subgraph").program
    calls = [node for node in program.graph.nodes if node.op == "get_attr"]
    assert len(calls) > len({node.target for node in calls})
    decoded = decode(describe(program))
    assert len({(node["graph"], node["name"]) for node in decoded}) == len(decoded)


@functools.cache
def everything() -> ExportedProgram:
    return by_name("everything").program


@given(st.integers(1, 60))
def test_batch_size_changes_nothing_but_the_batches(batch_size: int) -> None:
    batches = describe(everything(), batch_size)
    assert decode(batches) == decode(describe(everything()))
    assert all(len(batch.nodes) == batch_size for batch in batches[:-1])
    assert 0 < len(batches[-1].nodes) <= batch_size


def test_nothing_is_sent_twice() -> None:
    (batch,) = describe(everything())
    for table in (batch.strings, batch.expressions, batch.tensors, batch.module_stacks, batch.source_fn_stacks):
        entries = [entry if isinstance(entry, str) else entry.SerializeToString() for entry in table]
        assert len(set(entries)) == len(entries)


def test_batch_closes_when_it_is_large_in_bytes() -> None:
    program = by_name("bert").build()
    for number, node in enumerate(program.graph.nodes):
        node.meta["stack_trace"] = f"{number} " + "x" * 100_000
    batches = describe(program)
    assert len(batches) > 5
    assert all(batch.ByteSize() < MAX_BATCH_BYTES + 110_000 for batch in batches)
    assert len(decode(batches)) == len(program.graph.nodes)


def small() -> ExportedProgram:
    class Small(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.sin() + 1

    return torch.export.export(Small(), (torch.ones(2),))


def test_changed_nodes_are_those_that_a_pass_made() -> None:
    program = small()
    provenance = unchanged(program) | {"sin": Provenance(("sin", "add"), "decompose{table=default}")}
    (node,) = decode(describe_nodes(program, provenance=provenance, selection=NodeSelection.CHANGED))
    assert node["name"] == "sin"
    assert {key: node[key] for key in _ORIGIN} == {"from_nodes": ("sin", "add"), "made_by": "decompose{table=default}"}


@pytest.mark.parametrize("selection", [NodeSelection.NONE, NodeSelection.CHANGED])
def test_no_batch_is_sent_when_no_node_is_wanted(selection: NodeSelection) -> None:
    program = small()
    assert list(describe_nodes(program, provenance=unchanged(program), selection=selection)) == []


def test_node_without_provenance_is_an_error() -> None:
    program = small()
    provenance = unchanged(program)
    del provenance["add"]
    with pytest.raises(KeyError, match="add"):
        list(describe_nodes(program, provenance=provenance, selection=NodeSelection.ALL))


def only(program: ExportedProgram, name: str) -> Plain:
    (node,) = [node for node in decode(describe(program)) if node["name"] == name]
    return node


def test_metadata_of_any_other_key_is_sent_as_far_as_it_is_json() -> None:
    program = small()
    (node,) = (node for node in program.graph.nodes if node.name == "sin")
    node.meta.update(
        custom={"stage": 1, "who": ["a", None]},
        tag={"deep": (1, 2.5)},
        unwritable=object(),
        infinite=float("inf"),
        source_fn_stack=[("sin", torch.sin), ("layer", torch.nn.Linear), ("text", "some.Class")],
    )
    described = only(program, "sin")
    assert described["custom"] == '{"stage": 1, "who": ["a", null]}'
    assert described["other"] == '{"tag": {"deep": [1, 2.5]}}'
    assert described["source_fn_stack"] == [
        ("sin", "torch.sin"),
        ("layer", "torch.nn.modules.linear.Linear"),
        ("text", "some.Class"),
    ]


def test_empty_metadata_is_not_absent_metadata() -> None:
    program = small()
    sin, add = (node for node in program.graph.nodes if node.op == "call_function")
    sin.meta.update(custom={}, nn_module_stack={}, source_fn_stack=[], stack_trace="")
    for key in ("custom", "nn_module_stack", "source_fn_stack", "stack_trace"):
        add.meta.pop(key, None)
    fields = ("custom", "nn_module_stack", "source_fn_stack", "stack_trace")
    assert [only(program, "sin")[key] for key in fields] == ["{}", [], [], ""]
    assert [only(program, "add")[key] for key in fields] == [None, None, None, None]


def test_text_that_is_not_unicode_is_escaped() -> None:
    program = small()
    for node in program.graph.nodes:
        node.meta["stack_trace"] = "line \ud800"
    assert only(program, "sin")["stack_trace"] == "line \\ud800"


def test_program_read_from_an_archive_says_the_same_values_as_before() -> None:
    case = by_name("data_dependent")
    loaded = torch.export.load(io.BytesIO(case.archive))
    after = {node["name"]: node["value"] for node in decode(describe(loaded))}
    # A value of None is not written, and the reader also records what the graph returns, as the value of its output.
    before = {node["name"]: node["value"] for node in decode(describe(case.program)) if node["value"] not in (None, ("none",))}
    assert before
    assert {name: after[name] for name in before} == before
