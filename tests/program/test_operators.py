"""Operators: those that are registered and only compute, found as torch finds them; nothing is reached by name otherwise."""

from __future__ import annotations

import pytest
import torch
from torch._export.serde.serialize import _SYM_OPS, GraphModuleDeserializer, GraphModuleSerializer
from torch.export.graph_signature import ExportGraphSignature

from retraced_server.analysis.targets import FUNCTIONS_BY_NAME, SYM_OPERATORS
from retraced_server.errors import Reason, RetracedError
from retraced_server.program.operators import Operators, operator_name
from tests.support import programs


def _aten() -> list[str]:
    names = []
    for name in torch._C._dispatch_get_all_op_names():
        namespace, _, rest = name.partition("::")
        if namespace == "aten":
            op, _, overload = rest.partition(".")
            names.append(f"torch.ops.aten.{op}.{overload or 'default'}")
    return names


def test_functions_are_those_that_torch_finds_by_the_same_names() -> None:
    deserializer = GraphModuleDeserializer()
    for name, function in FUNCTIONS_BY_NAME.items():
        assert deserializer.deserialize_operator(name) is function


def test_symbolic_operators_are_those_of_torch() -> None:
    assert SYM_OPERATORS == _SYM_OPS


def test_operators_are_those_that_torch_finds_and_are_named_as_torch_names_them() -> None:
    operators, deserializer = Operators(frozenset()), GraphModuleDeserializer()
    serializer = GraphModuleSerializer(ExportGraphSignature([], []), [])
    found = 0
    for name in _aten():
        try:
            op = operators.find(name)
        except RetracedError:
            continue
        found += 1
        assert deserializer.deserialize_operator(name) is op
        assert operator_name(op) == serializer.serialize_operator(op) == name
    assert found > 2000


def test_namespace_is_found_only_where_it_is_allowed() -> None:
    assert programs
    name = "torch.ops.retraced_tests.scaled_add.default"
    assert Operators(frozenset({"retraced_tests"})).find(name) is torch.ops.retraced_tests.scaled_add.default
    with pytest.raises(RetracedError, match="the namespace `retraced_tests` is not allowed"):
        Operators(frozenset()).find(name)


@pytest.mark.parametrize("name", ["executorch.exir.dialects.edge._ops.aten.add.Tensor", "executorch.exir.memory.alloc"])
def test_operators_of_executorch_are_refused_with_what_to_send_instead(name: str) -> None:
    with pytest.raises(
        RetracedError, match=r"torch\.export\.load cannot resolve them; send the program as it was before `to_edge`"
    ):
        Operators(frozenset()).find(name)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "torch",
        "torch.load",
        "torch.ops",
        "torch.ops.load_library",
        "torch.ops.aten",
        "torch.ops.aten.add",
        "torch.ops.aten.add.__class__",
        "torch.ops.aten.add.overloads",
        "torch.ops.aten.nothing.default",
        "torch.ops.aten.from_file.default",
        "torch.ops.aten.save.default",
        "torch.ops.aten.dist_backward.default",
        "torch.ops.aten.warn.default",
        "torch.ops.aten.set_.source_Storage",
        "torch.ops.mylib.nothing.default",
        "torch.ops.higher_order.call_torchbind",
        "torch.ops.higher_order.executorch_call_delegate",
        "torch.ops.higher_order.aoti_call_delegate",
        "torch.ops.higher_order.triton_kernel_wrapper_functional",
        "torch.ops.higher_order.flat_apply",
        "torch.ops.higher_order.nothing",
        "torch.hub.load",
        "torch.serialization.os.system",
        "_operator.methodcaller",
        "_operator.attrgetter",
        "math.factorial",
        "builtins.eval",
        "os.system",
        "#mylib:op",
        "torch.ops.aten._cufft_clear_plan_cache.default",
        "torch.ops.prim.PythonOp.default",
        "torch.ops.prim.rpc_sync.default",
        "torch.ops.prim.Print.default",
        "torch.ops.aten.format.default",
        "torch.export.custom_ops._call_custom_autograd_function_in_pre_dispatch",
        "torch.os.system",
        "torch.ops.aten.add.Tensor; import os",
        "torch.ops.aten.add.T\u00ebnsor",
        "torch.ops.aten." + "a" * 5000 + ".default",
    ],
)
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(RetracedError, match=r"cannot stand in a program|has a name of") as caught:
        Operators(frozenset()).find(name)
    # What is written as an operator may be one of another torch, or of a module that is not imported here.
    no_operator = "it is neither of `torch.ops` nor a function" in caught.value.message
    assert caught.value.reason is (Reason.PROGRAM_INVALID if no_operator else Reason.PROGRAM_UNSUPPORTED)
