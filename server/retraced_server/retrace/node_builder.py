"""Builds the nodes of one new graph: copies of old nodes as they were, and new ones.

Until something differs there is no new graph: a node that is as it was has a copy that is pending, and a pass that changes nothing makes
none. The first difference, or the first look at a node, makes the copies of all nodes up to there.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from retraced_server.analysis.attributes import get_attribute
from retraced_server.retrace.arguments import Argument, map_leaves, with_proxies
from retraced_server.retrace.attribute_table import AttributeTable
from retraced_server.retrace.given_graph import GivenGraph, GivenNode
from retraced_server.retrace.metadata_containers import same_node_metadata, same_value
from retraced_server.retrace.node_correspondence import NodeCorrespondence
from retraced_server.retrace.node_metadata import PROTECTED_KEYS, NodeMetadata
from retraced_server.retrace.proxy_value import PendingCopy
from retraced_server.retrace.regions import RegionExecutor
from retraced_server.retrace.reuse import Reuse
from retraced_server.retrace.tracer import ExportTracer
from retraced_server.torch_compat.graphs import copy_node, name_for_target, reserve_names
from retraced_server.torch_compat.operators import HigherOrderOperator, OpOverload


class NodeBuilder:
    """Builds the nodes of one new graph.

    Args:
        module: The old graph module.
        tracer: What builds the new graph.
        regions: Hears of each node.
        reuse: Hears which nodes hold recorded values.
        given: The given graph, which hooks may edit; None where they cannot, or where that is told otherwise.
        at_once: Make copies when they are asked for, since something needs the nodes.

    Attributes:
        is_pending: Whether there is no new graph yet.
        module: The old graph module.
        modified: Whether a copy is not what the old node was.
        current: The old node that is visited.
        made: The nodes that were made while it is.
        copied: Whether a copy of it was made, or is pending.
        correspondence: What each node of the new graph is.
        placeholders: The new graph's inputs, with the old placeholder that each stands for.
        attributes: The new graph's attributes.
    """

    def __init__(
        self,
        module: fx.GraphModule,
        tracer: ExportTracer,
        regions: RegionExecutor,
        reuse: Reuse,
        given: GivenGraph | None,
        *,
        at_once: bool,
    ) -> None:
        self.is_pending = True
        self.modified = False
        self.current: fx.Node | None = None
        self.made: list[fx.Node] = []
        self.copied = False
        self.correspondence = NodeCorrespondence()
        self.placeholders: dict[fx.Node, fx.Node | None] = {}
        self.attributes = AttributeTable(module, tracer)
        self.module = module
        self._tracer = tracer
        self._regions = regions
        self._reuse = reuse
        self._given = given
        # New nodes that have a name of their own making; the name of an old node is theirs when they stand for it.
        self._unnamed: dict[fx.Node, str] = {}
        # Old nodes whose copies are pending, in order.
        self._waiting: list[fx.Node] = []
        self._proxies: dict[fx.Node, fx.Proxy] = {}
        tracer.before_use = self.materialize
        if at_once or tracer.makes_copies:
            self.materialize()

    def begin(self, node: fx.Node | None) -> None:
        """Go on to the next old node; None where what is made next is made for none."""
        self.current = self._tracer.visited = node
        self.copied = False
        if self.made:
            self.made = []

    def materialize(self) -> None:
        """Make the new graph, with copies of all nodes that are pending."""
        if not self.is_pending:
            return
        self.is_pending = False
        self._tracer.before_use = None
        reserve_names(self._tracer.graph, self.module.graph.nodes)
        for old in self._waiting:
            # As they were when they were visited: a hook may have edited the given nodes since.
            given = None if self._given is None else self._given.as_given(old)
            target, args, kwargs = (old.target, old.args, old.kwargs) if given is None else given[:3]
            if old.op == "get_attr":
                self.attributes.add(target, get_attribute(self.module, target))
            node = self._copy(old, *self._kept(args, kwargs), given)
            if old.op == "placeholder":
                self.placeholders[node] = old
            elif old.op == "get_attr":
                self.attributes.add_reader(node, get_attribute(self.module, target))
            if old is self.current:
                self.made.append(node)
        self._waiting.clear()

    def proxy_of(self, old: fx.Node) -> fx.Proxy:
        """Return the proxy of an old node's copy, which is made where it is pending."""
        self.materialize()
        return self._proxies[old]

    def take_name(self, node: fx.Node, old: fx.Node) -> None:
        """Give an old node's name to a node that stands for it, unless that has one that was asked for."""
        if node.name != self._unnamed.pop(node, None):
            return
        # The hook may have built on what the old node computes: then the copy gets a name of its own.
        for made in self.made:
            if self.correspondence.is_copy(made) and made.name == old.name:
                made.name = self._tracer.fresh_name(old.name)
                self.correspondence.forget_copy(made)
        node.name = old.name

    # -- copies ------------------------------------------------------------------------------------------------------------------

    # Arguments are whatever a graph has.
    def copy(
        self, old: fx.Node, args: Any, kwargs: Any, meta: NodeMetadata | None, *, has_stand_ins: bool = False
    ) -> fx.Proxy | PendingCopy:
        """Copy an old node with its name and metadata; what a hook has added to the metadata is added.

        Args:
            old: The old node.
            args: What a hook called it with.
            kwargs: As well.
            meta: What the hook gave; None where no hook was called.
            has_stand_ins: Whether arguments only stand for the recorded ones: see `Reuse.same`.
        """
        is_as_it_was = meta is None or meta.is_copy_of(old.meta) or same_node_metadata(meta.held, old.meta)
        self.copied = True
        if self.is_pending:
            # What was edited before it is visited is part of the copy.
            if is_as_it_was and (self._given is None or self._given.is_as_given(old)):
                self._waiting.append(old)
                return PendingCopy(self, old)
            self.materialize()
        if has_stand_ins:
            node = self._copy(old, self._tracer.create_arg(args), self._tracer.create_arg(kwargs))
        else:
            node = self._copy(old, *self._kept(old.args, old.kwargs))
        self.made.append(node)
        if meta is not None and not is_as_it_was:
            for key, value in meta.held.items():
                if key not in PROTECTED_KEYS and not self._has_metadata(old, key, value):
                    node.meta[key] = value
                    self.modified = True
        return self._proxies[old]

    def _kept(self, args: Any, kwargs: Any) -> tuple[Any, Any]:
        kept = self._reuse.kept.__getitem__
        return fx.map_arg(args, kept), fx.map_arg(kwargs, kept)

    def _copy(self, old: fx.Node, args: Any, kwargs: Any, given: GivenNode | None = None) -> fx.Node:
        tracer = self._tracer
        if tracer.makes_copies:
            node = self._made_as_it_was(old, args, kwargs)
        elif given is None:
            node = copy_node(tracer.graph, old, args, kwargs)
        else:
            tracer.taken_names.add(given.name)
            node = copy_node(tracer.graph, old, args, kwargs, (given.target, given.name, given.meta))
        self._regions.visit(node)
        self._reuse.keep(old, node)
        self.correspondence.add_copy(node, old)
        self._proxies[old] = fx.Proxy(node, tracer)
        return node

    # Metadata holds anything.
    def _has_metadata(self, old: fx.Node, key: str, value: Any) -> bool:
        """Whether a value is in an old node's metadata, or was before a hook changed it there."""
        if key in old.meta and same_value(value, old.meta[key]):
            return True
        return self._given is not None and self._given.gave(old, key, value)

    def _made_as_it_was(self, old: fx.Node, args: Any, kwargs: Any) -> fx.Node:
        """Have a tracer that makes nodes in its own way make one that stays as it was, as torch's class does."""
        # They are given as the proxies of their nodes, as in torch's class.
        given = map_leaves((args, kwargs), fx.Node, lambda value: fx.Proxy(value, self._tracer))
        node = self._tracer.create_proxy(old.op, old.target, given[0], given[1], old.name, old.type).node
        node.name = old.name
        if "val" in old.meta:
            self._tracer.set_metadata(node, old.meta["val"])
        # What was recorded stays; what the tracer adds is added.
        added = {key: value for key, value in node.meta.items() if key != "tensor_meta"}
        node.meta = {**added, **old.meta}
        self.modified |= (node.op, node.target, node.args, node.kwargs) != (old.op, old.target, args, kwargs)
        return node

    # -- new nodes ---------------------------------------------------------------------------------------------------------------

    # A value is whatever an operator returns.
    def make_placeholder(self, name: str, value: Argument, meta: NodeMetadata) -> fx.Node:
        """Make an input."""
        self.materialize()
        node = self._tracer.create_proxy("placeholder", name, (), {}).node
        if self.current is not None and name == self.current.target:
            node.name = self.current.name
        elif name not in self._tracer.taken_names:
            # fx would rename `input` and `id`, since they are Python's builtins; as inputs they are legal.
            node.name = name
        node.meta.update(meta.held)
        self._tracer.set_metadata(node, value)
        self._track(node)
        self.placeholders[node] = None
        return node

    def make_output(self, results: Argument, meta: NodeMetadata) -> fx.Node:
        """Make the output node in the place of the old one, which is visited."""
        self.materialize()
        assert self.current is not None
        node = self._tracer.create_proxy("output", "output", (with_proxies(results, self._tracer),), {}).node
        node.name = self.current.name
        node.meta.update(meta.held)
        self._track(node)
        return node

    def make_call(
        self, target: Any, args: Any, kwargs: Any, meta: NodeMetadata, value: Any, bindings: dict[Any, Any]
    ) -> fx.Node:
        """Make a call.

        Args:
            target: The operator or function.
            args: Its arguments.
            kwargs: Its keyword arguments.
            meta: The metadata that the node has besides its value.
            value: Its value.
            bindings: Where in the value unbacked symbols are made.
        """
        self.materialize()
        old, tracer = self.current, self._tracer
        name = name_for_target(tracer.graph, target.overloadpacket.__name__) if isinstance(target, OpOverload) else None
        if old is not None and isinstance(target, HigherOrderOperator):
            args = self._with_subgraph_nodes(args, old.args)
        args, kwargs = with_proxies((args, kwargs), tracer)
        node = tracer.create_proxy("call_function", target, args, kwargs, name=name).node
        node.meta.update(meta.held)
        node.meta.pop("unbacked_bindings", None)
        if bindings:
            before = None if old is None else old.meta.get("unbacked_bindings")
            node.meta["unbacked_bindings"] = before if bindings == before else bindings
        tracer.set_metadata(node, value)
        self._regions.visit(node)
        self._track(node)
        self._unnamed[node] = node.name
        return node

    def _with_subgraph_nodes(self, args: Argument, old_args: Any) -> Argument:
        """Put nodes in the place of subgraphs where the old node had its own node for the subgraph, since several may read one subgraph."""
        if isinstance(args, torch.nn.Module) and isinstance(old_args, fx.Node) and old_args.op == "get_attr":
            node = self._reuse.kept[old_args]
            return node if self.attributes.get(node.target) is args else args
        if type(args) in (tuple, list) and isinstance(old_args, (tuple, list)) and len(args) == len(old_args):
            return type(args)(self._with_subgraph_nodes(a, b) for a, b in zip(args, old_args, strict=True))
        return args

    def _track(self, node: fx.Node) -> None:
        self.made.append(node)
        self.correspondence.add_made(node, self.current)
