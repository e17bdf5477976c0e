"""What stands for an old node: the value that its hook returned, with the node's name, and its recorded value where that says the same."""

from __future__ import annotations

from typing import Any

import sympy
import torch
from torch import fx

from retraced_server.analysis.storages import storages, storages_read
from retraced_server.analysis.targets import acts_on_regions
from retraced_server.retrace.arguments import item_alone, map_leaves
from retraced_server.retrace.batched_values import BatchedValues
from retraced_server.retrace.compare import Comparison
from retraced_server.retrace.deferred_asserts import DeferredAsserts
from retraced_server.retrace.edits import Edits, RecordedCall
from retraced_server.retrace.execute import execute
from retraced_server.retrace.given_graph import GivenGraph
from retraced_server.retrace.node_builder import NodeBuilder
from retraced_server.retrace.proxy_value import ProxyValue
from retraced_server.retrace.reuse import Reuse, same_constants
from retraced_server.retrace.unbacked import UnbackedSymbols
from retraced_server.retrace.values import logical, rename_symbols, same_metadata
from retraced_server.torch_compat.graphs import is_erased


class ReturnedValues:
    """Adopts the values that hooks return for the nodes of one graph.

    Args:
        asserts: The program's assertions about symbols.
        unbacked: Its unbacked symbols.
        edits: Tells what was edited by hand; None where nothing can have been.
        builder: Makes the new graph's nodes.
        reuse: Tells which recorded values hold.
        batched: Tells which levels the next node is in.
        results: What the hook returned for each old node.

    Attributes:
        symbols_taken: Old unbacked symbols that have been given to nodes that the visited one became.
    """

    def __init__(
        self,
        asserts: DeferredAsserts,
        unbacked: UnbackedSymbols,
        edits: Edits | GivenGraph | None,
        builder: NodeBuilder,
        reuse: Reuse,
        batched: BatchedValues,
        results: dict[fx.Node, Any],
    ) -> None:
        self.symbols_taken: set[sympy.Symbol] = set()
        self._asserts = asserts
        self._unbacked = unbacked
        self._edits = edits
        self._builder = builder
        self._reuse = reuse
        self._batched = batched
        self._results = results

    def counterpart(self, old: fx.Node) -> fx.Node | None:
        """Return the node that has the value of an old node; a node of another graph is its own."""
        if old.graph is not self._builder.module.graph:
            return old
        result = self._results.get(old)
        if isinstance(result, ProxyValue):
            stands: fx.Node | None = result.node
        else:
            stands = self._reuse.kept.get(old) if old.op == "get_attr" else None
        return None if stands is None or is_erased(stands) else stands

    def adopt(self, node: fx.Node, result: ProxyValue[Any]) -> ProxyValue[Any]:
        """Have the value that a hook returned stand for the node that it was called for, with its name, and its recorded object if it can.

        Returns:
            The value, which may be another object now.
        """
        new = result.node
        if new in self._builder.made:
            result = self._rebind_returned(node, result)
        else:
            self._builder.correspondence.stands_for(new, node)
        if node.op == "placeholder" and new.op == "placeholder":
            self._builder.placeholders[new] = node
        self._builder.take_name(new, node)
        recorded = node.meta.get("val")
        if self._edits is not None and not self._edits.knows(node):
            # Inserted by hand: what is recorded, if anything, may be that of the node that it was made in place of.
            return result
        if result.data is None and recorded is None and new in self._builder.made and new.target is node.target:
            # Nothing says more of a call that computes nothing than that no value is recorded.
            for key in {"val", "tensor_meta"} - node.meta.keys():
                new.meta.pop(key, None)
        if recorded is None or self._reuse.kept.get(node) is new or not self._says_what_is_recorded(node, result, recorded):
            return result
        is_made = new in self._builder.made
        if is_made and (copy := self._copy_beneath(node, new, result.data)) is not None:
            # The hook built on what the old node computes. The recorded object goes with the value returned, like the name, so that what
            # follows stays green: the copy takes the equal value that was made.
            copy.meta["val"] = result.data
            del self._reuse.recorded[copy]
        elif not self._reuse.may_keep(node, new, result.data, is_made=is_made) or (is_made and self._is_shared(new, recorded)):
            self._reuse.same[node] = new
            return result
        if is_made:
            new.meta["val"] = recorded
            if new.target is node.target:
                # The same operator computed the same value: it is described as it was.
                new.meta.pop("tensor_meta", None)
                if "tensor_meta" in node.meta:
                    new.meta["tensor_meta"] = node.meta["tensor_meta"]
            result = ProxyValue(recorded, result.proxy_or_node)
        self._reuse.keep(node, new)
        return result

    def _copy_beneath(self, node: fx.Node, new: fx.Node, value: Any) -> fx.Node | None:
        """Return the copy of the old node that the hook made before the node that it returned, if the two can change values."""
        copy = self._reuse.kept.get(node)
        held, recorded = storages(value), storages(node.meta["val"])
        if copy is None or copy not in self._builder.made or not held:
            return None
        if held == recorded:
            # The same alias set: it does not matter to anyone which is which.
            return copy
        if (
            not self._reuse.starts_alias_set(node)
            or held & recorded
            or any(held & read for read in storages_read(new).values())
        ):
            return None
        others = (made for made in self._builder.made if made is not copy and made is not new)
        return None if any(storages(made.meta.get("val")) & (held | recorded) for made in others) else copy

    def _is_shared(self, new: fx.Node, recorded: Any) -> bool:
        """Whether the hook made another node whose value shares storage with the one that it returned, and not with the recorded value."""
        held = storages(new.meta["val"]) - storages(recorded)
        return any(storages(made.meta.get("val")) & held for made in self._builder.made if made is not new)

    def _says_what_is_recorded(self, node: fx.Node, result: ProxyValue[Any], recorded: Any) -> bool:
        if same_metadata(result.data, recorded):
            return same_constants(result.data, recorded)
        # Where executing the old node gives the same other strides or offset, it is not the pass that changed them.
        call = self.recorded_call(node)
        if self._batched.levels and self._is_called_as_before(node, result.node):
            # Values of one example have strides of their own: what they are computed from says no more than their sizes.
            comparison = Comparison(self._unbacked.env, set())
            comparison.compare(recorded, result.data)
            return comparison.error is None
        if call is None or result.node.target is not call.target or result.node not in self._builder.made:
            return False
        if acts_on_regions(node.target):
            return False
        comparison = Comparison(self._unbacked.env, set())
        with self._unbacked.trial():
            comparison.compare(recorded, result.data)
            if comparison.error is not None or not comparison.remarks:
                return False
            self._asserts.flush()
            args, kwargs = (fx.node.map_arg(a, self._recorded_data) for a in (call.args, call.kwargs))
            args, kwargs = map_leaves((item_alone(call.target, args), kwargs), torch.Tensor, logical)
            before = execute(call.target, tuple(args), dict(kwargs)).value  # type: ignore[arg-type]
        return same_metadata(result.data, before)

    def _is_called_as_before(self, old: fx.Node, new: fx.Node) -> bool:
        """Whether a node is the call that an old node is, of values that are recorded."""
        if new.target is not old.target or not all(map(self._reuse.has_recorded, new.all_input_nodes)):
            return False
        args, kwargs = (fx.map_arg(given, self.counterpart) for given in (old.args, old.kwargs))
        return bool((args, kwargs) == (new.args, new.kwargs))

    def recorded_call(self, node: fx.Node) -> RecordedCall | None:
        """Return the call that an old node's value was recorded for, if it is known: its own, unless it may have been edited by hand."""
        if node.op != "call_function":
            return None
        return RecordedCall(node.target, node.args, node.kwargs) if self._edits is None else self._edits.recorded_call(node)

    def _recorded_data(self, node: fx.Node) -> Any:
        if node.op == "get_attr" and node in self._results:
            return self._results[node]
        return node.meta.get("val") if self._edits is None else self._edits.recorded_value(node)

    def _rebind_returned(self, node: fx.Node, result: ProxyValue[Any]) -> ProxyValue[Any]:
        bindings = result.node.meta.get("unbacked_bindings")
        fresh = {symbol: path for symbol, path in (bindings or {}).items() if symbol not in self.symbols_taken}
        # A copy's symbols are the old ones already: nothing is to be renamed, nor forgotten.
        if not fresh or self._builder.correspondence.is_copy(result.node):
            return result
        is_written = self._reuse.is_written(node, self._results)
        _, kept, renaming = self._unbacked.rebind(node, result.data, fresh, self.symbols_taken, only_own=is_written)
        env = self._unbacked.env
        if not renaming or env is None:
            return result
        for made in self._builder.made:
            if "val" in made.meta:
                made.meta["val"] = rename_symbols(made.meta["val"], renaming, env)
        result.node.meta["unbacked_bindings"] = {**{s: p for s, p in (bindings or {}).items() if s not in fresh}, **kept}
        return ProxyValue(rename_symbols(result.data, renaming, env), result.proxy_or_node)
