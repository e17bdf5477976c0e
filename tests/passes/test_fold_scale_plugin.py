"""A plugin with public names only that reads weights and makes new ones of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind

from retraced_server.errors import Reason, RetracedError
from retraced_server.passes import PipelineResult, run_pipeline
from retraced_server.pipeline.domain import Provenance
from tests.passes import fold_scale_plugin  # noqa: F401 - importing it registers the pass
from tests.passes.support import export
from tests.support.compare import saved_and_loaded, validate
from tests.support.describe import describe_program

aten = torch.ops.aten


class _Scaled(nn.Module):
    """Linears whose results are multiplied, as `forward` says."""

    def __init__(self, forward: Any, *, tied: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fc, self.other = nn.Linear(4, 4), nn.Linear(4, 4, bias=False)
        if tied:
            self.other.weight = self.fc.weight
        self.register_buffer("scale", torch.tensor(3.0))
        self.register_buffer("scales", torch.arange(4.0))
        self._forward = forward

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self._forward(self, x)
        return result


def _program(forward: Any, *, tied: bool = False) -> ExportedProgram:
    return export(_Scaled(forward, tied=tied), torch.randn(2, 4), dynamic_shapes=({0: torch.export.Dim("batch")},))


def _folded(program: ExportedProgram, pipeline: str = "fold-scale,dce", **options: Any) -> PipelineResult:
    """Run the pass, and check what holds of whatever it does."""
    before, state = describe_program(program), {name: value.clone() for name, value in program.state_dict.items()}
    result = run_pipeline(program, pipeline, **options)
    assert describe_program(program) == before
    assert program.state_dict.keys() == state.keys()
    assert all(torch.equal(program.state_dict[name], value) for name, value in state.items())
    validate(result.program)
    x = torch.randn(7, 4)
    for made in (result.program, saved_and_loaded(result.program)):
        torch.testing.assert_close(made.module()(x), program.module()(x))
    return result


def _multiplications(program: ExportedProgram) -> int:
    return len(program.graph.find_nodes(op="call_function", target=aten.mul.Tensor))


@pytest.mark.parametrize("mode", ["incremental", "full"])
@pytest.mark.parametrize(
    "forward",
    [
        lambda self, x: self.fc(x) * 2,
        lambda self, x: 0.5 * self.fc(x),
        lambda self, x: self.scale * self.fc(x),
        lambda self, x: self.fc(x) * self.scale,
    ],
    ids=["int", "float", "buffer first", "buffer"],
)
def test_constant_factor_goes_into_weight_and_bias(forward: Any, mode: str) -> None:
    program = _program(forward)
    result = _folded(program, mode=mode)
    assert _multiplications(result.program) == 0
    assert result.reports[0].rewrites == 1
    kinds = {spec.target: spec.kind for spec in result.program.graph_signature.input_specs}
    assert kinds["fc.weight_scaled"] is kinds["fc.bias_scaled"] is InputKind.PARAMETER
    assert not kinds.keys() & {"fc.weight", "fc.bias"}
    assert not result.program.state_dict.keys() & {"fc.weight", "fc.bias"}


def test_cross_check_of_both_modes_agrees() -> None:
    _folded(_program(lambda self, x: self.fc(x) * 2 + self.other(x) * 3), check=True)


def test_scalar_constant_that_forward_makes_is_a_factor() -> None:
    program = run_pipeline(_program(lambda self, x: self.fc(x) * torch.tensor(1.5)), "decompose{table=none}").program
    result = _folded(program)
    assert _multiplications(result.program) == 0
    assert result.reports[0].rewrites == 1


@pytest.mark.parametrize("tied", [False, True])
def test_weight_that_another_linear_reads_stays_as_it_is_for_that_one(tied: bool) -> None:
    program = _program(lambda self, x: self.fc(x) * 2 + (self.other(x) if tied else self.fc(x)), tied=tied)
    result = _folded(program).program
    assert _multiplications(result) == 0
    name = "other.weight" if tied else "fc.weight"
    assert torch.equal(result.state_dict[name], program.state_dict["fc.weight"])
    assert torch.equal(result.state_dict[f"{name}_scaled"], program.state_dict["fc.weight"] * 2)


def test_all_names_of_a_tied_weight_that_nothing_reads_any_more_go() -> None:
    program = _program(lambda self, x: self.fc(x) * 2 + self.other(x) * 2, tied=True)
    assert {"fc.weight", "other.weight"} <= program.state_dict.keys()
    result = _folded(program).program
    # One new weight for both, since they are scaled by the same number.
    assert [name for name in result.state_dict if "weight" in name] == ["other.weight_scaled"]
    assert "fc.bias" not in result.state_dict


def test_new_weight_has_a_name_of_its_own() -> None:
    result = _folded(_program(lambda self, x: self.fc(x) * 2 + self.fc(x) * 3)).program
    assert {"fc.weight_scaled", "fc.weight_scaled_1"} <= result.state_dict.keys()
    placeholders = [node.name for node in result.graph.find_nodes(op="placeholder")]
    assert {"p_fc_weight_scaled", "p_fc_weight_scaled_1"} <= set(placeholders)


def test_what_is_folded_comes_from_the_multiplication_by_name_and_provenance() -> None:
    result = _folded(_program(lambda self, x: self.fc(x) * 2))
    (linear,) = result.program.graph.find_nodes(op="call_function", target=aten.linear.default)
    assert linear.name == "mul"
    for name in ("mul", "p_fc_weight_scaled", "p_fc_bias_scaled"):
        assert result.provenance[name] == Provenance(("mul",), "fold-scale")
    assert result.provenance["x"] == Provenance(("x",), None)


@pytest.mark.parametrize(
    ("forward", "why"),
    [
        (lambda self, x: self.fc(x) * x.sum(), "the factor is computed by the program"),
        (lambda self, x: self.fc(x) * self.scales, "the factor `scales` is no single number"),
        (lambda self, x: (y := self.fc(x)) * 2 + y, "other nodes use its result too"),
        (
            lambda self, x: nn.functional.linear(x, self.fc.weight * x.mean()) * 2,
            "its weight or bias is computed by the program",
        ),
    ],
    ids=["computed factor", "many factors", "two users", "computed weight"],
)
def test_what_is_nearly_foldable_is_left_with_a_remark(forward: Any, why: str) -> None:
    program = _program(forward)
    result = _folded(program, "fold-scale")
    assert result.program is program
    assert result.reports[0].remarks == (f"linear is not multiplied by its factor beforehand: {why}",)


def test_factor_that_the_program_changes_is_left() -> None:
    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.fc(x) * self.scale
        self.scale.add_(1)
        return result

    program = run_pipeline(_program(forward), "decompose{table=none}").program
    (remark,) = run_pipeline(program, "fold-scale").reports[0].remarks
    assert remark.endswith("the program changes the factor `scale`")


def test_linear_in_a_subgraph_is_left_since_its_weight_is_an_operand() -> None:
    program = _program(lambda self, x: torch.cond(x.sum() > 0, lambda x: self.fc(x) * 2, lambda x: self.fc(x), (x,)))
    result = _folded(program, "fold-scale")
    assert result.program is program
    assert "computed by the program" in result.reports[0].remarks[0]


def test_program_of_another_level_is_refused_with_what_to_run_before() -> None:
    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        self.scale.add_(1)
        result: torch.Tensor = self.fc(x) * 2
        return result

    program = _program(forward)
    with pytest.raises(RetracedError, match=r"it takes functional programs, .* run `decompose` before") as caught:
        run_pipeline(program, "fold-scale")
    assert caught.value.reason is Reason.PASS_FAILED
    assert run_pipeline(program, "decompose{table=none},fold-scale").reports[1].rewrites == 1
