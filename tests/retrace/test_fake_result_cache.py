"""Results of operators that are known from calls before: that they are, and that nobody could tell."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import nn
from torch.export import Dim, ExportedProgram

from retraced_server.errors import Reason, RetracedError
from retraced_server.passes import PipelineResult, run_pipeline
from retraced_server.retrace import ExportPass, NodeMetadata, ProxyValue
from tests.support.compare import assert_identical_programs, assert_shape_env_unchanged, shape_env_snapshot
from tests.support.describe import alias_sets, describe_tensor, graphs
from tests.support.executed import Executed

aten = torch.ops.aten
_Call = Callable[..., Any]
_Build = Callable[[_Call, Any], Any]


class _Twice(nn.Module):
    def forward(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x.relu(), y.relu()


class _Replaces(ExportPass):
    """Puts what a function builds of its argument in the place of each relu, or tanh."""

    def __init__(self, build: _Build, replaced: Any = aten.relu.default) -> None:
        super().__init__()
        self.build = build
        self.replaced = replaced

    def call_operator(self, op: Any, args: tuple[Any, ...], kwargs: dict[str, Any], meta: NodeMetadata) -> ProxyValue[Any]:
        call = super().call_operator
        if op is not self.replaced:
            return call(op, args, kwargs, meta)
        result: ProxyValue[Any] = self.build(lambda target, *given, **named: call(target, given, named, meta), args[0])
        return result


def _program(dtype: torch.dtype = torch.float32, *, is_dynamic: bool = False) -> ExportedProgram:
    x = torch.ones(4, 8, dtype=dtype)
    sizes = ({0: Dim("n", min=2, max=64)}, {0: Dim("n", min=2, max=64)}) if is_dynamic else None
    return torch.export.export(_Twice(), (x, x.clone()), dynamic_shapes=sizes)


def _executed(program: ExportedProgram, passes: Sequence[ExportPass], **options: Any) -> list[Any]:
    with Executed() as executed:
        run_pipeline(program, passes, **options)
    return executed.operators


def _neg(call: _Call, x: Any) -> Any:
    return call(aten.neg.default, x)


def test_what_one_layer_gave_is_not_executed_for_the_next() -> None:
    assert _executed(_program(is_dynamic=True), [_Replaces(_neg)]) == [aten.neg.default]


def test_what_one_pass_executed_the_next_does_not() -> None:
    again = _Replaces(lambda call, x: call(aten.neg.default, x), aten.neg.default)
    back = _Replaces(lambda call, x: call(aten.relu.default, x), aten.neg.default)
    passes = [_Replaces(_neg), again, back, _Replaces(_neg)]
    assert _executed(_program(is_dynamic=True), passes) == [aten.neg.default, aten.relu.default]


class _Subgraphs(nn.Module):
    def forward(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        first, second = x.relu(), y.relu()
        with torch.no_grad():
            first = first.sin().cos()
        first = first * 2
        with torch.no_grad():
            second = second.sin().cos()
        return first, second * 2


def test_operators_of_subgraphs_are_not_executed_again_with_the_operator_that_calls_them() -> None:
    x = torch.ones(4, 8)
    program = torch.export.export(_Subgraphs(), (x, x.clone()))
    doubles = _Replaces(lambda call, value: call(aten.to.dtype, value, torch.float64))
    assert _executed(program, [doubles]) == [aten.to.dtype, aten.sin.default, aten.cos.default, aten.mul.Tensor]


class _ResizingSubgraph(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.relu()
        with torch.no_grad():
            y = x.clone()
            before = y.neg()
            y.t_()
            result = before + y.neg().t()
        return result * 2


def test_tensors_that_a_subgraph_changed_in_place_are_seen_as_they_are() -> None:
    programs = [
        run_pipeline(
            torch.export.export(_ResizingSubgraph(), (torch.ones(4, 8),)),
            [_Replaces(lambda call, x: call(aten.to.dtype, x, torch.float64))],
            mode=mode,
        ).program
        for mode in ("incremental", "full")
    ]
    assert_identical_programs(*programs)


def test_full_mode_executes_everything() -> None:
    assert _executed(_program(), [_Replaces(_neg)], mode="full") == [aten.neg.default, aten.neg.default]


def test_programs_do_not_share_results() -> None:
    for _ in range(2):
        assert _executed(_program(), [_Replaces(_neg)]) == [aten.neg.default]


def _agreed(build: _Build, dtype: torch.dtype = torch.float32, *, is_dynamic: bool = False, passes: int = 1) -> PipelineResult:
    results = [
        run_pipeline(_program(dtype, is_dynamic=is_dynamic), [_Replaces(build) for _ in range(passes)], mode=mode)
        for mode in ("incremental", "full")
    ]
    incremental, full = results
    assert_identical_programs(incremental.program, full.program)
    assert [report.new_guards for report in incremental.reports] == [report.new_guards for report in full.reports]
    return incremental


def _halves(call: _Call, x: Any) -> Any:
    return call(operator.getitem, call(aten.split.Tensor, x, 4, 1), 1)


_VIEWS: dict[str, tuple[_Build, torch.dtype]] = {
    "transposed": (lambda call, x: call(aten.t.default, x), torch.float32),
    "of a view": (lambda call, x: call(aten.select.int, call(aten.t.default, x), 0, 3), torch.float32),
    "halves": (_halves, torch.float32),
    "as it is": (lambda call, x: call(aten.contiguous.default, x), torch.float32),
    "in another type": (lambda call, x: call(aten.view.dtype, x, torch.int32), torch.float32),
    "of complex as real": (lambda call, x: call(aten.view_as_real.default, x), torch.complex64),
    "the real part": (lambda call, x: call(aten.real.default, x), torch.complex64),
    "conjugated": (lambda call, x: call(aten._conj.default, x), torch.complex64),
    "conjugated twice": (lambda call, x: call(aten._conj.default, call(aten._conj.default, x)), torch.complex64),
    "negated twice": (lambda call, x: call(aten._neg_view.default, call(aten._neg_view.default, x)), torch.float32),
}


@pytest.mark.parametrize(("build", "dtype"), _VIEWS.values(), ids=_VIEWS)
@pytest.mark.parametrize("is_dynamic", [False, True])
def test_views_are_of_the_argument_that_they_were_asked_of(build: _Build, dtype: torch.dtype, *, is_dynamic: bool) -> None:
    program = _agreed(build, dtype, is_dynamic=is_dynamic, passes=2).program
    for argument, result in zip(("x", "y"), ("relu", "relu_1"), strict=True):
        (held,) = [names for names in alias_sets(program) if f":{argument}[0]" in names]
        assert any(name.startswith(f":{result}[") for name in held)


def test_views_of_constants_share_storage_with_them() -> None:
    constant = torch.ones(8)
    (names,) = alias_sets(_agreed(lambda call, x: call(aten.expand_as.default, constant, x)).program)
    assert len(names) == 3


class _Weighted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.weight.relu() + x * self.weight.relu()


@pytest.mark.parametrize("target", [aten.t.default, aten.contiguous.default, aten.neg.default])
def test_results_have_no_gradients_though_a_hook_enables_them(target: Any) -> None:
    results: list[torch.Tensor] = []

    def build(call: _Call, x: Any) -> Any:
        with torch.enable_grad():
            result = call(target, x)
        results.append(result.data)
        return call(aten.relu.default, x)

    run_pipeline(torch.export.export(_Weighted(), (torch.ones(4, 4),)), [_Replaces(build)])
    assert [(result.requires_grad, result.grad_fn) for result in results] == [(False, None)] * 2


def _written(call: _Call, x: Any) -> Any:
    value = call(aten.neg.default, x)
    call(aten.add_.Tensor, value, 1)
    call(aten.unsqueeze_.default, value, 0)
    return call(aten.mul.Tensor, value, 2)


@pytest.mark.parametrize("passes", [1, 2])
def test_what_is_known_can_be_written_to(passes: int) -> None:
    _agreed(_written, is_dynamic=True, passes=passes)


_SIZE = 0


@torch.library.custom_op("fake_result_cache::sized", mutates_args=())
def _sized(x: torch.Tensor) -> torch.Tensor:
    return x.new_zeros(_SIZE)


@_sized.register_fake
def _fake_sized(x: torch.Tensor) -> torch.Tensor:
    return x.new_empty(_SIZE)


def test_custom_operators_are_executed_since_their_fake_kernels_may_look_at_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: Iterator[int] = iter(())

    def build(call: _Call, x: Any) -> Any:
        monkeypatch.setattr(f"{__name__}._SIZE", next(sizes))
        return call(torch.ops.fake_result_cache.sized.default, x)

    sizes = iter([1, 2] * 2)
    _agreed(build)


def _with_guard(call: _Call, x: Any) -> Any:
    return call(aten.view.default, x, [4, 2, 4])


def test_operators_that_make_guards_are_executed_again() -> None:
    program = _program(is_dynamic=True)
    with Executed() as executed:
        result = run_pipeline(program, [_Replaces(_with_guard)])
    assert result.reports[0].new_guards
    assert executed.operators[:2] == [aten.view.default, aten.view.default]
    # What was recorded before the guard is compared with what it is after it.
    assert executed.operators[2:] == [aten.relu.default, aten.relu.default]


class _Branches(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = torch.cond(x.sum() > 0, lambda x: x.relu() + x.relu(), lambda x: (x * 2).relu(), (x,))
        return result


def test_sizes_that_a_guard_made_numbers_are_numbers_or_symbols_as_they_are_executed() -> None:
    def build(call: _Call, x: Any) -> Any:
        call(aten.view.default, x, [4, 8])
        return call(aten.clone.default, call(aten.view.default, x, [4, 8]))

    found = []
    for mode in ("incremental", "full"):
        program = torch.export.export(_Branches(), (torch.ones(4, 8),), dynamic_shapes=({0: Dim("n", min=2, max=64)},))
        changed = run_pipeline(program, [_Replaces(build)], mode=mode).program
        values = [
            node.meta["val"] for _, graph in graphs(changed.graph_module) for node in graph.graph.nodes if "val" in node.meta
        ]
        found.append([describe_tensor(value) for value in values if isinstance(value, torch.Tensor)])
    assert found[0] == found[1]


class _Pictures(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.relu()


def test_guards_are_the_same_in_both_modes_since_none_asks_torchs_cache() -> None:
    shapes = ({2: Dim("h", min=2, max=64), 3: Dim("w", min=2, max=64)},)
    found = []
    for mode in ("incremental", "full"):
        program = torch.export.export(_Pictures(), (torch.ones(2, 1, 4, 6),), dynamic_shapes=shapes)
        result = run_pipeline(program, [_Replaces(lambda call, x: call(aten.avg_pool2d.default, x, [2, 2], [2, 2]))], mode=mode)
        found.append(result.reports[0].new_guards)
    assert found[0] == found[1]


def test_guards_are_refused_each_time() -> None:
    program = _program(is_dynamic=True)
    before = shape_env_snapshot(program)
    passes: Sequence[ExportPass] = [_Replaces(_neg), _Replaces(_with_guard, aten.neg.default)]
    for _ in range(3):
        with pytest.raises(RetracedError) as failure:
            run_pipeline(program, passes, refuse_new_guards=True)
        assert failure.value.reason is Reason.NEW_GUARDS
        assert_shape_env_unchanged(before, program)


def test_guards_of_a_pass_that_failed_are_made_again() -> None:
    program = _program(is_dynamic=True)

    def fails(call: _Call, x: Any) -> Any:
        call(aten.view.default, x, [4, 8])
        call(aten.view.default, x, [4, 8])
        raise ValueError

    with pytest.raises(RetracedError):
        run_pipeline(program, [_Replaces(fails)])
    result = run_pipeline(program, [_Replaces(lambda call, x: call(aten.view.default, x, [4, 8]))])
    assert result.reports[0].new_guards
