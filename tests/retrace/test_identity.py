"""A pass that changes nothing is the identity, on every program."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from retraced_server.passes import run_pipeline
from retraced_server.retrace import Argument, ExportPass, NodeMetadata, PassContext, ProxyValue
from retraced_server.retrace.pass_context import RetraceMode
from tests.support.case import ProgramCase
from tests.support.compare import (
    assert_computes,
    assert_identical_programs,
    assert_shape_env_unchanged,
    shape_env_snapshot,
    validate,
)
from tests.support.describe import alias_sets, describe_program, graphs
from tests.support.models import LLAMA_LIKE, by_name


class Marks(ExportPass):
    """Marks every operator's metadata, so that every graph is built anew and nothing else is changed."""

    def call_operator(
        self, op: Any, args: tuple[Argument, ...], kwargs: dict[str, Argument], meta: NodeMetadata
    ) -> ProxyValue[Any]:
        meta["marked"] = True
        return super().call_operator(op, args, kwargs, meta)


class RelaysEverything(ExportPass):
    """Overrides hooks to hand on equal arguments in containers of its own."""

    def call_operator(
        self, op: Any, args: tuple[Argument, ...], kwargs: dict[str, Argument], meta: NodeMetadata
    ) -> ProxyValue[Any]:
        copied = tuple(list(argument) if isinstance(argument, list) else argument for argument in args)
        return super().call_operator(op, copied, dict(kwargs), meta.copy())

    def call_sym(self, target: Any, args: tuple[Argument, ...], meta: NodeMetadata) -> ProxyValue[Any]:
        return super().call_sym(target, tuple(args), meta.copy())

    def output(self, results: Argument, meta: NodeMetadata) -> ProxyValue[Any]:
        # A subgraph may return a single value.
        copied = type(results)(results) if isinstance(results, (list, tuple)) else results
        return super().output(copied, meta.copy())


@pytest.mark.parametrize("pass_type", [ExportPass, RelaysEverything])
def test_unchanging_pass_returns_the_graph_module_it_was_given(
    any_case: ProgramCase, pass_type: type[ExportPass], mode: RetraceMode
) -> None:
    program = any_case.program
    program_before, aliases_before = describe_program(program), alias_sets(program)
    env_before = shape_env_snapshot(program)
    with PassContext(mode) as context:
        result = pass_type()(program.graph_module)
    assert result.graph_module is program.graph_module
    assert result.modified is False
    assert context.rewrites == 0
    assert context.new_guards == []
    assert_shape_env_unchanged(env_before, program)
    assert describe_program(program) == program_before
    assert alias_sets(program) == aliases_before


def test_ten_retraces_in_a_row_return_the_program_they_were_given(any_case: ProgramCase, mode: RetraceMode) -> None:
    program = any_case.program
    env_before = shape_env_snapshot(program)
    result = run_pipeline(program, ["retrace"] * 10, mode=mode)
    assert result.program is program
    assert result.modified is False
    assert [(report.name, report.modified, report.rewrites) for report in result.reports] == [("retrace", False, 0)] * 10
    assert all(report.nodes_before == report.nodes_after > 0 and not report.new_guards for report in result.reports)
    assert_shape_env_unchanged(env_before, program)


def test_program_read_from_a_file_is_unchanged_too(serializable_case: ProgramCase, mode: RetraceMode) -> None:
    program = serializable_case.reloaded
    env_before = shape_env_snapshot(program)
    result = run_pipeline(program, "retrace", mode=mode)
    assert result.program is program
    assert result.modified is False
    assert_shape_env_unchanged(env_before, program)


def test_rebuilt_program_differs_only_where_the_pass_changed_it(any_case: ProgramCase, mode: RetraceMode) -> None:
    program = any_case.program
    env_before = shape_env_snapshot(program)
    result = run_pipeline(program, [Marks()], mode=mode)
    operators = [
        node
        for _, module in graphs(program.graph_module)
        for node in module.graph.nodes
        if isinstance(node.target, torch._ops.OpOverload)
    ]
    assert result.modified is bool(operators)
    assert result.program is not program or not operators
    assert_shape_env_unchanged(env_before, program)
    marked = 0
    for _, module in graphs(result.program.graph_module):
        for node in module.graph.nodes:
            marked += node.meta.pop("marked", False)
    assert marked == len(operators)
    assert_identical_programs(program, result.program)
    validate(result.program)


def test_rebuilt_program_computes_the_same(any_case: ProgramCase, mode: RetraceMode) -> None:
    result = run_pipeline(any_case.program, [Marks()], mode=mode)
    assert_computes(any_case, result.program, exact=True)


def test_rebuilt_program_keeps_the_value_objects(any_case: ProgramCase, mode: RetraceMode) -> None:
    result = run_pipeline(any_case.program, [Marks()], mode=mode)
    for (_, before), (_, after) in zip(graphs(any_case.program.graph_module), graphs(result.program.graph_module), strict=True):
        for old, new in zip(before.graph.nodes, after.graph.nodes, strict=True):
            assert new.meta.get("val") is old.meta.get("val"), old.name


def test_input_program_is_never_changed(any_case: ProgramCase, mode: RetraceMode) -> None:
    program = any_case.program
    before, aliases = describe_program(program), alias_sets(program)
    run_pipeline(program, [Marks()], mode=mode)
    assert describe_program(program) == before
    assert alias_sets(program) == aliases


def test_one_pass_object_runs_on_many_programs(mode: RetraceMode) -> None:
    unchanging = ExportPass()
    for name in ("bert", "everything", "no_tensor_inputs", "bert"):
        module = by_name(name).program.graph_module
        with PassContext(mode):
            assert unchanging(module).graph_module is module


@pytest.mark.parametrize("case", [LLAMA_LIKE], ids=str)
def test_program_of_many_nodes_is_unchanged(case: ProgramCase, mode: RetraceMode) -> None:
    program = case.program
    env_before = shape_env_snapshot(program)
    assert run_pipeline(program, "retrace", mode=mode).program is program
    assert_shape_env_unchanged(env_before, program)
