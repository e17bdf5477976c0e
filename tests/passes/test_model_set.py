"""`decompose,cse,dce` on every test program gives one that stock torch saves, loads and validates, and that computes the same."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch.export.unflatten import unflatten

from retraced_server.passes import run_pipeline
from tests.passes.support import DECOMPOSABLE, QUICK, decomposed, lowered, node_keys
from tests.support.case import ProgramCase
from tests.support.compare import assert_computes, assert_same_results, loaded, saved_and_loaded, validate
from tests.support.describe import graphs
from tests.support.models import by_name


@pytest.mark.parametrize("case", DECOMPOSABLE, ids=str)
def test_lowered_program_is_valid_and_computes_what_the_original_does(case: ProgramCase) -> None:
    result = lowered(case)
    validate(result.program)
    assert_computes(case, result.program)
    assert result.remarks == ()
    assert all(report.new_guards == () for report in result.reports)
    assert result.provenance.keys() == node_keys(result.program)


@pytest.mark.parametrize("case", [case for case in DECOMPOSABLE if case.serializable], ids=str)
def test_stock_torch_saves_and_loads_the_lowered_program(case: ProgramCase) -> None:
    program = saved_and_loaded(lowered(case).program)
    validate(program)
    assert_same_results(case.program, program, case.inputs()[:1])


@pytest.mark.slow
@pytest.mark.parametrize("case", QUICK, ids=str)
def test_lowering_again_changes_nothing(case: ProgramCase) -> None:
    program = lowered(case).program
    assert run_pipeline(program, "decompose,cse,dce").program is program


@pytest.mark.slow
@pytest.mark.parametrize("case", [case for case in QUICK if case.serializable], ids=str)
def test_program_read_from_a_file_is_lowered_too(case: ProgramCase) -> None:
    if case.name == "derived_sizes":
        pytest.skip("torch cannot decompose it after its own reader has read it")
    program = run_pipeline(loaded(case.archive), "decompose,cse,dce").program
    validate(program)
    assert_same_results(case.program, program, case.inputs()[:1])


@pytest.mark.parametrize("case", DECOMPOSABLE, ids=str)
def test_values_that_stay_keep_their_names_and_their_objects(case: ProgramCase) -> None:
    before, after = dict(graphs(decomposed(case).program.graph_module)), dict(graphs(lowered(case).program.graph_module))
    assert after.keys() == before.keys()
    for path, module in after.items():
        old = {node.name: node for node in before[path].graph.nodes}
        assert [node.name for node in module.graph.nodes] == [
            name for name in old if name in {n.name for n in module.graph.nodes}
        ]
        for node in module.graph.nodes:
            assert str(node.meta.get("val")) == str(old[node.name].meta.get("val")), node.name


def test_program_with_preserved_modules_can_be_unflattened_after_lowering() -> None:
    case = by_name("preserved_parts")
    (args, kwargs), *_ = case.inputs()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # Unflattening changes the program that it is given.
        actual = unflatten(run_pipeline(case.build(), "decompose,cse,dce").program)(*args, **kwargs)
    torch.testing.assert_close(actual, case.program.module()(*args, **kwargs))
