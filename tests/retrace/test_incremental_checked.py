"""The debug check of incremental retraces against full ones."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import fx

from retraced_server.errors import Reason, RetracedError
from retraced_server.passes import run_pipeline
from retraced_server.retrace import ExportPass, NodeMetadata, ProxyValue
from retraced_server.retrace.cross_check import disagreement
from tests.support.case import ProgramCase
from tests.support.compare import assert_shape_env_unchanged, shape_env_snapshot
from tests.support.models import by_name
from tests.support.passes import EXECUTORCH_STYLE, ReluTwice

aten = torch.ops.aten


def test_checked_run_gives_what_an_unchecked_one_gives(any_case: ProgramCase) -> None:
    program = any_case.program
    env = shape_env_snapshot(program)
    checked = run_pipeline(program, ["retrace", ReluTwice()], check=True)
    plain = run_pipeline(program, ["retrace", ReluTwice()])
    assert checked.modified is plain.modified
    assert disagreement(checked.program.graph_module, plain.program.graph_module) is None
    assert_shape_env_unchanged(env, program)


@pytest.mark.parametrize("style", EXECUTORCH_STYLE)
@pytest.mark.parametrize("name", ["bert", "t5", "symbolic_scalars", "residual_net"])
def test_checked_run_of_passes_that_rewrite_finds_no_difference(style: str, name: str) -> None:
    program = by_name(name).program
    run_pipeline(program, [EXECUTORCH_STYLE[style](ExportPass)()], check=True)


def test_recorded_value_that_is_wrong_is_found_by_the_check_alone() -> None:
    program = by_name("bert").build()
    node = next(node for node in program.graph.nodes if node.target is aten.linear.default)
    node.meta["val"] = node.meta["val"].to(torch.float64)
    assert run_pipeline(program, "retrace").program is program
    with pytest.raises(RetracedError, match=r"recorded dtype torch\.float64") as failure:
        run_pipeline(program, "retrace", check=True)
    assert failure.value.reason is Reason.PASS_FAILED
    assert failure.value.metadata["node"] == node.name


def test_pass_that_does_not_do_the_same_twice_is_reported() -> None:
    runs: list[int] = []

    class Fickle(ExportPass):
        def requires(self, graph_module: fx.GraphModule) -> None:
            runs.append(len(runs))

        def call_operator(self, op: Any, args: tuple[Any, ...], kwargs: dict[str, Any], meta: NodeMetadata) -> ProxyValue[Any]:
            if op is aten.relu.default:
                op = aten.sin.default if len(runs) == 1 else aten.cos.default
            return super().call_operator(op, args, kwargs, meta)

    program = by_name("cond").program
    env = shape_env_snapshot(program)
    with pytest.raises(RetracedError, match=r"aten.sin.default.* in full mode, .*aten.cos.default.* incrementally") as failure:
        run_pipeline(program, [Fickle()], check=True)
    assert failure.value.reason is Reason.PASS_FAILED
    assert_shape_env_unchanged(env, program)
