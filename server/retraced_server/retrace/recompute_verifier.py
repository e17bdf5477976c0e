"""Verify recorded values by executing their nodes again, once for all that call the same operator on equal metadata."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

from torch import fx

from retraced_server.retrace.compare import Comparison, Remarks
from retraced_server.retrace.deferred_asserts import DeferredAsserts
from retraced_server.retrace.descriptions import Descriptions
from retraced_server.retrace.errors import ExportPassError
from retraced_server.retrace.execute import is_symbolic_assert
from retraced_server.retrace.unbacked import UnbackedSymbols
from retraced_server.retrace.values import free_symbols
from retraced_server.torch_compat.shape_env_transaction import ShapeEnvTransaction


class RecomputeVerifier:
    """Verify the recorded values of one graph by recomputing them; equal comparisons are made once, since layers of a network repeat.

    A fake operator's result depends on nothing but the metadata of its arguments and what is known of their symbols. Left out are operators
    that write, that make symbols, or that read numbers. Not for several graphs: they may run under another autocast.

    Args:
        transaction: What happens to the program's shape environment.
        unbacked: Its unbacked symbols.
        asserts: The program's assertions about symbols.
        descriptions: Describes calls, so that equal ones are found.
        differences: Takes what differs without being wrong.
    """

    def __init__(
        self,
        transaction: ShapeEnvTransaction,
        unbacked: UnbackedSymbols,
        asserts: DeferredAsserts,
        descriptions: Descriptions,
        differences: Remarks,
    ) -> None:
        self._transaction = transaction
        self._unbacked = unbacked
        self._asserts = asserts
        self._descriptions = descriptions
        self._differences = differences
        self._remarks: dict[Hashable, frozenset[str]] = {}

    # Arguments and values are whatever an operator takes and returns.
    def check(self, old: fx.Node, args: Any, kwargs: Any, execute: Callable[[], Any]) -> Any:
        """Compare a node's recorded value with what executing it gives, with guards suppressed; notes what differs without being wrong.

        Args:
            old: The node.
            args: Its arguments as data.
            kwargs: Its keyword arguments as data.
            execute: Executes it.

        Returns:
            The value; the recorded one where it did not have to be executed.

        Raises:
            ExportPassError: The recorded value is not what the node computes.
        """
        recorded = old.meta.get("val")
        if is_symbolic_assert(old.target):
            return self._asserts.apply(old.target, args, kwargs)
        key = None if recorded is None else self._key(old, args, kwargs, recorded)
        remarks = self._remarks.get(key) if key is not None else None
        executed = recorded
        if remarks is None:
            executed, is_repeatable, comparison = self._compared(recorded, (args, kwargs), execute)
            if comparison.error is not None:
                raise ExportPassError(f"the recorded value is not what the node computes: {comparison.error}")
            remarks = frozenset(comparison.remarks)
            if key is not None and is_repeatable:
                self._remarks[key] = remarks
        for kind in remarks:
            self._differences.add(kind, old.name)
        return executed

    def _compared(self, recorded: Any, arguments: Any, execute: Callable[[], Any]) -> tuple[Any, bool, Comparison]:
        self._asserts.flush()
        with self._unbacked.trial() as before:
            executed = execute()
            fresh = self._unbacked.pending() - before
            comparison = Comparison(self._unbacked.env, fresh)
            if recorded is not None:
                comparison.compare(recorded, executed)
        makes_symbols = bool(fresh) or not free_symbols(executed).keys() <= free_symbols(arguments).keys()
        return executed, not makes_symbols, comparison

    def _key(self, node: fx.Node, args: Any, kwargs: Any, recorded: Any) -> Hashable | None:
        call = self._descriptions.call(node.target, args, (kwargs, recorded))
        return None if call is None else (call, self._transaction.mark())
