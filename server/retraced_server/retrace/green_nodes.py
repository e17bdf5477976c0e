"""Tells which old nodes are green: called as before with values that are recorded, so that their own recorded values hold."""

from __future__ import annotations

from typing import Any

from torch import fx
from torch.fx.immutable_collections import immutable_dict, immutable_list

from retraced_server.retrace.arguments import Argument, same_arguments
from retraced_server.retrace.edits import Edits
from retraced_server.retrace.given_graph import GivenGraph
from retraced_server.retrace.node_builder import NodeBuilder
from retraced_server.retrace.proxy_value import ProxyValue
from retraced_server.retrace.regions import AutocastState, RegionExecutor
from retraced_server.retrace.reuse import Reuse

_CONTAINERS = frozenset({immutable_list, immutable_dict, list, dict})


class GreenNodes:
    """Tells which nodes of one old graph are green, and which were edited by hand.

    Args:
        edits: Tells what was edited by hand; None where nothing can have been.
        builder: Makes the new graph's nodes.
        reuse: Tells which recorded values hold.
        regions: Tells the autocast of the regions that the next node is in.
        outer_autocast: What the graph is called under.
        results: What the hook returned for each old node.

    Attributes:
        has_stand_ins: Whether the call that was looked at has inputs that only stand for the recorded ones: see `Reuse.same`.
    """

    def __init__(
        self,
        edits: Edits | GivenGraph | None,
        builder: NodeBuilder,
        reuse: Reuse,
        regions: RegionExecutor,
        outer_autocast: AutocastState,
        results: dict[fx.Node, Any],
    ) -> None:
        self.has_stand_ins = False
        self._edits = edits
        self._builder = builder
        self._reuse = reuse
        self._regions = regions
        self._outer_autocast = outer_autocast
        self._results = results
        self._is_disturbed = isinstance(edits, Edits) and edits.is_disturbed(builder.module.graph)

    @property
    def autocast(self) -> AutocastState:
        """What the next node is under."""
        return self._outer_autocast + self._regions.autocast

    def is_dirty(self, old: fx.Node) -> bool:
        """Whether an old node was edited by hand, so that what is recorded for it need not be its value."""
        if self._edits is None:
            return False
        if self._is_disturbed and old.op == "call_function":
            return True
        return not self._edits.holds(old, self._results.get(old), self.autocast)

    # Arguments are whatever a graph has.
    def is_green(self, old: fx.Node, args: Any, kwargs: Any, loaded: Any = None) -> bool:
        """Whether a call of an old node's target is that of the old node.

        Args:
            old: The old node, which was not edited by hand.
            args: The call's arguments.
            kwargs: Its keyword arguments.
            loaded: The arguments that the node's hook was given.
        """
        self.has_stand_ins = False
        if self._builder.is_pending and args is loaded and not kwargs and not old.kwargs and _is_flat(old.args):
            # All that was visited so far stands as it was, and so do these.
            return True
        return (
            same_arguments(args, old.args, self._stands_for)
            and same_arguments(kwargs, old.kwargs, self._stands_for)
            and not (self.has_stand_ins and not self._reuse.ignores_aliases(old))
            and not self._reuse.is_written(old, self._results)
        )

    def is_green_output(self, old: fx.Node, results: Argument) -> bool:
        """Whether results are the recorded values that an old output node gives."""
        self.has_stand_ins = False
        return same_arguments(results, old.args[0], self._stands_for) and not self.has_stand_ins

    def is_untouched(self, old: fx.Node) -> bool:
        """Whether nothing that an old node reads has changed, nor the node itself."""
        self.has_stand_ins = False
        return (
            not self.is_dirty(old)
            and all(map(self._is_kept, old.all_input_nodes))
            and not self._reuse.is_written(old, self._results)
        )

    def is_recorded(self, value: Argument) -> bool:
        """Whether a value says what the program has recorded for the old node that it stands for."""
        if not isinstance(value, ProxyValue):
            return True
        if self._builder.is_pending:
            return (old := value.pending) is not None and old.graph is self._builder.module.graph
        old = self._reuse.recorded.get(value.node)
        return old is not None and not (isinstance(self._edits, Edits) and self._edits.is_stated(old))

    def _is_kept(self, value: fx.Node) -> bool:
        result = self._results[value]
        # What a hook returned for a node may be a constant or a tuple, though it made the node's copy.
        if value.op == "get_attr":
            return not self.is_dirty(value)
        return isinstance(result, ProxyValue) and self._holds_recorded(result, value)

    def _stands_for(self, new: Argument, old: fx.Node) -> bool:
        if not isinstance(new, ProxyValue):
            return (
                old.op == "get_attr"
                and new is self._results.get(old)
                and not self.is_dirty(old)
                # What a subgraph became for another call may have taken its place.
                and (self._builder.is_pending or self._builder.attributes.get(old.target) is new)
            )
        if self._holds_recorded(new, old):
            return True
        if self._builder.is_pending:
            return False
        self.has_stand_ins |= (stands := self._reuse.same.get(old) is new.node)
        return stands

    def _holds_recorded(self, value: ProxyValue[Any], old: fx.Node) -> bool:
        """Whether a value is that of an old node, as it is recorded."""
        return value.pending is old if self._builder.is_pending else self._reuse.kept.get(old) is value.node


def _is_flat(args: tuple[Any, ...]) -> bool:
    """Whether arguments hold no container, which a hook could have changed, and no attribute, which may have been replaced."""
    return not any(
        type(argument) in _CONTAINERS or (type(argument) is fx.Node and argument.op == "get_attr") for argument in args
    )
