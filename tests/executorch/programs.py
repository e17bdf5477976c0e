"""The programs that passes are run on: some of the test programs, and two that call many operators."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - as torch's documentation calls it
from torch import nn
from torch.export import ExportedProgram

from tests.support.case import ProgramCase
from tests.support.models import by_name


class Elementwise(nn.Module):
    """Activations, reductions, comparisons and arithmetic, as backends decompose them."""

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, ...]:
        activations = (
            F.leaky_relu(x, 0.1) + F.elu(x) + F.hardswish(x) + F.hardsigmoid(x) + F.softplus(x) + F.mish(x) + F.gelu(x)
        )
        reduced = x.var(-1, keepdim=True) + x.std(1, keepdim=True) + x.mean((1, 2), keepdim=True) + x.sum(2, keepdim=True)
        powers = torch.linalg.vector_norm(x, dim=-1, keepdim=True) + x.pow(2) + x.pow(3.0) + torch.rsqrt(x.abs() + 1)
        transcendental = torch.exp(-x) + torch.log1p(x.abs()) + torch.expm1(x) + torch.erf(x) + torch.logit(x.sigmoid())
        waves = torch.sin(x) + torch.tan(x) + torch.sinh(x) + torch.asin(x.sigmoid()) + torch.atan(x) + torch.tanh(x)
        quotients = (
            torch.div(x, 2.5) + torch.div(x, y.abs() + 1, rounding_mode="floor") + torch.remainder(x, 3.0) + torch.fmod(x, 3.0)
        )
        mixed = torch.addcmul(x, x, y, value=0.5) + torch.maximum(x, y) + torch.lerp(x, y, 0.3) + F.glu(torch.cat([x, x], -1))
        chosen = (
            torch.masked_fill(x, x > 0, 0.25) + torch.where(y > 0, x, y) + (x == y).float() + torch.logical_not(x > 0).float()
        )
        scanned = torch.cumsum(x, 1) + x.clamp(-1, 1) + torch.floor(x) + torch.sign(x) + x.to(torch.int32).to(torch.float32)
        total = activations + reduced + powers + transcendental + waves + quotients + mixed + chosen + scanned
        return F.layer_norm(total, (6,)), x.amax(1), x.argmax(1), x.any(1), torch.any(x > 1)


class Layouts(nn.Module):
    """Permutations, slices, padding, pooling and copies, as backends fuse and remove them."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.line = nn.Conv2d(4, 4, 3, padding=1), nn.Conv1d(4, 4, 3)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        there_and_back = x.permute(0, 2, 3, 1).permute(0, 3, 1, 2) + x.transpose(1, 2).transpose(1, 2)
        y = there_and_back.unsqueeze(1).squeeze(1).view(2, 4, 36).view(2, 4, 6, 6)
        first, second = torch.split(F.relu6(self.convolution(y)), 2, 1)
        parts = torch.stack([first, second], 0)[1], y[:, :, ::2, 1:4], y.select(1, 0), torch.chunk(y, 2, 1)[0]
        resized = F.interpolate(y, scale_factor=2.0, mode="nearest"), F.avg_pool2d(y, 2), F.max_pool2d(y, 2)
        moved = F.pad(y, (1, 1, 0, 0)), torch.flip(y, [1]), torch.roll(y, 1, 1), F.pixel_shuffle(y, 2), y.movedim(1, 2)
        copied = y.clone().contiguous() + torch.stack(torch.unbind(y, 1), 1), y.repeat(1, 2, 1, 1), y.expand(2, 4, 6, 6)
        made = torch.full_like(y, 3.0) + torch.arange(6), y.new_ones(3), torch.cat([y, torch.empty(2, 0, 6, 6)], 1)
        pooled = F.adaptive_avg_pool2d(y, (1, 6)).squeeze(2)
        return (
            *parts,
            *resized,
            *moved,
            *copied,
            *made,
            F.log_softmax(self.line(pooled).mean(-1), -1),
            y[:, torch.tensor([0, 2])],
        )


_CASES = (
    *map(by_name, ("vit", "residual_net", "symbolic_scalars", "cond", "multiple_results")),
    ProgramCase("elementwise", Elementwise, lambda: [((torch.randn(2, 4, 6), torch.randn(2, 4, 6)), {})]),
    ProgramCase("layouts", Layouts, lambda: [((torch.randn(2, 4, 6, 6),), {})]),
)


def programs(level: str) -> dict[str, tuple[ExportedProgram, Any]]:
    """Returns programs with the flat inputs of their graphs, by name.

    Args:
        level: `aten` for what `torch.export.export` gives, `edge` for what ExecuTorch's `to_edge` makes of it.
    """
    made = {}
    for case in _CASES:
        program = case.build()
        if level == "edge":
            from executorch.exir import EdgeCompileConfig, to_edge

            config = EdgeCompileConfig(_check_ir_validity=False, _skip_dim_order=True)
            program = to_edge(program, compile_config=config).exported_program()
        made[case.name] = program, program._graph_module_flat_inputs(*case.inputs()[0])
    return made
