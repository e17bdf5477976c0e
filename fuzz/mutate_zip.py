"""Mutations of a zip: of its records, of what its headers say of them, and of the file around them."""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable
from typing import Final

from fuzz.hostile import INTEGERS, RECORDS, STRINGS
from fuzz.zips import Entry, Zip, zip64_extra

ZipMutation = Callable[[Zip, random.Random], None]

_FIELDS: Final = ("flags", "method", "crc", "packed", "size")


def drop_record(made: Zip, chance: random.Random) -> None:
    """A record is missing."""
    if len(made.entries) > 1:
        made.entries.remove(chance.choice(made.entries))


def repeat_record(made: Zip, chance: random.Random) -> None:
    """A record is there twice, with other bytes or another case of its name."""
    entry = chance.choice(made.entries)
    name = chance.choice(
        (entry.name, entry.name.upper(), entry.name.replace(b"/", b"\\"), entry.name + b"\0", entry.name + b"/")
    )
    made.entries.insert(chance.randrange(len(made.entries) + 1), Entry(name, chance.choice((entry.data, b"", b"x", b"{}"))))


def rename_record(made: Zip, chance: random.Random) -> None:
    """A record has another name: another case, another root, a part of another or a hostile one."""
    entry = chance.choice(made.entries)
    root, _, rest = entry.name.partition(b"/")
    hostile = chance.choice(STRINGS).encode(errors="surrogatepass")
    entry.name = chance.choice(
        (
            *(
                entry.name.swapcase(),
                rest,
                root + b"2/" + rest,
                b"/" + entry.name,
                root + b"//" + rest,
                root + b"/../" + entry.name,
            ),
            *(root + b"/" + hostile, hostile, entry.name + b".", chance.choice(made.entries).name, entry.name + hostile),
        )
    )[:60_000]


def add_record(made: Zip, chance: random.Random) -> None:
    """A further record, of a name that torch or another reader would know."""
    root = made.entries[0].name.partition(b"/")[0]
    name = root + b"/" + chance.choice(RECORDS).encode()
    data = chance.choice(
        (b"", b"x", b"{}", b"\x80\x04N.", b"\x7fELF", b"PK\x03\x04" + bytes(30), chance.choice(made.entries).data)
    )
    made.entries.insert(chance.randrange(len(made.entries) + 1), Entry(name, data))


def shuffle_records(made: Zip, chance: random.Random) -> None:
    """The records are in another order."""
    chance.shuffle(made.entries)


def compress_record(made: Zip, chance: random.Random) -> None:
    """A record is compressed, or said to be."""
    entry = chance.choice(made.entries)
    entry.local["crc"] = entry.central["crc"] = zlib.crc32(entry.data)
    size = len(entry.data)
    if chance.random() < 0.3:
        size = chance.choice((1 << 20, 1 << 31, (1 << 32) - 2))
    entry.data = zlib.compress(entry.data, 9)[2:-4]
    method = chance.choice((8, 8, 9, 12, 14, 93, 99))
    for header in (entry.local, entry.central):
        header |= {"method": method, "size": size}


def lie_in_header(made: Zip, chance: random.Random) -> None:
    """A field of a header is another than the bytes have; the other header may agree."""
    entry = chance.choice(made.entries)
    name = chance.choice(_FIELDS)
    true = {"flags": 0, "method": 0, "crc": zlib.crc32(entry.data)}.get(name, len(entry.data))
    value = chance.choice((true + 1, true - 1, true ^ 1, true ^ 1 << 8, *INTEGERS))
    for header in chance.choice(((entry.local,), (entry.central,), (entry.local, entry.central))):
        header[name] = value


def lie_about_place(made: Zip, chance: random.Random) -> None:
    """The directory says that a record lies elsewhere: in another, past the end, at the beginning."""
    chance.choice(made.entries).central["offset"] = chance.choice(
        (*INTEGERS, chance.randrange(20_000), 64 * chance.randrange(300))
    )


