"""One graph under retrace: what each old node became, and how new nodes are made.

A node is *green* when a hook calls the same operator on the counterparts of the same inputs, and each of these still has its recorded
value. Then the old node is copied with all its metadata; `full` mode executes it again, only to compare. Any other node is new: it is
executed with guards recorded, and its value is recorded; where that says the same as the value recorded before, the old object is kept, so
that the nodes after it stay green.
"""

from __future__ import annotations

from collections import Counter
from functools import cached_property
from typing import TYPE_CHECKING, Any

import sympy
import torch
from torch import fx

from retraced_server.program.functions import stated_effect
from retraced_server.retrace.aliases import storages, storages_read, written_arguments
from retraced_server.retrace.arguments import (
    Argument,
    data_of,
    item_alone,
    map_leaves,
    positions,
    same_arguments,
    with_proxies,
)
from retraced_server.retrace.batched_values import BatchedValues
from retraced_server.retrace.compare import Comparison
from retraced_server.retrace.edits import Edits, RecordedCall, symbols_bound
from retraced_server.retrace.errors import ExportPassError
from retraced_server.retrace.execute import changes_metadata, execute, has_result, is_symbolic_assert, resolve_packet
from retraced_server.retrace.executor import Executor
from retraced_server.retrace.given_graph import GivenGraph
from retraced_server.retrace.graphs import subgraph_names
from retraced_server.retrace.metadata_containers import same_node_metadata, same_value
from retraced_server.retrace.node_correspondence import NodeCorrespondence
from retraced_server.retrace.node_metadata import PROTECTED_KEYS, NodeMetadata
from retraced_server.retrace.proxy_value import ProxyValue
from retraced_server.retrace.recompute_verifier import RecomputeVerifier
from retraced_server.retrace.regions import AutocastState, RegionExecutor
from retraced_server.retrace.reuse import Reuse, same_constants
from retraced_server.retrace.tracer import ExportTracer
from retraced_server.retrace.unbacked import means_the_same
from retraced_server.retrace.values import free_symbols, keeps_symbols, logical, rename_symbols, same_metadata
from retraced_server.torch_compat.fake_tensors import FakeTensor
from retraced_server.torch_compat.graphs import copy_node, is_erased, name_for_target
from retraced_server.torch_compat.operators import HigherOrderOperator, OpOverload, OpOverloadPacket

if TYPE_CHECKING:
    from retraced_server.retrace.session import Session


