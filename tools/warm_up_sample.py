"""The program that a zygote warms up with, as an archive, so that none has to export it when it starts.

`python -m tools.warm_up_sample` writes it into `server/retraced_server/worker`; a test makes it again and compares. Make it anew for a new
version of torch, whose schema may be another.
"""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Final

import torch
from torch import nn
from torch.export import Dim, export

from retraced_server.analysis.graphs import walk_graphs
from retraced_server.program import write_program
from retraced_server.worker import warm_up

ARCHIVE: Final = Path(warm_up.__file__).with_name(warm_up.SAMPLE_NAME)


class _Sample(nn.Module):
    """A bit of each thing that models are made of. Larger ones make the first job no faster."""

    calls: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)
        self.norm = nn.LayerNorm(8)
        self.conv = nn.Conv1d(8, 8, 3, padding=1)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: torch.Tensor, flag: torch.Tensor) -> tuple[torch.Tensor, ...]:
        self.calls.add_(1)
        x = nn.functional.gelu(self.norm(self.linear(x)))
        x = self.conv(x.permute(0, 2, 1)).relu().permute(0, 2, 1)
        x = torch.cond(flag.sum() > 0, lambda a: a.sin(), lambda a: a * 2, (x,))
        heads = x.view(x.shape[0], -1, 2, 4).transpose(1, 2)
        attended = nn.functional.scaled_dot_product_attention(heads, heads, heads).transpose(1, 2).reshape(x.shape)
        return attended, torch.nonzero(flag), torch.softmax(x[:, 1:], -1)


def make_archive() -> bytes:
    """Export the sample and write it, without the paths of this machine."""
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        shapes = {"x": {0: Dim("batch", max=64)}, "flag": None}
        sample = export(_Sample().eval(), (torch.ones(3, 6, 8), torch.ones(2)), dynamic_shapes=shapes)
    for _, module in walk_graphs(sample.graph_module):
        for node in module.graph.nodes:
            if "stack_trace" in node.meta:
                node.meta["stack_trace"] = 'File "sample.py", line 1, in forward\n'
    file = io.BytesIO()
    write_program(sample, file)
    return file.getvalue()


if __name__ == "__main__":
    ARCHIVE.write_bytes(make_archive())
