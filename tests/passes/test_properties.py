"""Properties of `cse` and `dce` on random programs full of equal calls, views, writes, random numbers and shared outputs."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from retraced_server.passes import run_pipeline
from tests.passes.support import export
from tests.support.case import ProgramCase
from tests.support.compare import assert_computes, assert_same_results, run, validate
from tests.support.examples import examples
from tests.support.random_programs import programs

pytestmark = pytest.mark.slow

# Few operations on few values, so that equal calls are common. All values are 4x4.
_OPERATIONS: dict[str, Callable[[torch.Tensor, torch.Tensor], Any]] = {
    "sine": lambda x, y: x.sin(),
    "add": lambda x, y: x + y,
    "sum": lambda x, y: x + y.sum(),
    "view": lambda x, y: x.view(4, 4),
    "transpose": lambda x, y: x.t(),
    "flip": lambda x, y: x.flip(0),
    "split": lambda x, y: torch.cat(x.split(2)),
    "contiguous": lambda x, y: x.contiguous(),
    "dropout": lambda x, y: torch.nn.functional.dropout(x, 0.5, training=False),
    "write": lambda x, y: x.add_(1),
    "write row": lambda x, y: (x[0].mul_(2), x)[1],
    "copy": lambda x, y: (x.copy_(y.clone()), y)[1],
    "random": lambda x, y: torch.rand_like(x),
    "without gradients": torch.no_grad()(lambda x, y: x.cos() + y.cos()),
    "write without gradients": torch.no_grad()(lambda x, y: x.mul_(2)),
}
_PLACE = st.integers(0, 3)
_STEPS = st.lists(st.tuples(st.sampled_from(sorted(_OPERATIONS)), _PLACE, _PLACE), min_size=2, max_size=10)
_OUTPUTS = st.lists(_PLACE, min_size=1, max_size=3)

_settings = settings(
    max_examples=examples(16),
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


def _inputs() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(4, 4, generator=generator), torch.randn(4, 4, generator=generator)


def _program(steps: Sequence[tuple[str, int, int]], outputs: Sequence[int]) -> ExportedProgram:
    def function(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, ...]:
        # Values of the program's own, beside views of its inputs.
        values = [x.sin(), y, x.sin()]
        for name, first, second in steps:
            values.append(_OPERATIONS[name](values[-1 - first % len(values)], values[-1 - second % len(values)]))
        return tuple(values[-1 - place % len(values)] for place in outputs)

    return export(function, *_inputs())


def _sharing(program: ExportedProgram) -> list[int]:
    """For each input and output of one call the first of them that has the same storage."""
    inputs = _inputs()
    torch.manual_seed(0)
    tensors = [*inputs, *pytree.tree_leaves(program.module()(*inputs))]
    storages = [tensor.untyped_storage()._cdata for tensor in tensors]
    return [storages.index(storage) for storage in storages]


@_settings
@given(_STEPS, _OUTPUTS)
def test_results_stay_and_share_storage_as_before_and_a_second_run_changes_nothing(steps: Any, outputs: Any) -> None:
    program = _program(steps, outputs)
    for pipeline in ("cse", "dce"):
        result = run_pipeline(program, pipeline).program
        validate(result)
        # Random numbers too: a seeded generator must be used as often, in the same order.
        assert_same_results(program, result, [(_inputs(), {})], exact=True)
        assert _sharing(result) == _sharing(program)
        assert run_pipeline(result, pipeline).program is result


@settings(_settings, max_examples=8)
@given(_STEPS, _OUTPUTS)
def test_functional_program_is_merged_as_far_as_its_values_allow(steps: Any, outputs: Any) -> None:
    program = run_pipeline(_program(steps, outputs), "decompose").program
    result = run_pipeline(program, "cse,dce")
    assert_same_results(program, result.program, [(_inputs(), {})], exact=True)
    assert run_pipeline(result.program, "decompose,cse,dce").program is result.program
    # What is not merged and not random is an output, or has been remarked on.
    calls = [str((n.target, n.args, n.kwargs)) for n in result.program.graph.nodes if n.op == "call_function"]
    repeated = {call for call in calls if calls.count(call) > 1 and "rand" not in call}
    assert not repeated or any("two outputs" in r or "values of their own" in r for r in result.reports[0].remarks)


@settings(_settings, max_examples=8)
@given(programs())
def test_lowering_computes_the_same(case: ProgramCase) -> None:
    result = run_pipeline(case.program, "decompose,cse,dce")
    validate(result.program)
    assert_computes(case, result.program)
    assert run_pipeline(result.program, "cse,dce").program is result.program


def test_comparison_sees_random_numbers_that_are_drawn_in_another_order() -> None:
    one, other = (export(functools.partial(torch.add, alpha=a), *_inputs()) for a in (1, 2))
    assert not torch.equal(run(one, _inputs(), {})[0], run(other, _inputs(), {})[0])
