"""From a program to an archive."""

from __future__ import annotations

from collections.abc import Iterable
from typing import IO

from torch.export import ExportedProgram

from retraced_server.program import _torch

SCHEMA_VERSION: tuple[int, int] = _torch.SCHEMA_VERSION
"""The schema version, major and minor, that `write_program` writes."""

TORCH_VERSION: str = _torch.TORCH_VERSION
"""The version of torch that `write_program` names as the writer."""


def write_program(
    program: ExportedProgram,
    file: IO[bytes],
    *,
    name: str = "model",
    records: Iterable[tuple[str, bytes]] = (),
) -> None:
    """Writes an archive that `torch.export.load` reads.

    Args:
        program: The program.
        file: A file open for writing, empty; it is left open. Unbuffered ones are fastest: the writer's pieces are large.
        name: The program's name in the archive; `torch.export.load` reads only `model`.
        records: Further records, each a name without the root and its bytes, for example what `ReadProgram.carried` gives.

    Raises:
        Exception: Whatever torch makes of a program that has no serialized form.
    """
    _torch.save_program(program, name, file, records)
