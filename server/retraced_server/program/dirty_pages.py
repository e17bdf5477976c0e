"""Tells whether memory that was mapped from a file, copy on write, still has the file's bytes.

The kernel knows: a page that was written to is an anonymous copy, and /proc/self/pagemap says of each page whether it is one
(Documentation/admin-guide/mm/pagemap.rst, bit 61). Version counters of tensors do not know, since `.data` and numpy go around them.
"""

from __future__ import annotations

import contextlib
import io
import mmap
from pathlib import Path
from typing import Final

import torch

_PAGEMAP: Final = Path("/proc/self/pagemap")
_ENTRY_BYTES: Final = 8
_BATCH: Final = 1 << 16
# Of the highest byte: the page is in memory (63) or swapped out (62); it belongs to a file (61).
_PRESENT: Final = 0xC0
_OF_FILE: Final = 0x20


# The page map, where it was opened ahead.
_held: list[io.FileIO] = []


def hold_page_map() -> int:
    """Open the page map of this process now and for good, for a process that may open no files later. Gives its descriptor."""
    _held[:] = [io.FileIO(_PAGEMAP)]
    return _held[0].fileno()


def is_untouched(mapped: torch.Tensor) -> bool:
    """Whether no page of a mapped tensor was written to in this process; False also where the kernel does not tell."""
    storage = mapped.untyped_storage()
    if storage.nbytes() == 0:
        return True
    first = storage.data_ptr() // mmap.PAGESIZE
    last = (storage.data_ptr() + storage.nbytes() - 1) // mmap.PAGESIZE
    try:
        with contextlib.nullcontext(_held[0]) if _held else io.FileIO(_PAGEMAP) as pages:
            pages.seek(first * _ENTRY_BYTES)
            left = last - first + 1
            while left > 0:
                entries = pages.read(min(left, _BATCH) * _ENTRY_BYTES)
                if not entries:
                    return False
                highest = torch.frombuffer(bytearray(entries[7::_ENTRY_BYTES]), dtype=torch.uint8)
                copied = ((highest & _PRESENT) != 0) & ((highest & _OF_FILE) == 0)
                if bool(copied.any()):
                    return False
                left -= len(entries) // _ENTRY_BYTES
    except OSError:
        return False
    return True
