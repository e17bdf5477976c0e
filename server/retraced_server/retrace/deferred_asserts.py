"""Operators of a program that assert facts about symbols: they are executed when an operator is that may need the facts, and not before."""

from __future__ import annotations

from typing import Any

from retraced_server.retrace.values import free_symbols
from retraced_server.torch_compat.fake_tensors import FakeTensorMode
from retraced_server.torch_compat.shape_env_transaction import ShapeEnvTransaction


class DeferredAsserts:
    """The assertions of one call of a pass that have not been executed, in order.

    Args:
        transaction: What happens to the shape environment.
        fake_mode: The program's fake mode.
    """

    def __init__(self, transaction: ShapeEnvTransaction, fake_mode: FakeTensorMode) -> None:
        self._transaction = transaction
        self._fake_mode = fake_mode
        self._waiting: list[tuple[Any, Any, Any]] = []
        self._executed = False

    # Targets and arguments are whatever a graph has.
    def defer(self, target: Any, args: Any, kwargs: Any) -> None:
        """Keep an assertion, with its arguments as data, until `flush`."""
        self._waiting.append((target, args, kwargs))

    def flush(self) -> None:
        """Apply the assertions up to the current node to the shape environment: an operator is about to be executed."""
        if not self._executed:
            self._executed = True
            # Tensors must not remember symbols from a former run.
            self._fake_mode.epoch += 1
        if self._waiting:
            waiting, self._waiting = self._waiting, []
            for target, args, kwargs in waiting:
                self.apply(target, args, kwargs)

    def apply(self, target: Any, args: Any, kwargs: Any) -> Any:
        """Execute an assertion: what it states holds while the transaction lasts."""
        about = free_symbols((args, kwargs))
        with self._transaction.suppressing_guards(asserts=True, about=about):
            return target(*args, **kwargs)

    def end(self) -> None:
        """Have tensors forget the symbols of this run."""
        if self._executed:
            self._fake_mode.epoch += 1
