"""What a route into a reader of programs is, and the program that the archives are made of."""

from __future__ import annotations

import functools
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import torch
from torch import nn

from retraced_server.errors import Reason
from tests.program.archives import records, zipped

MODEL = "archive/models/model.json"
WEIGHTS_CONFIG = "archive/data/weights/model_weights_config.json"
CONSTANTS_CONFIG = "archive/data/constants/model_constants_config.json"
SAMPLE_INPUTS = "archive/data/sample_inputs/model.pt"


class Effect(Enum):
    """What stock torch does with an archive."""

    MARKER = "it makes the file `marker`"
    LIMIT = "it uses up the memory or the time that it has"
    LEAK = "it shows a secret of the environment"
    NONE = "it refuses the archive, or does nothing with it"


@dataclass(frozen=True)
class Route:
    """An archive that does something to who reads it.

    Attributes:
        name: The test id.
        make: Makes the archive, given an empty folder in which `marker` is to appear.
        says: What our reader says, as a regular expression; empty where it reads the program, and nothing happens.
        reason: The reason of its error.
        then: What the victim does with the program: `load`, `module`, `call`, `decompose` or `spec`.
        effect: What stock torch does.
        stock: What stock torch says, as a regular expression.
    """

    name: str
    make: Callable[[Path], bytes]
    says: str
    reason: Reason = Reason.PROGRAM_INVALID
    then: str = "load"
    effect: Effect = Effect.MARKER
    stock: str = ""

    def __repr__(self) -> str:
        return self.name


class _Model(nn.Module):
    offset: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.register_buffer("offset", torch.ones(4), persistent=False)

    def forward(self, first: torch.Tensor, *, second: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.linear(first)) + second + self.offset


@functools.cache
def plain() -> bytes:
    """The archive of a small program, as torch saves it."""
    batch = torch.export.Dim("batch", min=3, max=64)
    shapes = {"first": {0: batch}, "second": {0: batch}}
    program = torch.export.export(_Model(), (torch.ones(5, 4),), {"second": torch.ones(5, 4)}, dynamic_shapes=shapes)
    return saved(program)


def saved(program: torch.export.ExportedProgram) -> bytes:
    """What torch writes of a program."""
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    return buffer.getvalue()


# Any: parsed JSON.
def edited(edit: Callable[[Any], None], record: str = MODEL, archive: bytes | None = None) -> bytes:
    """The plain archive with a record of JSON that `edit` changes in place."""
    contents = records(plain() if archive is None else archive)
    parsed = json.loads(contents[record])
    edit(parsed)
    return zipped({**contents, record: json.dumps(parsed).encode()})


def added(more: dict[str, bytes]) -> bytes:
    """The plain archive with more records, or others of the same names."""
    return zipped({**records(plain()), **more})


def graph(model: Any) -> Any:
    """The graph of a model record."""
    return model["graph_module"]["graph"]


def call_signature(model: Any) -> Any:
    """How the whole program is called."""
    return model["graph_module"]["module_call_graph"][0]["signature"]


def touch(folder: Path) -> str:
    """Python that makes the marker."""
    return f"open('{folder / 'marker'}', 'w')"
