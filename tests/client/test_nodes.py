"""What a result looks like to somebody who explores it: nodes by name, and one short line for each object."""

from __future__ import annotations

from typing import Any

import pytest

from retraced.nodes import (
    Argument,
    Expression,
    NodeMetadata,
    NodeOp,
    NodeRef,
    Nodes,
    NoValue,
    OpaqueValue,
    SymbolicValue,
    TensorValue,
    Value,
)
from retraced.program import ProgramInfo
from retraced.reports import PassReport, Summary
from retraced.v1 import graph_transform_pb2 as pb
from retraced.v1 import node_metadata_pb2
from tests.client.archives import plain
from tests.client.fake_server import FakeServer, answers

BATCH = Expression("s77", 4, 2, 64)
TENSOR = TensorValue("float32", (BATCH, 16), (16, 1), 0, "cpu", "strided", False)


def node(
    name: str, *args: Argument, target: str = "aten.mm.default", value: Value | NoValue = TENSOR, **more: Any
) -> NodeMetadata:
    return NodeMetadata(more.pop("graph", ""), name, more.pop("op", NodeOp.CALL_FUNCTION), target, args, value=value, **more)


MM = node("mm", NodeRef("x"), NodeRef("w"), stack_trace="File\n" * 1000)
ADD = node("add", NodeRef("x"), 1, target="aten.add.Tensor", graph="true_graph_0")
NODES = Nodes((node("x", op=NodeOp.PLACEHOLDER, target="x"), MM, ADD))


def test_a_node_is_found_by_its_name_and_in_a_subgraph_by_its_graphs_path() -> None:
    assert NODES["mm"] is MM
    assert NODES["true_graph_0:add"] is ADD
    # A type checker takes only a node for one of the nodes.
    assert "mm" in NODES  # type: ignore[comparison-overlap]
    assert "add" not in NODES  # type: ignore[comparison-overlap]


def test_nodes_are_still_the_tuple_that_they_were() -> None:
    assert tuple(NODES) == NODES
    assert NODES[1] is NODES[-2] is MM
    assert NODES[1:] == (MM, ADD)
    assert MM in NODES
    assert len(NODES) == 3


@pytest.mark.parametrize(("name", "hint"), [("add", "'true_graph_0:add'"), ("mm_", "'mm'")])
def test_a_name_that_is_not_there_is_told_with_those_that_are_near(name: str, hint: str) -> None:
    with pytest.raises(KeyError, match=f"'{name}' is here; did you mean {hint}"):
        NODES[name]


def test_nodes_that_were_not_asked_for_say_how_to_ask() -> None:
    with pytest.raises(KeyError, match="node_metadata='all'"):
        Nodes()["mm"]


def test_a_result_gives_its_nodes_by_name(call: Any) -> None:
    sent = node_metadata_pb2.NodeMetadata(name=1, op=node_metadata_pb2.NODE_OP_OUTPUT, target=1)
    batch = pb.TransformGraphResponse(node_metadata=node_metadata_pb2.NodeMetadataBatch(strings=["output"], nodes=[sent]))
    output = plain(b"weights")
    with FakeServer(answers(output, batch)) as server:
        result = call(server.address, b"archive", "cse", node_metadata="all")
    assert result.nodes["output"] is result.nodes[0]


@pytest.mark.parametrize(
    ("shown", "text"),
    [
        (MM, "<NodeMetadata mm = aten.mm.default(%x, %w) -> float32[s77, 16]>"),
        (ADD, "<NodeMetadata true_graph_0:add = aten.add.Tensor(%x, 1) -> float32[s77, 16]>"),
        (NODES[0], "<NodeMetadata x = placeholder[x] -> float32[s77, 16]>"),
        (
            node("cat", [NodeRef("x"), None], kwargs=(("by", "tanh"), ("to", {"a": (2,)})), value=(TENSOR, SymbolicValue("int", BATCH))),
            "<NodeMetadata cat = aten.mm.default([%x, None], by='tanh', to={'a': (2,)}) -> (float32[s77, 16], SymInt(s77))>",
        ),
        (node("f", value=NoValue()), "<NodeMetadata f = aten.mm.default()>"),
        (NODES, "<Nodes: 3 nodes of 2 graphs>"),
        (TENSOR, "<TensorValue float32[s77, 16]>"),
        (BATCH, "<Expression s77>"),
        (SymbolicValue("bool", BATCH), "<SymbolicValue SymBool(s77)>"),
        (OpaqueValue("a script\n object"), "<OpaqueValue a script object>"),
        (ProgramInfo(node_count=5, graph_count=1, guards=("s77 > 1",) * 1000), "<ProgramInfo 5 nodes in 1 graph, 0 inputs, 0 outputs>"),
        (
            PassReport("cse", "cse", True, 1, 0.12345, 5, 4, ("remark",) * 1000),
            "<PassReport cse: modified, 1 rewrite, 5 to 4 nodes, 0.123 s>",
        ),
        (
            Summary(False, ProgramInfo(node_count=5), ProgramInfo(node_count=4), 9, b"", "cse,dce"),
            "<Summary cse,dce: not modified, 5 to 4 nodes, 9 bytes>",
        ),
        (Summary(False, ProgramInfo(node_count=5), None, 0, b"", "cse"), "<Summary cse: not modified, 5 nodes, 0 bytes>"),
    ],
    ids=lambda item: item.split(" ")[0][1:] if isinstance(item, str) else "",
)  # fmt: skip
def test_an_object_shows_itself_in_one_short_line(shown: object, text: str) -> None:
    assert repr(shown) == text


@pytest.mark.parametrize("shown", [node("output", *map(NodeRef, map(str, range(1000)))), OpaqueValue("long " * 1000)])
def test_a_long_text_is_cut(shown: object) -> None:
    assert len(repr(shown)) < 150
    assert repr(shown).endswith("...>")


def test_a_result_shows_itself_in_one_short_line(call: Any) -> None:
    output = plain(b"weights")
    with FakeServer(answers(output)) as server:
        result = call(server.address, b"archive", "cse")
    assert repr(result) == f"<TransformResult from-the-server: cse: modified, 5 to 4 nodes, {len(output)} bytes>"
