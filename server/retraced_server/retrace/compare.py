"""Compares a recorded value with the one that executing the node again gave."""

from __future__ import annotations

from collections import Counter
from typing import Any

import sympy
import torch

from retraced_server.retrace.values import SYMBOLIC, expression
from retraced_server.torch_compat.symbolic_shapes import ShapeEnv, is_known, sympy_functions


class Remarks:
    """Collects what differs without being wrong, by kind, so that a program with a hundred such nodes gets one line."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._examples: dict[str, list[str]] = {}

    def add(self, kind: str, node: str) -> None:
        """Note that a node differs in one way."""
        self._counts[kind] += 1
        examples = self._examples.setdefault(kind, [])
        if len(examples) < 3 and node not in examples:
            examples.append(node)

    def lines(self) -> list[str]:
        """One line for each kind."""
        return [
            f"{count} recorded value{'s' if count > 1 else ''} with another {kind} when executed again "
            f"(the recorded one is kept): {', '.join(self._examples[kind])}{', ...' if count > len(self._examples[kind]) else ''}"
            for kind, count in self._counts.items()
        ]


class Comparison:
    """Compares one node's values. `error` says what is wrong, `remarks` what merely differs.

    Args:
        env: The shape environment, or None.
        fresh: Unbacked symbols that the repeated execution made; each may stand for one recorded symbol.
    """

    def __init__(self, env: ShapeEnv | None, fresh: set[sympy.Symbol]) -> None:
        self._env = env
        self._fresh = fresh
        self._renaming: dict[sympy.Symbol, sympy.Expr] = {}
        self.error: str | None = None
        self.remarks: set[str] = set()

    def compare(self, recorded: Any, executed: Any) -> None:
        """Compare two values, nested ones leaf by leaf."""
        if recorded is executed or self.error is not None:
            return
        if isinstance(recorded, torch.Tensor):
            self._tensor(recorded, executed)
        elif isinstance(recorded, (tuple, list)):
            if not isinstance(executed, (tuple, list)) or len(recorded) != len(executed):
                self.error = f"recorded {len(recorded)} values, executed again it gives {_describe(executed)}"
                return
            for old, new in zip(recorded, executed, strict=True):
                self.compare(old, new)
        elif isinstance(recorded, SYMBOLIC):
            self._symbolic(recorded, executed)
        elif isinstance(recorded, (int, float, bool)) and isinstance(executed, SYMBOLIC):
            # The program knows more than one execution can: an assertion has fixed the value.
            self.remarks.add("degree of knowledge")
        elif isinstance(recorded, (int, float, bool)) and not (type(recorded) is type(executed) and recorded == executed):
            self.error = f"recorded {recorded!r}, executed again it gives {_describe(executed)}"

    def _tensor(self, recorded: torch.Tensor, executed: Any) -> None:
        if not isinstance(executed, torch.Tensor):
            self.error = f"recorded a tensor, executed again it gives {_describe(executed)}"
            return
        if recorded.dtype is not executed.dtype:
            self.error = f"recorded dtype {recorded.dtype}, executed again it gives {executed.dtype}"
        elif recorded.device != executed.device:
            self.error = f"recorded device {recorded.device}, executed again it gives {executed.device}"
        elif recorded.layout is not executed.layout:
            self.error = f"recorded layout {recorded.layout}, executed again it gives {executed.layout}"
        elif recorded.dim() != executed.dim() or not all(map(self._same, recorded.shape, executed.shape)):
            self.error = f"recorded shape {_shape(recorded)}, executed again it gives {_shape(executed)}"
        elif recorded.layout is torch.strided:
            if not all(map(self._same, recorded.stride(), executed.stride())):
                self.remarks.add("stride")
            if not self._same(recorded.storage_offset(), executed.storage_offset()):
                self.remarks.add("storage offset")

    def _symbolic(self, recorded: Any, executed: Any) -> None:
        if not isinstance(executed, SYMBOLIC):
            # The program was exported knowing less, for example item() of a constant.
            self.remarks.add("degree of knowledge")
        elif type(recorded) is not type(executed) or not self._same(recorded, executed):
            self.error = f"recorded {recorded}, executed again it gives {executed}"

    def _same(self, recorded: Any, executed: Any) -> bool:
        if not isinstance(recorded, SYMBOLIC) and not isinstance(executed, SYMBOLIC):
            return bool(recorded == executed)
        old, new = sympy.sympify(expression(recorded)), sympy.sympify(expression(executed))
        if old == new:
            return True
        loose = {symbol for symbol in new.free_symbols if symbol in self._fresh and symbol not in self._renaming}
        if len(loose) == 1:
            self._bind(loose.pop(), old, new)
        new = new.xreplace(self._renaming)
        if old == new:
            return True
        old, new = _in_torchs_functions(old), _in_torchs_functions(new)
        if old == new or self._env is None:
            return bool(old == new)
        # Of conditions sympy knows no equation.
        same = sympy.Equivalent(old, new) if old.is_Boolean or new.is_Boolean else sympy.Eq(old, new)
        return is_known(self._env, same)

    def _bind(self, fresh: sympy.Symbol, old: sympy.Expr, new: sympy.Expr) -> None:
        if new == fresh:
            self._renaming[fresh] = old
            return
        unbacked = [symbol for symbol in old.free_symbols if symbol not in new.free_symbols]
        if len(unbacked) == 1:
            self._renaming[fresh] = unbacked[0]


def _in_torchs_functions(expr: sympy.Expr) -> sympy.Expr:
    # Torch's reader makes sympy's own Max, and undefined functions, of what the shape environment has functions for.
    for application in expr.atoms(sympy.core.function.Application):
        known = getattr(sympy_functions, type(application).__name__, None)
        if known is not None and known is not application.func:
            expr = expr.replace(application.func, known)
    return expr


def _shape(tensor: torch.Tensor) -> str:
    return f"({', '.join(str(size) for size in tensor.shape)})"


def _describe(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return f"a tensor of shape {_shape(value)}"
    if isinstance(value, (tuple, list)):
        return f"{len(value)} values"
    return f"{type(value).__name__} {value}"
