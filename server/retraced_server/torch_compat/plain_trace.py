"""Traces a call that writes to nothing, without functionalization: in half of the time that it takes with it. Checked with torch 2.13.0.

What stands here is what `FunctionalTensorMode` (torch/_subclasses/functional_tensor.py) and `ProxyTorchDispatchMode`
(torch/fx/experimental/proxy_tensor.py) do with operators whose results functionalization leaves as they are.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any

import torch
from torch import fx
from torch._dispatch.python import enable_python_dispatcher
from torch._subclasses.functional_tensor import _can_decompose_fast
from torch.fx.experimental.proxy_tensor import ProxyTorchDispatchMode, PythonKeyTracer, disable_autocast_cache
from torch.utils._python_dispatch import autograd_would_have_decomposed
from torch.utils.weak import WeakTensorKeyDictionary

from retraced_server.torch_compat.decompositions import Decompositions
from retraced_server.torch_compat.fake_tensors import FakeTensor
from retraced_server.torch_compat.functional_trace import FunctionalTensor, Number, read_number
from retraced_server.torch_compat.operators import OpOverload, has_effects
from retraced_server.torch_compat.pytree import pytree
from retraced_server.torch_compat.symbolic_shapes import SYMBOLIC

_METADATA = FunctionalTensor.metadata_fns
_DEVICE = torch.ops.prim.device.default
# What functionalization or the tracer makes something else of, and what makes symbols or reads values.
_SPECIAL = frozenset(
    (
        *("aten::_conj", "aten::_neg_view", "aten::is_nonzero"),
        *("aten::lift", "aten::lift_fresh", "aten::lift_fresh_copy"),
    )
)
_SPECIAL_TAGS = (torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape)


class NotPlainError(Exception):
    """A call needs functionalization, or a constant."""


class PlainTrace(ProxyTorchDispatchMode):
    """A graph of what a call of an operator becomes; for the time of the call, a dispatch mode.

    Its nodes are those that a `FunctionalTrace` of the call would have.

    Args:
        table: The decompositions; `decomposing` has to be entered with it while a call is traced.

    Attributes:
        graph: The graph, without an output node.
    """

    def __init__(self, table: Decompositions) -> None:
        super().__init__(PythonKeyTracer(), "real")
        self.graph = fx.Graph()
        self._table = table.python
        self._is_decomposed = False
        self._nodes = WeakTensorKeyDictionary()

    def input(self, value: FakeTensor) -> tuple[torch.Tensor, fx.Node]:
        """Add an input, a fake tensor, and return what stands for it in the call, and its node."""
        node = self.graph.placeholder(f"arg{len(self.graph.nodes)}")
        tensor: Any = value
        # torch traces what is lifted as inputs, whatever their values; and two inputs may be one tensor.
        if value.constant is not None or value in self._nodes:
            tensor = value.detach()
            tensor.constant = None
        self._track(tensor, node)
        return tensor, node

    # Operators and their arguments are of several unrelated types.
    def call(self, target: Any, args: Any, kwargs: Any) -> Any:
        """Call an operator on tensors and numbers, and return its results of these kinds.

        Raises:
            NotPlainError: A `FunctionalTrace` is needed.
        """
        # As `make_fx` does: what it calls may be traced by others too.
        with enable_python_dispatcher(), self, disable_autocast_cache():
            return target(*args, **kwargs)

    # Values are whatever an operator returns.
    def read(self, value: Any) -> Any:
        """Return what a result is: nodes of the graph in the place of tensors, and of numbers that operators returned."""
        return pytree.tree_map(self._read, value)

    def is_written(self, value: torch.Tensor) -> bool:
        """Whether an input was written to: never."""
        return False

    def is_resized(self, value: torch.Tensor, given: torch.Tensor) -> bool:
        """Whether an input has other sizes, strides or another storage than it was given with: never."""
        return False

    # Methods of torch.
    def __sym_dispatch__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        return func(*args, **kwargs)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is _DEVICE or func in _METADATA:
            return func(*args, **kwargs)
        if not _is_plain(func):
            raise NotPlainError(f"{func} is more than a function of its arguments")
        leaves = pytree.tree_leaves((args, kwargs))
        if not self._is_decomposed and _is_decomposed_first(func, leaves):
            with self:
                results = func.decompose(*args, **kwargs)
            if results is not NotImplemented:
                return results
        for decompose in self._decompositions(func, leaves):
            before, self._is_decomposed = self._is_decomposed, True
            try:
                with self:
                    results = decompose(*args, **kwargs)
            finally:
                self._is_decomposed = before
            if results is not NotImplemented:
                return results
        return self._recorded(func, args, kwargs)

    def _decompositions(self, func: OpOverload, leaves: Sequence[Any]) -> Iterator[Callable[..., Any]]:
        if func in self._table:
            yield self._table[func]
        if autograd_would_have_decomposed(func, leaves):
            yield func.decompose

    def _recorded(self, func: OpOverload, args: Any, kwargs: Any) -> Any:
        nodes = fx.node.map_aggregate((_without_defaults(func, args), kwargs), self._argument)
        node = self.graph.call_function(func, *nodes)
        results = func(*args, **kwargs)
        self._track(results, node)
        return results

    def _track(self, value: Any, node: fx.Node) -> None:
        if value is None:
            return
        node.meta["val"] = value
        if isinstance(value, torch.Tensor):
            if _is_factory(node.target):
                # torch detaches what a factory returns, which is a call, where anything but its caller has it (torch/csrc/autograd/variable.h).
                node.meta["val"] = value.detach()
            self._nodes[value] = node
        elif isinstance(value, (tuple, list)):
            for place, item in enumerate(value):
                self._track(item, self.graph.call_function(operator.getitem, (node, place)))

    def _argument(self, leaf: Any) -> Any:
        if isinstance(leaf, torch.Tensor):
            node = self._nodes.get(leaf)
            if node is None:
                raise NotPlainError("a constant")
            return node
        if isinstance(leaf, SYMBOLIC):
            return Number(leaf) if leaf.node.constant is None else leaf.node.constant
        return leaf

    def _read(self, leaf: Any) -> Any:
        return read_number(self.graph, leaf) if isinstance(leaf, SYMBOLIC) else self._argument(leaf)


@cache
def _is_plain(func: Any) -> bool:
    return (
        isinstance(func, OpOverload)
        and not func._schema.is_mutable
        and func._schema.name not in _SPECIAL
        and not any(tag in func.tags for tag in _SPECIAL_TAGS)
        and not has_effects(func)
    )


def _without_defaults(func: OpOverload, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Leave out last arguments that are the defaults, as the dispatcher does where no undefined tensor of a kernel is among them."""
    if not args or args[-1] is not None:
        return args
    places = len(args)
    for value, argument in zip(reversed(args), reversed(func._schema.arguments[:places]), strict=True):
        if (
            not argument.has_default_value()
            or type(value) is not type(argument.default_value)
            or value != argument.default_value
        ):
            break
        places -= 1
    return args[:places]


@cache
def _is_factory(func: Any) -> bool:
    return isinstance(func, OpOverload) and any(argument.name == "pin_memory" for argument in func._schema.arguments)


def _is_decomposed_first(func: OpOverload, leaves: Sequence[Any]) -> bool:
    """Whether functionalization decomposes a call, before a table is asked."""
    known = _can_decompose_fast(func, False, False)
    return autograd_would_have_decomposed(func, leaves) if known is None else known
