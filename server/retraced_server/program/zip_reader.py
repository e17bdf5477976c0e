"""Reads the directory of a zip, and accepts one way only in which it can be read.

Zips say most things twice, in the directory at the end and in a header before each record, and readers differ in which they believe, and
in where they look for the directory. Here the two must agree; records follow one another from the first byte to the directory, and the
directory ends with the file: nothing lies before, between or behind them. The format is APPNOTE.TXT of PKWARE; what is accepted of it is
what torch's PyTorchFileWriter, Python's zipfile and our own writer make.
"""

from __future__ import annotations

import os
import stat
import struct
from dataclasses import dataclass
from typing import Final

from retraced_server.program.errors import archive_invalid, program_missing, shortened
from retraced_server.program.options import LONGEST_PATH, MOST_RECORDS

_LOCAL: Final = struct.Struct("<4s5H3L2H")
_CENTRAL: Final = struct.Struct("<4s6H3L5H2L")
_END: Final = struct.Struct("<4s4H2LH")
_END64: Final = struct.Struct("<4sQ2H2L4Q")
_LOCATOR64: Final = struct.Struct("<4sLQL")
_FIELD: Final = struct.Struct("<2H")
_DESCRIPTOR: Final = struct.Struct("<4s3L")
_DESCRIPTOR64: Final = struct.Struct("<4sL2Q")

LOCAL_MAGIC: Final = b"PK\x03\x04"
_LARGEST: Final = 0xFFFFFFFF
_LARGEST_COUNT: Final = 0xFFFF
_ZIP64_ID: Final = 1
_PADDING_ID: Final = 0x4246
_ENCRYPTED: Final = 1
_DESCRIBED: Final = 1 << 3
_UTF8: Final = 1 << 11
_NEWEST: Final = 45
"""The version of the format that has ZIP64, and nothing more than is read here."""
_LONGEST_EXTRA: Final = 4096
_SCRIPT: Final = "/code/__torch__"
"""Where TorchScript's archives have their source, which they compress."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A record of a zip, whose bytes are stored plain.

    Attributes:
        name: Its name.
        offset: Where its bytes begin in the file.
        size: How many they are.
        crc: Their checksum, as the directory has it.
    """

    name: str
    offset: int
    size: int
    crc: int


@dataclass(frozen=True, slots=True)
class _Listed:
    raw_name: bytes
    name: str
    flags: int
    crc: int
    size: int
    header: int


def read_entries(fd: int, size: int) -> list[Entry]:
    """The records of a zip in order.

    Args:
        fd: The file.
        size: How many bytes it has.

    Raises:
        RetracedError: ARCHIVE_INVALID where it is no zip, or one that readers may read in different ways; PROGRAM_MISSING where it is
            one of TorchScript.
    """
    count, directory_size, directory = _end(fd, size)
    if count > MOST_RECORDS:
        raise archive_invalid(f"the archive has {count} records, and {MOST_RECORDS} are the most")
    if directory_size > count * (_CENTRAL.size + LONGEST_PATH + _LONGEST_EXTRA):
        raise archive_invalid(f"the archive's directory has {directory_size} bytes, more than {count} records can take")
    listed = _directory(os.pread(fd, directory_size, directory), count)
    entries = []
    at = 0
    for one in listed:
        if one.header != at:
            raise archive_invalid(
                f"the archive's record `{shortened(one.name, 200)}` begins at byte {one.header}, and the records before it end at "
                f"byte {at}: records overlap, or other data lies before or between them"
            )
        entry, at = _local(fd, one, directory)
        entries.append(entry)
    if at != directory:
        raise archive_invalid("other data lies between the archive's records and its directory")
    return entries


