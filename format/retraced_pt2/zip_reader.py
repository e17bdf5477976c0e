"""Reads the directory of a zip, and accepts one way only in which it can be read.

Zips say most things twice, in the directory at the end and in a header before each record, and readers differ in which they believe, and
in where they look for the directory. Here the two must agree; records follow one another from the first byte to the directory, and the
directory ends with the file: nothing lies before, between or behind them. The format is APPNOTE.TXT of PKWARE; what is accepted of it is
what torch's PyTorchFileWriter, Python's zipfile and our own writer make.
"""

from __future__ import annotations

import stat
import struct
from typing import Final, NamedTuple

from retraced_pt2 import zip_format as zf
from retraced_pt2.errors import CompressedRecordError, Fault, FormatError, shortened
from retraced_pt2.files import Bytes, Extent
from retraced_pt2.limits import LONGEST_PATH, MOST_RECORDS

_LONGEST_EXTRA: Final = 4096
_READ_AHEAD: Final = 128
"""Bytes of extra fields that are read with a header at once; torch pads with up to 68."""
_SCRIPT: Final = "/code/__torch__"
"""Where TorchScript's archives have their source, which they compress."""


class _Listed(NamedTuple):
    raw_name: bytes
    name: str
    flags: int
    crc: int
    size: int
    header: int


def read_entries(file: Bytes) -> list[tuple[str, Extent]]:
    """Return the records of a zip in order, by name with the root.

    Raises:
        FormatError: ARCHIVE_INVALID where it is no zip, or one that readers may read in different ways; PROGRAM_MISSING where it is
            one of TorchScript.
    """
    if file.size == 0:
        raise _invalid("the archive is empty: it has 0 bytes")
    count, directory_size, directory = _end(file)
    if count > MOST_RECORDS:
        raise _invalid(f"the archive has {count} records, and {MOST_RECORDS} are the most")
    if directory_size > count * (zf.CENTRAL.size + LONGEST_PATH + _LONGEST_EXTRA):
        raise _invalid(f"the archive's directory has {directory_size} bytes, more than {count} records can take")
    entries = []
    at = 0
    for listed in _directory(_read(file, directory, directory_size), count):
        if listed.header != at:
            raise _invalid(
                f"the archive's record `{shortened(listed.name, 200)}` begins at byte {listed.header}, and the records before it "
                f"end at byte {at}: records overlap, or other data lies before or between them"
            )
        extent, at = _local(file, listed, directory)
        entries.append((listed.name, extent))
    if at != directory:
        raise _invalid("other data lies between the archive's records and its directory")
    return entries


def _read(file: Bytes, offset: int, size: int) -> bytes:
    """Return bytes of a file, fewer where it has no more; none in front of it."""
    return file.read_at(offset, min(size, file.size - offset)) if 0 <= offset < file.size else b""


def _end(file: Bytes) -> tuple[int, int, int]:
    """Return the number of records, and size and place of the directory."""
    at = file.size - zf.END.size
    data = _read(file, at, zf.END.size)
    if not data.startswith(zf.END_MAGIC):
        if _read(file, 0, len(zf.LOCAL_MAGIC)) == zf.LOCAL_MAGIC:
            raise _invalid(
                f"the archive of {file.size} bytes begins as a zip but does not end with its directory: it is truncated, "
                "or something follows it"
            )
        raise _invalid("the archive is not a zip, so it is not a .pt2 file of torch.export.save")
    _, disk, start_disk, here, count, directory_size, directory, comment = zf.END.unpack(data)
    if disk or start_disk or comment or here != count:
        raise _invalid("the archive's directory is of a zip in several parts, or has a comment")
    end = at
    locator = _read(file, at - zf.LOCATOR64.size, zf.LOCATOR64.size)
    if locator.startswith(zf.LOCATOR64_MAGIC):
        end = at - zf.LOCATOR64.size - zf.END64.size
        large = _end64(file, end, locator)
        for short, long, most in zip(
            (count, directory_size, directory), large, (zf.LARGEST_COUNT, zf.LARGEST, zf.LARGEST), strict=True
        ):
            if short not in (long, most):
                raise _invalid("the archive's directory has two ends that differ")
        count, directory_size, directory = large
    elif count == zf.LARGEST_COUNT or zf.LARGEST in (directory_size, directory):
        raise _invalid("the archive's directory lacks the end that its size needs")
    if directory + directory_size != end:
        raise _invalid("the archive's directory does not lie where its end says: it is truncated, or a part of another file")
    return count, directory_size, directory


