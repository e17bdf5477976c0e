"""The structures of zips, as APPNOTE.TXT of PKWARE has them, with its ZIP64 extension for sizes and offsets over 4 GiB."""

from __future__ import annotations

import struct
from typing import Final

LOCAL: Final = struct.Struct("<4s5H3L2H")
CENTRAL: Final = struct.Struct("<4s6H3L5H2L")
END: Final = struct.Struct("<4s4H2LH")
END64: Final = struct.Struct("<4sQ2H2L4Q")
LOCATOR64: Final = struct.Struct("<4sLQL")
FIELD: Final = struct.Struct("<2H")
DESCRIPTOR: Final = struct.Struct("<4s3L")
DESCRIPTOR64: Final = struct.Struct("<4sL2Q")

LOCAL_MAGIC: Final = b"PK\x03\x04"
CENTRAL_MAGIC: Final = b"PK\x01\x02"
END_MAGIC: Final = b"PK\x05\x06"
END64_MAGIC: Final = b"PK\x06\x06"
LOCATOR64_MAGIC: Final = b"PK\x06\x07"
DESCRIPTOR_MAGIC: Final = b"PK\x07\x08"

VERSION: Final = 20
VERSION64: Final = 45
"""The version of the format that has ZIP64."""
LARGEST: Final = 0xFFFFFFFF
"""Stands in a field of 32 bits whose value is in the ZIP64 extension."""
LARGEST_COUNT: Final = 0xFFFF
ZIP64_ID: Final = 1
PADDING_ID: Final = 0x4246
"""The extra field `FB`, with which torch pads records to multiples of 64 bytes."""

ENCRYPTED: Final = 1
DESCRIBED: Final = 1 << 3
"""Sizes and checksum stand behind the record."""
UTF8: Final = 1 << 11
