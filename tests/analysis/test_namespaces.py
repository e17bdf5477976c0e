"""Namespaces of operators: what is allowed by default is registered and only computes, and an error says what really helps."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from retraced_pt2.operators import DEFAULT_NAMESPACES
from retraced_server.analysis.namespaces import NAMESPACES, TORCH_NAMESPACES, how_to_allow
from retraced_server.errors import Reason, RetracedError
from retraced_server.program.operators import Operators
from retraced_server.worker.prepare import PrepareError, _brought, _namespaces

pytestmark = pytest.mark.slow


def _registered() -> set[str]:
    return {name.partition("::")[0] for name in torch._C._dispatch_get_all_op_names()}


def test_namespaces_that_are_allowed_by_default_are_registered_where_programs_are_read() -> None:
    code = (
        "import torch, retraced_server.program\n"
        "print(*{name.partition('::')[0] for name in torch._C._dispatch_get_all_op_names()})"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=300).stdout
    assert set(said.split()) | {"prim"} >= DEFAULT_NAMESPACES


def test_every_namespace_of_torchs_is_judged() -> None:
    code = "import torch, retraced_server.worker.prepare\nprint(*{n.partition('::')[0] for n in torch._C._dispatch_get_all_op_names()})"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=300).stdout
    assert set(said.split()) - NAMESPACES.keys() == set()


@pytest.mark.parametrize("namespace", ["quantized_decomposed", "onnx", "_c10d_functional"])
def test_operators_that_are_allowed_by_default_are_found(namespace: str) -> None:
    found = 0
    for name in torch._C._dispatch_get_all_op_names():
        of, _, rest = name.partition("::")
        packet, _, overload = rest.partition(".")
        if of == namespace:
            Operators(frozenset()).find(f"torch.ops.{of}.{packet}.{overload or 'default'}")
            found += 1
    assert found >= 2


def test_collectives_on_fake_tensors_talk_to_nobody() -> None:
    functional = torch.ops._c10d_functional
    with FakeTensorMode():
        x = torch.empty(2, 4)
        reduced = functional.wait_tensor(functional.all_reduce(x, "sum", "no such group"))
        gathered = functional.wait_tensor(functional.all_gather_into_tensor(x, 2, "no such group"))
    assert (reduced.shape, gathered.shape) == ((2, 4), (4, 4))
    assert not torch.distributed.is_initialized()


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("torch.ops.mkldnn._linear_pointwise.default", "serve --allow-namespace mkldnn"),
        ("torch.ops.profiler._record_function_exit.default", "serve --allow-namespace profiler"),
        ("torch.ops.torchvision.nms.default", "serve --import torchvision` (`pip install torchvision`)"),
        ("torch.ops.fbgemm.permute_2D_sparse_data.default", "serve --import fbgemm_gpu` (`pip install fbgemm-gpu-cpu`)"),
        ("torch.ops.llama.custom_sdpa.default", "`pip install executorch`"),
        ("torch.ops.transformers.grouped_mm_fallback.default", "serve --import transformers.integrations.moe`"),
        ("torch.ops.nobody_knows.it.default", "serve --import MODULE"),
    ],
)
def test_namespace_that_is_not_allowed_is_refused_with_what_helps(name: str, advice: str) -> None:
    with pytest.raises(RetracedError, match=re.escape(advice)) as caught:
        Operators(frozenset()).find(name)
    assert caught.value.reason is Reason.PROGRAM_UNSUPPORTED


def test_mixtures_of_experts_of_transformers_are_read_where_what_registers_their_operators_is_imported() -> None:
    code = (
        f"import {NAMESPACES['transformers'].module}\n"
        "from retraced_server.program.operators import Operators\n"
        "print(Operators(frozenset({'transformers'})).find('torch.ops.transformers.grouped_mm_fallback.default'))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=300).stdout
    assert found == "transformers.grouped_mm_fallback.default\n"


def test_namespace_that_is_registered_and_that_nobody_knows_is_allowed_by_name() -> None:
    assert "--allow-namespace mine" in how_to_allow("mine", registered=True)


def test_namespace_of_torchs_is_found_where_the_operator_allows_it() -> None:
    name = "torch.ops.mkldnn._linear_pointwise.default"
    assert Operators(frozenset({"mkldnn"})).find(name) is torch.ops.mkldnn._linear_pointwise.default


def test_what_an_import_registers_is_allowed_but_not_what_it_loads_of_torch() -> None:
    assert _namespaces(frozenset(_registered() - {"mkldnn", "quantized"}), ["rngprims"]) == {"rngprims"}
    assert {"mkldnn", "quantized"} <= TORCH_NAMESPACES


def test_namespace_that_nothing_registers_cannot_be_allowed() -> None:
    with pytest.raises(PrepareError, match="no operators of the namespace `mistyped` are registered"):
        _namespaces(frozenset(), ["mistyped"])


def test_operators_that_an_import_adds_to_a_namespace_of_torchs_are_read() -> None:
    before = frozenset(torch._C._dispatch_get_all_op_names())
    with torch.library._scoped_library("quantized_decomposed", "FRAGMENT") as library:
        library.define("embedding_of_a_package(Tensor weight, Tensor indices) -> Tensor")
        brought = _brought(before)
        assert brought == {"quantized_decomposed.embedding_of_a_package.default"}
        (name,) = brought
        assert str(Operators(frozenset(), brought).find(f"torch.ops.{name}")) == name
        with pytest.raises(RetracedError, match="not on the list"):
            Operators(frozenset()).find(f"torch.ops.{name}")
