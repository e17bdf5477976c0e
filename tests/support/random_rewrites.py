"""Programs and passes that hypothesis draws: views, in-place operators, symbolic sizes, unbacked symbols, conds; and rewrites of them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from hypothesis import strategies as st
from torch import nn
from torch.export import Dim, ExportedProgram

from retraced_server.retrace import ExportPass, NodeMetadata, ProxyValue

aten = torch.ops.aten

#: Real arguments of every drawn program.
ARGUMENTS = (torch.arange(32.0).reshape(4, 8) - 7, torch.tensor(3))

# A drawn program keeps matrices of one size, so that every instruction fits every state. An instruction takes the matrices and the number
# tensor, and gives new ones.
_Step = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


def _size(n: torch.Tensor) -> Any:
    size: Any = n.item()
    torch._check(size >= 0)
    torch._check(size <= 100)
    return size


def _write_through_view(x: torch.Tensor, y: torch.Tensor, n: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    copied = y.clone()
    copied.transpose(0, 1).add_(1)
    return copied * x, n


def _change_sizes_in_place(x: torch.Tensor, y: torch.Tensor, n: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    copied = y.clone()
    copied.unsqueeze_(0)
    return copied.expand(2, -1, -1).sum(0) + x, n


def _write_to_number(x: torch.Tensor, y: torch.Tensor, n: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    number = n.clone()
    before = _size(number)
    number.add_(1)
    return x * before + y * _size(number), number


STEPS: dict[str, _Step] = {
    "relu": lambda x, y, n: (x.relu(), n),
    "sin": lambda x, y, n: (y.sin(), n),
    "add": lambda x, y, n: (x + y, n),
    "product": lambda x, y, n: (x @ y.transpose(0, 1) @ x, n),
    "view": lambda x, y, n: (x.transpose(0, 1).reshape(-1).view(8, -1).transpose(0, 1) + y, n),
    "halves": lambda x, y, n: (torch.cat(torch.chunk(x, 2, dim=1)[::-1], dim=1), n),
    "in place": lambda x, y, n: (x.clone().add_(y).relu_(), n),
    "through a view": _write_through_view,
    "sizes in place": _change_sizes_in_place,
    "size": lambda x, y, n: (x * x.shape[0], n),
    "item": lambda x, y, n: (x + torch.zeros(_size(n), 8).sum(0), n),
    "item again": lambda x, y, n: (x * _size(n) + y * _size(n), n),
    "number in place": _write_to_number,
    "nonzero": lambda x, y, n: (x * torch.nonzero(y[:, 0] > 0).shape[0], n),
    "cond": lambda x, y, n: (torch.cond(x.sum() > 0, lambda x: x.relu() + 1, lambda x: x.sin().relu(), (x,)), n),
}


class Drawn(nn.Module):
    """Runs steps: each names what it does and which of the matrices so far it takes."""

    def __init__(self, steps: Sequence[tuple[str, int, int]]) -> None:
        super().__init__()
        self.steps = steps

    def forward(self, x: torch.Tensor, n: torch.Tensor) -> tuple[torch.Tensor, ...]:
        values = [x, x + 1]
        for name, first, second in self.steps:
            made, n = STEPS[name](values[first % len(values)], values[second % len(values)], n)
            values.append(made)
        return tuple(values[2:]) or (values[1],)


def export(steps: Sequence[tuple[str, int, int]]) -> ExportedProgram:
    """Exports a drawn program; each time with a shape environment of its own."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.export.export(Drawn(steps), ARGUMENTS, dynamic_shapes=({0: Dim("batch", min=2, max=64)}, None))


class DrawnPass(ExportPass):
    """Rewrites operators in the order in which they are visited, each as drawn; those that are left over stay."""

    def __init__(self, rewrites: Sequence[str]) -> None:
        super().__init__()
        self.drawn = rewrites
        self.seen = 0

    def call_operator(self, op: Any, args: tuple[Any, ...], kwargs: dict[str, Any], meta: NodeMetadata) -> ProxyValue[Any]:
        rewrite = self.drawn[self.seen] if self.seen < len(self.drawn) else "keep"
        self.seen += 1
        made: ProxyValue[Any] = REWRITES[rewrite](super().call_operator, op, args, kwargs, meta)
        return made


def _is_matrix(value: Any) -> bool:
    return isinstance(value, ProxyValue) and isinstance(value.data, torch.Tensor) and value.data.dim() == 2


def _copy_result(call: Any, op: Any, args: Any, kwargs: Any, meta: Any) -> Any:
    result = call(op, args, kwargs, meta)
    return call(aten.clone.default, (result,), {}, meta) if _is_matrix(result) else result


def _copy_argument(call: Any, op: Any, args: Any, kwargs: Any, meta: Any) -> Any:
    if not args or not _is_matrix(args[0]):
        return call(op, args, kwargs, meta)
    return call(op, (call(aten.clone.default, args[:1], {}, meta), *args[1:]), kwargs, meta)


def _view_result(call: Any, op: Any, args: Any, kwargs: Any, meta: Any) -> Any:
    result = call(op, args, kwargs, meta)
    return call(aten.alias.default, (result,), {}, meta) if _is_matrix(result) else result


def _write_to_argument(call: Any, op: Any, args: Any, kwargs: Any, meta: Any) -> Any:
    if args and isinstance(args[0], ProxyValue) and isinstance(args[0].data, torch.Tensor) and args[0].data.dtype != torch.bool:
        call(aten.add_.Tensor, (args[0], 1), {}, meta)
    return call(op, args, kwargs, meta)


def _drop(call: Any, op: Any, args: Any, kwargs: Any, meta: Any) -> Any:
    dropped = op in (aten.relu.default, aten.sin.default, aten.clone.default, aten.relu_.default, aten.add_.Tensor)
    return args[0] if dropped else call(op, args, kwargs, meta)


def _replace(call: Any, op: Any, args: Any, kwargs: Any, meta: Any) -> Any:
    if op is aten.relu.default:
        return call(aten.clamp_min.default, (args[0], 0), {}, meta)
    if op is aten.transpose.int:
        return call(aten.transpose_copy.int, args, kwargs, meta)
    return call({aten.sin.default: aten.cos.default, aten.add.Tensor: aten.sub.Tensor}.get(op, op), args, kwargs, meta)


def _widen(call: Any, op: Any, args: Any, kwargs: Any, meta: Any) -> Any:
    result = call(op, args, kwargs, meta)
    floats = _is_matrix(result) and result.data.dtype is torch.float32
    return call(aten.to.dtype, (result, torch.float64), {}, meta) if floats else result


REWRITES: dict[str, Callable[..., Any]] = {
    "keep": lambda call, op, args, kwargs, meta: call(op, args, kwargs, meta),
    "copy result": _copy_result,
    "copy argument": _copy_argument,
    "view result": _view_result,
    "write to argument": _write_to_argument,
    "drop": _drop,
    "replace": _replace,
    "widen": _widen,
}

programs = st.lists(st.tuples(st.sampled_from(sorted(STEPS)), st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=6)
rewrites = st.lists(st.sampled_from(["keep"] * 6 + sorted(REWRITES)), min_size=1, max_size=30)
