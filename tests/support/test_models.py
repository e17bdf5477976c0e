"""The test programs themselves: an oracle that is wrong proves nothing."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch

from tests.support.case import ProgramCase
from tests.support.compare import assert_close, assert_identical_programs, assert_same_results, run, saved_and_loaded, validate
from tests.support.models import LLAMA_LIKE


def test_exported_program_computes_what_its_module_does(any_case: ProgramCase) -> None:
    torch.manual_seed(0)
    module = any_case.module()
    for args, kwargs in any_case.inputs():
        state = copy.deepcopy(module.state_dict())
        actual, _, _ = run(any_case.program, args, kwargs)
        torch.manual_seed(0)
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            expected = module(*copy.deepcopy(args), **copy.deepcopy(kwargs))
        module.load_state_dict(state)
        assert_close("outputs", expected, actual)


def test_program_is_valid(any_case: ProgramCase) -> None:
    validate(any_case.program)


def test_program_saves_and_loads(serializable_case: ProgramCase) -> None:
    program = saved_and_loaded(serializable_case.program)
    assert_same_results(serializable_case.program, program, serializable_case.inputs()[:1])


def test_a_program_is_identical_to_itself(any_case: ProgramCase) -> None:
    assert_identical_programs(any_case.program, any_case.program)


@pytest.mark.parametrize("case", [LLAMA_LIKE], ids=str)
def test_benchmark_program_has_about_640_nodes(case: ProgramCase) -> None:
    assert 600 < len(case.program.graph.nodes) < 700
