"""What a call decomposes to."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from retraced_server.retrace.arguments import Argument
from retraced_server.retrace.fake_result_cache import FakeResult
from retraced_server.retrace.proxy_value import ProxyValue
from retraced_server.torch_compat.fake_tensors import FakeTensor, FakeTensorMode

# What a node of a trace has become: a value, a constant, or a container of these.
Emitted = dict[fx.Node, Any]


class NotLocalError(Exception):
    """A call cannot be decomposed without the program around it; the message says why."""


class NotReplacedError(NotLocalError):
    """A call does not put a new tensor of the same dtype, sizes and strides in the place of an argument that it writes to."""


@dataclass(frozen=True)
class Template:
    """What a call decomposes to.

    Attributes:
        inputs: Placeholders, one for each distinct tensor among the arguments, in order of appearance.
        nodes: The calls that have to be made, in order: those that the results are made of, and those with an effect.
        results: Nodes, constants and containers of these, in the place of the call's results; and what each input becomes, None where the
            call does not write to it.
        values: What each of the nodes gives, as far as that is known; empty where nothing is.
        is_identity: Whether that is the call itself.
    """

    inputs: tuple[fx.Node, ...]
    nodes: tuple[fx.Node, ...]
    results: tuple[Any, Sequence[Any]]
    is_identity: bool = False
    values: tuple[FakeResult | None, ...] = ()


def map_inputs(value: Argument, change: Callable[[Any], Any]) -> Any:
    """Rebuild arguments with every tensor changed, which is a `ProxyValue` or an attribute, and numbers as they are."""
    if isinstance(value, ProxyValue):
        return change(value) if isinstance(value.data, torch.Tensor) else value.data
    if isinstance(value, torch.Tensor):
        return change(value)
    if isinstance(value, dict):
        return {key: map_inputs(item, change) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        items = [map_inputs(item, change) for item in value]
        return items if isinstance(value, list) else tuple(items)
    return value


# Values are whatever an operator takes.
def identity_of(value: Any) -> Hashable:
    """Return what values have in common that stand for one input of a template."""
    return (value.pending or value.node) if isinstance(value, ProxyValue) else id(value)


# As here.
def datum(value: Any, fake_mode: FakeTensorMode) -> Any:
    """Return what an operator is executed on, a constant tensor as what it says to operators."""
    data = value.data if isinstance(value, ProxyValue) else value
    if isinstance(data, FakeTensor) or not isinstance(data, torch.Tensor):
        return data
    return fake_mode.from_tensor(data, static_shapes=True)
