"""Guards that dirty operators and hooks make: reported, refused, or forgotten, in either mode."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.export import Dim, ExportedProgram

from retraced_server.errors import Reason, RetracedError
from retraced_server.passes import run_pipeline
from retraced_server.retrace import ExportPass, NodeMetadata, ProxyValue
from tests.support.compare import assert_shape_env_unchanged, shape_env_snapshot
from tests.support.passes import Hooked

aten = torch.ops.aten
_MODES = pytest.mark.parametrize("mode", ["incremental", "full"])


class _Concatenated(nn.Module):
    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return torch.cat([x, y]).sin()


def _program(rows: int) -> ExportedProgram:
    two_batches = ({0: Dim("one", min=2, max=64)}, {0: Dim("other", min=2, max=64)})
    return torch.export.export(_Concatenated(), (torch.randn(4, 3), torch.randn(rows, 3)), dynamic_shapes=two_batches)


def _added(call: Any, op: Any, args: Any, kwargs: Any, meta: Any) -> Any:
    return call(aten.add.Tensor, (args[0][0], args[0][1]), {}, meta)


@_MODES
def test_guards_of_dirty_operators_are_reported(mode: str) -> None:
    program = _program(5)
    # Adding needs both batches to be equal, which they are not here.
    with pytest.raises(RetracedError) as failure:
        run_pipeline(program, [Hooked(cat=_added)], mode=mode)
    assert failure.value.reason is Reason.PASS_FAILED
    program = _program(4)
    result = run_pipeline(program, [Hooked(cat=_added)], mode=mode)
    assert len(result.reports[0].new_guards) == 1
    assert result.reports[0].new_guards[0].startswith("Eq(")


@_MODES
def test_guards_of_dirty_operators_can_be_refused_and_leave_nothing_behind(mode: str) -> None:
    program = _program(4)
    env = shape_env_snapshot(program)
    for _ in range(2):
        # Torch's caches must not remember, the second time, that the guard was there once.
        with pytest.raises(RetracedError) as failure:
            run_pipeline(program, [Hooked(cat=_added)], mode=mode, refuse_new_guards=True)
        assert failure.value.reason is Reason.NEW_GUARDS
        assert_shape_env_unchanged(env, program)


@_MODES
def test_guard_that_a_hook_asks_for_is_reported_where_it_changes_the_program(mode: str) -> None:
    class Asks(ExportPass):
        def call_operator(self, op: Any, args: tuple[Any, ...], kwargs: dict[str, Any], meta: NodeMetadata) -> ProxyValue[Any]:
            if op is aten.sin.default and args[0].data.shape[0] == 8:
                return super().call_operator(aten.cos.default, args, kwargs, meta)
            return super().call_operator(op, args, kwargs, meta)

    program = _program(4)
    assert run_pipeline(program, [Asks()], mode=mode).reports[0].new_guards != ()


@_MODES
def test_guard_that_a_hook_asks_for_is_forgotten_where_nothing_changed(mode: str) -> None:
    class Asks(ExportPass):
        def call_operator(self, op: Any, args: tuple[Any, ...], kwargs: dict[str, Any], meta: NodeMetadata) -> ProxyValue[Any]:
            bool(args[0].data.shape[0] == 4) if isinstance(args[0], ProxyValue) else None
            return super().call_operator(op, args, kwargs, meta)

    program = _program(5)
    env = shape_env_snapshot(program)
    assert run_pipeline(program, [Asks()], mode=mode).program is program
    assert_shape_env_unchanged(env, program)
