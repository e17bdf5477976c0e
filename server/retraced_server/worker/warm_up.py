"""Runs a small program through everything that a job does, so that the first request finds nothing left to import or to build."""

from __future__ import annotations

import os
import warnings
from typing import IO

import sympy.sets.setexpr  # noqa: F401 - sympy imports it when it first solves for a size, which the sample does not need
import torch
from torch import nn
from torch.export import Dim, export

from retraced_server.errors import RetracedError
from retraced_server.passes import catalogue
from retraced_server.pipeline.domain import NodeSelection, TransformOptions
from retraced_server.pipeline.parse import parse_pipeline
from retraced_server.program import write_program
from retraced_server.worker.job import run_job
from retraced_server.worker.messages import JobEvent, JobRequest, decode_job_request, encode_job_event, encode_job_request
from retraced_server.worker.source import ArchiveFile

_PIPELINE = "retrace,decompose,cse,dce"


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


def sample_archive() -> IO[bytes]:
    """Make the archive of a sample program, in memory. The caller closes it."""
    file = os.fdopen(os.memfd_create("retraced-warm-up", os.MFD_CLOEXEC), "w+b")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        shapes = {"x": {0: Dim("batch", max=64)}, "flag": None}
        sample = export(_Sample().eval(), (torch.ones(3, 6, 8), torch.ones(2)), dynamic_shapes=shapes)
        write_program(sample, file)
    file.flush()
    return file


def warm_up(sample: IO[bytes], pipeline: str = _PIPELINE) -> None:
    """Do the work of a job on a sample program.

    Args:
        sample: Its archive.
        pipeline: The passes.

    Raises:
        RetracedError: Its job failed, so every other would.
    """
    passes = catalogue()
    request = JobRequest("warm-up", parse_pipeline(pipeline, passes), TransformOptions(node_metadata=NodeSelection.ALL))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run_job(decode_job_request(encode_job_request(request), passes), ArchiveFile(sample), _take)


def _take(event: JobEvent) -> None:
    if isinstance(event, RetracedError):
        raise event
    encode_job_event(event)
