"""The parts of torch that read and write archives, checked against torch 2.13.0.

They are the steps of `torch.export.load` and `torch.export.save` (torch/export/pt2_archive/_package.py and
torch/_export/serde/serialize.py), taken one by one: the whole functions turn errors into log lines, load compiled libraries that
an archive may hold beside the program, and decode records that they do not need.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import IO, Any

import torch
from torch._export.serde import schema
from torch._export.serde.serialize import ExportedProgramDeserializer, _dict_to_dataclass
from torch.export import ExportedProgram
from torch.export.pt2_archive import _package
from torch.export.pt2_archive.constants import SAMPLE_INPUTS_FILENAME_FORMAT

SCHEMA_VERSION: tuple[int, int] = schema.SCHEMA_VERSION
TORCH_VERSION: str = torch.__version__


def load_program(file: IO[bytes], name: str, model: dict[str, Any]) -> ExportedProgram:
    """Builds the program `name` of the archive in `file`; `model` is its parsed model record.

    Raises:
        Exception: Whatever torch makes of a program that it cannot read.
    """
    # Not by path: a file without a name cannot be opened again by a worker, which is another user than who made it.
    file.seek(0)
    reader = _package.PT2ArchiveReader(file)
    serialized: schema.ExportedProgram = _dict_to_dataclass(schema.ExportedProgram, model)
    return ExportedProgramDeserializer().deserialize(
        serialized,
        _package._load_state_dict(reader, name),
        _package._load_constants(reader, name),
        reader.read_bytes(SAMPLE_INPUTS_FILENAME_FORMAT.format(name)),
    )


def save_program(program: ExportedProgram, name: str, file: IO[bytes], records: Iterable[tuple[str, bytes]]) -> None:
    """Writes an archive with one program and further records, each a name without the root and its bytes.

    Raises:
        Exception: Whatever torch makes of a program that it cannot write.
    """
    # The writer takes any file object, which its annotation does not say.
    target: Any = file
    with _package.PT2ArchiveWriter(target) as writer:
        _package._package_exported_programs(writer, {name: program})
        for record, data in records:
            writer.write_bytes(record, data)