def _end64(file: Bytes, at: int, locator: bytes) -> tuple[int, int, int]:
    _, disk, place, disks = zf.LOCATOR64.unpack(locator)
    data = _read(file, at, zf.END64.size)
    if disk or disks != 1 or place != at or not data.startswith(zf.END64_MAGIC):
        raise _invalid("the archive's ZIP64 directory does not lie where its locator says")
    _, length, _, needed, disk, start_disk, here, count, directory_size, directory = zf.END64.unpack(data)
    if length != zf.END64.size - 12 or needed > zf.VERSION64 or disk or start_disk or here != count:
        raise _invalid("the archive's ZIP64 directory is of a zip in several parts, or of a later version of the format")
    return count, directory_size, directory


def _directory(data: bytes, count: int) -> list[_Listed]:
    listed = []
    at = 0
    for _ in range(count):
        fixed = data[at : at + zf.CENTRAL.size]
        if len(fixed) != zf.CENTRAL.size or not fixed.startswith(zf.CENTRAL_MAGIC):
            raise _invalid("the archive's directory is damaged: it has fewer records than it says")
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
        ) = zf.CENTRAL.unpack(fixed)
        at += zf.CENTRAL.size
        raw_name, extra = data[at : at + name_length], data[at + name_length : at + name_length + extra_length]
        at += name_length + extra_length + comment
        name = _name(raw_name, flags)
        _check_kind(name, needed, flags, method)
        # torch takes a record with the attribute of a folder for empty, and gives memory that it has not written to.
        if attributes & 0xFFFF or stat.S_IFMT(attributes >> 16) not in (0, stat.S_IFREG):
            raise _invalid(f"the archive's record `{shortened(name, 200)}` is no file, but a folder, a link or the like")
        if comment or disk:
            raise _invalid(f"the archive's record `{shortened(name, 200)}` has a comment, or lies in another part")
        fields = _fields(name, extra)
        if zf.PADDING_ID in fields:
            raise _invalid(f"the archive's record `{shortened(name, 200)}` is padded in the directory")
        size, stored, header = _resolved(name, fields.get(zf.ZIP64_ID, b""), (size, stored, header))
        if stored != size:
            raise _not_plain(name)
        listed.append(_Listed(raw_name, name, flags, crc, size, header))
    if at != len(data):
        raise _invalid("the archive's directory is damaged: it has more bytes than its records take")
    return listed


