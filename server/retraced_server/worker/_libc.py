"""The calls of the C library that Python 3.11 has no functions for. Loaded at import, so that a locked-down process has nothing to load."""

from __future__ import annotations

import ctypes
import os

_libc = ctypes.CDLL(None, use_errno=True)
# long syscall(long number, ...): without a return type, a descriptor's sign would be lost on some machines.
_libc.syscall.restype = ctypes.c_long

Argument = int | ctypes.Structure | None


def prctl(option: int, *arguments: int) -> int:
    """Make the system call prctl.

    Raises:
        OSError: The kernel refused.
    """
    padded = (*arguments, 0, 0, 0, 0)[:4]
    return _checked(_libc.prctl(ctypes.c_int(option), *map(ctypes.c_ulong, padded)), "prctl")


def prctl_text(option: int, text: str) -> None:
    """Call prctl(2) with an option that takes a text.

    Raises:
        OSError: The kernel refused.
    """
    _checked(_libc.prctl(ctypes.c_int(option), ctypes.c_char_p(text.encode()), 0, 0, 0), "prctl")


def prctl_int(option: int) -> int:
    """Call prctl(2) with an option that stores an int.

    Raises:
        OSError: The kernel refused.
    """
    value = ctypes.c_int()
    _checked(_libc.prctl(ctypes.c_int(option), ctypes.byref(value), 0, 0, 0), "prctl")
    return value.value


def unshare(flags: int) -> None:
    """Make the system call unshare.

    Raises:
        OSError: The kernel refused.
    """
    _checked(_libc.unshare(ctypes.c_int(flags)), "unshare")


def madvise(begin: int, end: int, advice: int) -> bool:
    """Make the system call madvise for the memory between two addresses, and return whether the kernel did as advised."""
    return bool(_libc.madvise(ctypes.c_void_p(begin), ctypes.c_size_t(end - begin), ctypes.c_int(advice)) == 0)


def capset(header: ctypes.Structure, data: ctypes.Array[ctypes.c_uint32]) -> None:
    """Make the system call capset.

    Raises:
        OSError: The kernel refused.
    """
    _checked(_libc.capset(ctypes.byref(header), data), "capset")


def capget(header: ctypes.Structure, data: ctypes.Array[ctypes.c_uint32]) -> None:
    """Make the system call capget.

    Raises:
        OSError: The kernel refused.
    """
    _checked(_libc.capget(ctypes.byref(header), data), "capget")


def syscall(name: str, number: int, *arguments: Argument) -> int:
    """Make a system call that the C library has no function for.

    Raises:
        OSError: The kernel refused.
    """
    return _checked(_libc.syscall(ctypes.c_long(number), *map(_passed, arguments)), name)


def zero_environment_strings(kept: frozenset[bytes]) -> None:
    """Overwrite the values of this process's environment that are not `kept`, where the C library has them."""
    strings = ctypes.POINTER(ctypes.c_void_p).in_dll(_libc, "environ")
    index = 0
    while strings and strings[index]:
        text = ctypes.string_at(strings[index])
        name, separator, value = text.partition(b"=")
        if separator and name not in kept:
            ctypes.memset(strings[index] + len(name) + 1, 0, len(value))
        index += 1


def _passed(argument: Argument) -> object:
    if isinstance(argument, int):
        return ctypes.c_long(argument)
    return None if argument is None else ctypes.byref(argument)


def _checked(result: int, what: str) -> int:
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{what}: {os.strerror(error)}")
    return result
