"""Regions of a graph: calls between one that enters a state, such as a level of vmap, and the one that leaves it.

Inside a level of functorch the recorded values are *logical*: `torch.vmap`'s are those of one example. Operators are executed on them as
anywhere else, since that is what a transform promises of them. What leaves a level depends on more than logical values: its strides, and
whether the calls in the region work under the transform at all. So the region is then executed as a whole, from the call that began it, with
torch's own functions in real levels of functorch. Of the regions around it only the levels and the autocast are entered: what it takes from
them is made of logical values, batched as `BatchedValues` tells, so that no region is executed again for those in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch import fx

from retraced_server.analysis.targets import UNWRAPS_FROM_LEVEL, WRAPS_FOR_LEVEL, Effect, acts_on_regions, stated_effect
from retraced_server.errors import text_of
from retraced_server.retrace.arguments import map_leaves
from retraced_server.retrace.batched_values import BatchedValues
from retraced_server.retrace.entered_regions import entered_regions
from retraced_server.retrace.errors import ExportPassError
from retraced_server.retrace.interpreted_subgraphs import interpreted, plainly
from retraced_server.retrace.values import logical
from retraced_server.torch_compat.fake_tensors import view_of
from retraced_server.torch_compat.functorch import ADD_BATCH_DIM, ENTER_AUTOCAST, ENTER_JVP, ENTER_VMAP, SET_GRAD_ENABLED

LEVELS = frozenset((ENTER_VMAP, ENTER_JVP))
_SLICING = frozenset((ADD_BATCH_DIM, torch.ops.aten._add_batch_dim.default))
_ALIASING = WRAPS_FOR_LEVEL - _SLICING

# For each autocast that is in effect, outermost first, what `torch.autocast` is called with.
AutocastState = tuple[tuple[tuple[Any, ...], dict[str, Any]], ...]


class Regions:
    """Tells in which region the nodes of one graph are, as they are visited in order.

    Regions lie inside one another; after a region the one around it goes on. A call that changes the state of all later ones begins a
    region that nothing leaves but the end of the one around it.

    Attributes:
        current: The region that the visited node is in: the calls that began it and those around it, outermost first.
    """

    def __init__(self) -> None:
        self.current: tuple[fx.Node, ...] = ()
        # For each open region, where the one around it goes on.
        self._around: list[tuple[fx.Node, ...]] = []

    def visit(self, node: fx.Node) -> None:
        """Go on to the next node."""
        if node.op != "call_function":
            return
        effect = stated_effect(node.target)
        if effect is Effect.ENTERS:
            self._around.append(self.current)
            self.current = (*self.current, node)
        elif effect is Effect.LEAVES and self._around:
            self.current = self._around.pop()
        elif effect.changes_state:
            self.current = (*self.current, node)

    @property
    def autocast(self) -> AutocastState:
        """The autocast that a call in the current region runs under, of the graph's own."""
        return tuple((node.args, node.kwargs) for node in self.current if node.target is ENTER_AUTOCAST)


@contextmanager
def under_autocast(state: AutocastState) -> Iterator[None]:
    """Enter autocast, and leave it."""
    with ExitStack() as entered:
        for args, kwargs in state:
            entered.enter_context(torch.autocast(*args, **kwargs))
        yield


