"""The private parts of torch that workers need, in one place. Checked with torch 2.13.0."""

from __future__ import annotations

from collections.abc import Mapping

import sympy
import torch
from torch._C._functorch import is_functorch_wrapped_tensor
from torch._dynamo.source import LocalSource
from torch._functorch import predispatch
from torch._library.fake_class_registry import FakeScriptObject
from torch._ops import HigherOrderOperator, OpOverload, OpOverloadPacket
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, disable_fake_tensor_cache
from torch.fx.experimental.symbolic_shapes import ShapeEnv, safe_expand
from torch.utils import _pytree as pytree
from torch.utils._mode_utils import no_dispatch
from torch.utils._pytree import KeyPath, keystr
from torch.utils._sympy.numbers import int_oo
from torch.utils._sympy.value_ranges import ValueRanges, bound_sympy

__all__ = [
    "FakeScriptObject",
    "FakeTensor",
    "FakeTensorMode",
    "HigherOrderOperator",
    "KeyPath",
    "LocalSource",
    "OpOverload",
    "OpOverloadPacket",
    "ShapeEnv",
    "ValueRanges",
    "backed_values",
    "bound_sympy",
    "disable_fake_tensor_cache",
    "expression_of",
    "guards_code",
    "int_oo",
    "is_functorch_wrapped_tensor",
    "keystr",
    "no_dispatch",
    "predispatch",
    "python_type",
    "raw_expression",
    "run_no_real_kernels",
    "shape_env_of",
    "start_no_progress_monitor",
]

Symbolic = torch.SymInt | torch.SymFloat | torch.SymBool


def raw_expression(value: Symbolic) -> sympy.Basic:
    """The expression of a symbolic value as it was made; equal ones of one shape environment mean the same."""
    return value.node._expr


def expression_of(value: Symbolic) -> sympy.Basic:
    """The expression of a symbolic value, with the replacements of its shape environment.

    Equal to `value.node.expr`, which may shorten chains of replacements in the shape environment on the way and so raise its
    version; this only reads.
    """
    expression = sympy.sympify(value.node._expr)
    replacements = value.node.shape_env.replacements if value.node.shape_env is not None else {}
    if not replacements or replacements.keys().isdisjoint(expression.free_symbols):
        return expression
    for _ in range(len(replacements)):
        replaced = expression.xreplace(replacements)
        if replaced == expression:
            break
        expression = replaced
    return safe_expand(expression)


def python_type(value: Symbolic) -> type[int] | type[float] | type[bool]:
    """The Python type that a symbolic value stands for."""
    # `node` is untyped: SymInt and its like declare it as Any.
    result: type[int] | type[float] | type[bool] = value.node.pytype
    return result


def shape_env_of(value: FakeTensor | Symbolic) -> ShapeEnv | None:
    """The shape environment of a recorded value."""
    shape_env: ShapeEnv | None = value.fake_mode.shape_env if isinstance(value, FakeTensor) else value.node.shape_env
    return shape_env


def backed_values(shape_env: ShapeEnv | None) -> Mapping[sympy.Symbol, sympy.Basic]:
    """What the symbols of a shape environment were at export; symbols that come from data are not among them."""
    return shape_env.backed_var_to_val if shape_env is not None else {}


def guards_code(program: torch.export.ExportedProgram) -> list[str]:
    """The guards of a program as Python expressions. Text; never evaluated here."""
    return program._guards_code


def run_no_real_kernels() -> None:
    """Keeps fake execution from real kernels, those of operators without a fake one.

    Operators on constants of one element still run for real, since hooks make constants so; `constants` bounds what that takes.
    """
    FakeTensorMode._can_run_unsafe_fallback_allowed_namespaces = {}


def start_no_progress_monitor() -> None:
    """Keeps torch from starting the monitor thread of its progress bars, which it makes even where it shows none."""
    # Either the library's, or a stand-in of torch's own, for which it means nothing.
    vars(torch.hub)["tqdm"].monitor_interval = 0


def registered_tree_types() -> list[str]:
    """The serialized names of all types that this process can take apart as arguments and results, named tuples included."""
    return list(pytree.SERIALIZED_TYPE_TO_PYTHON_TYPE)


def registered_operators() -> list[str]:
    """The names of all operators that this process knows, each `namespace::name`."""
    return torch._C._dispatch_get_all_op_names()