def _end(fd: int, size: int) -> tuple[int, int, int]:
    """The number of records, and size and place of the directory."""
    at = size - _END.size
    data = os.pread(fd, _END.size, at) if at >= 0 else b""
    if not data.startswith(b"PK\x05\x06"):
        if os.pread(fd, len(LOCAL_MAGIC), 0) == LOCAL_MAGIC:
            raise archive_invalid(
                f"the archive of {size} bytes begins as a zip but does not end with its directory: it is truncated, "
                "or something follows it"
            )
        raise archive_invalid("the archive is not a zip, so it is not a .pt2 file of torch.export.save")
    _, disk, start_disk, here, count, directory_size, directory, comment = _END.unpack(data)
    if disk or start_disk or comment or here != count:
        raise archive_invalid("the archive's directory is of a zip in several parts, or has a comment")
    end = at
    locator = os.pread(fd, _LOCATOR64.size, at - _LOCATOR64.size) if at >= _LOCATOR64.size else b""
    if locator.startswith(b"PK\x06\x07"):
        end = at - _LOCATOR64.size - _END64.size
        large = _end64(fd, end, locator)
        for short, long, most in zip(
            (count, directory_size, directory), large, (_LARGEST_COUNT, _LARGEST, _LARGEST), strict=True
        ):
            if short not in (long, most):
                raise archive_invalid("the archive's directory has two ends that differ")
        count, directory_size, directory = large
    elif count == _LARGEST_COUNT or _LARGEST in (directory_size, directory):
        raise archive_invalid("the archive's directory lacks the end that its size needs")
    if directory + directory_size != end:
        raise archive_invalid(
            "the archive's directory does not lie where its end says: it is truncated, or a part of another file"
        )
    return count, directory_size, directory


def _end64(fd: int, at: int, locator: bytes) -> tuple[int, int, int]:
    _, disk, place, disks = _LOCATOR64.unpack(locator)
    data = os.pread(fd, _END64.size, at) if at >= 0 else b""
    if disk or disks != 1 or place != at or not data.startswith(b"PK\x06\x06"):
        raise archive_invalid("the archive's ZIP64 directory does not lie where its locator says")
    _, length, _, needed, disk, start_disk, here, count, directory_size, directory = _END64.unpack(data)
    if length != _END64.size - 12 or needed > _NEWEST or disk or start_disk or here != count:
        raise archive_invalid("the archive's ZIP64 directory is of a zip in several parts, or of a later version of the format")
    return count, directory_size, directory


def _directory(data: bytes, count: int) -> list[_Listed]:
    listed = []
    at = 0
    for _ in range(count):
        fixed = data[at : at + _CENTRAL.size]
        if len(fixed) != _CENTRAL.size or not fixed.startswith(b"PK\x01\x02"):
            raise archive_invalid("the archive's directory is damaged: it has fewer records than it says")
        (
            _,
            _,
            needed,
            flags,
            method,
            _,
            _,
            crc,
            stored,
            size,
            name_length,
            extra_length,
            comment,
            disk,
            _,
            attributes,
            header,
        ) = _CENTRAL.unpack(fixed)
        at += _CENTRAL.size
        raw_name, extra = data[at : at + name_length], data[at + name_length : at + name_length + extra_length]
        at += name_length + extra_length + comment
        name = _name(raw_name, flags)
        _check_kind(name, needed, flags, method)
        # torch takes a record with the attribute of a folder for empty, and gives memory that it has not written to.
        if attributes & 0xFFFF or stat.S_IFMT(attributes >> 16) not in (0, stat.S_IFREG):
            raise archive_invalid(f"the archive's record `{shortened(name, 200)}` is no file, but a folder, a link or the like")
        if comment or disk:
            raise archive_invalid(f"the archive's record `{shortened(name, 200)}` has a comment, or lies in another part")
        fields = _fields(name, extra)
        if _PADDING_ID in fields:
            raise archive_invalid(f"the archive's record `{shortened(name, 200)}` is padded in the directory")
        size, stored, header = _resolved(name, fields.get(_ZIP64_ID, b""), (size, stored, header))
        if stored != size:
            raise _not_plain(name)
        listed.append(_Listed(raw_name, name, flags, crc, size, header))
    if at != len(data):
        raise archive_invalid("the archive's directory is damaged: it has more bytes than its records take")
    return listed


