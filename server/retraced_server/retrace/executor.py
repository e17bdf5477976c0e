"""Executes the nodes of one graph, so that each sees what those before it did to sizes and strides in place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from retraced_server.analysis.targets import acts_on_regions
from retraced_server.retrace.arguments import map_leaves
from retraced_server.retrace.batched_execution import executed_in_levels
from retraced_server.retrace.batched_values import BatchedValues
from retraced_server.retrace.deferred_asserts import DeferredAsserts
from retraced_server.retrace.execute import execute
from retraced_server.retrace.fake_result_cache import FakeResultCache
from retraced_server.retrace.proxy_value import ProxyValue
from retraced_server.retrace.regions import RegionExecutor
from retraced_server.retrace.unbacked import UnbackedSymbols
from retraced_server.retrace.values import logical


class Executor:
    """Executes operators on the data of values. Recorded values stay as they are, so what is changed in place is kept here.

    Args:
        cache: The results of operators by the descriptions of their arguments.
        asserts: The program's assertions about symbols.
        unbacked: Its unbacked symbols.
        regions: Executes calls that mean something in their region only.
        batched: Tells at which levels values are batched.
    """

    def __init__(
        self,
        cache: FakeResultCache,
        asserts: DeferredAsserts,
        unbacked: UnbackedSymbols,
        regions: RegionExecutor,
        batched: BatchedValues,
    ) -> None:
        self._cache = cache
        self._asserts = asserts
        self._unbacked = unbacked
        self._regions = regions
        self._batched = batched
        # Values whose sizes or strides an operator has changed in place, as later operators see them.
        self._written: dict[fx.Node, torch.Tensor] = {}
        # Green operators that do so and have not been executed, since nothing has read what they change.
        self._unwritten: list[tuple[Any, Any, Any]] = []

    # Targets and arguments are whatever a graph has.
    def defer(self, target: Any, args: Any, kwargs: Any) -> None:
        """Keep an operator that changes sizes or strides in place until another is executed."""
        self._unwritten.append((target, args, kwargs))

    def execute(self, target: Any, args: Any, kwargs: Any) -> Any:
        """Execute an operator on the data of its arguments, after what was deferred, and return its value."""
        self._settle()
        data = self._data((args, kwargs))
        return self._value(target, (args, kwargs), lambda: self._run(target, (args, kwargs), data))

    def result(self, target: Any, args: Any, kwargs: Any) -> Any:
        """As `execute`, but what the operator gave for arguments of the same description may be given again."""
        self._settle()
        data = self._data((args, kwargs))
        return self._value(
            target, (args, kwargs), lambda: self._cache.get(target, *data, lambda: self._run(target, (args, kwargs), data))
        )

    def _value(self, target: Any, arguments: tuple[Any, Any], execute: Callable[[], Any]) -> Any:
        with self._regions.state(target):
            if not self._batched.levels:
                return execute()
            return executed_in_levels(self._unbacked, self._batched, target, arguments, self._datum, execute)

    def _settle(self) -> None:
        self._asserts.flush()
        if self._unwritten:
            unwritten, self._unwritten = self._unwritten, []
            for target, args, kwargs in unwritten:
                with self._unbacked.trial():
                    self._run(target, (args, kwargs), self._data((args, kwargs)))

    def _run(self, target: Any, arguments: tuple[Any, Any], data: tuple[Any, Any]) -> Any:
        if acts_on_regions(target):
            return self._regions.execute(target, map_leaves(arguments, ProxyValue, lambda proxy: proxy.node), data)
        execution = execute(target, *data, self._cache.get)
        if execution.written:
            self._note_written(execution.written, arguments)
        return execution.value

    def _note_written(self, written: list[tuple[torch.Tensor, torch.Tensor]], arguments: Any) -> None:
        given: dict[int, fx.Node] = {}

        def note(proxy: ProxyValue[Any]) -> None:
            given[id(self._datum(proxy))] = proxy.node

        map_leaves(arguments, ProxyValue, note)
        for original, changed in written:
            if id(original) in given:
                self._written[given[id(original)]] = changed

    def _data(self, arguments: tuple[Any, Any]) -> tuple[Any, Any]:
        args, kwargs = map_leaves(arguments, ProxyValue, self._datum)
        return args, kwargs

    def _datum(self, proxy: ProxyValue[Any]) -> Any:
        return map_leaves(self._written.get(proxy.node, proxy.data), torch.Tensor, logical)
