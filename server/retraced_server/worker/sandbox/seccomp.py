"""seccomp: which system calls a process may make, as a filter that libseccomp compiles for the machine's architecture (seccomp(2))."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
from collections.abc import Iterable
from typing import Any

from retraced_server.worker import _libc
from retraced_server.worker.sandbox.syscalls import OWN_PROCESS_ONLY, Rule

try:
    import pyseccomp
except ModuleNotFoundError:
    pyseccomp, _why_not = None, "the package pyseccomp is not installed"
except RuntimeError:
    pyseccomp, _why_not = None, "the C library libseccomp.so.2 is not installed"
else:
    _why_not = ""

_PR_GET_SECCOMP, _PR_SET_SECCOMP = 21, 22
_SECCOMP_MODE_FILTER = 2

# Elsewhere the arguments of clone(2) have another order, or files other flags.
_MACHINES = ("x86_64", "aarch64")
# __NR_SCMP_ERROR. Calls that only other architectures have are other negative numbers, which libseccomp passes over.
_UNKNOWN = -1


def why_unavailable() -> str:
    """Return why no filter can be had here; empty where one can."""
    if platform.machine() not in _MACHINES:
        return f"there is no filter for the architecture {platform.machine()}"
    try:
        _libc.prctl(_PR_GET_SECCOMP)
    except OSError:
        return "the kernel has no seccomp"
    if not _why_not and pyseccomp.get_api() < 1:
        return "the kernel has no seccomp filters"
    return _why_not


class _Program(ctypes.Structure):
    """`struct sock_fprog`: how many instructions of eight bytes there are, and where."""

    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p))


class SyscallFilter:
    """A compiled filter. What no rule allows is refused with EPERM; a call of another architecture kills the process.

    Args:
        rules: The rules.
        arch: libseccomp's number of an architecture; the machine's own if None.

    Attributes:
        code: What the kernel takes: an array of `struct sock_filter`.

    Raises:
        OSError: libseccomp refused a rule.
    """

    def __init__(self, rules: Iterable[Rule], arch: int | None = None) -> None:
        native = pyseccomp.system_arch()
        compiled = pyseccomp.SyscallFilter(pyseccomp.ERRNO(errno.EPERM))
        compiled.set_attr(pyseccomp.Attr.ACT_BADARCH, pyseccomp.KILL_PROCESS)
        if arch not in (None, native):
            compiled.add_arch(arch)
            compiled.remove_arch(native)
        for rule in rules:
            _add(compiled, rule)
        self.code = _code(compiled)

    def load(self, own_process: bytes) -> None:
        """Put the calling process under the filter, and allow signals to itself only. There is no way back.

        Args:
            own_process: What `own_process_code` has made in this process.

        Raises:
            OSError: The kernel refused.
        """
        # Not by libseccomp, which would compile it again, in memory that a forked process has to copy first: 2 ms.
        for code in (own_process, self.code):
            buffer = ctypes.create_string_buffer(code, len(code))
            program = _Program(len(code) // 8, ctypes.addressof(buffer))
            _libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.addressof(program))


def own_process_code() -> bytes:
    """Return a compiled filter that allows the calling process to signal itself only, and everything else."""
    compiled = pyseccomp.SyscallFilter(pyseccomp.ALLOW)
    compiled.set_attr(pyseccomp.Attr.ACT_BADARCH, pyseccomp.KILL_PROCESS)
    for name in OWN_PROCESS_ONLY:
        compiled.add_rule(pyseccomp.ERRNO(errno.EPERM), name, pyseccomp.Arg(0, pyseccomp.NE, os.getpid()))
    return _code(compiled)


# pyseccomp has no types.
def _add(compiled: Any, rule: Rule) -> None:
    number = pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, rule.syscall)
    if number == _UNKNOWN:
        # Newer than this libseccomp; then it is refused.
        return
    action = pyseccomp.ERRNO(rule.error) if rule.error else pyseccomp.ALLOW
    arguments = (pyseccomp.Arg(each.argument, pyseccomp.MASKED_EQ, each.mask, each.value) for each in rule.conditions)
    compiled.add_rule(action, number, *list(arguments))


def _code(compiled: Any) -> bytes:
    with open(os.memfd_create("filter", os.MFD_CLOEXEC), "w+b") as file:
        compiled.export_bpf(file)
        file.seek(0)
        return file.read()
