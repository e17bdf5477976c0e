"""Landlock: what a process may open, bounded by the folders it is below (landlock(7)). Only removes rights, and needs none itself.

The kernel's interface has versions; rights that a version does not know cannot be bounded by it, and the report says which.
"""

from __future__ import annotations

import ctypes
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import IntFlag

from retraced_server.worker import _libc

# System calls since 424 have one number on every architecture.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_CREATE_RULESET_VERSION = 1
_RULE_PATH_BENEATH = 1


class Access(IntFlag):
    """Rights to files, as in linux/landlock.h."""

    EXECUTE = 1 << 0
    WRITE_FILE = 1 << 1
    READ_FILE = 1 << 2
    READ_DIR = 1 << 3
    REMOVE_DIR = 1 << 4
    REMOVE_FILE = 1 << 5
    MAKE_CHAR = 1 << 6
    MAKE_DIR = 1 << 7
    MAKE_REG = 1 << 8
    MAKE_SOCK = 1 << 9
    MAKE_FIFO = 1 << 10
    MAKE_BLOCK = 1 << 11
    MAKE_SYM = 1 << 12
    REFER = 1 << 13
    TRUNCATE = 1 << 14
    IOCTL_DEV = 1 << 15


READ = Access.READ_FILE | Access.READ_DIR
"""To read files and list folders."""

READ_WRITE = (
    READ
    | Access.WRITE_FILE
    | Access.TRUNCATE
    | Access.REFER
    | Access.MAKE_DIR
    | Access.MAKE_REG
    | Access.REMOVE_DIR
    | Access.REMOVE_FILE
)
"""To make, write and remove regular files and folders too: no links, no devices, no sockets."""

_OF_FILES = Access.EXECUTE | Access.WRITE_FILE | Access.READ_FILE | Access.TRUNCATE | Access.IOCTL_DEV

# What each version of the interface knows beyond the one before.
_FILE_RIGHTS_OF_VERSION = ((1, Access(Access.REFER - 1)), (2, Access.REFER), (3, Access.TRUNCATE), (5, Access.IOCTL_DEV))
_NET_VERSION, _SCOPE_VERSION = 4, 6
_NET_BIND_AND_CONNECT_TCP = 3
_SCOPE_ABSTRACT_SOCKETS_AND_SIGNALS = 3

_MISSING = (
    (2, "moves between folders are refused altogether"),
    (3, "truncation is not bounded"),
    (4, "TCP is not bounded"),
    (5, "ioctl on devices is not bounded"),
    (6, "signals and abstract sockets are not bounded"),
)


class _RulesetAttr(ctypes.Structure):
    _fields_ = (
        ("handled_access_fs", ctypes.c_uint64),
        ("handled_access_net", ctypes.c_uint64),
        ("scoped", ctypes.c_uint64),
    )


class _PathBeneathAttr(ctypes.Structure):
    # The kernel's is packed; it ends where the last field does, before what C pads.
    _fields_ = (("allowed_access", ctypes.c_uint64), ("parent_fd", ctypes.c_int32))


def interface_version() -> int:
    """Return the version of Landlock's interface that the kernel has; 0 where it has none, or has it switched off."""
    try:
        return _libc.syscall("landlock_create_ruleset", _CREATE_RULESET, None, 0, _CREATE_RULESET_VERSION)
    except OSError:
        return 0


def not_bounded(version: int) -> tuple[str, ...]:
    """Return what a version of the interface does not do, of what the newest known one does."""
    return tuple(text for since, text in _MISSING if version < since)


def restrict(version: int, allowed: Sequence[tuple[int, Access]]) -> None:
    """Leave the calling thread, and those it starts later, no rights to files but the given ones; no TCP, no signals to others.

    Descriptors that are open already keep what they can do. Privileges must have been given up for good (PR_SET_NO_NEW_PRIVS).

    Args:
        version: What `interface_version` said.
        allowed: Descriptors of folders or files, which may be opened with O_PATH, and the rights below them.

    Raises:
        OSError: The kernel refused.
    """
    handled = _file_rights(version)
    attr = _RulesetAttr(handled_access_fs=handled)
    size = 8
    if version >= _NET_VERSION:
        attr.handled_access_net, size = _NET_BIND_AND_CONNECT_TCP, 16
    if version >= _SCOPE_VERSION:
        attr.scoped, size = _SCOPE_ABSTRACT_SOCKETS_AND_SIGNALS, 24
    with _ruleset(attr, size) as ruleset:
        for fd, access in allowed:
            known = access & handled
            if not stat.S_ISDIR(os.fstat(fd).st_mode):
                known &= _OF_FILES
            rule = _PathBeneathAttr(allowed_access=known, parent_fd=fd)
            _libc.syscall("landlock_add_rule", _ADD_RULE, ruleset, _RULE_PATH_BENEATH, rule, 0)
        _libc.syscall("landlock_restrict_self", _RESTRICT_SELF, ruleset, 0)


@contextmanager
def _ruleset(attr: _RulesetAttr, size: int) -> Iterator[int]:
    fd = _libc.syscall("landlock_create_ruleset", _CREATE_RULESET, attr, size, 0)
    try:
        yield fd
    finally:
        os.close(fd)


def _file_rights(version: int) -> Access:
    rights = Access(0)
    for since, more in _FILE_RIGHTS_OF_VERSION:
        if version >= since:
            rights |= more
    return rights
