"""The zip of an output: the format that the server's writer has, and nothing that two readers of zips could take differently.

Records follow one another without gaps, plain, each with its sizes and checksum in front of it; the directory says the same, and ends the
file. The format is APPNOTE.TXT of PKWARE, with its ZIP64 extension.
"""

from __future__ import annotations

import stat
import struct
import zlib
from typing import Final

from retraced._source_archive import Bytes, Extent, chunks
from retraced.checks.refusal import Refused, shown

_LOCAL: Final = struct.Struct("<4s5H3L2H")
_CENTRAL: Final = struct.Struct("<4s6H3L5H2L")
_END: Final = struct.Struct("<4s4H2LH")
_END64: Final = struct.Struct("<4sQ2H2L4Q")
_LOCATOR64: Final = struct.Struct("<4sLQL")
_ZIP64_ID: Final = 1
_PADDING_ID: Final = 0x4246
_VERSIONS: Final = (10, 20, 45)
_UTF8: Final = 1 << 11
_IN_ZIP64: Final = 0xFFFFFFFF
_MOST_RECORDS: Final = 1_000_000
_LONGEST_PATH: Final = 511
"""Torch lists no record whose name, with the folder, has more bytes."""
_LONGEST_NAME: Final = 500
_LARGEST_DIRECTORY: Final = 256 << 20
_CHUNK_BYTES: Final = 1 << 20


def read_layout(file: Bytes) -> dict[str, Extent]:
    """The records of a zip by name without the root, in order; their bytes are as their checksums say.

    Raises:
        Refused: It is not of the format above.
    """
    start, count, end = _ending(file)
    directory = file.read_at(start, end - start)
    entries: dict[str, Extent] = {}
    seen: set[str] = set()
    root: str | None = None
    at = expected = 0
    for _ in range(count):
        full, entry, header, at = _central(directory, at)
        if header != expected:
            raise Refused(f"the record {shown(full)} does not begin where the one before it ends")
        first, slash, name = full.partition("/")
        root = first if root is None else root
        if not slash or not first or first != root:
            raise Refused(f"the record {shown(full)} is not in the archive's folder")
        if not is_record_name(name):
            raise Refused(f"{shown(full)} is no name of a record")
        if full.casefold() in seen:
            raise Refused(f"there are two records {shown(full)}")
        seen.add(full.casefold())
        offset = _local(file, header, full, entry)
        entries[name] = entry = Extent(offset, entry.size, entry.crc)
        expected = offset + entry.size
        if expected > start:
            raise Refused(f"the record {shown(full)} reaches into the directory")
        if _checksum(file, entry) != entry.crc:
            raise Refused(f"the record {shown(full)} is damaged: its checksum differs")
    if at != len(directory) or expected != start:
        raise Refused("there are bytes that belong to no record")
    return entries


def _ending(file: Bytes) -> tuple[int, int, int]:
    """Where the directory begins, how many records it has, and where it ends."""
    if file.size < _END.size:
        raise Refused("it is not a zip")
    end = file.size - _END.size
    magic, disk, other, here, count, size, start, comment = _END.unpack(file.read_at(end, _END.size))
    if magic != b"PK\x05\x06" or disk or other or here != count or comment:
        raise Refused("it is not a zip, or not one that ends with its directory")
    if count == 0xFFFF or start == _IN_ZIP64:
        locator = end - _LOCATOR64.size
        if locator < _END64.size:
            raise Refused("its ZIP64 directory is missing")
        magic, disk, end, disks = _LOCATOR64.unpack(file.read_at(locator, _LOCATOR64.size))
        if magic != b"PK\x06\x07" or disk or disks != 1 or end != locator - _END64.size:
            raise Refused("its ZIP64 directory is missing")
        magic, length, _, _, disk, other, here, count, size, start = _END64.unpack(file.read_at(end, _END64.size))
        if magic != b"PK\x06\x06" or length != _END64.size - 12 or disk or other or here != count:
            raise Refused("its ZIP64 directory is damaged")
    if start + size != end or count > _MOST_RECORDS or size > _LARGEST_DIRECTORY:
        raise Refused("its directory does not lie before its end")
    return start, count, end


