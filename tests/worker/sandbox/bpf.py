"""Runs a seccomp filter on a system call, as the kernel would: classic BPF, the instructions that libseccomp makes (linux/bpf_common.h)."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass

_LOAD_WORD, _AND, _RETURN, _JUMP = 0x20, 0x54, 0x06, 0x05
_JUMPS: dict[int, Callable[[int, int], bool]] = {
    0x15: lambda a, k: a == k,
    0x25: lambda a, k: a > k,
    0x35: lambda a, k: a >= k,
    0x45: lambda a, k: bool(a & k),
}


@dataclass(frozen=True)
class Decision:
    """What the kernel does: `allow`, `kill`, or `errno` with its number."""

    action: str
    errno: int = 0


_ACTIONS = {0x7FFF0000: "allow", 0x80000000: "kill", 0x00050000: "errno"}


def decide(code: bytes, arch: int, number: int, arguments: tuple[int, ...] = ()) -> Decision:
    """Says what a filter does with a system call.

    Args:
        code: The filter.
        arch: The AUDIT_ARCH of the call.
        number: Its number there.
        arguments: The first of its arguments, the rest 0.
    """
    padded = (*arguments, *(0,) * (6 - len(arguments)))
    data = struct.pack("<iIQ6Q", number, arch, 0, *(each % (1 << 64) for each in padded))
    instructions = list(struct.iter_unpack("<HBBI", code))
    accumulator = position = 0
    while True:
        operation, if_true, if_false, operand = instructions[position]
        position += 1
        if operation == _LOAD_WORD:
            (accumulator,) = struct.unpack_from("<I", data, operand)
        elif operation == _AND:
            accumulator &= operand
        elif operation == _JUMP:
            position += operand
        elif operation == _RETURN:
            return Decision(_ACTIONS[operand & 0xFFFF0000], operand & 0xFFFF)
        else:
            position += if_true if _JUMPS[operation](accumulator, operand) else if_false
