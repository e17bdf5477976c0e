"""What `torch.export.save` writes: the version of its schema, and sample inputs."""

from __future__ import annotations

from typing import Any

import torch
from torch._export.serde import schema
from torch._export.serde.serialize import serialize_torch_artifact

SCHEMA_VERSION: tuple[int, int] = schema.SCHEMA_VERSION
TORCH_VERSION: str = str(torch.__version__)


def serialize_example_inputs(inputs: tuple[tuple[Any, ...], dict[str, Any]]) -> bytes:
    """Pickle the sample inputs of a program that was made in this process, as `torch.export.save` does."""
    written: bytes = serialize_torch_artifact(inputs)
    return written
