"""Which layers of the sandbox this machine has, as far as can be said without putting one up."""

from __future__ import annotations

import os
import platform

from retraced_server.worker.sandbox import credentials, landlock, seccomp
from retraced_server.worker.sandbox.report import Layer, SandboxReport, State


def available_layers(uids: range) -> SandboxReport:
    """Return which layers this process could put up, and change nothing.

    Args:
        uids: The users that workers become where this process is root.
    """
    return SandboxReport((_seccomp(), _landlock(), _user(uids), _privileges(), _limits(), _namespaces()))


def _seccomp() -> Layer:
    if why_not := seccomp.why_unavailable():
        return Layer("seccomp", State.MISSING, why_not)
    return Layer("seccomp", State.IN_FORCE, f"an allow-list of system calls for {platform.machine()}")


def _landlock() -> Layer:
    version = landlock.interface_version()
    if not version:
        return Layer("landlock", State.MISSING, "the kernel has no Landlock, or not among its active security modules")
    lacks = "".join(f"; {text}" for text in landlock.not_bounded(version))
    return Layer("landlock", State.IN_FORCE, f"version {version} of the interface{lacks}")


def _user(uids: range) -> Layer:
    if os.geteuid() != 0:
        return Layer("user", State.NOT_NEEDED, f"the server itself runs as user {os.geteuid()}, without privileges")
    if not credentials.may_become_users():
        detail = "the server is root without the capabilities KILL, SETGID and SETUID, so its workers stay root: run it as another user"
        return Layer("user", State.MISSING, detail)
    return Layer("user", State.IN_FORCE, f"user {uids[0]}" if len(uids) == 1 else f"one of the users {uids[0]} to {uids[-1]}")


def _privileges() -> Layer:
    return Layer("privileges", State.IN_FORCE, "no capabilities, no new privileges, memory hidden from other processes")


def _limits() -> Layer:
    return Layer("limits", State.IN_FORCE, "memory, processor time, files")


def _namespaces() -> Layer:
    if not credentials.may_make_namespaces():
        return Layer("namespaces", State.MISSING, "they need the capability SYS_ADMIN", required=False)
    return Layer("namespaces", State.IN_FORCE, "an empty network, no System V objects of others", required=False)
