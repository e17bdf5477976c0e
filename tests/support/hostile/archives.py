"""Archives that two readers of zips read in two ways, or that hold what is loaded as code."""

from __future__ import annotations

import io
import json
import struct
import subprocess
import tempfile
import zipfile
from pathlib import Path

from retraced_server.errors import Reason
from tests.program.archives import records, zipped

from .route import MODEL, Effect, Route, added, plain

_END = struct.Struct("<4s4H2LH")
_METADATA = json.dumps({"AOTI_DEVICE_KEY": "cpu", "AOTI_PLATFORM": "linux"}).encode()
INVALID = Reason.ARCHIVE_INVALID


def library(folder: Path) -> bytes:
    """A shared library that makes the marker when it is loaded."""
    source = (
        f'#include <stdio.h>\n__attribute__((constructor)) void made(void) {{ fclose(fopen("{folder / "marker"}", "w")); }}\n'
    )
    with tempfile.TemporaryDirectory() as made:
        (Path(made) / "library.c").write_text(source)
        subprocess.run(["cc", "-shared", "-fPIC", "-o", "library.so", "library.c"], cwd=made, check=True)
        return (Path(made) / "library.so").read_bytes()


def _compiled(folder: Path) -> bytes:
    root = "archive/data/aotinductor/model"
    return added({f"{root}/code.wrapper.so": library(folder), f"{root}/code.wrapper_metadata.json": _METADATA})


def _traversal(folder: Path) -> bytes:
    up = "../" * 12 + str(folder / "marker").lstrip("/")
    root = "archive/data/aotinductor/model"
    return added({f"{root}/{up}": b"", f"{root}/code.wrapper_metadata.json": _METADATA})


def two_directories() -> bytes:
    """One program for readers that look for the directory where the file's end says, another for those that look in front of the end.

    Their directories are of one size, and their records at the same places.
    """
    contents = records(plain())
    first = zipped(contents)
    second = zipped({**contents, MODEL: contents[MODEL].replace(b"first", b"other")})
    return first[: -_END.size] + second


def _prefixed() -> bytes:
    return b"#!/bin/sh\nexit\n" + zipped(records(plain()))


def _suffixed() -> bytes:
    archive = zipped(records(plain()))
    return archive + b"\0" * 16


def _commented() -> bytes:
    archive = zipped(records(plain()))
    return archive[:-2] + b"\x07\0comment"


def _twice() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, data in records(plain()).items():
            file.writestr(name, data)
        file.writestr(MODEL.replace("model.json", "Model.json"), b"{}")
    return buffer.getvalue().replace(b"models/Model.json", b"models/model.json")


def _changed_header(field: int, value: bytes) -> bytes:
    """The archive with some bytes of the header in front of its model record."""
    archive = bytearray(zipped(records(plain())))
    with zipfile.ZipFile(io.BytesIO(bytes(archive))) as file:
        at = file.getinfo(MODEL).header_offset + field
    archive[at : at + len(value)] = value
    return bytes(archive)


def _other_local_name() -> bytes:
    return _changed_header(30, MODEL.replace("model.json", "other.json").encode())


def _overlapping() -> bytes:
    """Every record of the directory is the same part of the file: a bomb without compression."""
    archive = bytearray(zipped({**records(plain()), "archive/extra/a": b"x" * 100_000}))
    with zipfile.ZipFile(io.BytesIO(bytes(archive))) as file:
        start = file.start_dir
        at = file.getinfo("archive/extra/a").header_offset
    directory = bytes(archive[start : -_END.size])
    entry = directory[directory.rindex(b"PK\x01\x02") :]
    entries = [
        entry[:42] + struct.pack("<L", at) + entry[46:].replace(b"extra/a", b"extra/" + bytes([letter]))
        for letter in range(ord("b"), ord("z"))
    ]
    made = directory + b"".join(entries)
    count = directory.count(b"PK\x01\x02") + len(entries)
    return bytes(archive[:start]) + made + _END.pack(b"PK\x05\x06", 0, 0, count, count, len(made), start, 0)


def _declaring(size: int) -> bytes:
    """The directory says that the model record has so many bytes."""
    archive = bytearray(zipped(records(plain())))
    at = archive.rindex(b"PK\x01\x02", 0, archive.rindex(MODEL.encode()))
    archive[at + 20 : at + 28] = struct.pack("<2L", size, size)
    return bytes(archive)


def _folder() -> bytes:
    """The model record has the attribute of a folder: torch takes it for empty, and reads memory that nobody has written to."""
    archive = bytearray(zipped(records(plain())))
    at = archive.rindex(b"PK\x01\x02", 0, archive.rindex(MODEL.encode()))
    archive[at + 38] = 0x10
    return bytes(archive)


def _bomb() -> bytes:
    buffer = io.BytesIO(zipped(records(plain())))
    with zipfile.ZipFile(buffer, "a", zipfile.ZIP_DEFLATED) as file, file.open("archive/extra/zeros", "w") as record:
        for _ in range(1 << 10):
            record.write(bytes(1 << 20))
    return buffer.getvalue()


def _named(name: str) -> bytes:
    return added({f"archive/{name}": b"x"})


_DIFFERS = "its own header says otherwise|is damaged"
ROUTES = (
    Route("library-of-aotinductor", _compiled, "is compiled code", Reason.PROGRAM_UNSUPPORTED),
    Route("traversal-of-aotinductor", _traversal, "is compiled code", Reason.PROGRAM_UNSUPPORTED),
    Route("deflated-bomb", lambda _: _bomb(), "is compressed or encrypted", INVALID, effect=Effect.LIMIT),
    Route("zip64-size-without-its-field", lambda _: _declaring(0xFFFFFFFF), "extra fields", INVALID, effect=Effect.LIMIT),
    *(
        Route(name, lambda _, made=made: made(), says, INVALID, effect=Effect.NONE, stock=".")  # type: ignore[misc]
        for name, made, says in (
            ("two-directories", two_directories, "directory|overlap|other data"),
            ("prefix", _prefixed, "overlap|directory does not lie"),
            ("suffix", _suffixed, "something follows it|not a zip"),
            ("comment", _commented, "something follows it|not a zip"),
            ("record-twice", _twice, "two records"),
            ("records-in-two-cases", lambda: added({"archive/extra/A": b"", "archive/extra/a": b""}), "two records"),
            ("another-name-in-front", _other_local_name, _DIFFERS),
            ("encrypted-in-front", lambda: _changed_header(6, b"\x01\x00"), "compressed or encrypted"),
            ("descriptor-in-front", lambda: _changed_header(6, b"\x08\x00"), _DIFFERS),
            ("another-checksum-in-front", lambda: _changed_header(14, b"abcd"), _DIFFERS),
            ("another-size-in-front", lambda: _changed_header(18, b"\x01\0\0\0\x01\0\0\0"), _DIFFERS),
            ("overlapping-records", _overlapping, "overlap"),
            ("record-past-the-end", lambda: _declaring(0x7FFFFFFF), "damaged|overlap"),
            ("record-that-is-a-folder", _folder, "is no file"),
            ("name-above-its-folder", lambda: _named("extra/../../x"), "no name of a file inside"),
            ("absolute-name", lambda: _named("extra//etc/passwd"), "no name of a file inside"),
            ("name-of-another-system", lambda: _named("extra/C:\\x"), "no name of a file inside"),
            ("unknown-record", lambda: _named("data/other/x"), "which no program has"),
            ("name-with-control-characters", lambda: _named("extra/a\x1b[2J"), "not printable"),
        )
    ),
)
