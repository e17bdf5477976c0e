"""Which old values hold in the new graph, and so which old nodes are green: those whose recorded value holds without executing them."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from torch import fx

from retraced_server.analysis.effects import written_by_operator
from retraced_server.analysis.storages import (
    WriteSets,
    aliased_inputs,
    read_by,
    returns_alias,
    storages,
    storages_read,
)
from retraced_server.analysis.targets import UNWRAPS_FROM_LEVEL, overload_of
from retraced_server.retrace.values import free_symbols
from retraced_server.torch_compat.fake_tensors import FakeTensor
from retraced_server.torch_compat.operators import schema_of
from retraced_server.torch_compat.pytree import pytree


class Reuse:
    """What became of the values of one graph.

    The value that stands for an old node's is *kept* where the recorded object is recorded for it, in the alias set that it was in. It is
    *same* where its metadata says what was recorded, but it is in another alias set: a copy of the value, or another node's. To an operator
    that neither aliases nor writes, that makes no difference.

    Args:
        graph: The old graph.

    Attributes:
        kept: For old nodes the new ones that hold their recorded value.
        same: For old nodes the new ones that stand for them with an equal value in another alias set.
        recorded: For new nodes that hold a recorded value the old node that it was recorded for.
    """

    def __init__(self, graph: fx.Graph) -> None:
        self._graph = graph
        self.kept: dict[fx.Node, fx.Node] = {}
        self.same: dict[fx.Node, fx.Node] = {}
        self.recorded: dict[fx.Node, fx.Node] = {}
        # Inputs that hold their recorded value, though what reads them is executed.
        self._doubted: dict[fx.Node, fx.Node] = {}
        # What new or changed operators have written to, or old ones that are gone did: alias sets of the old graph, and storages.
        self._written_sets: set[fx.Node] = set()
        self._written_storages: set[int] = set()
        self._sizes_written = False
        self._firsts: dict[fx.Node, fx.Node] = {}

    @cached_property
    def _aliases(self) -> WriteSets:
        return WriteSets(self._graph)

    def keep(self, old: fx.Node, new: fx.Node) -> None:
        """Note that a new node holds an old one's recorded value."""
        self.kept[old] = new
        self.recorded[new] = old

    def doubt(self, old: fx.Node, new: fx.Node) -> None:
        """Note that what was recorded for the readers of an input need not be what they compute of its recorded value."""
        del self.kept[old]
        self._doubted[new] = self.recorded.pop(new)

    def has_recorded(self, new: fx.Node) -> bool:
        """Whether a new node has the value that was recorded for an old one, be it that of an input whose readers are executed."""
        return new in self.recorded or new in self._doubted

    # A recorded value is whatever an operator returns.
    def may_keep(self, old: fx.Node, new: fx.Node, value: Any, *, is_made: bool) -> bool:
        """Whether the recorded value can stand for the new one, given that their metadata is equal: whether their alias sets are.

        Args:
            old: The old node.
            new: The node whose value stands for it.
            value: That value.
            is_made: Whether the node was made for the old one; else it was there before.
        """
        held = storages(value)
        if held == storages(old.meta["val"]):
            return True
        if is_made and new.target is old.target and old.target in UNWRAPS_FROM_LEVEL:
            # It was executed on copies of what it reads, so that its storage says nothing.
            return True
        sources = [new]
        if is_made:
            sources = [source for source, read in storages_read(new).items() if held & read]
            if not sources:
                return old not in self.kept and self.starts_alias_set(old)
        first = self._first_alias(old)
        origins = [self.recorded.get(source, self._doubted.get(source)) for source in sources]
        return all(origin is not None and self._first_alias(origin) is first for origin in origins)

    def _first_alias(self, old: fx.Node) -> fx.Node:
        """Return the first node of an alias set: of what the node aliases, what that aliases, and so on."""
        passed = []
        while old not in self._firsts and (inputs := aliased_inputs(old)):
            passed.append(old)
            old = inputs[0]
        first = self._firsts.get(old, old)
        self._firsts.update(dict.fromkeys(passed, first))
        return first

    def starts_alias_set(self, old: fx.Node) -> bool:
        """Whether an old node's value shares storage with none that was there before."""
        return not aliased_inputs(old)

    def ignores_aliases(self, old: fx.Node) -> bool:
        """Whether an old node computes the same from equal values in other alias sets."""
        op = overload_of(old.target)
        if op is None or schema_of(op).is_mutable or returns_alias(op):
            return False
        inputs = [value.meta.get("val") for value in old.all_input_nodes]
        if any(isinstance(leaf, FakeTensor) and leaf.constant is not None for leaf in pytree.tree_leaves(inputs)):
            return False
        return not storages(old.meta.get("val")) & storages(inputs)

    def write(self, arguments: Any, changes_metadata: bool) -> None:
        """Note that a new or changed operator writes to data: whatever shares its storage is no longer what was recorded.

        Args:
            arguments: What it writes to.
            changes_metadata: Whether it changes sizes or strides.
        """
        for storage in storages(pytree.tree_leaves(arguments)):
            self._written_storages.add(storage)
            holder = self._aliases.holder(storage)
            if holder is not None:
                self._written_sets.add(self._aliases.written_with(holder))
            self._sizes_written |= changes_metadata

    def drop_write(self, old: fx.Node, changes_metadata: bool) -> None:
        """Note that an old operator, if it wrote to anything, does so no longer as it did."""
        op = overload_of(old.target)
        for argument in pytree.tree_leaves([] if op is None else list(written_by_operator(op, old.args, old.kwargs))):
            if isinstance(argument, fx.Node):
                self._written_sets.add(self._aliases.written_with(argument))
                self._sizes_written |= changes_metadata

    def is_written(self, old: fx.Node, results: dict[fx.Node, Any]) -> bool:
        """Whether what an old node reads has been written to otherwise than it was when its value was recorded, and that may show.

        A write to data shows in metadata only where that depends on data.

        Args:
            old: The old node.
            results: What stands for each old node.
        """
        if not self._written_sets and not self._written_storages:
            return False
        if not any(self._is_written(old, value, results.get(value)) for value in old.all_input_nodes):
            return False
        return self._sizes_written or _reads_data(old)

    def _is_written(self, old: fx.Node, value: fx.Node, result: Any) -> bool:
        if self._aliases.written_with(value) in self._written_sets:
            return True
        read = read_by(old, getattr(result, "data", None))
        return not storages(read).isdisjoint(self._written_storages)


def _reads_data(node: fx.Node) -> bool:
    """Whether a node's recorded value may depend on the numbers in what it reads: it has symbols of its own, or its inputs are known."""
    if overload_of(node.target) is None:
        return True
    inputs = [value.meta.get("val") for value in node.all_input_nodes]
    if any(_constant(leaf) is not None for leaf in pytree.tree_leaves((inputs, node.meta.get("val")))):
        return True
    return bool(free_symbols(node.meta.get("val")).keys() - free_symbols(inputs).keys())


def same_constants(a: Any, b: Any) -> bool:
    """Whether the fake tensors in two values of one structure stand for the same known numbers, if for any."""
    left, right = pytree.tree_leaves(a), pytree.tree_leaves(b)
    return all(_constant(x) is _constant(y) for x, y in zip(left, right, strict=True))


def _constant(leaf: Any) -> Any:
    return leaf.constant if isinstance(leaf, FakeTensor) else None
