"""Arguments of nodes: nested containers of values, walked without pytree, which costs more than the retrace itself."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from torch import fx
from torch.fx.immutable_collections import immutable_dict, immutable_list

from retraced_server.retrace.proxy_value import ProxyValue

# An argument of a hook: a ProxyValue, a constant, a module, or a nested container of these.
Argument = Any

_CONSTANTS = frozenset({int, float, bool, str, type(None)})


def map_leaves(value: Argument, leaf_type: type, change: Callable[[Any], Any]) -> Argument:
    """Rebuild nested containers with every leaf of exactly `leaf_type` changed; tuples of other types and slices are containers too."""
    kind = type(value)
    if kind is leaf_type:
        return change(value)
    if kind is tuple:
        # Most items are leaves, or plain constants.
        return tuple(
            [
                change(item)
                if type(item) is leaf_type
                else item
                if type(item) in _CONSTANTS
                else map_leaves(item, leaf_type, change)
                for item in value
            ]
        )
    if kind is list or kind is immutable_list:
        return [map_leaves(item, leaf_type, change) for item in value]
    if kind is dict or kind is immutable_dict:
        return {key: map_leaves(item, leaf_type, change) for key, item in value.items()}
    if kind is slice:
        return slice(
            map_leaves(value.start, leaf_type, change),
            map_leaves(value.stop, leaf_type, change),
            map_leaves(value.step, leaf_type, change),
        )
    if isinstance(value, tuple):
        items = [map_leaves(item, leaf_type, change) for item in value]
        if hasattr(value, "_fields"):
            return kind(*items)
        # What torch's functions return, `torch.return_types`, is made of one argument, as other struct sequences are; sizes stay as they are.
        return value if all(map(operator.is_, items, value)) else kind(items)
    if isinstance(value, leaf_type):
        return change(value)
    return value


def data_of(value: Argument) -> Argument:
    """Replace every ProxyValue by its data."""
    return map_leaves(value, ProxyValue, lambda proxy: proxy.data)


def with_proxies(value: Argument, tracer: fx.Tracer) -> Argument:
    """Replace every ProxyValue by the fx.Proxy of its node, which is what a tracer is given."""
    return map_leaves(value, ProxyValue, lambda proxy: fx.Proxy(proxy.node, tracer))


def item_alone(target: Any, args: Any) -> Any:
    """Return the arguments of a call; of one that takes an item of a container as if the container held nothing else.

    Nodes that take the items of one container would otherwise each look at all of them.

    Args:
        target: What is called.
        args: Its positional arguments, as a hook has them or as data.
    """
    if target is not operator.getitem or len(args) != 2:
        return args
    container, key = args
    data = container.data if isinstance(container, ProxyValue) else container
    if not isinstance(data, (tuple, list)) or not isinstance(key, int) or not -len(data) <= key < len(data):
        return args
    item = (data[key],)
    return (ProxyValue(item, container.proxy_or_node) if isinstance(container, ProxyValue) else item), 0


def same_arguments(new: Argument, old: Any, same_node: Callable[[Argument, fx.Node], bool]) -> bool:
    """Whether a hook's arguments are those of a node.

    Args:
        new: What the hook gave: ProxyValues, constants, modules, containers.
        old: What the node has: nodes, constants, containers.
        same_node: Says whether a leaf of `new` is the counterpart of a node of `old`.
    """
    if isinstance(old, fx.Node):
        return same_node(new, old)
    if isinstance(old, (tuple, list)):
        # Operators take either; hooks often make a list of a tuple.
        if not isinstance(new, (tuple, list)) or len(new) != len(old):
            return False
        # A loop takes half the time of a generator, and this is called for each node of each pass.
        for a, b in zip(new, old, strict=True):  # noqa: SIM110
            if not same_arguments(a, b, same_node):
                return False
        return True
    if isinstance(old, dict):
        return (
            isinstance(new, dict)
            and list(new) == list(old)
            and all(same_arguments(new[key], old[key], same_node) for key in old)
        )
    if isinstance(old, slice):
        return isinstance(new, slice) and all(
            same_arguments(a, b, same_node) for a, b in ((new.start, old.start), (new.stop, old.stop), (new.step, old.step))
        )
    return same_constant(new, old)


def same_constant(new: Any, old: Any) -> bool:
    """Whether two constants are the same: type and value, so that 1, 1.0 and True differ, as do 0.0 and -0.0."""
    if new is old:
        return True
    if type(new) is not type(old):
        return False
    if isinstance(new, (float, complex)):
        return repr(new) == repr(old)
    if isinstance(new, (int, str, bytes)) or type(new).__module__ == "torch":
        return bool(new == old)
    return False


def positions(results: Argument, given: Argument) -> list[int | None] | None:
    """For each of a hook's outputs the position that it had in what the hook was given: the same place if their number is the same."""
    if not isinstance(results, (tuple, list)) or not isinstance(given, (tuple, list)):
        return None
    if len(results) == len(given):
        return list(range(len(given)))
    positions: list[int | None] = []
    start = 0
    for result in results:
        found = next((at for at in range(start, len(given)) if given[at] is result), None)
        positions.append(found)
        if found is not None:
            start = found + 1
    return positions
