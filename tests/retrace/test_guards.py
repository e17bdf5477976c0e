"""New nodes may need guards on symbolic shapes: these are reported or refused, and unchanged nodes never add any."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.export import Dim

from retraced_server.errors import Reason, RetracedError
from retraced_server.passes import run_pipeline
from retraced_server.retrace import ExportPass, ProxyValue, pass_context
from tests.support.case import ProgramCase, of_sizes
from tests.support.compare import assert_equivalent, assert_shape_env_unchanged, shape_env_snapshot
from tests.support.models import by_name

aten = torch.ops.aten


class Adds(nn.Module):
    def forward(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x.relu(), y.relu()


def _pair(n: int, m: int) -> Any:
    return (torch.randn(n, 8), torch.randn(m, 8)), {}


_SHAPES = ({0: Dim("n", min=2, max=64)}, {0: Dim("m", min=2, max=64)})
TWO_SIZES = ProgramCase("two_sizes", Adds, of_sizes(_pair, (4, 4)), _SHAPES)


class NeedsEqualSizes(ExportPass):
    """Adds the inputs of the last relu and the first, which broadcast only if their sizes are equal."""

    def __init__(self) -> None:
        super().__init__()
        self.first: Any = None

    def call_operator(self, op: Any, args: Any, kwargs: Any, meta: Any) -> ProxyValue[Any]:
        if self.first is None:
            self.first = args[0]
            return super().call_operator(op, args, kwargs, meta)
        total = super().call_operator(aten.add.Tensor, (args[0], self.first), {}, meta)
        return super().call_operator(op, (total,), kwargs, meta)


def test_new_guards_are_reported() -> None:
    program = TWO_SIZES.build()
    result = run_pipeline(program, [NeedsEqualSizes()])
    (report,) = result.reports
    assert len(report.new_guards) == 1
    assert "Eq" in report.new_guards[0]


def test_new_guards_are_refused_on_demand_and_then_forgotten() -> None:
    program = TWO_SIZES.build()
    before = shape_env_snapshot(program)
    with pytest.raises(RetracedError, match="new nodes add guards") as failure:
        run_pipeline(program, ["retrace", NeedsEqualSizes(), "retrace"], refuse_new_guards=True)
    assert failure.value.reason is Reason.NEW_GUARDS
    assert_shape_env_unchanged(before, program)


def test_later_passes_see_what_earlier_guards_say() -> None:
    program = TWO_SIZES.build()
    result = run_pipeline(program, [NeedsEqualSizes(), "retrace", "retrace"])
    assert [bool(report.new_guards) for report in result.reports] == [True, False, False]


def test_unchanged_nodes_beside_new_ones_add_no_guards(real_case: ProgramCase) -> None:
    class Clones(ExportPass):
        def output(self, results: Any, meta: Any) -> ProxyValue[Any]:
            if pass_context().graph_path:
                return super().output(results, meta)
            first = self.call_operator(aten.clone.default, (results[0],), {}, self._create_dummy_node_metadata())
            return super().output((first, *results[1:]), meta)

    before = shape_env_snapshot(real_case.program)
    result = run_pipeline(real_case.program, [Clones()])
    assert result.modified
    assert result.reports[0].new_guards == ()
    assert_shape_env_unchanged(before, real_case.program)


def test_hook_that_asks_about_a_size_adds_the_guard_that_it_asks_for() -> None:
    class Asks(ExportPass):
        """Branches on the size itself, which is what specialises."""

        def call_operator(self, op: Any, args: Any, kwargs: Any, meta: Any) -> ProxyValue[Any]:
            if args[0].to_tensor().shape[0] == 4:
                return super().call_operator(aten.clamp_min.default, (args[0], 0), {}, meta)
            return super().call_operator(op, args, kwargs, meta)

    program = TWO_SIZES.build()
    result = run_pipeline(program, [Asks()])
    assert any("4" in guard for guard in result.reports[0].new_guards)


def test_hook_that_asks_and_changes_nothing_leaves_no_guard() -> None:
    class Asks(ExportPass):
        def call_operator(self, op: Any, args: Any, kwargs: Any, meta: Any) -> ProxyValue[Any]:
            pass_context().remark(str(args[0].to_tensor().shape[0] == 4))
            return super().call_operator(op, args, kwargs, meta)

    program = TWO_SIZES.build()
    before = shape_env_snapshot(program)
    result = run_pipeline(program, [Asks()])
    assert result.program is program
    assert result.reports[0].new_guards == ()
    assert_shape_env_unchanged(before, program)


def test_rewrites_of_symbolic_programs_keep_ranges() -> None:
    class Doubles(ExportPass):
        def call_operator(self, op: Any, args: Any, kwargs: Any, meta: Any) -> ProxyValue[Any]:
            value = super().call_operator(op, args, kwargs, meta)
            return super().call_operator(aten.clone.default, (value,), {}, meta) if op is aten.linear.default else value

    case = by_name("tied_weights")
    program = run_pipeline(case.program, [Doubles()]).program
    assert program.range_constraints == case.program.range_constraints
    assert_equivalent(case, program)