def lie_in_local_name(made: Zip, chance: random.Random) -> None:
    """The header before a record's bytes has another name than the directory."""
    entry = chance.choice(made.entries)
    other = chance.choice(made.entries).name
    entry.local_name = chance.choice((other, b"", entry.name + b"x", entry.name.upper(), b"x" * len(entry.name)))


def lie_in_zip64(made: Zip, chance: random.Random) -> None:
    """The directory gives sizes and places in the ZIP64 extension, right ones or wrong ones."""
    entry = chance.choice(made.entries)
    size = len(entry.data)
    values = [chance.choice((size, size, *INTEGERS)) for _ in range(chance.randrange(4))]
    entry.extra = zip64_extra(*values)[: chance.choice((99, 99, 99, 3, 5))]
    for name in ("packed", "size", "offset"):
        if chance.random() < 0.6:
            entry.central[name] = 0xFFFFFFFF


def unaligned(made: Zip, chance: random.Random) -> None:
    """Record begin anywhere."""
    for entry in made.entries:
        entry.aligned = chance.random() < 0.5


def unlisted(made: Zip, chance: random.Random) -> None:
    """A record is in the file and not in the directory."""
    chance.choice(made.entries).listed = False


def folder(made: Zip, chance: random.Random) -> None:
    """A record is a folder, or looks like a link."""
    entry = chance.choice(made.entries)
    entry.central["attributes"] = chance.choice((0x10, 0o120777 << 16, 0o40755 << 16))
    if chance.random() < 0.5:
        entry.name += b"/"


def lie_at_end(made: Zip, chance: random.Random) -> None:
    """The end of the directory lies."""
    made.end[chance.choice(("disk", "count", "total", "size", "offset", "comment"))] = chance.choice(INTEGERS)


def surround(made: Zip, chance: random.Random) -> None:
    """There are bytes before, between or after what belongs to the zip."""
    more = chance.choice(
        (b"x", bytes(64), b"PK\x05\x06" + bytes(18), b"PK\x03\x04" + bytes(26), b"#!/bin/sh\n", chance.randbytes(100))
    )
    setattr(made, chance.choice(("before", "between", "after", "comment")), more)


def change_bytes(made: Zip, chance: random.Random) -> None:
    """A record has other bytes, and the checksum of those: flipped, cut, longer, none, or those of another."""
    entry = chance.choice(made.entries)
    data = bytearray(entry.data)
    match chance.randrange(5):
        case 0:
            for _ in range(chance.randint(1, 8)):
                if data:
                    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        case 1:
            del data[chance.randrange(len(data) + 1) :]
        case 2:
            data += bytes(chance.choice((1, 7, 64, 4096)))
        case 3:
            data.clear()
        case _:
            data[:] = chance.choice(made.entries).data
    entry.data = bytes(data)


ZIP_MUTATIONS: Final[tuple[ZipMutation, ...]] = (
    *(drop_record, repeat_record, rename_record, add_record, shuffle_records, compress_record, lie_in_header, lie_about_place),
    *(lie_in_local_name, lie_in_zip64, unaligned, unlisted, folder, lie_at_end, surround, change_bytes),
)


def mutate_file(data: bytes, chance: random.Random) -> bytes:
    """Return a file that need be no zip any more: cut, flipped, spliced, or doubled."""
    changed = bytearray(data)
    match chance.randrange(5):
        case 0:
            del changed[chance.randrange(len(changed) + 1) :]
        case 1:
            del changed[: chance.randrange(len(changed) + 1)]
        case 2:
            for _ in range(chance.randint(1, 16)):
                if changed:
                    changed[chance.randrange(len(changed))] = chance.randrange(256)
        case 3:
            start = chance.randrange(len(changed) + 1)
            changed[start : start + chance.randrange(64)] = chance.randbytes(chance.randrange(64))
        case _:
            changed += changed[: 1 << 16]
    return bytes(changed)
