"""Verify recorded values by executing their nodes again, once for all that call the same operator on equal metadata."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any

from torch import fx

from retraced_server.retrace.compare import Comparison
from retraced_server.retrace.errors import ExportPassError
from retraced_server.retrace.execute import is_symbolic_assert
from retraced_server.retrace.values import free_symbols

if TYPE_CHECKING:
    from retraced_server.retrace.session import Session


class RecomputeVerifier:
    """Verify the recorded values of one graph by recomputing them; equal comparisons are made once, since layers of a network repeat.

    A fake operator's result depends on nothing but the metadata of its arguments and what is known of their symbols. Left out are operators
    that write, that make symbols, or that read numbers. Not for several graphs: they may run under another autocast.

    Args:
        session: What the graphs of one call of a pass share.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._remarks: dict[Hashable, frozenset[str]] = {}

    # Arguments and values are whatever an operator takes and returns.
    def check(self, old: fx.Node, args: Any, kwargs: Any, execute: Callable[[], Any]) -> Any:
        """Compares a node's recorded value with what executing it gives, with guards suppressed; notes what differs without being wrong.

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
            return self._session.state(old.target, args, kwargs)
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
            self._session.differences.add(kind, old.name)
        return executed

    def _compared(self, recorded: Any, arguments: Any, execute: Callable[[], Any]) -> tuple[Any, bool, Comparison]:
        transaction, unbacked = self._session.transaction, self._session.unbacked
        pending = unbacked.pending()
        self._session.flush_deferred_asserts()
        with transaction.suppressing_guards(asserts=False):
            executed = execute()
            fresh = unbacked.pending() - pending
            comparison = Comparison(transaction.env, fresh)
            if recorded is not None:
                comparison.compare(recorded, executed)
        unbacked.drop(fresh)
        makes_symbols = bool(fresh) or not free_symbols(executed).keys() <= free_symbols(arguments).keys()
        return executed, not makes_symbols, comparison

    def _key(self, node: fx.Node, args: Any, kwargs: Any, recorded: Any) -> Hashable | None:
        call = self._session.descriptions.call(node.target, args, (kwargs, recorded))
        return None if call is None else (call, self._session.transaction.mark())
