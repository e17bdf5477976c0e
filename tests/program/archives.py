"""Archives for the tests: of a test program, and with something in them changed."""

from __future__ import annotations

import io
import json
import weakref
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from retraced_server.program import ReadOptions, ReadProgram, read_program, write_program
from tests.support.case import ProgramCase

MODEL = "archive/models/model.json"
WEIGHTS_CONFIG = "archive/data/weights/model_weights_config.json"
CONSTANTS_CONFIG = "archive/data/constants/model_constants_config.json"

#: The test programs use operators of this namespace.
OPTIONS = ReadOptions(namespaces=frozenset({"retraced_tests"}))


def saved(program: ExportedProgram) -> bytes:
    """What `torch.export.save` writes of a program."""
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    return buffer.getvalue()


def written(program: ExportedProgram, path: Path, **options: Any) -> bytes:
    """What our writer writes of a program; the file stays at `path`."""
    with path.open("wb") as file:
        write_program(program, file, **options)
    return path.read_bytes()


def read_bytes(archive: bytes, tmp_path: Path, **options: Any) -> ReadProgram:
    """Reads an archive with our reader, from a file in `tmp_path`."""
    # A file of its own: it stays mapped.
    path = tmp_path / f"read_{len(list(tmp_path.iterdir()))}.pt2"
    path.write_bytes(archive)
    options.setdefault("options", OPTIONS)
    source = read_program(path, **options)
    # Closed with it: tests hold on to programs, not to files.
    weakref.finalize(source, source._files.close)
    return source


def read_case(case: ProgramCase, tmp_path: Path, **options: Any) -> ReadProgram:
    """Reads the archive of a test program with our reader."""
    return read_bytes(case.archive, tmp_path, **options)


def records(archive: bytes) -> dict[str, bytes]:
    """The records of an archive by name, with the root."""
    with zipfile.ZipFile(io.BytesIO(archive)) as file:
        return {name: file.read(name) for name in file.namelist()}


def model_of(archive: bytes) -> Any:
    """The model record of an archive as parsed JSON."""
    return json.loads(records(archive)[MODEL])


def zipped(contents: dict[str, bytes]) -> bytes:
    """A zip of some records, stored plain."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, data in contents.items():
            file.writestr(name, data)
    return buffer.getvalue()


def edited(archive: bytes, edit: Callable[[Any], None], record: str = MODEL) -> bytes:
    """An archive with a record of JSON that `edit` changed in place."""
    contents = records(archive)
    parsed = json.loads(contents[record])
    edit(parsed)
    contents[record] = json.dumps(parsed).encode()
    return zipped(contents)


def replaced(archive: bytes, old: str, new: str) -> bytes:
    """An archive with a text in its JSON records replaced."""
    contents = {
        name: data.replace(old.encode(), new.encode()) if name.endswith(".json") else data
        for name, data in records(archive).items()
    }
    return zipped(contents)


def without_offsets(described: Any) -> Any:
    """What `describe_program` gives, without storage offsets, which torch's reader drops."""
    if isinstance(described, dict):
        return {key: without_offsets(value) for key, value in described.items() if key != "offset"}
    if isinstance(described, (list, tuple)):
        return type(described)(map(without_offsets, described))
    return described
