"""From an archive to a program."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import IO, Any

from torch.export import ExportedProgram

from retraced_server.errors import FieldViolation, Reason, RetracedError
from retraced_server.program import _torch
from retraced_server.program.archive import Archive

_LONGEST_CAUSE = 500


@dataclass(frozen=True)
class ReadProgram:
    """A program, and what its archive says of it.

    Attributes:
        program: The program; its verifiers have accepted it.
        name: The name it has in the archive, `model` from `torch.export.save`.
        schema_version: Major and minor version of the schema it is written in.
        torch_version: The torch that wrote it; empty where the archive does not say.
    """

    program: ExportedProgram
    name: str
    schema_version: tuple[int, int]
    torch_version: str
    _archive: Archive = field(repr=False)

    def carried(self) -> Iterator[tuple[str, bytes]]:
        """Gives the archive's records beside the program, such as `extra/` files, as name without the root and bytes.

        The file it was read from must still be open.
        """
        return self._archive.carried()


def read_program(file: IO[bytes]) -> ReadProgram:
    """Reads and verifies the program in an archive that `torch.export.save` wrote.

    Args:
        file: A file with a descriptor, open for reading. It is left open, at any offset.

    Raises:
        RetracedError: ARCHIVE_INVALID where the archive is empty, no zip, truncated or damaged; PROGRAM_MISSING where it holds
            no program; SCHEMA_UNSUPPORTED where its schema version is not read; PROGRAM_INVALID where the program cannot be
            decoded or its verifiers refuse it.
        MemoryError: There is not enough memory.
    """
    archive = Archive(file)
    archive.check()
    name = archive.program_name
    model = _parse_model(archive.read(f"models/{name}.json"))
    version = _check_version(model)
    try:
        program = _torch.load_program(file, name, model)
    except (MemoryError, RetracedError):
        raise
    # torch raises nearly anything when a program does not fit its schema, KeyError and AssertionError among others.
    except Exception as error:
        raise _invalid(f"the program cannot be read: {_cause(error)}") from error
    torch_version = model.get("torch_version")
    return ReadProgram(program, name, version, torch_version if isinstance(torch_version, str) else "", archive)


def _parse_model(data: bytes) -> dict[str, Any]:
    try:
        model = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise _invalid(f"the program's model record is not JSON: {error}") from error
    if not isinstance(model, dict):
        raise _invalid("the program's model record is JSON but not an object")
    return model


def _check_version(model: dict[str, Any]) -> tuple[int, int]:
    try:
        version = int(model["schema_version"]["major"]), int(model["schema_version"]["minor"])
    except (KeyError, TypeError, ValueError) as error:
        raise _invalid("the program's model record does not say its schema version") from error
    major, minor = _torch.SCHEMA_VERSION
    if version[0] != major or version[1] > minor:
        found, known = f"{version[0]}.{version[1]}", f"{major}.{minor}"
        writer = model.get("torch_version", "an unnamed torch")
        message = (
            f"the program is written in schema version {found} (by torch {writer}), "
            f"and this server (torch {_torch.TORCH_VERSION}) reads {major}.0 to {known}"
        )
        metadata = {"schema_version": found, "supported_schema_version": known}
        raise RetracedError(Reason.SCHEMA_UNSUPPORTED, message, metadata=metadata)
    return version


def _invalid(message: str) -> RetracedError:
    return RetracedError(Reason.PROGRAM_INVALID, message, violations=[FieldViolation("archive_chunk", message)])


def _cause(error: BaseException) -> str:
    text = " ".join(str(error).split()) or "no message"
    return f"{type(error).__name__}: {text[:_LONGEST_CAUSE]}{'…' if len(text) > _LONGEST_CAUSE else ''}"
