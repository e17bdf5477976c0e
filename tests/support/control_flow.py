"""Programs whose graphs hold graphs: one for every higher-order operator that `torch.export` can make."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch._higher_order_ops.associative_scan import associative_scan_op
from torch._higher_order_ops.flex_attention import flex_attention as flex_attention_op
from torch._higher_order_ops.map import map as typed_map
from torch._higher_order_ops.scan import scan
from torch._higher_order_ops.while_loop import while_loop
from torch.compiler import nested_compile_region
from torch.export import Dim
from torch.nn.attention.flex_attention import create_block_mask

from .case import Inputs, ProgramCase, of_sizes

_BATCH = Dim("batch", min=2, max=32)
# The operands in its signature have a type that no value has.
map_over: Any = typed_map


class Cond(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cond(x.sum() > 0, lambda x: self.linear(x).relu(), lambda x: x.relu().neg(), (x.relu() - 0.5,))


class CondOnSymbol(nn.Module):
    """A cond whose predicate is a symbolic bool, scaled by a symbolic int read from data."""

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return torch.cond(x.shape[0] > 4, lambda x: x.relu(), lambda x: x.sin(), (x,)) * t.item()


class CondWithItem(nn.Module):
    """An unbacked symbol that lives in the body of a cond."""

    def forward(self, x: torch.Tensor, n: torch.Tensor) -> torch.Tensor:
        def row(x: torch.Tensor) -> torch.Tensor:
            k = n.item()
            torch._check(k >= 0)
            torch._check(k < 4)
            return x[k : k + 1].sum(0)

        return torch.cond(x.sum() > 0, row, lambda x: x.sum(0), (x,))


class WhileLoop(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, i: torch.Tensor, x: torch.Tensor) -> Any:
        return while_loop(lambda i, x: i.relu() < 3, lambda i, x: (i + 1, self.linear(x).relu()), (i, x))


class Nested(nn.Module):
    """A cond in a while_loop's body, with a constant and weights captured from outside."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)
        self.shift = torch.full((8,), 0.5)

    def forward(self, i: torch.Tensor, x: torch.Tensor) -> Any:
        def body(i: torch.Tensor, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            y = torch.cond(x.sum() > 0, lambda x: self.linear(x).relu() + self.shift, lambda x: x.relu() + 1, (x,))
            return i + 1, y

        return while_loop(lambda i, x: i < 3, body, (i, x))


class Map(nn.Module):
    def forward(self, xs: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return map_over(lambda x, y: x.relu() + y, xs, y)


class Scan(nn.Module):
    def forward(self, init: torch.Tensor, xs: torch.Tensor) -> Any:
        return scan(lambda carry, x: (carry + x.relu(), (carry * x).relu()), init, xs, dim=0)


class AssociativeScan(nn.Module):
    """Calls the operator itself: the public function only makes a graph of it on an accelerator."""

    def forward(self, xs: torch.Tensor) -> torch.Tensor:
        return associative_scan_op(lambda a, b: [a.relu() + b.relu()], [xs], ())[0]


class SetGrad(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.linear(x)
        with torch.no_grad():
            z = (y.relu() + 1).sin()
        return y + z


class Autocast(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            z = self.linear(x).relu()
        return z.float() + 1


class InvokeSubgraph(nn.Module):
    """One region called three times, so one body with several callers."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)

    @nested_compile_region
    def block(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x).relu()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.block(self.block(x)) + self.block(x)


class HintsWrapper(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.ops.higher_order.hints_wrapper(lambda a, b: a.relu() + b, (x, x), {}, hints={"hint": True})


class OutDtype(nn.Module):
    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return torch.ops.higher_order.out_dtype(torch.ops.aten.mm.default, torch.int32, x, y)


class Effects(nn.Module):
    """Prints: decomposed, it threads an effect token from input to output."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        torch.ops.aten._print("")
        return x.relu() + 1


class FlexAttention(nn.Module):
    """Calls the operator itself: of the public function, exporting leaves the insides of a vmap. Stock torch cannot save it."""

    def __init__(self) -> None:
        super().__init__()
        self.mask = create_block_mask(lambda b, h, i, j: i >= j, None, None, 16, 16, device="cpu")

    def forward(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        def score(score: torch.Tensor, b: int, h: int, i: torch.Tensor, j: torch.Tensor) -> torch.Tensor:
            return (score + i - j).relu()

        options = {"OUTPUT_LOGSUMEXP": False, "OUTPUT_MAX": False}
        return flex_attention_op(q, k, v, score, self.mask.as_tuple(), 0.35, options)[0]


def _matrix(batch: int) -> Inputs:
    return (torch.randn(batch, 8),), {}


def _signed(batch: int, sign: float) -> Inputs:
    return (torch.randn(batch, 8) + sign,), {}


def _with_int(batch: int, n: int, sign: float = 0) -> Inputs:
    return (torch.randn(batch, 8) + sign, torch.tensor(n)), {}


def _int_first(n: int, batch: int) -> Inputs:
    return (torch.tensor(n), torch.randn(batch, 8)), {}


def _rows(count: int) -> Inputs:
    return (torch.randn(count, 4), torch.randn(4)), {}


def _steps(count: int) -> Inputs:
    return (torch.randn(4), torch.randn(count, 4)), {}


def _static_steps() -> Inputs:
    return (torch.randn(5, 4).abs(),), {}


def _int8() -> Inputs:
    return (torch.randint(-3, 3, (4, 8), dtype=torch.int8), torch.randint(-3, 3, (8, 4), dtype=torch.int8)), {}


def _heads() -> Inputs:
    return tuple(torch.randn(1, 2, 16, 8) for _ in range(3)), {}


_X = ({0: _BATCH},)
_BATCHES = ((4,), (2,), (7,))
_HIGHER_ORDER = frozenset({"higher-order"})
_UNBACKED = frozenset({"higher-order", "unbacked"})
_LOOP = of_sizes(_int_first, (0, 4), (1, 2), (3, 5))
_LOOP_SHAPES = (None, {0: _BATCH})

CONTROL_FLOW: tuple[ProgramCase, ...] = (
    ProgramCase("cond", Cond, of_sizes(_signed, (4, 2.0), (2, -2.0)), _X, tags=_HIGHER_ORDER),
    ProgramCase("cond_on_symbol", CondOnSymbol, of_sizes(_with_int, (4, 2), (7, 3)), ({0: _BATCH}, None), tags=_UNBACKED),
    ProgramCase("cond_with_item", CondWithItem, of_sizes(_with_int, (4, 1, 2.0), (4, 2, -2.0)), tags=_UNBACKED),
    ProgramCase("while_loop", WhileLoop, _LOOP, _LOOP_SHAPES, tags=_HIGHER_ORDER),
    ProgramCase("nested", Nested, _LOOP, _LOOP_SHAPES, tags=_HIGHER_ORDER),
    ProgramCase("nested_functional", Nested, _LOOP, _LOOP_SHAPES, functional=True, tags=_HIGHER_ORDER),
    ProgramCase("map", Map, of_sizes(_rows, (3,), (3,)), ({0: _BATCH}, None), tags=_HIGHER_ORDER),
    ProgramCase("scan", Scan, of_sizes(_steps, (5,), (3,)), (None, {0: _BATCH}), tags=_HIGHER_ORDER),
    ProgramCase("associative_scan", AssociativeScan, of_sizes(_static_steps, ()), tags=_HIGHER_ORDER),
    ProgramCase("set_grad", SetGrad, of_sizes(_matrix, *_BATCHES), _X, tags=_HIGHER_ORDER),
    ProgramCase("autocast", Autocast, of_sizes(_matrix, *_BATCHES), _X, tags=_HIGHER_ORDER),
    ProgramCase("invoke_subgraph", InvokeSubgraph, of_sizes(_matrix, *_BATCHES), _X, strict=True, tags=_HIGHER_ORDER),
    ProgramCase("hints_wrapper", HintsWrapper, of_sizes(_matrix, (4,)), tags=_HIGHER_ORDER),
    ProgramCase("out_dtype", OutDtype, of_sizes(_int8, ()), tags=_HIGHER_ORDER),
    ProgramCase("effects", Effects, of_sizes(_matrix, (4,)), functional=True, tags=_HIGHER_ORDER),
    ProgramCase("flex_attention", FlexAttention, of_sizes(_heads, ()), serializable=False, tags=_HIGHER_ORDER),
)
