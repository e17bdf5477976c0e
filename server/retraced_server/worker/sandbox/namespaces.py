"""Namespaces of the zygote, which its workers share: an empty network, and no System V objects of others (namespaces(7)).

A second lock on what seccomp refuses already. Made once, in the zygote: an own network for each worker would cost milliseconds.
"""

from __future__ import annotations

import contextlib

from retraced_server.worker import _libc

_CLONE_NEWIPC = 0x08000000
_CLONE_NEWNET = 0x40000000
_KINDS = {"network": _CLONE_NEWNET, "ipc": _CLONE_NEWIPC}


def leave() -> tuple[str, ...]:
    """Move this process into new namespaces, and say which; none without privileges (CAP_SYS_ADMIN)."""
    left = []
    for name, flag in _KINDS.items():
        with contextlib.suppress(OSError):
            _libc.unshare(flag)
            left.append(name)
    return tuple(left)
