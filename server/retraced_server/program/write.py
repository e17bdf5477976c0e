"""From a program to an archive."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import IO, Final

import torch
from torch.export import ExportedProgram

from retraced_pt2.zip_writer import ZipWriter
from retraced_server.collector import collector_paused
from retraced_server.program.errors import format_errors, program_unsupported
from retraced_server.program.payloads import Payload
from retraced_server.program.read import ReadProgram
from retraced_server.program.write_records import ProgramRecords, program_records, tensor_bytes

_FORMAT: Final = (("archive_format", b"pt2"), ("archive_version", b"0"), (".data/version", b"6\n"), ("byteorder", b"little"))
_SERIALIZATION_ID: Final = ".data/serialization_id"


@collector_paused()
def write_program(
    program: ExportedProgram,
    file: IO[bytes],
    *,
    source: ReadProgram | None = None,
    name: str | None = None,
    records: Iterable[tuple[str, bytes]] = (),
) -> ProgramRecords:
    """Write an archive that `torch.export.load` reads.

    Weights that the program still has as they were read are copied from file to file; what is written of others is their memory.

    Args:
        program: The program.
        file: A file open for writing, empty; it is left open. Unbuffered ones are fastest: the writer's pieces are large.
        source: What the program was read as, if it was. Its payloads stand for absent weights; its sample inputs are written again
            if the program takes the same arguments, and left empty if not; a program that was not changed keeps its model record,
            byte for byte. The file that it was read from must still be open.
        name: The program's name in the archive; without one, that of `source`, or `model`. `torch.export.load` reads only `model`.
        records: Further records, each a name without the root and its bytes, for example what `ReadProgram.carried` gives.

    Returns:
        The records that were written.

    Raises:
        RetracedError: PROGRAM_UNSUPPORTED where the program has no serialized form, or where it has absent weights whose bytes are not
            here; ARCHIVE_INVALID where the file that it was read from has become shorter.
        OSError: The file cannot be written.
    """
    made = program_records(program, source=source, name=name)
    writer = ZipWriter(file)
    for record in made.records:
        content = record.content
        if isinstance(content, Payload):
            if content.extent is None:
                raise program_unsupported(f"the bytes of the record `{content.record}` are not here", record=content.record)
            with format_errors():
                writer.copy(record.name, content.extent.fd, content.extent)
        else:
            writer.write(record.name, tensor_bytes(content) if isinstance(content, torch.Tensor) else content)
    for further, data in (*records, *_FORMAT):
        writer.write(further, data)
    writer.write(_SERIALIZATION_ID, _serialization_id(writer.checksums))
    writer.finish()
    return made


def _serialization_id(checksums: list[tuple[str, int]]) -> bytes:
    """Forty digits that are the same for the same records, as torch's own are."""
    text = "\n".join(f"{name} {crc}" for name, crc in checksums)
    return f"{int.from_bytes(hashlib.sha256(text.encode()).digest()) % 10**40:040}".encode()
