"""Programs whose text forms are kept in `printed/`, for people to read. `python -m tests.client.printed_programs` writes them anew."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch._higher_order_ops.while_loop import while_loop
from torch.export import Dim

from retraced.archive import Archive
from retraced.printing import program_text
from tests.support.case import ProgramCase, seeded
from tests.support.pages import DOCS

EXAMPLE = re.compile(r"```text\n(# retraced text form.*?)```\n", re.DOTALL)
"""Where it stands in the guide."""
PRINTED = Path(__file__).parent / "printed"
_DYNAMIC = ({0: Dim("batch", min=2, max=32)},)


class Mlp(nn.Module):
    """Two layers that share a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(8, 8)
        self.down = nn.Linear(8, 8, bias=False)
        self.down.weight = self.up.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = nn.functional.gelu(self.up(x), approximate="tanh")
        return x + self.down(hidden)


class Branches(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x.relu()
        return torch.cond(x.sum() > 0, lambda y: y * 2, lambda y: y.sin() - 0.5, (y,))


class Loop(nn.Module):
    def forward(self, i: torch.Tensor, x: torch.Tensor) -> Any:
        return while_loop(lambda i, x: i < 3, lambda i, x: (i + 1, x.cos()), (i, x))


class Counter(nn.Module):
    """Writes to a buffer and to its input, and reads a buffer that is not in the state dict."""

    count: torch.Tensor
    scale: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))
        self.register_buffer("scale", torch.ones(8), persistent=False)

    def forward(self, x: torch.Tensor, times: int) -> torch.Tensor:
        self.count.add_(times)
        x.mul_(self.scale)
        return x.to(torch.bfloat16, memory_format=torch.contiguous_format)


class Unbacked(nn.Module):
    def forward(self, x: torch.Tensor, n: torch.Tensor) -> tuple[Any, ...]:
        size: Any = n.item()
        torch._check(size >= 1)
        torch._check(size <= 16)
        positive = torch.nonzero(x[:, 0] > 0)
        return torch.ones(size, 2 * x.shape[0]), positive, size + 1


class Tuples(nn.Module):
    """Calls with several results, with lists of results, and outputs that are no values."""

    def forward(self, x: torch.Tensor, weight: torch.Tensor | None) -> tuple[Any, ...]:
        head, tail = torch.split(x, [2, x.shape[0] - 2])
        values, positions = torch.topk(tail, 2)
        normal = nn.functional.layer_norm(head, [8], weight)
        return values, positions, normal[:, [0, 2]], None, "text", 1e-05


class Guide(nn.Module):
    """The example of the guide: a shared weight, a buffer that is written to, a call with several results, and subgraphs."""

    count: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(8, 8, bias=False)
        self.down = nn.Linear(8, 8, bias=False)
        self.down.weight = self.up.weight
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y = nn.functional.gelu(self.up(x), approximate="tanh")
        values, positions = torch.topk(y, 2)
        self.count.add_(1)
        return torch.cond(values.sum() > 0, lambda y: y.sin(), lambda y: y.cos(), (y,)), positions


def _batch() -> torch.Tensor:
    return torch.randn(4, 8)


CASES = {
    case.name: case
    for case in (
        ProgramCase("mlp", Mlp, seeded(lambda: ((_batch(),), {})), _DYNAMIC),
        ProgramCase("cond", Branches, seeded(lambda: ((_batch(),), {})), _DYNAMIC),
        ProgramCase("while_loop", Loop, seeded(lambda: ((torch.tensor(0), torch.randn(4)), {}))),
        ProgramCase("mutation", Counter, seeded(lambda: ((_batch(), 3), {})), (*_DYNAMIC, None), functional=True),
        ProgramCase("unbacked", Unbacked, seeded(lambda: ((_batch(), torch.tensor(3)), {})), (*_DYNAMIC, None)),
        ProgramCase("tuples", Tuples, seeded(lambda: ((_batch(), None), {})), ({0: Dim("batch", min=4, max=32)}, None)),
        ProgramCase("guide", Guide, seeded(lambda: ((_batch(),), {})), _DYNAMIC),
    )
}


def example() -> str:
    """The text form in the guide."""
    return printed("guide").replace(Path(__file__).name, "model.py")


def printed(name: str) -> str:
    """The text form of a program as it is kept: without torch's version."""
    with Archive(io.BytesIO(CASES[name].archive)) as archive:
        return re.sub(r"^# torch \S+,", "# torch VERSION,", program_text(archive), flags=re.MULTILINE)


if __name__ == "__main__":
    for program in CASES:
        (PRINTED / f"{program}.txt").write_text(printed(program))
    page = DOCS / "cli.md"
    page.write_text(EXAMPLE.sub(lambda _: f"```text\n{example()}```\n", page.read_text()))
