"""Which recorded values share a storage. torch's reader gives each its own, since the file does not say.

The answer is what execution of the node with fake tensors gives:

- An operator says in its schema whether its result is a view of an argument, or an argument.
- Of a few that torch composes of others, `reshape` and `to` among them, the schema says only that it may be: each distinct call whose integers
  are in range is executed once, on meta tensors of the sizes that the program was exported with. Unbacked sizes get a typical value. Nothing
  else is executed: what stands in a file decides on no other call.
- A higher-order operator that runs its subgraph in place, such as `wrap_with_set_grad_enabled`, returns views of its operands where its
  subgraph does. Results of the other higher-order operators, and the inputs of subgraphs, have storages of their own.
"""

from __future__ import annotations

import functools
from collections.abc import Hashable
from typing import Any, Final, cast

import torch
from torch import fx

from retraced_server.analysis.unstated_aliases import DEPENDS, DEPENDS_ON_ONE, VIEWS, VIEWS_OF_EACH, Shared
from retraced_server.program.argument_checks import integers_fit
from retraced_server.program.fake_tensors import FakeTensors
from retraced_server.program.symbols import Symbols
from retraced_server.torch_compat.fake_tensors import FakeTensor, storage_id
from retraced_server.torch_compat.operators import OpOverload, schema_of
from retraced_server.torch_compat.pytree import pytree

_hop: Final[Any] = torch.ops.higher_order
_IN_PLACE_BODIES: Final = frozenset(
    (_hop.wrap_with_set_grad_enabled, _hop.wrap_with_autocast, _hop.wrap, _hop.tag_activation_checkpoint, _hop.strict_mode)
)
_ELSEWHERE: Final = object()


class Aliases:
    """Finds the aliases of one program.

    Args:
        symbols: Its symbols.
        tensors: Its fake tensors.
    """

    def __init__(self, symbols: Symbols, tensors: FakeTensors) -> None:
        self._symbols = symbols
        self._tensors = tensors
        self._executed: dict[object, Shared] = {}
        self._subgraphs: dict[fx.GraphModule, Shared] = {}

    def bases(self, node: fx.Node, root: torch.nn.Module) -> tuple[FakeTensor | None, ...]:
        """For each result of a node, the tensor whose storage it has, as far as it does not have its own.

        The last one stands for all further results: a list of views.

        Args:
            node: The node. The values of its arguments are there, its own is not.
            root: What holds the subgraphs of its graph.
        """
        target: Any = node.target
        if isinstance(target, OpOverload):
            packet = target.overloadpacket
            if packet in VIEWS_OF_EACH and isinstance(node.args[0], (list, tuple)):
                return tuple(map(_recorded, node.args[0]))
            if packet not in DEPENDS or schema_of(target).is_mutable:
                return tuple(_argument(target, node, index) for index in _annotated(target))
            if packet in DEPENDS_ON_ONE and sum(isinstance(leaf, fx.Node) for leaf in pytree.tree_iter(node.args)) != 1:
                return ()
            leaves = _leaves(node)
            # What shares a storage with a sparse tensor cannot be told.
            if any(isinstance(leaf, FakeTensor) and not _has_storage(leaf) for leaf in leaves):
                return ()
            shared = self._execute(target, node, leaves)
            return tuple(None if index is None else leaves[index] for index in shared)
        if target in _IN_PLACE_BODIES:
            return self._of_subgraph(node, root)
        return ()

    def note_subgraph(self, subgraph: fx.GraphModule) -> None:
        """Remember which inputs the results of a subgraph share a storage with."""
        nodes = list(subgraph.graph.nodes)
        inputs = [node.meta.get("val") for node in nodes if node.op == "placeholder"]
        owners = {_storage(value): position for position, value in enumerate(inputs) if _has_storage(value)}
        results = pytree.tree_leaves(nodes[-1].meta.get("val"))
        self._subgraphs[subgraph] = tuple(owners.get(_storage(value)) if _has_storage(value) else None for value in results)

    def _of_subgraph(self, node: fx.Node, root: torch.nn.Module) -> tuple[FakeTensor | None, ...]:
        is_subgraph = [isinstance(argument, fx.Node) and argument.op == "get_attr" for argument in node.args]
        if True not in is_subgraph:
            return ()
        at = is_subgraph.index(True)
        operands = [leaf.meta.get("val") for leaf in pytree.tree_leaves(node.args[at + 1 :]) if isinstance(leaf, fx.Node)]
        bases = []
        for index in self._subgraphs.get(cast(Any, dict(root.named_children()).get(str(node.args[at]))), ()):
            operand = operands[index] if index is not None and index < len(operands) else None
            bases.append(operand if isinstance(operand, FakeTensor) else None)
        return tuple(bases)

    def _execute(self, target: OpOverload, node: fx.Node, leaves: list[Any]) -> Shared:
        described = tuple(self._tensors.key(leaf) if isinstance(leaf, FakeTensor) else _plain_key(leaf) for leaf in leaves)
        key = (target, len(node.args), tuple(node.kwargs), described)
        found = self._executed.get(key)
        if found is None:
            found = self._executed[key] = self._run(target, leaves, node)
        return found

    def _run(self, target: OpOverload, leaves: list[Any], node: fx.Node) -> Shared:
        devices = {leaf.device for leaf in leaves if isinstance(leaf, FakeTensor)}
        stand_ins = [self._stand_in(leaf, devices) for leaf in leaves]
        owners: dict[int, int] = {}
        for index, stand_in in enumerate(stand_ins):
            if isinstance(stand_in, torch.Tensor):
                owners.setdefault(_storage(stand_in), index)
        # Another device needs a copy.
        if not owners or _ELSEWHERE in stand_ins:
            return ()
        args, kwargs = pytree.tree_unflatten(stand_ins, pytree.tree_structure((node.args, node.kwargs)))
        if not integers_fit(target, args, kwargs):
            return ()
        try:
            results = target(*args, **kwargs)
        # Whatever an operator makes of arguments that do not fit it, or of data that is not there: it then says nothing.
        except Exception:  # noqa: BLE001
            return ()
        return tuple(owners.get(_storage(leaf)) if _has_storage(leaf) else None for leaf in pytree.tree_leaves(results))

    def _stand_in(self, leaf: Any, devices: set[torch.device]) -> Any:
        """Return a meta tensor for a fake one, and a number for a symbolic one."""
        if isinstance(leaf, FakeTensor):
            size, stride = tuple(map(self._symbols.typical, leaf.shape)), tuple(map(self._symbols.typical, leaf.stride()))
            return torch.empty_strided(size, stride, dtype=leaf.dtype, device="meta")
        if isinstance(leaf, torch.device):
            return torch.device("meta") if devices == {leaf} else _ELSEWHERE
        if isinstance(leaf, (torch.SymInt, torch.SymFloat, torch.SymBool)):
            return self._symbols.typical(leaf)
        return leaf


