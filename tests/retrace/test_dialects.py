"""Operators that wrap torch's, as those of ExecuTorch's edge dialect do, are retraced as what they wrap."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import HealthCheck, example, given, settings
from torch import fx

from retraced_server.retrace import ExportPass, PassError, PassResult
from retraced_server.retrace.session import RetraceMode
from tests.support.case import ProgramCase
from tests.support.compare import assert_shape_env_unchanged, shape_env_snapshot
from tests.support.dialect import DialectOperator, module_in_dialect, pass_in_dialect
from tests.support.examples import examples
from tests.support.models import by_name
from tests.support.passes import EXECUTORCH_STYLE, canonical
from tests.support.random_rewrites import DrawnPass, export, programs, rewrites


def test_unchanging_pass_returns_the_graph_module_it_was_given(any_case: ProgramCase, mode: RetraceMode) -> None:
    env_before = shape_env_snapshot(any_case.program)
    module = module_in_dialect(any_case.program.graph_module)
    unchanging = ExportPass()
    unchanging.mode = mode
    assert unchanging(module).graph_module is module
    assert_shape_env_unchanged(env_before, any_case.program)


@pytest.mark.parametrize("style", EXECUTORCH_STYLE)
@pytest.mark.parametrize("name", ["gpt2", "residual_net", "cond", "symbolic_scalars"])
def test_pass_does_what_it_does_on_the_operators_that_are_wrapped(style: str, name: str, mode: RetraceMode) -> None:
    pass_type = EXECUTORCH_STYLE[style](ExportPass)
    plain, wrapped = pass_type(), pass_in_dialect(pass_type)()
    plain.mode = wrapped.mode = mode
    expected = plain(by_name(name).build().graph_module)
    result = wrapped(module_in_dialect(by_name(name).build().graph_module))
    assert result.modified is expected.modified
    assert canonical(result.graph_module) == canonical(module_in_dialect(expected.graph_module))


@settings(deadline=None, max_examples=examples(16), suppress_health_check=[HealthCheck.too_slow])
@given(steps=programs, drawn=rewrites)
@example(steps=[("number in place", 0, 1)], drawn=["drop"] * 12)
@example(steps=[("sizes in place", 0, 1)], drawn=["keep", "copy result", "keep", "copy argument"])
@example(steps=[("in place", 0, 1), ("view", 2, 0)], drawn=["keep", "keep", "copy result", "view result"])
@example(steps=[("item again", 0, 1)], drawn=["keep"] * 4 + ["write to argument"])
def test_views_writes_and_symbols_are_those_of_the_operators_that_are_wrapped(
    steps: Sequence[tuple[str, int, int]], drawn: Sequence[str]
) -> None:
    plain, wrapped = DrawnPass(drawn), pass_in_dialect(DrawnPass)(drawn)
    expected = _run(plain, export(steps).graph_module)
    result = _run(wrapped, module_in_dialect(export(steps).graph_module))
    if isinstance(expected, str) or isinstance(result, str):
        assert result == expected
        return
    assert result.modified is expected.modified
    assert canonical(result.graph_module) == canonical(module_in_dialect(expected.graph_module))
    assert wrapped.new_guards == plain.new_guards


def _run(instance: ExportPass, module: fx.GraphModule) -> PassResult | str:
    """Returns what a pass made, or the name of the node at which it failed."""
    try:
        return instance(module)
    except PassError as error:
        return str(error.node)


def test_new_node_is_named_after_the_dialects_operator() -> None:
    module = module_in_dialect(by_name("gpt2").build().graph_module)
    result = pass_in_dialect(EXECUTORCH_STYLE["linear_to_mm"](ExportPass))()(module)
    made = [node for node in result.graph_module.graph.nodes if getattr(node.target, "__name__", "") == "aten.t.default"]
    assert made
    assert all(isinstance(node.target, DialectOperator) and node.name.startswith("aten_t_default") for node in made)
