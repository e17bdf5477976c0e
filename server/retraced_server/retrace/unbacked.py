"""Keeps unbacked symbols: what an operator makes again is called what the program calls it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import sympy
from torch import fx

from retraced_server.analysis.targets import overload_of
from retraced_server.retrace.values import match_symbols, rename_symbols
from retraced_server.torch_compat.fake_tensors import FakeTensorMode
from retraced_server.torch_compat.operators import base_name
from retraced_server.torch_compat.shape_env_transaction import ShapeEnvTransaction
from retraced_server.torch_compat.symbolic_shapes import ShapeEnv, backed_values, compute_unbacked_bindings

_ITEM = frozenset({"item", "_local_scalar_dense"})


def means_the_same(target: Any, old: Any) -> bool:
    """Whether a new call's fresh symbols are those of the old call by what the operators mean."""
    if target is old:
        return True
    names = (None if (op := overload_of(each)) is None else base_name(op) for each in (target, old))
    return all(name in _ITEM for name in names)


class UnbackedSymbols:
    """The unbacked symbols of one retrace.

    Args:
        transaction: What happens to the shape environment.
        fake_mode: The fake mode, whose tensors remember the symbols that operators made of them.
    """

    def __init__(self, transaction: ShapeEnvTransaction, fake_mode: FakeTensorMode) -> None:
        self._transaction = transaction
        self._fake_mode = fake_mode

    @property
    def env(self) -> ShapeEnv | None:
        """The program's shape environment."""
        return self._transaction.env

    @contextmanager
    def trial(self) -> Iterator[set[sympy.Symbol]]:
        """Execute operators only to see what they give: with guards suppressed; symbols that they make are forgotten afterwards.

        Gives the symbols that were pending before.
        """
        before = self.pending()
        try:
            with self._transaction.suppressing_guards(asserts=False):
                yield before
        finally:
            self.drop(self.pending() - before)

    def pending(self) -> set[sympy.Symbol]:
        """Return the symbols that were made and not bound yet."""
        return set(self._transaction.pending())

    def drop(self, symbols: set[sympy.Symbol]) -> None:
        """Forget symbols, and that tensors remember them."""
        if symbols:
            self._transaction.forget(symbols)
            self._fake_mode.epoch += 1

    def bindings(self, value: Any) -> dict[sympy.Symbol, Any]:
        """Where in a value the pending symbols are found; they are pending no longer."""
        env = self.env
        if env is None or not self._transaction.pending():
            return {}
        self._fake_mode.epoch += 1
        return compute_unbacked_bindings(env, value) or {}

    def rebind(
        self,
        old: fx.Node,
        value: Any,
        bindings: dict[sympy.Symbol, Any],
        taken: set[sympy.Symbol],
        *,
        only_own: bool = False,
    ) -> tuple[Any, dict[sympy.Symbol, Any], dict[sympy.Symbol, sympy.Expr]]:
        """Rename fresh symbols in a value to those that stand in the same places of an old node's recorded value.

        Args:
            old: The old node.
            value: The new value.
            bindings: The fresh symbols and where they are in the value.
            taken: Old symbols that have been given away for this node; those given now are added.
            only_own: Take only symbols that the old node made itself. It may have had others from another node, since both read the same
                data; a write in between has put an end to that.

        Returns:
            The value, its bindings, and the renaming.
        """
        env = self.env
        recorded = old.meta.get("val")
        if env is None or not bindings or recorded is None:
            return value, bindings, {}
        backed, bound_before = backed_values(env), old.meta.get("unbacked_bindings") or {}
        renaming = match_symbols(
            set(bindings),
            value,
            recorded,
            accept=lambda s: s not in backed and s not in taken and (s in bound_before or not only_own),
        )
        if not renaming:
            return value, bindings, {}
        taken |= set(renaming.values())
        kept = {}
        for symbol, path in bindings.items():
            name = renaming.get(symbol, symbol)
            # The old node may have had the symbol from another node's result, by a memo of the tensor; then it is bound there.
            if symbol not in renaming or name in bound_before:
                kept[name] = path
        renamed = rename_symbols(value, renaming, env)
        self.drop(set(renaming))
        return renamed, kept, renaming
