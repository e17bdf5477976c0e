"""The table of what may be called beside operators, and of what each call does: complete, and on the safe side."""

from __future__ import annotations

import math
import operator
from typing import Any

import pytest
import torch
from torch import fx
from torch._export.verifier import Verifier
from torch._ops import HigherOrderOperator
from torch.fx.node import _side_effectful_functions

from retraced_pt2.operators import DEFAULT_NAMESPACES
from retraced_server.analysis.effects import has_effect, written_arguments
from retraced_server.analysis.targets import (
    FUNCTIONS,
    FUNCTIONS_BY_NAME,
    HIGHER_ORDER,
    PRIM,
    SYM_OPERATORS,
    Effect,
    stated_effect,
)
from retraced_server.errors import RetracedError
from retraced_server.program.operators import Operators

predispatch: Any = torch._functorch.predispatch


def _call(target: Any) -> tuple[fx.GraphModule, fx.Node]:
    graph = fx.Graph()
    # As many as `setitem` is written with.
    node = graph.call_function(target, (graph.placeholder("x"), 0, 0))
    graph.output(())
    return fx.GraphModule({}, graph), node


def test_every_function_and_operator_that_the_reader_takes_has_a_stated_effect() -> None:
    operators = Operators(frozenset())
    taken = [operators.find(name) for name in FUNCTIONS_BY_NAME]
    taken += [operators.find(f"torch.ops.higher_order.{name}") for name in HIGHER_ORDER]
    for name in torch._C._dispatch_get_all_op_names():
        namespace, _, rest = name.partition("::")
        packet, _, overload = rest.partition(".")
        if namespace in DEFAULT_NAMESPACES:
            try:
                taken.append(operators.find(f"torch.ops.{namespace}.{packet}.{overload or 'default'}"))
            except RetracedError:
                continue
    assert len(taken) > 2500
    assert [target for target in taken if stated_effect(target) is Effect.UNKNOWN] == []


def test_reader_takes_no_function_that_has_none() -> None:
    assert list(FUNCTIONS_BY_NAME.values()) == list(FUNCTIONS)
    for name in dir(torch.ops.higher_order):
        if name in HIGHER_ORDER or name.startswith("__"):
            continue
        with pytest.raises(RetracedError):
            Operators(frozenset()).find(f"torch.ops.higher_order.{name}")


@pytest.mark.parametrize(
    "target", [target for target in FUNCTIONS if target not in SYM_OPERATORS], ids=lambda target: target.__name__
)
def test_call_of_a_function_that_computes_no_number_keeps_its_place(target: Any) -> None:
    assert has_effect(*_call(target))


def test_what_torch_takes_for_impure_is_never_said_to_do_nothing() -> None:
    for target in _side_effectful_functions:
        assert has_effect(*_call(target)), target


def test_functions_of_functorch_that_torchs_verifier_allows_are_all_told() -> None:
    verified = {
        target
        for target in Verifier().allowed_op_types() + tuple(vars(predispatch).values())
        if getattr(target, "__module__", "") == predispatch.__name__ and callable(target)
    }
    assert verified <= FUNCTIONS.keys()


def _of_a_plugin(x: Any) -> None:
    """Does anything."""


class _Operator(HigherOrderOperator):
    def __call__(self, x: Any) -> Any:
        return x


@pytest.mark.parametrize(
    "target",
    [_of_a_plugin, print, operator.setitem, math.factorial, torch.nn.functional.relu],
    ids=lambda target: target.__name__,
)
def test_what_is_not_in_the_table_may_do_anything(target: Any) -> None:
    module, node = _call(target)
    assert stated_effect(target) is Effect.UNKNOWN
    assert has_effect(module, node)
    assert written_arguments(module, node) == node.all_input_nodes


def test_higher_order_operator_that_is_not_in_the_table_may_do_anything() -> None:
    make: Any = _Operator
    module, node = _call(make("of_a_plugin"))
    assert has_effect(module, node)
    assert written_arguments(module, node) == node.all_input_nodes


def test_operators_of_the_scripts_namespace_that_are_not_taken_may_do_anything() -> None:
    assert stated_effect(torch.ops.prim.device.default) is Effect.SCHEMA
    assert set(PRIM.values()) == {Effect.SCHEMA}
    assert stated_effect(torch.ops.prim.Print.default if hasattr(torch.ops.prim, "Print") else print) is Effect.UNKNOWN
