"""The check of private names finds them, and what is no such name is let be."""

from __future__ import annotations

import pytest

from tools.private_names import private_names

PRIVATE = (
    "import torch._dynamo",
    "from torch._ops import OpOverload",
    "from torch.utils import _pytree as pytree",
    "from torch.utils._sympy.numbers import int_oo",
    "from torch.fx.experimental.symbolic_shapes import ShapeEnv",
    "from torch.fx.graph import CodeGen",
    "from sympy.core._print_helpers import Printable",
    "op._schema",
    "torch._C",
    "value.node._expr",
    "self.graph._root",
    "env.var_to_range",
    "self._env.backed_var_to_val",
)
FREE = (
    "import torch",
    "from torch import fx",
    "from torch.fx.immutable_collections import immutable_list",
    "from torch.export.graph_signature import InputKind",
    "torch.ops.aten._unsafe_view.default",
    "aten = torch.ops.aten\naten._to_copy.default",
    "self._own",
    "class A:\n    def _own(self): ...\nA()._own()",
    "import os\nos._exit(0)",
    "value.__class__",
)


@pytest.mark.parametrize("source", PRIVATE)
def test_private_name_is_found(source: str) -> None:
    assert list(private_names(source))


@pytest.mark.parametrize("source", FREE)
def test_other_name_is_not(source: str) -> None:
    assert not list(private_names(source))
