"""Programs written by hand, each for what exporting it brings into the graph."""

from __future__ import annotations

from typing import Any

import torch
import torch.ao.quantization.fx._decomposed
from torch import nn
from torch.export import Dim

from .case import Inputs, ProgramCase, of_sizes, seeded

_BATCH = Dim("batch", min=2, max=32)


class Everything(nn.Module):
    """A cond, item(), nonzero, a buffer mutation, an input mutation and lifted constants, all in one."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)
        self.count: torch.Tensor
        self.register_buffer("count", torch.zeros(()))
        self.scale = torch.full((8,), 1.5)

    def forward(self, x: torch.Tensor, flag: torch.Tensor, n: torch.Tensor) -> tuple[Any, ...]:
        self.count.add_(1)
        size: Any = n.item()
        torch._check(size >= 1)
        torch._check(size <= 16)
        y = torch.cond(flag.sum() > 0, lambda a: self.linear(a).relu(), lambda a: a.sin() * 2, (x,))
        positive = torch.nonzero(x[:, 0] > 0)
        x.mul_(2)
        ones = torch.ones(size, 8) * self.scale + torch.tensor([0.25] * 8)
        return y * self.scale, positive, ones, self.count + 0, positive.shape[0], size


def _everything(batch: int, size: int, sign: int) -> Inputs:
    return (torch.randn(batch, 8), torch.full((3,), float(sign)), torch.tensor(size)), {}


class InputAndId(nn.Module):
    """Its inputs carry names that Python's builtins and torch.fx use."""

    def forward(self, input: torch.Tensor, id: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return input + id, input * 2


def _input_and_id(batch: int) -> Inputs:
    return (torch.randn(batch, 8), torch.randn(8)), {}


class _Part(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor, *, scale: torch.Tensor) -> dict[str, Any]:
        return {"y": self.linear(x) * scale, "rest": (x.relu(),)}


class PreservedParts(nn.Module):
    """Two submodules with keyword arguments and nested outputs, whose call signatures are preserved."""

    def __init__(self) -> None:
        super().__init__()
        self.first = _Part()
        self.second = _Part()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        u = self.first(x, scale=x.mean())
        v = self.second(u["y"], scale=u["rest"][0].sum())
        return v["y"] + u["y"]


def _matrix(batch: int) -> Inputs:
    return (torch.randn(batch, 8),), {}


class TiedWeights(nn.Module):
    """The embedding's weight is the head's too."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(16, 8)
        self.head = nn.Linear(8, 16, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.head(self.embedding(tokens).relu())


def _token_ids(batch: int, length: int) -> Inputs:
    return (torch.randint(0, 16, (batch, length)),), {}


class NoInputs(nn.Module):
    """Takes no tensor at all, but has a parameter and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 4))
        self.bias: torch.Tensor
        self.register_buffer("bias", torch.randn(4))

    def forward(self, n: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
        return self.weight @ self.weight + self.bias, torch.arange(n)


class NothingAtAll(nn.Module):
    """No input, parameter, buffer or constant: nothing in the graph carries a fake tensor mode as an input."""

    def forward(self) -> torch.Tensor:
        return torch.ones(3) + torch.arange(3)


class Containers(nn.Module):
    """Dicts, lists, tuples, None, ints and strings, as inputs and outputs."""

    def forward(
        self,
        x: torch.Tensor,
        d: dict[str, torch.Tensor],
        items: list[tuple[torch.Tensor, torch.Tensor]],
        *,
        opt: torch.Tensor | None = None,
        k: int = 2,
        mode: str = "sum",
    ) -> dict[str, Any]:
        y = d["a"] * k + items[0][1]
        z = x + y
        if opt is not None:
            z = z - opt
        if mode == "sum":
            z = z.sum(-1)
        return {"z": z, "list": [y, (d["b"], None)], "k": k}


def _containers(batch: int) -> Inputs:
    x = torch.randn(batch, 8)
    nested = {"a": torch.randn(batch, 8), "b": torch.randn(3)}
    return (x, nested, [(torch.randn(1), torch.randn(8))]), {"opt": None, "k": 3, "mode": "sum"}


class OddOutputs(nn.Module):
    """Returns None, constants and one of its own inputs beside a tensor."""

    def forward(self, x: torch.Tensor) -> tuple[Any, ...]:
        return x + 1, None, 3, 2.5, True, x


class DataDependent(nn.Module):
    """Sizes that depend on data, and assertions about them that run."""

    def forward(self, x: torch.Tensor, n: torch.Tensor) -> tuple[Any, ...]:
        size: Any = n.item()
        torch._check(size >= 2)
        torch._check(size <= x.shape[0])
        rows = x[:size]
        positive = torch.masked_select(x, x > 0)
        torch._check(positive.shape[0] > 1)
        ones = torch.zeros(size, 4) + 1
        return rows.sum(0), positive * 2, torch.arange(size), ones.view(-1)[:2], positive.numel() + size


def _data_dependent(batch: int, size: int) -> Inputs:
    x = torch.randn(batch, 4)
    x[0] = x[0].abs() + 0.1
    return (x, torch.tensor(size)), {}


class InPlace(nn.Module):
    """In-place and metadata-changing operators, views of what they change, a resize."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        y = x.clone()
        flat = y.view(-1)
        flat[0] = 3.0
        y.transpose(0, 1).add_(1)
        rest = y[1:].clone()
        rest.unsqueeze_(0)
        zeros = torch.empty(2).resize_(4).zero_()
        zeros.copy_(y[0, :4])
        y.relu_()
        return y, rest.squeeze_(0), zeros, flat[::2]


class SymbolicScalars(nn.Module):
    """Symbolic ints as inputs and outputs, and arithmetic on them."""

    def forward(self, x: torch.Tensor, n: int, f: float) -> tuple[Any, ...]:
        half = x.shape[0] / 2
        return x * n + f, n * 2 + x.shape[0], half, x.new_zeros(n), torch.sym_max(n, 3), f * 2.0, -(n // 2)


def _symbolic_scalars(batch: int, n: int) -> Inputs:
    return (torch.randn(batch, 8), n, 2.5), {}


class ScalarsFromData(nn.Module):
    """Symbolic floats and ints read from tensors."""

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> tuple[Any, ...]:
        f = t.item()
        i = x.sum().int().item()
        torch._check(i >= 0)
        torch._check(i < 1000)
        return x * f, torch.sym_sqrt(f * f + 1), i + 2, f * 2 + 1


def _scalars_from_data(value: float) -> Inputs:
    return (torch.ones(4), torch.tensor(value)), {}


@torch.library.custom_op("retraced_tests::scaled_add", mutates_args=())
def scaled_add(x: torch.Tensor, y: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
    """A custom operator that is functional."""
    return x + y * scale


@scaled_add.register_fake
def _(x: torch.Tensor, y: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
    return torch.empty_like(x)


@torch.library.custom_op("retraced_tests::increment", mutates_args=("x",))
def increment(x: torch.Tensor) -> None:
    """A custom operator that mutates its input and returns nothing."""
    x.add_(1)


class CustomOps(nn.Module):
    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        z = x.clone()
        increment(z)
        return scaled_add(z, y, 0.5).relu()


def _pair(batch: int) -> Inputs:
    return (torch.randn(batch, 8), torch.randn(batch, 8)), {}


class Quantized(nn.Module):
    """A weight kept as int8 with per-channel scales, and an activation quantized and dequantized."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.randint(-128, 127, (8, 8), dtype=torch.int8)
        self.scales = torch.rand(8)
        self.zeros = torch.zeros(8, dtype=torch.int64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        ops = torch.ops.quantized_decomposed
        weight = ops.dequantize_per_channel(self.weight, self.scales, self.zeros, 0, -128, 127, torch.int8)
        q = ops.quantize_per_tensor(x, 0.05, 0, -128, 127, torch.int8)
        return ops.dequantize_per_tensor(q, 0.05, 0, -128, 127, torch.int8) @ weight


class MultipleResults(nn.Module):
    """Operators with several results and lists of results, and getitems of them."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        head, tail = torch.split(x, [2, x.shape[0] - 2])
        stacked = torch.stack([head.sum(0), tail.sum(0)])
        largest, index = torch.max(stacked, dim=0)
        values, positions = torch.topk(largest, 2)
        return values, positions, index.unbind(0)[0]


class DerivedSizes(nn.Module):
    """Inputs whose sizes are said in terms of another's: their ranges are those of expressions, not of symbols."""

    def forward(self, x: torch.Tensor, longer: torch.Tensor, fourfold: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x + longer[1:], fourfold.sum(0)


def _derived_sizes(batch: int) -> Inputs:
    return (torch.randn(batch, 8), torch.randn(batch + 1, 8), torch.randn(4 * batch, 8)), {}


class UnusedInput(nn.Module):
    """An input nothing reads and an input that is returned as it came."""

    def forward(self, x: torch.Tensor, unused: torch.Tensor, passed: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x.sigmoid().relu(), passed


def _three(batch: int) -> Inputs:
    return (torch.randn(batch, 8), torch.randn(3), torch.randn(2)), {}


_X = ({0: _BATCH},)
_BATCHES = ((4,), (2,), (7,))
_EVERYTHING_SHAPES = ({0: _BATCH}, None, None)
_EVERYTHING_INPUTS = of_sizes(_everything, (4, 5, 1), (3, 1, -1), (9, 16, 1))
_NESTED_SHAPES = ({0: _BATCH}, {"a": {0: _BATCH}, "b": None}, [(None, None)], None, None, None)


def _tag(*tags: str) -> frozenset[str]:
    return frozenset(tags)


PROGRAMS: tuple[ProgramCase, ...] = (
    ProgramCase(
        "everything", Everything, _EVERYTHING_INPUTS, _EVERYTHING_SHAPES, tags=_tag("unbacked", "mutation", "higher-order")
    ),
    ProgramCase(
        "everything_functional",
        Everything,
        _EVERYTHING_INPUTS,
        _EVERYTHING_SHAPES,
        functional=True,
        tags=_tag("unbacked", "mutation", "higher-order"),
    ),
    ProgramCase("input_and_id", InputAndId, of_sizes(_input_and_id, *_BATCHES), ({0: _BATCH}, None)),
    ProgramCase("preserved_parts", PreservedParts, of_sizes(_matrix, *_BATCHES), _X, preserve=("first", "second")),
    ProgramCase(
        "tied_weights",
        TiedWeights,
        of_sizes(_token_ids, (2, 5), (3, 4)),
        ({0: _BATCH, 1: Dim("length", min=2, max=16)},),
    ),
    ProgramCase("no_tensor_inputs", NoInputs, seeded(lambda: ((), {}))),
    ProgramCase("only_a_constant_input", NoInputs, seeded(lambda: ((3,), {}))),
    ProgramCase("nothing_at_all", NothingAtAll, seeded(lambda: ((), {}))),
    ProgramCase("containers", Containers, of_sizes(_containers, *_BATCHES), _NESTED_SHAPES),
    ProgramCase("odd_outputs", OddOutputs, of_sizes(_matrix, *_BATCHES), _X),
    ProgramCase(
        "data_dependent",
        DataDependent,
        of_sizes(_data_dependent, (6, 3), (4, 2), (9, 9)),
        ({0: Dim("batch", min=4, max=32)}, None),
        tags=_tag("unbacked"),
    ),
    ProgramCase(
        "in_place", InPlace, of_sizes(_matrix, (4,), (3,), (9,)), ({0: Dim("batch", min=3, max=32)},), tags=_tag("in-place")
    ),
    ProgramCase(
        "in_place_functional",
        InPlace,
        of_sizes(_matrix, (4,), (3,), (9,)),
        ({0: Dim("batch", min=3, max=32)},),
        functional=True,
    ),
    ProgramCase(
        "symbolic_scalars",
        SymbolicScalars,
        of_sizes(_symbolic_scalars, (4, 6), (3, 2), (8, 11)),
        ({0: _BATCH}, Dim.DYNAMIC, None),
    ),
    ProgramCase(
        "scalars_from_data",
        ScalarsFromData,
        of_sizes(_scalars_from_data, (2.5,), (-1.0,)),
        tags=_tag("unbacked"),
    ),
    ProgramCase("custom_ops", CustomOps, of_sizes(_pair, (4,), (4,)), tags=_tag("in-place")),
    ProgramCase("custom_ops_functional", CustomOps, of_sizes(_pair, (4,), (4,)), functional=True, tags=_tag("higher-order")),
    ProgramCase("quantized", Quantized, of_sizes(_matrix, *_BATCHES), _X),
    ProgramCase("multiple_results", MultipleResults, of_sizes(_matrix, (5,), (4,), (8,)), ({0: Dim("batch", min=4, max=33)},)),
    ProgramCase(
        "derived_sizes",
        DerivedSizes,
        of_sizes(_derived_sizes, *_BATCHES),
        ({0: _BATCH}, {0: _BATCH + 1}, {0: 4 * _BATCH}),
    ),
    ProgramCase("unused_input", UnusedInput, of_sizes(_three, *_BATCHES), ({0: _BATCH}, None, None)),
)