def _local(fd: int, listed: _Listed, limit: int) -> tuple[Entry, int]:
    """A record by its own header, and where the next one begins."""
    name = listed.name
    fixed = os.pread(fd, _LOCAL.size, listed.header)
    if len(fixed) != _LOCAL.size or not fixed.startswith(LOCAL_MAGIC):
        raise archive_invalid(f"the archive's record `{shortened(name, 200)}` is damaged: it has no header")
    _, needed, flags, method, _, _, crc, stored, size, name_length, extra_length = _LOCAL.unpack(fixed)
    variable = os.pread(fd, name_length + extra_length, listed.header + _LOCAL.size)
    offset = listed.header + _LOCAL.size + name_length + extra_length
    _check_kind(name, needed, flags, method)
    if variable[:name_length] != listed.raw_name or flags != listed.flags:
        raise _differs(name)
    fields = _fields(name, variable[name_length:])
    zip64 = fields.get(_ZIP64_ID, b"")
    described = bool(flags & _DESCRIBED)
    if not (described and (crc, stored, size) == (0, 0, 0)):
        # What is larger stands in the ZIP64 field, sizes first; some writers add the offset.
        large = [value for value in (size, stored) if value == _LARGEST]
        size, stored = _resolved(name, zip64[: 8 * len(large)], (size, stored))
        if (crc, stored, size) != (listed.crc, listed.size, listed.size):
            raise _differs(name)
        zip64_rest = zip64[8 * len(large) :]
    else:
        zip64_rest = zip64
    known = struct.pack("<3Q", listed.size, listed.size, listed.header)
    if zip64_rest not in (b"", known[:16], known[16:], known):
        raise _differs(name)
    end = offset + listed.size
    if end > limit:
        raise archive_invalid(f"the archive's record `{shortened(name, 200)}` is damaged: the file ends before it")
    if described:
        form = _DESCRIPTOR64 if zip64 else _DESCRIPTOR
        data = os.pread(fd, form.size, end)
        if len(data) != form.size or form.unpack(data) != (b"PK\x07\x08", listed.crc, listed.size, listed.size):
            raise _differs(name)
        end += form.size
    return Entry(name, offset, listed.size, listed.crc), end


def _name(raw: bytes, flags: int) -> str:
    if not 0 < len(raw) <= LONGEST_PATH:
        raise archive_invalid(f"the archive has a record whose name has {len(raw)} bytes, and {LONGEST_PATH} are the most")
    try:
        # Without the flag, readers take bytes over 127 for different letters.
        name = raw.decode("utf-8" if flags & _UTF8 else "ascii")
    except UnicodeDecodeError as error:
        raise archive_invalid(f"the archive has a record whose name is no text: {raw[:100]!r}") from error
    if not name.isprintable():
        raise archive_invalid(f"the archive has a record whose name is not printable: `{shortened(name, 200)}`")
    return name


def _check_kind(name: str, needed: int, flags: int, method: int) -> None:
    if method or flags & _ENCRYPTED:
        raise _not_plain(name)
    if flags & ~(_DESCRIBED | _UTF8) or needed > _NEWEST:
        raise archive_invalid(f"the archive's record `{shortened(name, 200)}` uses features of zips that torch does not")


def _fields(name: str, extra: bytes) -> dict[int, bytes]:
    fields: dict[int, bytes] = {}
    at = 0
    while at < len(extra):
        if len(extra) - at < _FIELD.size:
            raise _strange_field(name)
        kind, length = _FIELD.unpack_from(extra, at)
        at += _FIELD.size
        if kind not in (_ZIP64_ID, _PADDING_ID) or kind in fields or at + length > len(extra):
            raise _strange_field(name)
        fields[kind] = extra[at : at + length]
        at += length
    return fields


def _resolved(name: str, zip64: bytes, values: tuple[int, ...]) -> tuple[int, ...]:
    """Values of 32 bits, or those of 64 that stand for them."""
    large = iter(struct.unpack(f"<{len(zip64) // 8}Q", zip64[: len(zip64) // 8 * 8]))
    if len(zip64) != 8 * values.count(_LARGEST):
        raise _strange_field(name)
    return tuple(next(large) if value == _LARGEST else value for value in values)


def _not_plain(name: str) -> Exception:
    if _SCRIPT in name:
        return program_missing(
            "the archive is a TorchScript file, which torch.jit.save wrote; export the module that it was made from with "
            "torch.export.export, and save that with torch.export.save"
        )
    return archive_invalid(
        f"the archive's record `{shortened(name, 200)}` is compressed or encrypted; torch stores records plain"
    )


def _differs(name: str) -> Exception:
    return archive_invalid(
        f"the archive's record `{shortened(name, 200)}` is damaged: its own header says otherwise than the archive's directory"
    )


def _strange_field(name: str) -> Exception:
    return archive_invalid(
        f"the archive's record `{shortened(name, 200)}` has extra fields that torch does not write, or a damaged one"
    )