class GraphRetrace:
    """The state of one graph under retrace.

    Attributes:
        session: What the graphs of one call of a pass share.
        module: The old graph module.
        path: Its path in the program, empty for the root graph.
        tracer: What builds the new graph.
        results: What the hook returned for each old node.
        modified: Whether anything differs from the old graph.
        result: The new graph module, once all nodes have been visited; the old one if nothing differs.
        correspondence: What each node of the new graph is.
        placeholders: The new graph's inputs, with the old placeholder that each stands for.
        called_under: The autocast that the visited node runs its subgraphs under, besides what it is under itself.
        batched: Tells at which levels of vmap the new graph's values are batched.
        outputs: The old position of each output of the new graph, None for a new one; None as a whole if they are as they were.
    """

    def __init__(
        self,
        session: Session,
        module: fx.GraphModule,
        path: str,
        tracer: ExportTracer,
        autocast: AutocastState,
        batched: BatchedValues,
    ) -> None:
        self.session = session
        self.module = module
        self.path = path
        self.tracer = tracer
        self.results: dict[fx.Node, Any] = {}
        self.modified = False
        self.result = module
        self.correspondence = NodeCorrespondence()
        self.placeholders: dict[fx.Node, fx.Node | None] = {}
        self.outputs: list[int | None] | None = None
        self.current: fx.Node | None = None
        self.reuse = Reuse(module.graph)
        self.called_under: AutocastState = ()
        self._outer_autocast = autocast
        self._edits = session.edits
        self._is_disturbed = False
        if isinstance(self._edits, Edits):
            self._is_disturbed = self._edits.is_disturbed(module.graph)
            self._edits.put_back_values(module.graph)
        self.batched = batched
        self._regions = RegionExecutor(tracer, batched)
        self._executor = Executor(session, self._regions, batched)
        self._recompute_verifier = RecomputeVerifier(session)
        # New nodes that have a name of their own making; the name of an old node is theirs when they stand for it.
        self._unnamed: dict[fx.Node, str] = {}
        self._made: list[fx.Node] = []
        self._copied = False
        # Whether the call that is looked at has inputs that only stand for the recorded ones: see `Reuse.same`.
        self._has_stand_ins = False
        self._symbols_taken: set[sympy.Symbol] = set()
        self._hook_outputs: Argument = None

    @cached_property
    def subgraph_names(self) -> dict[int, str]:
        """The attributes of the old graph module that hold subgraphs, by the subgraphs' ids."""
        return subgraph_names(self.module)

    @property
    def region_autocast(self) -> AutocastState:
        """The autocast of the regions that the next node is in."""
        return self._regions.autocast

    @property
    def autocast(self) -> AutocastState:
        """What the next node is under."""
        return self._outer_autocast + self.region_autocast

    # -- visiting old nodes ------------------------------------------------------------------------------------------------------

    def begin(self, node: fx.Node, outputs: Argument = None) -> None:
        """An old node is about to be handed to its hook. For the output node, `outputs` is what the hook will be given."""
        self.current = self.tracer.visited = node
        self._copied = False
        self._made = []
        self._symbols_taken = set()
        self._hook_outputs = outputs

    def end(self, node: fx.Node, result: Argument) -> None:
        """The hook returned. The value that it returned stands for the node, and has its name."""
        is_copy = self._copied and len(self._made) == 1 and self._is_made(node, result)
        if not is_copy:
            self.modified = True
            if isinstance(result, ProxyValue) and node.op != "output":
                result = self._adopt(node, result)
            if node not in self.reuse.kept:
                self.reuse.drop_write(node, changes_metadata(node.target))
        if node.op == "placeholder":
            self.batched.add_input(len(self.results), result)
        self.results[node] = result
        self.current = self.tracer.visited = None

    def _is_made(self, node: fx.Node, result: Argument) -> bool:
        # Of the output node only the data are handed on.
        return node.op == "output" or (isinstance(result, ProxyValue) and result.node is self._made[0])

    def _adopt(self, node: fx.Node, result: ProxyValue[Any]) -> ProxyValue[Any]:
        new = result.node
        if new in self._made:
            result = self._rebind_returned(node, result)
        else:
            self.correspondence.stands_for(new, node)
        if node.op == "placeholder" and new.op == "placeholder":
            self.placeholders[new] = node
        own_name = self._unnamed.pop(new, None)
        if own_name is not None and new.name == own_name:
            self._give_up_name(node)
            new.name = node.name
        recorded = node.meta.get("val")
        if self._edits is not None and not self._edits.knows(node):
            # Inserted by hand: what is recorded, if anything, may be that of the node that it was made in place of.
            return result
        if result.data is None and recorded is None and new in self._made and new.target is node.target:
            # Nothing says more of a call that computes nothing than that no value is recorded.
            for key in {"val", "tensor_meta"} - node.meta.keys():
                new.meta.pop(key, None)
        if recorded is None or self.reuse.kept.get(node) is new or not self._says_what_is_recorded(node, result, recorded):
            return result
        is_made = new in self._made
        if is_made and (copy := self._copy_beneath(node, new, result.data)) is not None:
            # The hook built on what the old node computes. The recorded object goes with the value returned, like the name, so that what
            # follows stays green: the copy takes the equal value that was made.
            copy.meta["val"] = result.data
            del self.reuse.recorded[copy]
        elif not self.reuse.may_keep(node, new, result.data, is_made=is_made) or (is_made and self._is_shared(new, recorded)):
            self.reuse.same[node] = new
            return result
        if is_made:
            new.meta["val"] = recorded
            if new.target is node.target:
                # The same operator computed the same value: it is described as it was.
                new.meta.pop("tensor_meta", None)
                if "tensor_meta" in node.meta:
                    new.meta["tensor_meta"] = node.meta["tensor_meta"]
            result = ProxyValue(recorded, result.proxy_or_node)
        self.reuse.keep(node, new)
        return result

    def _copy_beneath(self, node: fx.Node, new: fx.Node, value: Any) -> fx.Node | None:
        """The copy of the old node that the hook made before the node that it returned, if the two can change values."""
        copy = self.reuse.kept.get(node)
        held, recorded = storages(value), storages(node.meta["val"])
        if copy is None or copy not in self._made or not held:
            return None
        if held == recorded:
            # The same alias set: it does not matter to anyone which is which.
            return copy
        if not self.reuse.starts_alias_set(node) or held & recorded or any(held & read for read in storages_read(new).values()):
            return None
        others = (made for made in self._made if made is not copy and made is not new)
        return None if any(storages(made.meta.get("val")) & (held | recorded) for made in others) else copy

    def _is_shared(self, new: fx.Node, recorded: Any) -> bool:
        """Whether the hook made another node whose value shares storage with the one that it returned, and not with the recorded value."""
        held = storages(new.meta["val"]) - storages(recorded)
        return any(storages(made.meta.get("val")) & held for made in self._made if made is not new)

    def _give_up_name(self, node: fx.Node) -> None:
        # The hook may have built on what the old node computes: then the copy gets a name of its own.
        for made in self._made:
            if self.correspondence.is_copy(made) and made.name == node.name:
                made.name = self.tracer.fresh_name(node.name)
                self.correspondence.forget_copy(made)

    def _says_what_is_recorded(self, node: fx.Node, result: ProxyValue[Any], recorded: Any) -> bool:
        if same_metadata(result.data, recorded):
            return same_constants(result.data, recorded)
        # Where executing the old node gives the same other strides or offset, it is not the pass that changed them.
        call = self._recorded_call(node)
        if self.batched.levels and self._is_called_as_before(node, result.node):
            # Values of one example have strides of their own: what they are computed from says no more than their sizes.
            comparison = Comparison(self.session.transaction.env, set())
            comparison.compare(recorded, result.data)
            return comparison.error is None
        if call is None or result.node.target is not call.target or result.node not in self._made:
            return False
        if stated_effect(node.target).of_regions:
            return False
        comparison = Comparison(self.session.transaction.env, set())
        with self.session.transaction.suppressing_guards(asserts=False):
            comparison.compare(recorded, result.data)
            if comparison.error is not None or not comparison.remarks:
                return False
            self.session.flush_deferred_asserts()
            pending = self.session.unbacked.pending()
            args, kwargs = (fx.node.map_arg(a, self._recorded_data) for a in (call.args, call.kwargs))
            args, kwargs = map_leaves((item_alone(call.target, args), kwargs), torch.Tensor, logical)
            before = execute(call.target, tuple(args), dict(kwargs)).value  # type: ignore[arg-type]
        self.session.unbacked.drop(self.session.unbacked.pending() - pending)
        return same_metadata(result.data, before)

    def _is_called_as_before(self, old: fx.Node, new: fx.Node) -> bool:
        """Whether a node is the call that an old node is, of values that are recorded."""
        if new.target is not old.target or not all(map(self.reuse.has_recorded, new.all_input_nodes)):
            return False
        args, kwargs = (fx.map_arg(given, self.counterpart) for given in (old.args, old.kwargs))
        return bool((args, kwargs) == (new.args, new.kwargs))

    def _recorded_call(self, node: fx.Node) -> RecordedCall | None:
        """The call that an old node's value was recorded for, if it is known: its own, unless it may have been edited by hand."""
        if node.op != "call_function":
            return None
        return RecordedCall(node.target, node.args, node.kwargs) if self._edits is None else self._edits.recorded_call(node)

    def _recorded_data(self, node: fx.Node) -> Any:
        if node.op == "get_attr" and node in self.results:
            return self.results[node]
        return node.meta.get("val") if self._edits is None else self._edits.recorded_value(node)

    def _rebind_returned(self, node: fx.Node, result: ProxyValue[Any]) -> ProxyValue[Any]:
        bindings = result.node.meta.get("unbacked_bindings")
        fresh = {symbol: path for symbol, path in (bindings or {}).items() if symbol not in self._symbols_taken}
        # A copy's symbols are the old ones already: nothing is to be renamed, nor forgotten.
        if not fresh or self.correspondence.is_copy(result.node):
            return result
        is_written = self.reuse.is_written(node, self.results)
        _, kept, renaming = self.session.unbacked.rebind(node, result.data, fresh, self._symbols_taken, only_own=is_written)
        env = self.session.transaction.env
        if not renaming or env is None:
            return result
        for made in self._made:
            if "val" in made.meta:
                made.meta["val"] = rename_symbols(made.meta["val"], renaming, env)
        result.node.meta["unbacked_bindings"] = {**{s: p for s, p in (bindings or {}).items() if s not in fresh}, **kept}
        return ProxyValue(rename_symbols(result.data, renaming, env), result.proxy_or_node)

    # -- making new nodes --------------------------------------------------------------------------------------------------------

    def placeholder(self, name: str, arg: Argument, meta: NodeMetadata) -> ProxyValue[Any]:
        """Makes an input. With the old one's name and value it is the old one."""
        old = self.current
        if old is not None and old.op == "placeholder" and not self._copied and name == old.target and _is_recorded(arg, old):
            node = self._copy(old, (), {}, meta)
            self.placeholders[node] = old
            if self._is_dirty(old):
                self.reuse.doubt(old, node)
            return self._value(old.meta["val"] if old.meta.get("val") is not None else arg, node)
        node = self.tracer.create_proxy("placeholder", name, (), {}).node
        node.name = self._placeholder_name(node, name)
        node.meta.update(meta.held)
        self.tracer.set_metadata(node, arg)
        self._track(node)
        del self._unnamed[node]
        self.placeholders[node] = None
        fake = node.meta["val"]
        return self._value(fake if isinstance(arg, torch.Tensor) and self.session.is_faking else arg, node)

    def _placeholder_name(self, node: fx.Node, name: str) -> str:
        if self.current is not None and name == self.current.target:
            return self.current.name
        # fx would rename `input` and `id`, since they are Python's builtins; as inputs they are legal.
        return node.name if name in self.tracer.taken_names else name

    def output(self, results: Argument, meta: NodeMetadata) -> ProxyValue[Any]:
        """Makes the output node.

        Raises:
            ExportPassError: It is not the output node that is visited.
        """
        old = self.current
        if old is None or old.op != "output":
            raise ExportPassError("output() can only be called while the output node is visited")
        data = data_of(results)
        if not self._made and same_arguments(results, old.args[0], self._stands_for) and not self._has_stand_ins:
            return self._value(data, self._copy(old, (results,), {}, meta))
        node = self.tracer.create_proxy("output", "output", (with_proxies(results, self.tracer),), {}).node
        node.name = old.name
        node.meta.update(meta.held)
        self._track(node)
        self.outputs = positions(results, self._hook_outputs)
        return self._value(data, node)

    def call_function(
        self, target: Any, args: tuple[Argument, ...], kwargs: dict[str, Argument], meta: NodeMetadata
    ) -> ProxyValue[Any]:
        """Makes a call of an operator or function, and executes it.

        Raises:
            ExportPassError: The node is as it was, and its recorded value is not what executing it gives.
        """
        if isinstance(target, OpOverloadPacket):
            target = resolve_packet(target, data_of(args), data_of(kwargs))
        old = self.current
        if (
            old is not None
            and target is old.target
            and not self._copied
            and not self._is_dirty(old)
            and self._is_green(old, args, kwargs)
        ):
            if self.session.mode == "full":
                return self._repeat(old, args, kwargs, meta)
            return self._reuse(old, args, kwargs, meta)
        return self._make(target, args, kwargs, meta)

    def keep(self, old: fx.Node) -> ProxyValue[Any] | None:
        """Copies the node that is visited, without a hook, where nothing that it reads has changed; None where it must be called."""
        kept = self.reuse.kept
        for value in old.all_input_nodes:
            result = self.results[value]
            # What a hook returned for a node may be a constant or a tuple, though it made the node's copy.
            if value.op == "get_attr":
                if self._is_dirty(value):
                    return None
            elif not (isinstance(result, ProxyValue) and result.node is kept.get(value)):
                return None
        if self.session.mode == "full" or self._is_dirty(old) or self.reuse.is_written(old, self.results):
            return None
        self._has_stand_ins = False
        loaded = map_leaves((old.args, old.kwargs), fx.Node, self.results.__getitem__)
        return self._reuse(old, loaded[0], loaded[1], None)

    def _is_dirty(self, old: fx.Node) -> bool:
        """Whether an old node was edited by hand, so that what is recorded for it need not be its value."""
        if self._edits is None:
            return False
        if self._is_disturbed and old.op == "call_function":
            return True
        return not self._edits.holds(old, self.results.get(old), self.autocast)

    def _is_green(self, old: fx.Node, args: Any, kwargs: Any) -> bool:
        self._has_stand_ins = False
        return (
            same_arguments(args, old.args, self._stands_for)
            and same_arguments(kwargs, old.kwargs, self._stands_for)
            and not (self._has_stand_ins and not self.reuse.ignores_aliases(old))
            and not self.reuse.is_written(old, self.results)
        )

    def _stands_for(self, new: Argument, old: fx.Node) -> bool:
        if not isinstance(new, ProxyValue):
            return (
                old.op == "get_attr"
                and new is self.results.get(old)
                and not self._is_dirty(old)
                # What a subgraph became for another call may have taken its place.
                and self.tracer.attribute(str(old.target)) is new
            )
        node = new.node
        if self.reuse.kept.get(old) is node:
            return True
        self._has_stand_ins |= (stands := self.reuse.same.get(old) is node)
        return stands

    def _reuse(self, old: fx.Node, args: Any, kwargs: Any, meta: NodeMetadata | None) -> ProxyValue[Any]:
        recorded = old.meta.get("val")
        if recorded is None and "val" not in old.meta and has_result(old.target):
            return self._repeat(old, args, kwargs, meta)
        if is_symbolic_assert(old.target):
            self.session.defer(old.target, data_of(args), data_of(kwargs))
        if changes_metadata(old.target):
            self._executor.defer(old.target, args, kwargs)
        return self._value(recorded, self._copy(old, args, kwargs, meta))

    def _repeat(self, old: fx.Node, args: Any, kwargs: Any, meta: NodeMetadata | None) -> ProxyValue[Any]:
        read = item_alone(old.target, args)
        executed = self._recompute_verifier.check(
            old, data_of(read), data_of(kwargs), lambda: self._executor.execute(old.target, read, kwargs)
        )
        if "val" not in old.meta and executed is not None:
            return self._make(old.target, args, kwargs, meta or NodeMetadata(old.meta))
        recorded = old.meta.get("val")
        return self._value(executed if recorded is None else recorded, self._copy(old, args, kwargs, meta))

    def _make(self, target: Any, args: Any, kwargs: Any, meta: NodeMetadata) -> ProxyValue[Any]:
        old, unbacked, transaction = self.current, self.session.unbacked, self.session.transaction
        known = transaction.symbol_count()
        with transaction.recording_guards(asserts=is_symbolic_assert(target)):
            value = self._executor.result(target, item_alone(target, args), kwargs)
        # An operator that runs its subgraphs makes symbols of its own for them.
        unbacked.drop(transaction.symbols_since(known) - free_symbols(value).keys())
        bindings = unbacked.bindings(value)
        if bindings and old is not None and self._makes_the_same_symbols(target, old):
            is_written = self.reuse.is_written(old, self.results)
            value, bindings, _ = unbacked.rebind(old, value, bindings, self._symbols_taken, only_own=is_written)
        self.reuse.write(data_of(list(written_arguments(target, args, kwargs))), changes_metadata(target))
        name = name_for_target(self.tracer.graph, target.overloadpacket.__name__) if isinstance(target, OpOverload) else None
        if old is not None and isinstance(target, HigherOrderOperator):
            args = self._with_subgraph_nodes(args, old.args)
        args, kwargs = with_proxies((args, kwargs), self.tracer)
        node = self.tracer.create_proxy("call_function", target, args, kwargs, name=name).node
        node.meta.update(meta.held)
        node.meta.pop("unbacked_bindings", None)
        if bindings:
            before = None if old is None else old.meta.get("unbacked_bindings")
            node.meta["unbacked_bindings"] = before if bindings == before else bindings
        self.tracer.set_metadata(node, value)
        self._regions.visit(node)
        self._track(node)
        return self._value(value, node)

    def _makes_the_same_symbols(self, target: Any, old: fx.Node) -> bool:
        if self._edits is None or self._edits.knows(old):
            call = self._recorded_call(old)
            return means_the_same(target, old.target if call is None else call.target)
        # A node inserted by hand, as a copy of another with its metadata: it has the symbols only if that one is gone.
        self._symbols_taken |= symbols_bound(node for node in self.module.graph.nodes if node is not old)
        return True

    def _with_subgraph_nodes(self, args: Argument, old_args: Any) -> Argument:
        """Puts nodes in the place of subgraphs where the old node had its own node for the subgraph, since several may read one subgraph."""
        if isinstance(args, torch.nn.Module) and isinstance(old_args, fx.Node) and old_args.op == "get_attr":
            node = self.reuse.kept[old_args]
            return node if self.tracer.attribute(str(node.target)) is args else args
        if type(args) in (tuple, list) and isinstance(old_args, (tuple, list)) and len(args) == len(old_args):
            return type(args)(self._with_subgraph_nodes(a, b) for a, b in zip(args, old_args, strict=True))
        return args

    def counterpart(self, old: fx.Node) -> fx.Node | None:
        """The node that has the value of an old node; a node of another graph is its own."""
        if old.graph is not self.module.graph:
            return old
        result = self.results.get(old)
        stands = result.node if isinstance(result, ProxyValue) else self.attribute_node(old)
        return stands if isinstance(stands, fx.Node) and not is_erased(stands) else None

    def tell(self, edits: Edits) -> None:
        """Notes the graph that was made, and what became of the old one, for what the pass may edit next."""
        if self.modified:
            edits.add_result(
                self.result, self.correspondence, self.placeholders, self.outputs, self.counterpart, self._outer_autocast
            )

    # -- attributes --------------------------------------------------------------------------------------------------------------

    def get_attr(self, old: fx.Node, value: Any) -> None:
        """Copies an attribute and the node that reads it. Hooks are given the attribute itself."""
        self.current = self.tracer.visited = None
        # Several nodes may read one subgraph, which may have been replaced since the first.
        if not self.tracer.has_attribute(str(old.target)):
            self.tracer.set_attribute(str(old.target), value)
        node = self._copy(old, (), {}, None)
        if isinstance(value, torch.nn.Module):
            self.tracer.submodules[value] = node
        elif isinstance(value, torch.Tensor):
            self.tracer.attribute_nodes[id(value)] = (value, node)
            if self._edits is not None and not self._edits.knows(old) and not self._edits.holds(old, value, ()):
                self.tracer.set_metadata(node, value)
            self.tracer.callback.on_attr(ProxyValue(value, node))
        self.results[old] = value

    def attribute_node(self, old: fx.Node) -> fx.Node | None:
        """The new node that reads the attribute that an old node read."""
        return self.reuse.kept.get(old) if old.op == "get_attr" else None

    def drop_unused_subgraphs(self) -> None:
        """Removes subgraphs that the old graph called and the new one does not."""
        readers = Counter(node.target for node in self.tracer.graph.find_nodes(op="get_attr"))
        for old in self.module.graph.find_nodes(op="get_attr"):
            node = self.reuse.kept.get(old)
            if node is not None and old.users and not node.users and isinstance(self.results[old], torch.nn.Module):
                self.tracer.graph.erase_node(node)
                readers[node.target] -= 1
                if not readers[node.target]:
                    self.tracer.drop_attribute(str(node.target))

    def check_symbolic_inputs(self) -> None:
        """Checks that inputs which were recorded with symbolic sizes, or as symbolic numbers, still are.

        Raises:
            ExportPassError: One is not.
        """
        for position, (new, old) in enumerate(self.placeholders.items()):
            if old is not None and not keeps_symbols(old.meta.get("val"), new.meta.get("val")):
                raise ExportPassError(
                    f"Input at position {position} did not preserve symbolic metadata: '{old.name}' was recorded as {old.meta['val']}. Where "
                    "that is meant, override should_preserve_symbolic_input_metadata to return False"
                )

    def replace_subgraph(self, old: fx.GraphModule, new: fx.GraphModule) -> None:
        """A subgraph was changed: where the old one is an attribute of this graph, the new one takes its place and its name.

        Where another call has it already, unchanged, the new one is an attribute besides it.
        """
        node = self.tracer.submodules.get(old)
        if node is None or new is old:
            return
        if not any(reader.users for reader in self.tracer.graph.find_nodes(op="get_attr", target=node.target, sort=False)):
            self.tracer.set_attribute(str(node.target), new)
            del self.tracer.submodules[old]
            self.tracer.submodules[new] = node

    # -- helpers -----------------------------------------------------------------------------------------------------------------

    def is_recorded(self, value: Argument) -> bool:
        """Whether a value says what the program has recorded for the old node that it stands for."""
        if not isinstance(value, ProxyValue):
            return True
        old = self.reuse.recorded.get(value.node)
        return old is not None and not (isinstance(self._edits, Edits) and self._edits.is_stated(old))

    def _copy(self, old: fx.Node, args: Any, kwargs: Any, meta: NodeMetadata | None) -> fx.Node:
        """Copies an old node with its name and metadata; what a hook has added to the metadata is added.

        Args:
            old: The old node.
            args: What a hook called it with.
            kwargs: As well.
            meta: What the hook gave; None where no hook was called.
        """
        if self._has_stand_ins:
            new_args, new_kwargs = self.tracer.create_arg(args), self.tracer.create_arg(kwargs)
        else:
            kept = self.reuse.kept.__getitem__
            new_args, new_kwargs = fx.map_arg(old.args, kept), fx.map_arg(old.kwargs, kept)
        if self.tracer.makes_copies:
            node = self._made_as_it_was(old, new_args, new_kwargs)
        else:
            node = copy_node(self.tracer.graph, old, new_args, new_kwargs)
        self._regions.visit(node)
        if meta is not None and not same_node_metadata(meta.held, old.meta):
            for key, value in meta.held.items():
                if key not in PROTECTED_KEYS and not self._has_metadata(old, key, value):
                    node.meta[key] = value
                    self.modified = True
        self._copied = True
        self._made.append(node)
        self.reuse.keep(old, node)
        self.correspondence.add_copy(node, old)
        return node

    # Metadata holds anything.
    def _has_metadata(self, old: fx.Node, key: str, value: Any) -> bool:
        """Whether a value is in an old node's metadata, or was before a hook changed it there."""
        if key in old.meta and same_value(value, old.meta[key]):
            return True
        return isinstance(self._edits, GivenGraph) and self._edits.gave(old, key, value)

    def _made_as_it_was(self, old: fx.Node, args: Any, kwargs: Any) -> fx.Node:
        """Has a tracer that makes nodes in its own way make one that stays as it was, as torch's class does."""
        # They are given as the proxies of their nodes, as in torch's class.
        given = map_leaves((args, kwargs), fx.Node, lambda value: fx.Proxy(value, self.tracer))
        node = self.tracer.create_proxy(old.op, old.target, given[0], given[1], old.name, old.type).node
        node.name = old.name
        if "val" in old.meta:
            self.tracer.set_metadata(node, old.meta["val"])
        # What was recorded stays; what the tracer adds is added.
        added = {key: value for key, value in node.meta.items() if key != "tensor_meta"}
        node.meta = {**added, **old.meta}
        self.modified |= (node.op, node.target, node.args, node.kwargs) != (old.op, old.target, args, kwargs)
        return node

    def _track(self, node: fx.Node) -> None:
        self._made.append(node)
        self._unnamed[node] = node.name
        self.correspondence.add_made(node, self.current)

    def _value(self, data: Any, node: fx.Node) -> ProxyValue[Any]:
        return ProxyValue(data, fx.Proxy(node, self.tracer))


def _is_recorded(arg: Argument, old: fx.Node) -> bool:
    recorded = old.meta.get("val")
    if arg is recorded:
        return True
    if isinstance(recorded, FakeTensor) and recorded.constant is not None and arg is recorded.constant:
        return True
    return recorded is not None and same_metadata(arg, recorded)
