"""Through a socket too, a pass that changes nothing is the identity."""

from __future__ import annotations

import io

import pytest

from retraced import Client
from tests.support.case import ProgramCase
from tests.support.compare import assert_identical_programs, loaded
from tests.support.describe import graphs
from tests.support.models import by_name


@pytest.mark.slow
def test_ten_retraces_in_a_row_return_the_archive_byte_for_byte(client: Client, serializable_case: ProgramCase) -> None:
    # From a file object the output is really sent: the client does not keep what it has read.
    result = client.transform(io.BytesIO(serializable_case.archive), ",".join(["retrace"] * 10))
    assert not result.modified
    assert [report.modified for report in result.passes] == [False] * 10
    assert all(not report.new_guards and report.rewrites == 0 for report in result.passes)
    assert result.to_bytes() == serializable_case.archive


def test_unmodified_output_of_a_source_that_can_be_read_again_is_not_sent(client: Client) -> None:
    archive = by_name("bert").archive
    result = client.transform(archive, "retrace")
    assert result.bytes_received < len(archive) / 10
    assert result.to_bytes() == archive


def test_every_node_is_described_as_it_is(client: Client, real_case: ProgramCase) -> None:
    result = client.transform(real_case.archive, "retrace", node_metadata="all")
    program = real_case.reloaded
    described: dict[str, list[tuple[str, str, int]]] = {}
    for node in result.nodes:
        described.setdefault(node.graph, []).append((node.name, str(node.op), len(node.users)))
    assert described == {
        path: [(node.name, node.op, len(node.users)) for node in module.graph.nodes]
        for path, module in graphs(program.graph_module)
    }
    assert all(node.from_nodes == (node.name,) and not node.made_by for node in result.nodes if not node.graph)
    traces = {node.name: node.meta.get("stack_trace", "") for node in program.graph.nodes}
    assert {node.name: node.stack_trace for node in result.nodes if not node.graph} == traces


def test_ten_passes_that_change_nothing_after_one_that_does_change_nothing(client: Client) -> None:
    archive = by_name("everything").archive
    once = client.transform(archive, "decompose")
    more = client.transform(archive, ",".join(["decompose", *["retrace"] * 10]))
    assert [report.modified for report in more.passes] == [True, *[False] * 10]
    assert_identical_programs(loaded(once.to_bytes()), loaded(more.to_bytes()))
