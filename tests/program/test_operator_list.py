"""The closed list of operators: it is what its rules make of this torch, and what is outside it is refused with what helps."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from retraced_pt2.operators import DEFAULT_NAMESPACES
from retraced_server.errors import Reason, RetracedError
from retraced_server.program.operator_lists import listed_operators
from retraced_server.program.operator_lists.unlisted import UNLISTED
from retraced_server.program.operators import Operators
from retraced_server.worker.prepare import PrepareError, _operators
from tools.operator_list import LIST

pytestmark = pytest.mark.slow

_ROOT = Path(__file__).resolve().parents[2]
_PRINT = "from tools.operator_list import make_list; print(*make_list(), sep='\\n')"


def test_list_is_what_its_rules_make_of_this_torch() -> None:
    # In a process of its own: other modules of torch, once they are loaded, add operators and kernels.
    made = subprocess.run([sys.executable, "-c", _PRINT], cwd=_ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout
    assert LIST.read_text() == made


@pytest.mark.parametrize(
    "name",
    [
        *(
            "aten.add.Tensor",
            "aten.__and__.Tensor",
            "aten._foreach_add.List",
            "aten._conj_copy.default",
            "aten._make_dual.default",
        ),
        *("aten._sparse_mm.default", "aten._ctc_loss.default", "aten._native_batch_norm_legit_no_training.default"),
        *(
            "aten._fused_adam.default",
            "prims.add.default",
            "prim.dtype.default",
            "quantized_decomposed.quantize_per_tensor.default",
        ),
    ],
)
def test_each_rule_lists_what_it_is_for(name: str) -> None:
    assert name in listed_operators()


@pytest.mark.parametrize("name", ["aten._test_check_tensor.default", "aten._cast_Float.default", "aten._version.default"])
def test_what_no_rule_lists_is_not_on_the_list(name: str) -> None:
    assert name not in listed_operators()


def test_no_operator_on_the_list_fills_a_list() -> None:
    # Functionalized, it is given as many results as it has, and reads as many as the list is long: it ends the process.
    filling = {
        f"{schema.name.replace('::', '.')}.{schema.overload_name or 'default'}"
        for schema in torch._C._jit_get_all_schemas()
        if any(argument.is_out and argument.type.kind() == "ListType" for argument in schema.arguments)
    }
    assert "aten.split_with_sizes_copy.out" in filling
    assert filling.isdisjoint(listed_operators())


def test_operators_of_the_default_namespaces_are_found_where_they_are_listed_and_only_there() -> None:
    operators, found = Operators(frozenset()), set()
    for name in torch._C._dispatch_get_all_op_names():
        namespace, _, rest = name.partition("::")
        packet, _, overload = rest.partition(".")
        if namespace in DEFAULT_NAMESPACES:
            try:
                found.add(str(operators.find(f"torch.ops.{namespace}.{packet}.{overload or 'default'}")))
            except RetracedError:
                continue
    assert found == {name for name in listed_operators() if not name.startswith("prim.")}


@pytest.mark.parametrize("name", sorted(UNLISTED))
def test_operator_that_was_left_out_is_registered_and_refused_with_the_reason_and_what_helps(name: str) -> None:
    packet, overload = name, ""
    if name.count(".") == 2:
        packet, _, overload = name.rpartition(".")
    found = getattr(torch.ops.aten, packet.removeprefix("aten."))
    for each in [overload] if overload else found.overloads():
        with pytest.raises(RetracedError, match=re.escape(f"--allow-operator {packet}.{each}`")) as caught:
            Operators(frozenset()).find(f"torch.ops.{packet}.{each}")
        assert caught.value.reason is Reason.PROGRAM_UNSUPPORTED
        assert UNLISTED[name] in caught.value.message


def test_operator_that_is_not_listed_is_found_where_it_is_allowed() -> None:
    name = "aten._sobol_engine_initialize_state_.default"
    found = Operators(frozenset(), frozenset({name})).find(f"torch.ops.{name}")
    assert found is torch.ops.aten._sobol_engine_initialize_state_.default


def test_single_operator_of_another_namespace_is_found_where_it_is_allowed() -> None:
    name = "mkldnn._linear_pointwise.default"
    operators = Operators(frozenset(), frozenset({name}))
    assert operators.find(f"torch.ops.{name}") is torch.ops.mkldnn._linear_pointwise.default
    with pytest.raises(RetracedError, match="the namespace `mkldnn` is not allowed"):
        operators.find("torch.ops.mkldnn._linear_pointwise.binary")


@pytest.mark.parametrize(
    ("name", "said"),
    [("aten.from_file.default", "does more than compute"), ("aten.mistyped.default", "no such operator is registered")],
)
def test_operator_that_cannot_be_allowed_is_said_when_the_server_starts(name: str, said: str) -> None:
    with pytest.raises(PrepareError, match=said):
        _operators([name])


def test_operator_may_be_allowed_by_the_name_that_archives_give_it() -> None:
    assert _operators(["torch.ops.aten._stack.default"]) == {"aten._stack.default"}