def _local(file: Bytes, listed: _Listed, limit: int) -> tuple[Extent, int]:
    """Return a record by its own header, and where the next one begins."""
    name = listed.name
    data = _read(file, listed.header, zf.LOCAL.size + len(listed.raw_name) + _READ_AHEAD)
    if len(data) < zf.LOCAL.size or not data.startswith(zf.LOCAL_MAGIC):
        raise _invalid(f"the archive's record `{shortened(name, 200)}` is damaged: it has no header")
    _, needed, flags, method, _, _, crc, stored, size, name_length, extra_length = zf.LOCAL.unpack_from(data)
    variable = data[zf.LOCAL.size : zf.LOCAL.size + name_length + extra_length]
    if len(variable) < name_length + extra_length:
        variable = _read(file, listed.header + zf.LOCAL.size, name_length + extra_length)
    offset = listed.header + zf.LOCAL.size + name_length + extra_length
    _check_kind(name, needed, flags, method)
    if variable[:name_length] != listed.raw_name or flags != listed.flags:
        raise _differs(name)
    fields = _fields(name, variable[name_length:])
    zip64 = fields.get(zf.ZIP64_ID, b"")
    described = bool(flags & zf.DESCRIBED)
    if not (described and (crc, stored, size) == (0, 0, 0)):
        # What is larger stands in the ZIP64 field, sizes first; some writers add the offset.
        large = [value for value in (size, stored) if value == zf.LARGEST]
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
        raise _invalid(f"the archive's record `{shortened(name, 200)}` is damaged: the file ends before it")
    if described:
        form = zf.DESCRIPTOR64 if zip64 else zf.DESCRIPTOR
        data = _read(file, end, form.size)
        if len(data) != form.size or form.unpack(data) != (zf.DESCRIPTOR_MAGIC, listed.crc, listed.size, listed.size):
            raise _differs(name)
        end += form.size
    return Extent(offset, listed.size, listed.crc), end


def _name(raw: bytes, flags: int) -> str:
    if not 0 < len(raw) <= LONGEST_PATH:
        raise _invalid(f"the archive has a record whose name has {len(raw)} bytes, and {LONGEST_PATH} are the most")
    try:
        # Without the flag, readers take bytes over 127 for different letters.
        name = raw.decode("utf-8" if flags & zf.UTF8 else "ascii")
    except UnicodeDecodeError as error:
        raise _invalid(f"the archive has a record whose name is no text: {raw[:100]!r}") from error
    if not name.isprintable():
        raise _invalid(f"the archive has a record whose name is not printable: `{shortened(name, 200)}`")
    return name


def _check_kind(name: str, needed: int, flags: int, method: int) -> None:
    if method or flags & zf.ENCRYPTED:
        raise _not_plain(name)
    if flags & ~(zf.DESCRIBED | zf.UTF8) or needed > zf.VERSION64:
        raise _invalid(f"the archive's record `{shortened(name, 200)}` uses features of zips that torch does not")


def _fields(name: str, extra: bytes) -> dict[int, bytes]:
    fields: dict[int, bytes] = {}
    at = 0
    while at < len(extra):
        if len(extra) - at < zf.FIELD.size:
            raise _strange_field(name)
        kind, length = zf.FIELD.unpack_from(extra, at)
        at += zf.FIELD.size
        if kind not in (zf.ZIP64_ID, zf.PADDING_ID) or kind in fields or at + length > len(extra):
            raise _strange_field(name)
        fields[kind] = extra[at : at + length]
        at += length
    return fields


def _resolved(name: str, zip64: bytes, values: tuple[int, ...]) -> tuple[int, ...]:
    """Return the values of 32 bits, or those of 64 that stand for them."""
    if not zip64 and zf.LARGEST not in values:
        return values
    large = iter(struct.unpack(f"<{len(zip64) // 8}Q", zip64[: len(zip64) // 8 * 8]))
    if len(zip64) != 8 * values.count(zf.LARGEST):
        raise _strange_field(name)
    return tuple(next(large) if value == zf.LARGEST else value for value in values)


def _invalid(what: str) -> FormatError:
    return FormatError(Fault.ARCHIVE_INVALID, what)


def _not_plain(name: str) -> FormatError:
    if _SCRIPT in name:
        return FormatError(
            Fault.PROGRAM_MISSING,
            "the archive is a TorchScript file, which torch.jit.save wrote; export the module that it was made from with "
            "torch.export.export, and save that with torch.export.save",
        )
    return CompressedRecordError(name)


def _differs(name: str) -> FormatError:
    return _invalid(
        f"the archive's record `{shortened(name, 200)}` is damaged: its own header says otherwise than the archive's directory"
    )


def _strange_field(name: str) -> FormatError:
    return _invalid(
        f"the archive's record `{shortened(name, 200)}` has extra fields that torch does not write, or a damaged one"
    )
