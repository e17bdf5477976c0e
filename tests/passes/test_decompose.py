"""`decompose` does what torch's own decomposition does, and works on programs that torch's cannot take."""

from __future__ import annotations

import pytest
import torch
from torch._export.verifier import SpecViolationError

from retraced_server.analysis.equivalence import differences
from retraced_server.errors import Reason, RetracedError
from retraced_server.passes import run_pipeline
from retraced_server.passes.decompose.stated_differences import unexplained
from tests.passes.support import DECOMPOSABLE, QUICK, decomposed, export, targets
from tests.support.case import ProgramCase
from tests.support.compare import assert_computes, assert_same_results, saved_and_loaded, validate
from tests.support.models import by_name

# gpt2: torch's decomposition of attention changes strides. preserved_parts: torch loses track of the preserved signatures.
_BEYOND_TORCH = ("gpt2", "preserved_parts")
# everything_functional: torch adds a copy of the new value of an input each time. flex_attention: ours came back as it was, with
# results that nothing uses.
_NOT_THE_SAME_GRAPH = ("everything_functional", "flex_attention")
# BERT, T5 and Whisper take seconds each, for what Llama and ViT show too.
_SAME_GRAPH = [c for c in DECOMPOSABLE if c.name not in (*_BEYOND_TORCH, *_NOT_THE_SAME_GRAPH, "bert", "t5", "whisper")]


@pytest.mark.parametrize("case", _SAME_GRAPH, ids=str)
def test_graph_is_that_of_run_decompositions_but_for_names(case: ProgramCase) -> None:
    assert unexplained(differences(decomposed(case).program, case.decomposed)) == []


@pytest.mark.parametrize("case", QUICK, ids=str)
def test_decomposed_program_is_valid_and_computes_the_same(case: ProgramCase) -> None:
    program = decomposed(case).program
    validate(program)
    assert_computes(case, program)


@pytest.mark.slow
@pytest.mark.parametrize("case", QUICK, ids=str)
def test_decomposing_again_changes_nothing(case: ProgramCase) -> None:
    program = decomposed(case).program
    result = run_pipeline(program, "decompose")
    assert result.program is program
    assert result.reports[0].rewrites == 0


def test_new_value_of_an_input_that_is_returned_too_is_one_value() -> None:
    case = export(lambda x: x.add_(1), torch.randn(3))
    program = run_pipeline(case, "decompose").program
    assert targets(program) == {"aten.add": 1}
    assert run_pipeline(program, "decompose").program is program
    assert_same_results(case, program, [((torch.randn(3),), {})])


@pytest.mark.parametrize("name", ["in_place", "nested", "residual_net"])
def test_nothing_is_left_to_do_for_torch(name: str) -> None:
    program = decomposed(by_name(name)).program
    assert unexplained(differences(program, program.run_decompositions())) == []


@pytest.mark.parametrize("name", _BEYOND_TORCH)
def test_program_that_torch_cannot_decompose_is_decomposed(name: str) -> None:
    case = by_name(name)
    with pytest.raises((ValueError, SpecViolationError)):
        case.build().run_decompositions()
    program = decomposed(case).program
    assert not targets(program).keys() & {"aten.linear", "aten.scaled_dot_product_attention", "aten.layer_norm"}
    assert_computes(case, saved_and_loaded(program))


@pytest.mark.slow
def test_attention_that_keeps_its_strides_is_remarked_on() -> None:
    report = decomposed(by_name("gpt2")).reports[0]
    assert "attention keeps its strides" in report.remarks[0]
    assert report.new_guards == ()
    assert decomposed(by_name("bert")).reports[0].remarks == ()


def test_operator_that_torch_cannot_make_functional_is_a_failure_that_names_it() -> None:
    with pytest.raises(RetracedError, match="hints_wrapper") as caught:
        run_pipeline(by_name("hints_wrapper").program, "decompose")
    assert caught.value.reason is Reason.PASS_FAILED


def test_table_aten_keeps_what_is_no_composite() -> None:
    program = run_pipeline(by_name("bert").program, "decompose{table=aten}").program
    called = targets(program)
    assert "aten.linear" not in called
    assert called["aten.native_layer_norm"] == targets(by_name("bert").program)["aten.layer_norm"]
    assert_same_results(by_name("bert").program, program, by_name("bert").inputs()[:1])


def test_table_none_only_makes_the_program_functional() -> None:
    case = by_name("in_place")
    program = run_pipeline(case.program, "decompose{table=none}").program
    expected = case.program.run_decompositions({})
    assert unexplained(differences(program, expected)) == []
    assert_computes(case, program)
