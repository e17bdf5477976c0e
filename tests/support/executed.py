"""Which operators torch is asked to execute."""

from __future__ import annotations

from typing import Any

from torch._ops import OpOverload
from torch.overrides import TorchFunctionMode


class Executed(TorchFunctionMode):
    """Notes the operators that are executed while it is entered; those that an operator executes in turn are part of it.

    Attributes:
        operators: Them, in order.
    """

    def __init__(self) -> None:
        super().__init__()
        self.operators: list[OpOverload] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if isinstance(func, OpOverload):
            self.operators.append(func)
        return func(*args, **(kwargs or {}))
