"""On random programs: after any edits by hand in `call`, what is recorded is what executing every node gives, as on torch's class."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from torch.export import ExportedProgram

from retraced_server.errors import RetracedError
from retraced_server.passes import run_pipeline
from retraced_server.retrace import ExportPass
from tests.support.case import ProgramCase
from tests.support.compare import assert_same_results, run, saved_and_loaded, shape_env_snapshot, validate
from tests.support.describe import describe_program
from tests.support.examples import examples
from tests.support.hand_edits import EDITS, STATES_NOTHING, edit_in_call, edit_without_visit, seeds, shares
from tests.support.passes import TorchExportPass, canonical, run_torch_pass
from tests.support.random_programs import programs

pytestmark = pytest.mark.slow

_SETTINGS = settings(
    deadline=None,
    derandomize=True,
    database=None,
    max_examples=examples(6),
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)


def _on_torchs_class(case: ProgramCase, seed: int, share: int, edits: Any = EDITS) -> ExportedProgram | Exception:
    try:
        return run_torch_pass(case.build(), edit_in_call(TorchExportPass, seed, share, edits))
    except Exception as error:  # noqa: BLE001  # Torch raises whatever an edit leads to.
        return error


@_SETTINGS
@given(case=programs(), seed=seeds, share=shares)
def test_edited_program_is_what_torchs_class_makes_of_it(case: ProgramCase, seed: int, share: int) -> None:
    _check(case, edit_in_call(ExportPass, seed, share)(), _on_torchs_class(case, seed, share))


@_SETTINGS
@given(case=programs(), seed=seeds, share=shares)
def test_program_edited_without_a_visit_is_what_torchs_class_makes_of_it_with_one(
    case: ProgramCase, seed: int, share: int
) -> None:
    _check(case, edit_without_visit(seed, share), _on_torchs_class(case, seed, share, STATES_NOTHING))


def _check(case: ProgramCase, instance: Any, expected: ExportedProgram | Exception) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = case.program
        before, env = describe_program(program), shape_env_snapshot(program)
        try:
            result = run_pipeline(program, [instance])
        except RetracedError:
            assert isinstance(expected, Exception)
            assert describe_program(program) == before
            assert shape_env_snapshot(program) == env
            return
        assert not isinstance(expected, Exception), expected
        assert describe_program(program) == before
        # Torch's class has a value's sizes changed under the node that made it, where an operator changes them in place, and puts the
        # nodes of subgraphs elsewhere.
        if not any(step in case.name for step in ("in_place", "choose", "no_grad")):
            assert canonical(result.program.graph_module) == canonical(expected.graph_module)
        # Executing every node again gives what is recorded.
        assert run_pipeline(result.program, "retrace", mode="full").program is result.program
        validate(result.program)
        calls = [inputs for inputs in case.inputs() if _runs(expected, *inputs)]
        for made in (result.program, saved_and_loaded(result.program)):
            assert_same_results(expected, made, calls)


def _runs(program: ExportedProgram, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Return whether a program runs on some inputs: an edit may change numbers that the program itself makes assertions about."""
    try:
        run(program, args, kwargs)
    except RuntimeError as error:
        if "assertion" not in str(error):
            raise
        return False
    return True