class RegionExecutor:
    """Executes the calls of one graph that mean something in their region only.

    Args:
        attribute: Gives an attribute of the graph module that is built, by its dotted path.
        batched: Tells at which levels its values are batched.
    """

    def __init__(self, attribute: Callable[[str], Any], batched: BatchedValues) -> None:
        self._attribute = attribute
        self._batched = batched
        self._regions = Regions()

    @property
    def autocast(self) -> AutocastState:
        """The autocast of the regions that the next call is in."""
        return self._regions.autocast

    def visit(self, node: fx.Node) -> None:
        """Hear of the next node of the graph."""
        self._regions.visit(node)
        if (regions := self._regions.current) or self._batched.levels:
            self._batched.enter([region for region in regions if region.target in LEVELS])
            self._batched.add_call(node, self._attribute)

    # A target is anything that fx calls.
    def state(self, target: Any) -> AbstractContextManager[None]:
        """Enter the autocast that the next call is in. One that is executed with its region enters it where the region does."""
        return nullcontext() if acts_on_regions(target) else under_autocast(self._regions.autocast)

    # Targets, arguments and values are whatever a graph has.
    def execute(self, target: Any, arguments: tuple[Any, Any], data: tuple[Any, Any]) -> Any:
        """Execute a call that means something in its region only, and give its logical value.

        Args:
            target: The function.
            arguments: Its arguments and keyword arguments, with nodes of the graph in the place of values.
            data: The same with logical values.

        Raises:
            ExportPassError: The region cannot be executed as it is now.
        """
        args, kwargs = data
        if target in _SLICING:
            return _slice(*args, **kwargs)
        if target in _ALIASING:
            tensor = args[0]
            return view_of(tensor, tuple(tensor.size()), tuple(tensor.stride()), tensor.storage_offset())
        if target not in UNWRAPS_FROM_LEVEL:
            return None
        region = self._innermost()
        if region is None:
            raise ExportPassError("it stands outside of the region in which it means something")
        around, start = region
        try:
            with entered_regions() as called:
                value = self._replay(around, start, (target, arguments), called)
                return map_leaves(value, torch.Tensor, lambda tensor: fresh(logical(tensor)))
        except ExportPassError:
            raise
        except Exception as error:
            raise ExportPassError(
                f"the region that `{start.name}` begins cannot be executed as it is now: {text_of(error)}"
            ) from error

    def _innermost(self) -> tuple[tuple[fx.Node, ...], fx.Node] | None:
        """Return the call that began the innermost level, and those that entered a region around it."""
        entered = [node for node in self._regions.current if stated_effect(node.target) is Effect.ENTERS]
        for at in reversed(range(len(entered))):
            if entered[at].target is not ENTER_AUTOCAST:
                return (*self._batched.callers, *entered[:at]), entered[at]
        return None

    def _replay(
        self, around: Sequence[fx.Node], start: fx.Node, call: tuple[Any, tuple[Any, Any]], called: Callable[[Any, Any], None]
    ) -> Any:
        """Execute a region from its beginning as far as a call needs it, and the call."""
        values: dict[fx.Node, Any] = {}

        def value(node: fx.Node) -> Any:
            if node not in values:
                values[node] = self._outer_value(node)
            return values[node]

        target, arguments = call
        region = _following(start)
        needed = _needed(arguments, region)
        for node in (*around, *(node for node in region if node in needed and node.op == "call_function")):
            values[node] = result = call_in_region(node.target, map_leaves((node.args, node.kwargs), fx.Node, value))
            called(node.target, result)
        return call_in_region(target, map_leaves(arguments, fx.Node, value))

    def _outer_value(self, node: fx.Node) -> Any:
        """Return the value of a node that is no call of the region, as a copy that the region may write to; an attribute as it is."""
        if node.op == "get_attr":
            return interpreted(self._attribute(str(node.target)), plainly)
        value = map_leaves(node.meta.get("val"), torch.Tensor, lambda tensor: fresh(logical(tensor)))
        return self._batched.batch(value, self._batched.of(node))


# Called with the arguments of the graph, by their names too.
def _slice(tensor: torch.Tensor, batch_dim: int, level: int) -> Any:  # noqa: ARG001
    size, stride = list(tensor.size()), list(tensor.stride())
    del size[batch_dim], stride[batch_dim]
    return view_of(tensor, tuple(size), tuple(stride), tensor.storage_offset())  # type: ignore[arg-type]


def _following(start: fx.Node) -> list[fx.Node]:
    region, node = [], start
    while node.op != "root":
        region.append(node)
        node = node.next
    return region


def _needed(arguments: Any, region: Sequence[fx.Node]) -> set[fx.Node]:
    """Return the nodes of a region that a call is made of, and those that change the state that it is in."""
    within = set(region)
    needed = {node for node in region if node.op == "call_function" and stated_effect(node.target).changes_state}
    waiting: list[fx.Node] = []
    map_leaves(arguments, fx.Node, waiting.append)
    for node in needed:
        waiting.extend(node.all_input_nodes)
    while waiting:
        node = waiting.pop()
        if node in within and node not in needed:
            needed.add(node)
            waiting.extend(node.all_input_nodes)
    return needed


def fresh(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor that says the same, with a storage of its own."""
    return torch.empty_strided(tensor.size(), tensor.stride(), dtype=tensor.dtype, device=tensor.device)


# Targets and arguments are whatever a graph has.
def call_in_region(target: Any, arguments: Any) -> Any:
    """Call a function of a graph in a region that was entered for it."""
    args, kwargs = arguments
    # It changes what results record for gradients, which fake values have none of.
    return None if target is SET_GRAD_ENABLED else target(*args, **kwargs)
