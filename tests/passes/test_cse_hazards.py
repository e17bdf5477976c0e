"""What `cse` must not merge: each test is a program that computes something else when it does."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.export import ExportedProgram

import tests.support.programs  # noqa: F401 - registers the operators that write to their arguments
from retraced_server.passes import PipelineResult, run_pipeline
from tests.passes.support import export, names, targets
from tests.program.archives import read_bytes, saved
from tests.support.compare import assert_same_results, loaded, validate
from tests.support.models import by_name

_X = torch.randn(4, 4)
aten = torch.ops.aten


def _after_cse(program: ExportedProgram) -> PipelineResult:
    result = run_pipeline(program, "cse")
    validate(result.program)
    return result


def _checked(function: Any, *args: Any) -> PipelineResult:
    program = export(function, *(args or (_X,)))
    result = _after_cse(program)
    assert_same_results(program, result.program, [(args or (_X,), {})], exact=True)
    return result


def test_random_numbers_are_drawn_each_time() -> None:
    result = _checked(lambda x: torch.rand_like(x) - torch.rand_like(x))
    assert targets(result.program)["aten.rand_like"] == 2


def test_dropout_is_random_though_it_may_do_nothing() -> None:
    result = _checked(lambda x: nn.functional.dropout(x, 0.5, training=True) - nn.functional.dropout(x, 0.5, training=True))
    assert targets(result.program)["aten.dropout"] == 2


def test_uninitialised_memory_is_not_shared() -> None:
    result = _checked(lambda x: (torch.empty_like(x).zero_() + 1, torch.empty_like(x).fill_(2)))
    assert targets(result.program)["aten.empty_like"] == 2


def test_argument_that_is_written_to_in_between_gives_another_result() -> None:
    def written(x: torch.Tensor) -> torch.Tensor:
        y = x.clone()
        before = y.sum()
        y.add_(1)
        return before + y.sum()

    assert targets(_checked(written).program)["aten.sum"] == 2


def test_calls_before_a_write_are_merged() -> None:
    def written(x: torch.Tensor) -> torch.Tensor:
        y = x.clone()
        before = y.sum() * y.sum()
        y.add_(1)
        return before + y.sum() * y.sum()

    assert targets(_checked(written).program)["aten.sum"] == 2


@pytest.mark.parametrize(
    "view",
    [lambda y: y.view(-1), lambda y: y.t(), lambda y: y[1:], lambda y: y.reshape(2, 8)],
    ids=["view", "t", "slice", "reshape"],
)
def test_write_through_a_view_is_a_write_to_what_it_is_a_view_of(view: Any) -> None:
    def written(x: torch.Tensor) -> torch.Tensor:
        y = x.clone()
        alias = view(y)
        before = y.sum()
        alias.add_(1)
        return before + y.sum()

    assert targets(_checked(written).program)["aten.sum"] == 2


def test_view_taken_before_a_write_sees_it() -> None:
    def written(x: torch.Tensor) -> torch.Tensor:
        y = x.clone()
        row = y[0]
        before = row.sin()
        y.mul_(2)
        return before + row.sin()

    assert targets(_checked(written).program)["aten.sin"] == 2


def test_dropout_in_evaluation_hands_on_its_argument() -> None:
    def written(x: torch.Tensor) -> torch.Tensor:
        y = x.clone()
        same = nn.functional.dropout(y, 0.5, training=False)
        before = same.sum()
        y.add_(1)
        return before + same.sum()

    assert targets(_checked(written).program)["aten.sum"] == 2


def test_results_that_are_written_to_are_storages_of_their_own() -> None:
    def written(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        first, second = x.sin(), x.sin()
        first.add_(1)
        return first * 2, second * 2

    result = _checked(written)
    assert targets(result.program)["aten.sin"] == 2
    assert "may be written to" in result.reports[0].remarks[0]


def test_result_whose_view_is_written_to_is_a_storage_of_its_own() -> None:
    def written(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        first, second = x.sin(), x.sin()
        second.view(-1)[0] = 7.0
        return first * 2, second * 2

    assert targets(_checked(written).program)["aten.sin"] == 2


def test_sizes_that_are_changed_in_place_are_other_sizes() -> None:
    def resized(x: torch.Tensor) -> tuple[Any, ...]:
        first, second = x.sum(0), x.sum(0)
        first.unsqueeze_(0)
        return first * 2, second * 2

    assert targets(_checked(resized).program)["aten.sum"] == 2


def test_operator_that_writes_by_its_schema_alone_is_a_write() -> None:
    def written(x: torch.Tensor) -> torch.Tensor:
        y = x.clone()
        before = y.sum()
        torch.ops.retraced_tests.increment(y)
        return before + y.sum()

    assert targets(_checked(written).program)["aten.sum"] == 2


def test_write_to_one_input_may_be_a_write_to_another() -> None:
    def written(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        before = y.sum()
        x.add_(1)
        return before + y.sum()

    program = export(written, _X.clone(), _X.clone())
    result = _after_cse(program)
    for each in (program, result.program):
        same = torch.ones(4, 4)
        assert each.module()(same, same).item() == 16 + 32
    assert targets(result.program)["aten.sum"] == 2


class _Normalised(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(x) + self.norm(x)


def test_batch_norm_in_training_updates_its_statistics_each_time() -> None:
    program = export(_Normalised().train(), _X)
    result = _after_cse(program)
    assert targets(result.program)["aten.batch_norm"] == 2
    assert_same_results(program, result.program, [((_X,), {})], exact=True)
    evaluated = export(_Normalised().eval(), _X)
    assert targets(_after_cse(evaluated).program)["aten.batch_norm"] == 1


def test_outputs_do_not_come_to_share_storage() -> None:
    result = _checked(lambda x: (x.sin(), x.sin()))
    first, second = result.program.module()(_X)
    first.zero_()
    assert torch.equal(second, _X.sin())
    assert "two outputs would share storage" in result.reports[0].remarks[0]


def test_outputs_that_are_views_do_not_come_to_share_storage() -> None:
    result = _checked(lambda x: (x.sin().view(-1), x.sin().t()))
    first, second = result.program.module()(_X)
    first.zero_()
    assert torch.equal(second, _X.sin().t())


def test_two_outputs_do_not_come_to_share_the_storage_of_a_third_value() -> None:
    def three(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        inner = x.sin()
        return inner + 1, x.sin(), x.sin()

    result = _checked(three)
    # One of the outputs may be the value that is used inside.
    assert targets(result.program)["aten.sin"] == 2
    _, first, second = result.program.module()(_X)
    first.zero_()
    assert torch.equal(second, _X.sin())


def test_views_of_one_tensor_are_merged_but_stay_two_outputs() -> None:
    result = _checked(lambda x: (x.t() + 1, x.t() + 2, x.t(), x.t()))
    assert targets(result.program)["aten.t"] == 2


def test_output_and_new_value_of_a_buffer_stay_apart() -> None:
    class Counter(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.total: torch.Tensor
            self.register_buffer("total", torch.zeros(4, 4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen = self.total + x
            self.total.copy_(self.total + x)
            return seen

    program = run_pipeline(export(Counter(), _X), "decompose").program
    result = _after_cse(program)
    module = result.program.module()
    first = module(_X)
    kept = first.clone()
    module(_X)
    assert torch.equal(first, kept)
    first.zero_()
    assert torch.equal(module.get_buffer("total"), _X + _X)


def test_assertions_stay_in_their_number_and_order() -> None:
    def checked(x: torch.Tensor) -> torch.Tensor:
        aten._assert_async.msg(x.sum() > -1e9, "first")
        aten._assert_async.msg(x.sum() > -1e9, "first")
        return x + 1

    result = _checked(checked)
    assert targets(result.program)["aten._assert_async"] == 2
    assert targets(result.program)["aten.sum"] == 1


def test_effects_that_are_ordered_by_a_token_stay() -> None:
    def prints(x: torch.Tensor) -> torch.Tensor:
        aten._print("")
        aten._print("")
        return x + 1

    program = run_pipeline(export(prints, _X), "decompose").program
    assert targets(_after_cse(program).program)["with_effects"] == 2


def test_higher_order_operators_are_not_merged() -> None:
    def twice(x: torch.Tensor) -> torch.Tensor:
        return torch.cond(x.sum() > 0, torch.sin, torch.cos, (x,)) + torch.cond(x.sum() > 0, torch.sin, torch.cos, (x,))

    result = _checked(twice)
    assert targets(result.program)["cond"] == 2
    assert targets(result.program)["aten.sum"] == 1


def test_write_in_a_subgraph_is_a_write_to_its_operand() -> None:
    def written(x: torch.Tensor) -> torch.Tensor:
        y = x.clone()
        before = y.sum()
        with torch.no_grad():
            y.add_(1)
        return before + y.sum()

    program = export(written, _X)
    assert "wrap_with_set_grad_enabled" in targets(program)
    result = _after_cse(program)
    assert_same_results(program, result.program, [((_X,), {})], exact=True)
    assert targets(result.program)["aten.sum"] == 2


def test_aliases_are_found_in_a_program_that_was_read_from_a_file() -> None:
    case = by_name("in_place")
    program = loaded(case.archive)
    result = _after_cse(program)
    assert_same_results(program, result.program, copy.deepcopy(case.inputs()), exact=True)


def test_inputs_are_never_merged() -> None:
    assert names(_checked(lambda x, y: x.sin() + y.sin(), _X, _X).program)[:2] == ["args_0", "args_1"]


def test_values_that_set_makes_share_storage_are_not_merged_across_a_write(tmp_path: Path) -> None:
    def function(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        z, w = x.sin(), y.cos()
        torch.ops.aten.set_.source_Tensor(z, w)
        before = z + 1
        w.add_(5)
        return before * 2, (z + 1) * 3

    program = export(function, torch.randn(3), torch.randn(3))
    # A file has lost which values share storage.
    read = read_bytes(saved(program), tmp_path).program
    args = (torch.randn(3), torch.randn(3))
    torch.testing.assert_close(run_pipeline(read, "cse").program.module()(*args), program.module()(*args))
