"""On random programs: a pass that changes nothing is the identity, and random rewrites give valid programs that compute the same."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from torch import fx
from torch.export import ExportedProgram

from retraced_server.passes import run_pipeline
from tests.support.case import ProgramCase
from tests.support.compare import assert_equivalent, assert_shape_env_unchanged, shape_env_snapshot
from tests.support.describe import alias_sets, describe_program, graphs
from tests.support.random_programs import RandomRewrites, programs, rewrites

pytestmark = pytest.mark.slow


def _examples(count: int) -> settings:
    checks = [HealthCheck.too_slow, HealthCheck.data_too_large]
    return settings(max_examples=count, derandomize=True, deadline=None, database=None, suppress_health_check=checks)


@_examples(12)
@given(programs())
def test_pass_that_changes_nothing_is_the_identity(case: ProgramCase) -> None:
    program = case.program
    before, aliases, env = describe_program(program), alias_sets(program), shape_env_snapshot(program)
    result = run_pipeline(program, "retrace,retrace")
    assert result.program is program
    assert_shape_env_unchanged(env, program)
    assert describe_program(program) == before
    assert alias_sets(program) == aliases


@_examples(24)
@given(programs(), rewrites())
def test_rewritten_program_is_valid_and_computes_the_same(case: ProgramCase, rewriting: RandomRewrites) -> None:
    program = case.program
    before, aliases, env = describe_program(program), alias_sets(program), shape_env_snapshot(program)
    result = run_pipeline(program, [rewriting])
    assert describe_program(program) == before
    assert alias_sets(program) == aliases
    assert_untouched_nodes_are_kept(program, result.program, rewriting.touched)
    assert result.reports[0].new_guards == ()
    assert result.program.range_constraints == program.range_constraints
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert_equivalent(case, result.program)
    assert_same_symbols(env, shape_env_snapshot(program))


def assert_untouched_nodes_are_kept(old: ExportedProgram, new: ExportedProgram, touched: set[tuple[str, str]]) -> None:
    """Asserts that a node keeps name, target, value and all metadata if neither it nor one of its inputs was rewritten."""
    after = dict(graphs(new.graph_module))
    for path, graph in graphs(old.graph_module):
        nodes = {node.name: node for node in after[path].graph.nodes}
        assert nodes.keys() >= {node.name for node in graph.graph.nodes}, path
        changed = {node for node in graph.graph.nodes if (path, node.name) in touched}
        for node in graph.graph.nodes:
            if node in changed or changed & set(node.all_input_nodes):
                continue
            _assert_kept(node, nodes[node.name])


def _assert_kept(old: fx.Node, new: fx.Node) -> None:
    assert (new.op, new.target) == (old.op, old.target), old.name
    assert new.meta.keys() == old.meta.keys(), old.name
    for key, value in old.meta.items():
        # A hook's pass has containers of its own, with the same in them.
        same = new.meta[key] == value if type(value) in (dict, list) else new.meta[key] is value
        assert same, (old.name, key)


def assert_same_symbols(before: dict[str, Any], after: dict[str, Any]) -> None:
    """Asserts that a shape environment has no other symbols, ranges or guards than before."""
    for fact in ("guards", "var_to_range", "replacements", "pending_fresh_unbacked_symbols", "deferred_runtime_asserts"):
        assert after[fact] == before[fact], fact