def _leaves(node: fx.Node) -> list[Any]:
    """Return the arguments of a call, flat, with recorded values in the place of nodes."""
    leaves = pytree.tree_leaves((node.args, node.kwargs))
    return [leaf.meta.get("val") if isinstance(leaf, fx.Node) else leaf for leaf in leaves]


def _plain_key(leaf: Any) -> object:
    """Return what tells an argument that is no tensor from others: 1, 1.0 and True are equal and not the same."""
    if isinstance(leaf, (torch.SymInt, torch.SymFloat, torch.SymBool)):
        return type(leaf), leaf.node.expr
    return type(leaf), leaf if isinstance(leaf, Hashable) else repr(leaf)


def _has_storage(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.layout is torch.strided


def _storage(tensor: torch.Tensor) -> int:
    return storage_id(tensor)


def _argument(target: OpOverload, node: fx.Node, index: int | None) -> FakeTensor | None:
    if index is None:
        return None
    argument = node.args[index] if index < len(node.args) else node.kwargs.get(schema_of(target).arguments[index].name)
    return _recorded(argument)


# An argument is anything that a node may be given.
def _recorded(argument: Any) -> FakeTensor | None:
    value = argument.meta.get("val") if isinstance(argument, fx.Node) else None
    return value if isinstance(value, FakeTensor) else None


@functools.cache
def _annotated(target: OpOverload) -> Shared:
    """For each result, the argument that it is or is a view of, by the schema or beyond it; nothing where there is none."""
    if (unstated := VIEWS.get(target.overloadpacket)) is not None:
        # Not of overloads that take less.
        return tuple(index if index is not None and index < len(schema_of(target).arguments) else None for index in unstated)
    arguments = [
        (index, argument.alias_info) for index, argument in enumerate(schema_of(target).arguments) if argument.alias_info
    ]
    shared = []
    for result in schema_of(target).returns:
        names = result.alias_info.before_set if result.alias_info else frozenset()
        # A list of views: the argument's set becomes any set.
        found = (index for index, own in arguments if own.before_set & names or (not names and "*" in own.after_set))
        shared.append(next(found, None))
    return tuple(shared)
