"""Zips whose every field can lie: what `zipfile` reads, taken apart and put together again. The format is APPNOTE.TXT of PKWARE."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from dataclasses import dataclass, field
from typing import Final

_LOCAL: Final = struct.Struct("<4s5H3L2H")
_CENTRAL: Final = struct.Struct("<4s6H3L5H2L")
_END: Final = struct.Struct("<4s4H2LH")
_ALIGNMENT: Final = 64


@dataclass
class Entry:
    """A record, and how its headers lie.

    Attributes:
        name: Its name with the root.
        data: Its bytes as they lie in the file.
        local: Fields of the header before the bytes that are not what they should be: flags, method, crc, packed, size.
        central: Fields of the directory's header: those, and offset, disk, attributes.
        local_name: Its name in the header before the bytes, where that is another.
        extra: The extra field of the directory's header.
        aligned: Whether the bytes begin where torch has them begin.
        listed: Whether the directory has it.
    """

    name: bytes
    data: bytes
    local: dict[str, int] = field(default_factory=dict)
    central: dict[str, int] = field(default_factory=dict)
    local_name: bytes | None = None
    extra: bytes = b""
    aligned: bool = True
    listed: bool = True


@dataclass
class Zip:
    """A zip.

    Attributes:
        entries: Its records.
        before: Bytes before the first.
        between: Bytes between the records and the directory.
        after: Bytes after the end.
        comment: The comment at the end.
        end: Fields of the end that are not what they should be: disk, count, total, size, offset, comment.
    """

    entries: list[Entry]
    before: bytes = b""
    between: bytes = b""
    after: bytes = b""
    comment: bytes = b""
    end: dict[str, int] = field(default_factory=dict)

    def find(self, part: str) -> Entry | None:
        """Return the first record whose name holds a text."""
        return next((entry for entry in self.entries if part.encode() in entry.name), None)


def parse(archive: bytes) -> Zip | None:
    """Take a zip apart; None where `zipfile` cannot."""
    try:
        with zipfile.ZipFile(io.BytesIO(archive)) as file:
            entries = [
                Entry(info.filename.encode(errors="surrogateescape"), file.read(info))
                for info in file.infolist()
                if info.file_size < 1 << 24
            ]
    # Whatever `zipfile` makes of a zip that was mutated before.
    except Exception:  # noqa: BLE001
        return None
    return Zip(entries) if entries else None


def build(made: Zip) -> bytes:
    """Put a zip together."""
    out = bytearray(made.before)
    directory = bytearray()
    count = 0
    for entry in made.entries:
        offset = len(out)
        fields = {
            "flags": 1 << 11,
            "method": 0,
            "crc": zlib.crc32(entry.data),
            "packed": len(entry.data),
            "size": len(entry.data),
        }
        local = fields | entry.local
        name = entry.name if entry.local_name is None else entry.local_name
        padding = -(offset + _LOCAL.size + len(name) + 4) % _ALIGNMENT if entry.aligned else 0
        extra = struct.pack("<2H", 0x4246, padding) + b"Z" * padding if entry.aligned else b""
        numbers = (local["method"], 0, 0x21, _u32(local["crc"]), _u32(local["packed"]), _u32(local["size"]))
        out += (
            _LOCAL.pack(b"PK\x03\x04", 20, _u16(local["flags"]), *_firsts(numbers), _u16(len(name)), len(extra)) + name + extra
        )
        out += entry.data
        if not entry.listed:
            continue
        count += 1
        listed = fields | {"offset": offset, "disk": 0, "attributes": 0} | entry.central
        numbers = (listed["method"], 0, 0x21, _u32(listed["crc"]), _u32(listed["packed"]), _u32(listed["size"]))
        lengths = (_u16(len(entry.name)), _u16(len(entry.extra)), 0, _u16(listed["disk"]), 0)
        directory += _CENTRAL.pack(
            *(b"PK\x01\x02", 20, 20, _u16(listed["flags"]), *_firsts(numbers)),
            *(*lengths, _u32(listed["attributes"]), _u32(listed["offset"])),
        )
        directory += entry.name + entry.extra
    out += made.between
    end = {"disk": 0, "count": count, "total": count, "size": len(directory), "offset": len(out), "comment": len(made.comment)}
    end |= made.end
    out += directory
    counts = (_u16(end["disk"]), _u16(end["disk"]), _u16(end["count"]), _u16(end["total"]))
    out += _END.pack(b"PK\x05\x06", *counts, _u32(end["size"]), _u32(end["offset"]), _u16(end["comment"])) + made.comment
    return bytes(out + made.after)


def zip64_extra(*values: int) -> bytes:
    """Return a ZIP64 extra field."""
    return struct.pack(f"<2H{len(values)}Q", 1, 8 * len(values), *(value & (1 << 64) - 1 for value in values))


def _firsts(numbers: tuple[int, ...]) -> tuple[int, ...]:
    return _u16(numbers[0]), *numbers[1:]


def _u16(value: int) -> int:
    return value & 0xFFFF


def _u32(value: int) -> int:
    return value & 0xFFFFFFFF
