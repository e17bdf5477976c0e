"""On any program and any rewrite, incremental and full retraces agree; and what they record is what the rewritten program computes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from torch import fx
from torch.export import ExportedProgram

from retraced_server.errors import RetracedError
from retraced_server.passes import PipelineResult, run_pipeline
from tests.support.compare import assert_identical_programs, shape_env_snapshot, validate
from tests.support.describe import alias_sets, graphs
from tests.support.examples import examples
from tests.support.random_rewrites import ARGUMENTS, DrawnPass, export, programs, rewrites

pytestmark = pytest.mark.slow

_Steps = Sequence[tuple[str, int, int]]


def _run(program: ExportedProgram, drawn: Sequence[str], mode: str) -> PipelineResult | str:
    try:
        return run_pipeline(program, [DrawnPass(drawn)], mode=mode)
    except RetracedError as error:
        return str(error)


@settings(deadline=None, max_examples=examples(24), suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
@given(steps=programs, drawn=rewrites)
@example(steps=[("item again", 0, 1)], drawn=["keep"] * 4 + ["write to argument"])
@example(steps=[("number in place", 0, 1)], drawn=["drop"] * 12)
@example(steps=[("in place", 0, 1), ("view", 2, 0)], drawn=["keep", "keep", "copy result", "view result"])
@example(steps=[("cond", 0, 1)], drawn=["copy result"] * 8)
@example(steps=[("sizes in place", 0, 1)], drawn=["keep", "copy result", "keep", "copy argument"])
@example(steps=[("view", 0, 1)], drawn=["keep", "replace", "keep", "copy argument", "widen"])
def test_incremental_and_full_agree_on_graph_values_and_ranges(steps: _Steps, drawn: Sequence[str]) -> None:
    programs = {mode: export(steps) for mode in ("incremental", "full")}
    results = {mode: _run(program, drawn, mode) for mode, program in programs.items()}
    incremental, full = results["incremental"], results["full"]
    if isinstance(incremental, str) or isinstance(full, str):
        assert incremental == full
        return
    assert incremental.modified is full.modified
    for result in (incremental, full):
        _forget_stack_traces(result.program)
    assert_identical_programs(incremental.program, full.program)
    assert dict(incremental.provenance) == dict(full.provenance)
    assert [report.new_guards for report in incremental.reports] == [report.new_guards for report in full.reports]
    assert _facts(programs["incremental"]) == _facts(programs["full"])


@settings(deadline=None, max_examples=examples(24), suppress_health_check=[HealthCheck.too_slow])
@given(steps=programs, drawn=rewrites)
@example(steps=[("view", 0, 1), ("through a view", 2, 2)], drawn=["copy result", "copy result", "view result", "copy argument"])
@example(steps=[("halves", 0, 1), ("in place", 2, 2)], drawn=["keep", "copy result", "drop", "drop"])
def test_recorded_values_are_what_the_rewritten_program_computes(steps: _Steps, drawn: Sequence[str]) -> None:
    program = export(steps)
    before = _alias_sets(program)
    result = _run(program, drawn, "incremental")
    if isinstance(result, str):
        return
    validate(result.program)
    again = run_pipeline(result.program, "retrace", mode="full")
    assert again.program is result.program
    # Where a recorded value of the exported program is not in the storage that it is in when the program runs, no pass can know.
    if before != _real_alias_sets(program):
        return
    try:
        after = _real_alias_sets(result.program)
    except RuntimeError as error:
        # A fake matmul takes operands of two dtypes.
        if "dtype" not in str(error):
            raise
    else:
        assert _alias_sets(result.program) == after


def _forget_stack_traces(program: ExportedProgram) -> None:
    # They name the code that torch generated when it exported a cond, which has another number each time.
    for _, module in graphs(program.graph_module):
        for node in module.graph.nodes:
            node.meta.pop("stack_trace", None)


def _facts(program: ExportedProgram) -> dict[str, Any]:
    # How often an operator was executed shows in the numbers of symbols that have been made, and in nothing else.
    facts = shape_env_snapshot(program)
    return {key: value for key, value in facts.items() if "counter" not in key}


class _Storages(fx.Interpreter):
    """Runs a program on real tensors, and notes in which storage each value is. Tensors stay alive, so that none is used twice."""

    def __init__(self, program: ExportedProgram) -> None:
        super().__init__(program.graph_module, garbage_collect_values=False)
        self.owners: dict[int, list[str]] = {}
        self.alive: list[Any] = []

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        self.alive.append(value)
        for position, leaf in enumerate(value if isinstance(value, (tuple, list)) else [value]):
            if isinstance(leaf, torch.Tensor) and n.op != "output":
                self.owners.setdefault(leaf.untyped_storage()._cdata, []).append(f":{n.name}[{position}]")
        return value


def _alias_sets(program: ExportedProgram) -> list[tuple[str, ...]]:
    in_root = [tuple(name for name in names if name.startswith(":")) for names in alias_sets(program)]
    return sorted(names for names in in_root if len(names) > 1)


def _real_alias_sets(program: ExportedProgram) -> list[tuple[str, ...]]:
    storages = _Storages(program)
    arguments = [argument.clone() for argument in ARGUMENTS]
    kept = [
        program.state_dict.get(s.target or "", program.constants.get(s.target or ""))
        for s in program.graph_signature.input_specs
    ]
    lifted = [tensor.clone() for tensor in kept if isinstance(tensor, torch.Tensor)]
    storages.run(*lifted, *arguments)
    return sorted(tuple(names) for names in storages.owners.values() if len(names) > 1)


@pytest.mark.parametrize("mode", ["incremental", "full"])
def test_drawn_programs_without_rewrites_are_the_same_objects(mode: str) -> None:
    program = export([("cond", 0, 1), ("number in place", 2, 1), ("halves", 1, 1), ("nonzero", 2, 3)])
    assert run_pipeline(program, [DrawnPass(["keep"])], mode=mode).program is program
