"""One graph under retrace: what becomes of each old node.

A node is *green* when a hook calls the same operator on the counterparts of the same inputs, and each of these still has its recorded
value. Then the old node is copied with all its metadata; `full` mode executes it again, only to compare. Any other node is new: it is
executed with guards recorded, and its value is recorded; where that says the same as the value recorded before, the old object is kept, so
that the nodes after it stay green.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
from torch import fx

from retraced_server.analysis.attributes import get_attribute
from retraced_server.analysis.effects import written_by_operator
from retraced_server.analysis.graphs import subgraph_names
from retraced_server.analysis.targets import acts_on_regions, overload_of
from retraced_server.retrace.arguments import Argument, data_of, item_alone, map_leaves, positions
from retraced_server.retrace.batched_values import BatchedValues
from retraced_server.retrace.edits import Edits, symbols_bound
from retraced_server.retrace.errors import ExportPassError
from retraced_server.retrace.execute import changes_metadata, has_result, is_plain, is_symbolic_assert, resolve_packet
from retraced_server.retrace.executor import Executor
from retraced_server.retrace.given_graph import GivenGraph
from retraced_server.retrace.green_nodes import GreenNodes
from retraced_server.retrace.node_builder import NodeBuilder
from retraced_server.retrace.node_correspondence import NodeCorrespondence
from retraced_server.retrace.node_metadata import NodeMetadata
from retraced_server.retrace.proxy_value import ProxyValue
from retraced_server.retrace.recompute_verifier import RecomputeVerifier
from retraced_server.retrace.regions import AutocastState, RegionExecutor
from retraced_server.retrace.returned_values import ReturnedValues
from retraced_server.retrace.reuse import Reuse
from retraced_server.retrace.session import Session
from retraced_server.retrace.tracer import ExportTracer
from retraced_server.retrace.unbacked import means_the_same
from retraced_server.retrace.values import free_symbols, keeps_symbols, same_metadata
from retraced_server.torch_compat.fake_tensors import FakeTensor
from retraced_server.torch_compat.graphs import LazyGraphModule
from retraced_server.torch_compat.operators import OpOverloadPacket


class GraphRetrace:
    """The state of one graph under retrace.

    Args:
        session: What the graphs of one call of a pass share.
        module: The old graph module.
        path: Its path in the program, empty for the root graph.
        tracer: What builds the new graph.
        autocast: What the graph is called under.
        batched: Tells at which levels of vmap the new graph's values are batched.

    Attributes:
        module: The old graph module.
        path: Its path in the program.
        results: What the hook returned for each old node.
        result: The new graph module, once all nodes have been visited; the old one if nothing differs.
        called_under: The autocast that the visited node runs its subgraphs under, besides what it is under itself.
        batched: Tells at which levels of vmap the new graph's values are batched.
        loaded: The arguments and keyword arguments that the hook of the visited node is given.
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
        self.module = module
        self.path = path
        self.results: dict[fx.Node, Any] = {}
        self.result = module
        self.outputs: list[int | None] | None = None
        self.loaded: tuple[Any, Any] = ((), {})
        self.called_under: AutocastState = ()
        self.batched = batched
        self._session = session
        self._tracer = tracer
        self._outer_autocast = autocast
        self._edits = session.edits
        if isinstance(self._edits, Edits):
            self._edits.put_back_values(module.graph)
        self._modified = False
        self._reuse = Reuse(module.graph)
        self._regions = RegionExecutor(lambda target: get_attribute(tracer.root, target), batched)
        self._executor = Executor(session.fake_result_cache, session.asserts, session.unbacked, self._regions, batched)
        self._verifier = RecomputeVerifier(
            session.transaction, session.unbacked, session.asserts, session.descriptions, session.differences
        )
        given = self._edits if isinstance(self._edits, GivenGraph) else None
        # What is executed, or edited by hand, needs nodes of its own.
        at_once = session.mode == "full" or isinstance(self._edits, Edits) or bool(batched.callers)
        self._builder = NodeBuilder(module, tracer, self._regions, self._reuse, given, at_once=at_once)
        self._returned = ReturnedValues(
            session.asserts, session.unbacked, self._edits, self._builder, self._reuse, batched, self.results
        )
        self._green = GreenNodes(self._edits, self._builder, self._reuse, self._regions, autocast, self.results)
        self._hook_outputs: Argument = None

    @property
    def modified(self) -> bool:
        """Whether anything differs from the old graph."""
        return self._modified or self._builder.modified

    @property
    def correspondence(self) -> NodeCorrespondence:
        """What each node of the new graph is."""
        return self._builder.correspondence

    @property
    def placeholders(self) -> dict[fx.Node, fx.Node | None]:
        """The new graph's inputs, with the old placeholder that each stands for."""
        return self._builder.placeholders

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
        return self._green.autocast

    # -- visiting old nodes ------------------------------------------------------------------------------------------------------

    def begin(self, node: fx.Node, outputs: Argument = None) -> None:
        """Begin with an old node, which is about to be handed to its hook. For the output node, `outputs` is what the hook will be given."""
        self._builder.begin(node)
        self._returned.symbols_taken = set()
        self._hook_outputs = outputs

    def end(self, node: fx.Node, result: Argument) -> None:
        """End with an old node: the value that the hook returned stands for it, and has its name."""
        if not self._is_copy(node, result):
            self._modified = True
            self._builder.materialize()
            if isinstance(result, ProxyValue) and node.op != "output":
                result = self._returned.adopt(node, result)
            if node not in self._reuse.kept:
                self._reuse.drop_write(node, changes_metadata(node.target))
        if node.op == "placeholder":
            self.batched.add_input(len(self.results), result)
        self.results[node] = result
        self._builder.begin(None)

    def _is_copy(self, node: fx.Node, result: Argument) -> bool:
        """Whether the hook made the node's copy, and returned it."""
        builder = self._builder
        if not builder.copied:
            return False
        # Of the output node only the data are handed on.
        is_output = node.op == "output"
        if builder.is_pending:
            return is_output or (isinstance(result, ProxyValue) and result.pending is node)
        if len(builder.made) != 1:
            return False
        return is_output or (isinstance(result, ProxyValue) and result.node is builder.made[0])

    def get_attr(self, old: fx.Node, value: Any) -> None:
        """Copy an attribute and the node that reads it. Hooks are given the attribute itself."""
        builder = self._builder
        builder.begin(None)
        if not builder.is_pending:
            builder.attributes.add(old.target, value)
        proxy: ProxyValue[Any] = ProxyValue(value, builder.copy(old, (), {}, None))
        if not builder.is_pending:
            builder.attributes.add_reader(proxy.node, value)
        if isinstance(value, torch.Tensor):
            if self._edits is not None and not self._edits.knows(old) and not self._edits.holds(old, value, ()):
                self._tracer.set_metadata(proxy.node, value)
            self._tracer.callback.on_attr(proxy)
        self.results[old] = value

    def finish(self) -> bool:
        """Finish the graph when all nodes have been visited: `result` is the new graph module if anything differs.

        Returns:
            Whether anything does.
        """
        # Hooks may also change the nodes of values that they are given back, and nodes that were not visited yet.
        self._modified |= self.correspondence.forget_edited()
        is_edited = isinstance(self._edits, GivenGraph) and self._edits.is_edited(self.module.graph)
        # Of nodes that were visited before they were edited, nothing is in the result.
        self._modified |= is_edited and not self._builder.is_pending
        if self.modified:
            self._builder.materialize()
            self._builder.attributes.drop_unused_subgraphs(self._reuse.kept, self.results)
            module = LazyGraphModule(self._tracer.root, self._tracer.graph)
            module.meta.update(self.module.meta)
            self.result = module
        return self.modified

    def materialize(self) -> None:
        """Make the new graph now, as it has to be before a hook may edit the given one."""
        self._builder.materialize()

    def tell(self, edits: Edits) -> None:
        """Note the graph that was made, and what became of the old one, for what the pass may edit next."""
        if self.modified:
            edits.add_result(
                self.result, self.correspondence, self.placeholders, self.outputs, self.counterpart, self._outer_autocast
            )

    def add_results_to(self, caller: BatchedValues) -> None:
        """Tell the graph that calls this one as a subgraph at which levels its results are batched."""
        if caller.levels:
            caller.add_subgraph(self.result, self._tracer.graph.output_node().args[0], self.batched)

    def counterpart(self, old: fx.Node) -> fx.Node | None:
        """Return the node that has the value of an old node; a node of another graph is its own."""
        return self._returned.counterpart(old)

    def replace_subgraph(self, old: fx.GraphModule, new: fx.GraphModule) -> None:
        """Put a subgraph that was changed into the place of the old one, under its name."""
        self._builder.materialize()
        self._builder.attributes.replace_subgraph(old, new)

    def check_symbolic_inputs(self) -> None:
        """Check that inputs which were recorded with symbolic sizes, or as symbolic numbers, still are.

        Raises:
            ExportPassError: One is not.
        """
        for position, (new, old) in enumerate(self.placeholders.items()):
            if old is not None and not keeps_symbols(old.meta.get("val"), new.meta.get("val")):
                raise ExportPassError(
                    f"Input at position {position} did not preserve symbolic metadata: '{old.name}' was recorded as {old.meta['val']}. Where "
                    "that is meant, override should_preserve_symbolic_input_metadata to return False"
                )

    # -- what hooks make ---------------------------------------------------------------------------------------------------------

    def placeholder(self, name: str, arg: Argument, meta: NodeMetadata) -> ProxyValue[Any]:
        """Make an input. With the old one's name and value it is the old one."""
        builder, old = self._builder, self._builder.current
        if old is not None and old.op == "placeholder" and not builder.copied and name == old.target and _is_recorded(arg, old):
            value = old.meta["val"] if old.meta.get("val") is not None else arg
            proxy: ProxyValue[Any] = ProxyValue(value, builder.copy(old, (), {}, meta))
            if not builder.is_pending:
                builder.placeholders[proxy.node] = old
            if self._green.is_dirty(old):
                self._reuse.doubt(old, proxy.node)
            return proxy
        node = builder.make_placeholder(name, arg, meta)
        fake = node.meta["val"]
        return self._value(fake if isinstance(arg, torch.Tensor) and self._session.is_faking else arg, node)

    def output(self, results: Argument, meta: NodeMetadata) -> ProxyValue[Any]:
        """Make the output node.

        Raises:
            ExportPassError: It is not the output node that is visited.
        """
        old = self._builder.current
        if old is None or old.op != "output":
            raise ExportPassError("output() can only be called while the output node is visited")
        data = data_of(results)
        if not self._builder.made and not self._builder.copied and self._green.is_green_output(old, results):
            return ProxyValue(data, self._builder.copy(old, (results,), {}, meta))
        node = self._builder.make_output(results, meta)
        self.outputs = positions(results, self._hook_outputs)
        return self._value(data, node)

    def call_function(
        self, target: Any, args: tuple[Argument, ...], kwargs: dict[str, Argument], meta: NodeMetadata
    ) -> ProxyValue[Any]:
        """Make a call of an operator or function, and execute it.

        Raises:
            ExportPassError: The node is as it was, and its recorded value is not what executing it gives.
        """
        if isinstance(target, OpOverloadPacket):
            target = resolve_packet(target, data_of(args), data_of(kwargs))
        old = self._builder.current
        if (
            old is not None
            and target is old.target
            and not self._builder.copied
            and not self._green.is_dirty(old)
            and self._green.is_green(old, args, kwargs, self.loaded[0])
        ):
            if self._session.mode == "full":
                return self._repeat(old, args, kwargs, meta)
            return self._reuse_recorded(old, args, kwargs, meta)
        return self._make(target, args, kwargs, meta)

    def reuse_without_hook(self, old: fx.Node) -> ProxyValue[Any] | None:
        """Copy the node that is visited, without a hook, where nothing that it reads has changed; return None where it must be called."""
        if self._session.mode == "full" or not self._green.is_untouched(old):
            return None
        loaded = map_leaves((old.args, old.kwargs), fx.Node, self.results.__getitem__)
        return self._reuse_recorded(old, loaded[0], loaded[1], None)

    def is_recorded(self, value: Argument) -> bool:
        """Whether a value says what the program has recorded for the old node that it stands for."""
        return self._green.is_recorded(value)

    # -- calls ---------------------------------------------------------------------------------------------------------------------

    def _reuse_recorded(self, old: fx.Node, args: Any, kwargs: Any, meta: NodeMetadata | None) -> ProxyValue[Any]:
        recorded = old.meta.get("val")
        if recorded is None and "val" not in old.meta and has_result(old.target):
            return self._repeat(old, args, kwargs, meta)
        if not is_plain(old.target):
            self._defer(old.target, args, kwargs)
        return ProxyValue(recorded, self._builder.copy(old, args, kwargs, meta, has_stand_ins=self._green.has_stand_ins))

    def _defer(self, target: Any, args: Any, kwargs: Any) -> None:
        """Keep a call that later ones depend on until one of them is executed."""
        if acts_on_regions(target):
            self._builder.materialize()
        if is_symbolic_assert(target):
            self._session.asserts.defer(target, data_of(args), data_of(kwargs))
        if changes_metadata(target):
            self._executor.defer(target, args, kwargs)

    def _repeat(self, old: fx.Node, args: Any, kwargs: Any, meta: NodeMetadata | None) -> ProxyValue[Any]:
        self._builder.materialize()
        read = item_alone(old.target, args)
        executed = self._verifier.check(
            old, data_of(read), data_of(kwargs), lambda: self._executor.execute(old.target, read, kwargs)
        )
        if "val" not in old.meta and executed is not None:
            return self._make(old.target, args, kwargs, meta or NodeMetadata(old.meta))
        recorded = old.meta.get("val")
        copy = self._builder.copy(old, args, kwargs, meta, has_stand_ins=self._green.has_stand_ins)
        return ProxyValue(executed if recorded is None else recorded, copy)

    def _make(self, target: Any, args: Any, kwargs: Any, meta: NodeMetadata) -> ProxyValue[Any]:
        self._builder.materialize()
        old, unbacked, transaction = self._builder.current, self._session.unbacked, self._session.transaction
        known = transaction.symbol_count()
        with transaction.recording_guards(asserts=is_symbolic_assert(target)):
            value = self._executor.result(target, item_alone(target, args), kwargs)
        if made := transaction.symbols_since(known):
            # An operator that runs its subgraphs makes symbols of its own for them.
            unbacked.drop(made - free_symbols(value).keys())
        bindings = unbacked.bindings(value)
        if bindings and old is not None and self._makes_the_same_symbols(target, old):
            is_written = self._reuse.is_written(old, self.results)
            taken = self._returned.symbols_taken
            value, bindings, _ = unbacked.rebind(old, value, bindings, taken, only_own=is_written)
        if (op := overload_of(target)) is not None:
            self._reuse.write(data_of(list(written_by_operator(op, args, kwargs))), changes_metadata(target))
        return self._value(value, self._builder.make_call(target, args, kwargs, meta, value, bindings))

    def _makes_the_same_symbols(self, target: Any, old: fx.Node) -> bool:
        if self._edits is None or self._edits.knows(old):
            call = self._returned.recorded_call(old)
            return means_the_same(target, old.target if call is None else call.target)
        # A node inserted by hand, as a copy of another with its metadata: it has the symbols only if that one is gone.
        self._returned.symbols_taken |= symbols_bound(node for node in self.module.graph.nodes if node is not old)
        return True

    def _value(self, data: Any, node: fx.Node) -> ProxyValue[Any]:
        return ProxyValue(data, fx.Proxy(node, self._tracer))


def _is_recorded(arg: Argument, old: fx.Node) -> bool:
    recorded = old.meta.get("val")
    if arg is recorded:
        return True
    if isinstance(recorded, FakeTensor) and recorded.constant is not None and arg is recorded.constant:
        return True
    return recorded is not None and same_metadata(arg, recorded)