def _central(directory: bytes, at: int) -> tuple[str, Extent, int, int]:
    """A record as the directory has it, without the place of its bytes; where its header is; where the next one begins."""
    if at + _CENTRAL.size > len(directory):
        raise Refused("its directory is cut off")
    fields = _CENTRAL.unpack_from(directory, at)
    magic, _, version, flags, method, _, _, crc, stored, size, name_length, extra_length, comment, disk, _, kind, header = (
        fields
    )
    at += _CENTRAL.size
    raw = directory[at : at + name_length]
    at += name_length
    extra = directory[at : at + extra_length]
    if magic != b"PK\x01\x02" or len(extra) != extra_length or comment or disk:
        raise Refused("its directory is damaged")
    name = _name(raw, version, flags, method)
    # torch takes a record with the attribute of a folder for empty, and gives memory that it has not written to: it would unpickle that.
    if kind & 0xFFFF or stat.S_IFMT(kind >> 16) not in (0, stat.S_IFREG):
        raise Refused(f"the record {shown(name)} is no file, but a folder, a link or the like")
    if extra:
        size, stored, header = _zip64(name, extra, (size, stored, header))
    if size != stored:
        raise Refused(f"the record {shown(name)} is not stored as it is")
    return name, Extent(0, size, crc), header, at + extra_length


def _local(file: Bytes, header: int, name: str, entry: Extent) -> int:
    """Where a record's bytes begin; its own header says what the directory says."""
    if header + _LOCAL.size > file.size:
        raise Refused(f"the record {shown(name)} has no header")
    magic, version, flags, method, _, _, crc, stored, size, name_length, extra_length = _LOCAL.unpack(
        file.read_at(header, _LOCAL.size)
    )
    begin = header + _LOCAL.size + int(name_length) + int(extra_length)
    if magic != b"PK\x03\x04" or begin > file.size:
        raise Refused(f"the record {shown(name)} has no header")
    rest = file.read_at(header + _LOCAL.size, name_length + extra_length)
    extra = rest[name_length:]
    if extra[:2] == struct.pack("<H", _ZIP64_ID):
        size, stored = _zip64(name, extra[:20], (size, stored))
        extra = extra[20:]
    if extra and (len(extra) < 4 or struct.unpack_from("<2H", extra) != (_PADDING_ID, len(extra) - 4)):
        raise Refused(f"the record {shown(name)} has an extension that is not known")
    if (_name(rest[:name_length], version, flags, method), crc, size, stored) != (name, entry.crc, entry.size, entry.size):
        raise Refused(f"the header of the record {shown(name)} and the directory differ")
    return begin


def _name(raw: bytes, version: int, flags: int, method: int) -> str:
    if version not in _VERSIONS or method or flags & ~_UTF8:
        raise Refused(f"the record {shown(raw)} is compressed or encrypted, or its sizes do not stand before it")
    try:
        # Without the flag, readers take bytes over 127 for different letters.
        name = raw.decode("utf-8" if flags & _UTF8 else "ascii")
    except UnicodeDecodeError as error:
        raise Refused(f"the name {shown(raw)} of a record is no text") from error
    if len(raw) > _LONGEST_PATH or not name.isprintable():
        raise Refused(f"{shown(name)} is no name of a record")
    return name


def is_record_name(name: str) -> bool:
    """Whether a record may have a name, without the folder: it is of a file inside a folder on any system, and one that torch lists.

    The server's reader has the same rule (`program/record_names.py`; a test compares them), so that what was sent may come back.
    """
    return (
        name.isprintable()
        and len(name.encode()) <= _LONGEST_NAME
        and not any(part in ("", ".", "..") for part in name.split("/"))
        and not any(mark in name for mark in "\\:")
    )


def _zip64(name: str, extra: bytes, fields: tuple[int, ...]) -> tuple[int, ...]:
    if struct.pack("<2H", _ZIP64_ID, 8 * len(fields)) != extra[:4] or len(extra) != 4 + 8 * len(fields):
        raise Refused(f"the record {shown(name)} has an extension that is not known")
    if set(fields) != {_IN_ZIP64}:
        raise Refused(f"the record {shown(name)} has two sizes")
    found: tuple[int, ...] = struct.unpack_from(f"<{len(fields)}Q", extra, 4)
    return found


def _checksum(file: Bytes, entry: Extent) -> int:
    crc = 0
    for chunk in chunks(file, entry.offset, entry.size):
        crc = zlib.crc32(chunk, crc)
    return crc
