"""Random programs, and random rewrites of them that compute the same, as hypothesis strategies.

All values are matrices of a symbolic number of rows, so that any operation can follow any other. Both are plain data: a failing example can
be read, and be run again in another mode.
"""

from __future__ import annotations

import functools
import operator
import random
import zlib
from collections.abc import Callable
from typing import Any

import torch
from hypothesis import strategies
from torch import fx, nn
from torch.export import Dim

from retraced_server.retrace import ExportPass, ProxyValue, pass_context

from .case import Inputs, ProgramCase, of_sizes

aten, higher_order = torch.ops.aten, torch.ops.higher_order

#: The name of an operation, and which earlier values it takes, counted from the latest.
Step = tuple[str, int, int]


def _write_through_view(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    z = x.clone()
    z.view(-1).add_(y.reshape(-1))
    return z


def _write_to_row(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    z = x.clone()
    z[0].mul_(2)
    z[1:].relu_()
    return z


def _change_shape_in_place(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    z = x.clone()
    z.unsqueeze_(0)
    z.transpose_(1, 2)
    return z.squeeze(0).transpose(0, 1)


def _rows_of_data(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    count: Any = (y.abs().sum() * 0 + 3).int().item()
    torch._check(count >= 1)
    torch._check(count <= 8)
    return x + torch.ones(count, 4).sum(0)


def _choose(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return torch.cond(x.sum() > 0, lambda a, b: a.relu() + b, lambda a, b: (a * b).neg(), (x, y))


_OPERATIONS: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "relu": lambda x, y: x.relu(),
    "sine": lambda x, y: x.sin(),
    "negate": lambda x, y: x.neg(),
    "add": lambda x, y: x + y,
    "multiply": lambda x, y: x * y,
    "scale": lambda x, y: x * 2,
    "size": lambda x, y: x * x.shape[0],
    "flatten": lambda x, y: x.reshape(-1).sin().view(-1, 4),
    "transpose": lambda x, y: (x.t() + y.t()).t(),
    "roll": lambda x, y: torch.cat([x[1:], y[:1]]),
    "swap": lambda x, y: torch.cat(list(reversed(torch.split(x, [2, 2], dim=1))), dim=1),
    "write_through_view": _write_through_view,
    "write_to_row": _write_to_row,
    "change_shape_in_place": _change_shape_in_place,
    "rows_of_data": _rows_of_data,
    "nonzero": lambda x, y: x + torch.nonzero(y).sum(),
    "no_grad": torch.no_grad()(lambda x, y: x.relu() + y),
    "choose": _choose,
}


class RandomModule(nn.Module):
    """Does the steps one after the other, and counts its calls in a buffer."""

    def __init__(self, steps: tuple[Step, ...]) -> None:
        super().__init__()
        self.steps = steps
        self.linear = nn.Linear(4, 4)
        self.count: torch.Tensor
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, ...]:
        self.count.add_(1)
        values = [self.linear(y), y, x]
        for name, first, second in self.steps:
            values.append(_OPERATIONS[name](values[-1 - first % len(values)], values[-1 - second % len(values)]))
        # Torch cannot load a higher-order operator whose results nothing uses.
        return (values[-1] + self.count, *values[3:])


def _matrices(rows: int) -> Inputs:
    return (torch.randn(rows, 4), torch.randn(rows, 4)), {}


@functools.cache
def program_of(steps: tuple[Step, ...]) -> ProgramCase:
    """The program that does some steps."""
    rows = Dim("rows", min=3, max=64)
    name = ",".join(f"{name}({first},{second})" for name, first, second in steps)
    return ProgramCase(name, functools.partial(RandomModule, steps), of_sizes(_matrices, (4,), (7,)), ({0: rows}, {0: rows}))


def programs(max_steps: int = 6) -> strategies.SearchStrategy[ProgramCase]:
    """Random programs of a few steps."""
    place = strategies.integers(0, 3)
    step = strategies.tuples(strategies.sampled_from(sorted(_OPERATIONS)), place, place)
    return strategies.lists(step, min_size=1, max_size=max_steps).map(tuple).map(program_of)


def drawn_program(seed: int, max_steps: int = 6) -> ProgramCase:
    """The random program of a seed, where there is no hypothesis to draw one."""
    chosen = random.Random(seed)
    names = sorted(_OPERATIONS)
    count = chosen.randint(1, max_steps)
    return program_of(tuple((chosen.choice(names), chosen.randint(0, 3), chosen.randint(0, 3)) for _ in range(count)))


_REWRITABLE = frozenset({aten.relu.default, aten.sin.default, aten.neg.default, aten.add.Tensor, aten.mul.Tensor})


class RandomRewrites(ExportPass):
    """Rewrites some nodes into what computes the same: which and how is decided by a seed, the node's name and its graph.

    Args:
        seed: The seed.
        share: How many of a hundred nodes are rewritten.

    Attributes:
        touched: Path and name of each node that was rewritten in the last run.
    """

    def __init__(self, seed: int, share: int = 25) -> None:
        super().__init__()
        self.seed, self.share = seed, share
        self.touched: set[tuple[str, str]] = set()

    def __repr__(self) -> str:
        return f"RandomRewrites({self.seed}, {self.share})"

    def inputs(self, graph_module: fx.GraphModule) -> list[Any]:
        """Forgets the last run."""
        self.touched = set()
        return super().inputs(graph_module)

    def _chosen(self) -> int | None:
        context = pass_context()
        if context.node is None:
            return None
        drawn = zlib.crc32(f"{self.seed}:{context.graph_path}:{context.node.name}".encode())
        if drawn % 100 >= self.share:
            return None
        self.touched.add((context.graph_path, context.node.name))
        return drawn // 100

    def call_operator(self, op: Any, args: Any, kwargs: Any, meta: Any) -> Any:
        """Rewrites operators without effect, or adds an alias to what any operator gives."""
        call = super().call_operator
        drawn = self._chosen()
        if drawn is None:
            return call(op, args, kwargs, meta)
        if op not in _REWRITABLE or kwargs or drawn % 4 == 0:
            value = call(op, args, kwargs, meta)
            return call(aten.alias.default, (value,), {}, meta) if value.is_tensor() else value
        if drawn % 4 == 1:
            cloned = (call(aten.clone.default, args[:1], {}, meta), *args[1:])
            return call(op, cloned, kwargs, meta)
        if drawn % 4 == 2:
            value = call(op, args, kwargs, meta)
            return call(aten.add.Tensor, (value, torch.tensor(0, dtype=value.to_tensor().dtype)), {}, meta)
        return self._other_operators(op, args, meta)

    def _other_operators(self, op: Any, args: Any, meta: Any) -> Any:
        call = super().call_operator
        if op is aten.relu.default:
            return call(aten.clamp_min.default, (args[0], 0), {}, meta)
        if op is aten.neg.default:
            return call(aten.mul.Tensor, (args[0], -1), {}, meta)
        if op is aten.sin.default:
            negated = call(aten.neg.default, args, {}, meta)
            return call(aten.neg.default, (call(op, (negated,), {}, meta),), {}, meta)
        if all(isinstance(arg, ProxyValue) and arg.is_tensor() for arg in args):
            return call(op, (args[1], args[0]), {}, meta)
        return call(op, args, {}, meta)

    def call_sym(self, target: Any, args: Any, meta: Any) -> Any:
        """Adds 0 to sums and products of symbolic numbers."""
        value = super().call_sym(target, args, meta)
        if target not in (operator.add, operator.mul) or self._chosen() is None:
            return value
        return super().call_sym(operator.add, (value, 0), meta)

    def call_cond(self, pred: Any, true_fn: Any, false_fn: Any, inputs: Any, meta: Any) -> Any:
        """Swaps branches and negates what is asked."""
        if self._chosen() is None or not pred.is_tensor():
            return super().call_cond(pred, true_fn, false_fn, inputs, meta)
        negated = super().call_operator(aten.logical_not.default, (pred,), {}, meta)
        return super().call_cond(negated, false_fn, true_fn, inputs, meta)


def rewrites() -> strategies.SearchStrategy[RandomRewrites]:
    """Random rewrites, from almost no node to half of all."""
    return strategies.builds(RandomRewrites, strategies.integers(0, 2**16), strategies.sampled_from([5, 20, 50]))
