"""How many connections a server has: in all, which gRPC bounds, and of each peer, which it does not.

gRPC for Python accepts connections itself and says nothing of them. Those of one peer are found among the descriptors of this process,
and the newest beyond the limit are shut down, which gRPC sees as a peer that left.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import resource
import socket
import stat
from collections import Counter
from dataclasses import dataclass
from typing import Final

import structlog

_DESCRIPTORS: Final = "/proc/self/fd"
_SWEEP_SECONDS: Final = 0.25
# Descriptors for archives, workers and libraries, besides those of connections.
_OTHER_DESCRIPTORS: Final = 4096
_UNLIMITED: Final = (1 << 31) - 1
# What one household, or one machine, is commonly given of IPv6.
_IPV6_PREFIX: Final = 64

_log = structlog.stdlib.get_logger("retraced")


@dataclass(frozen=True)
class ConnectionLimits:
    """What connections are allowed, of each address that is listened on.

    Attributes:
        total: Connections at a time; 0 is no limit.
        per_peer: Connections at a time of one IPv4 address, or one IPv6 network of 64 bits; 0 is no limit.
        idle_seconds: Seconds that a connection may have no call before it is closed.
        handshake_seconds: Seconds in which a connection has to have said what TLS and HTTP/2 begin with.
    """

    total: int = 1024
    per_peer: int = 128
    idle_seconds: float = 300.0
    handshake_seconds: float = 10.0

    def channel_options(self) -> tuple[tuple[str, int], ...]:
        """Return gRPC's part of it."""
        handshake, idle = (round(seconds * 1000) for seconds in (self.handshake_seconds, self.idle_seconds))
        return (
            ("grpc.max_allowed_incoming_connections", self.total or _UNLIMITED),
            ("grpc.server_handshake_timeout_ms", handshake),
            ("grpc.http2.settings_timeout", handshake),
            ("grpc.max_connection_idle_ms", idle),
        )

    def reserve_descriptors(self) -> None:
        """Raise this process's limit of open files to what the connections may need, as far as the machine allows."""
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = self.total + _OTHER_DESCRIPTORS
        if hard != resource.RLIM_INFINITY:
            wanted = min(wanted, hard)
        if soft != resource.RLIM_INFINITY and soft < wanted:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


class PeerConnections:
    """The connections to this process's ports, by peer. Connections of Unix sockets have no peer that could be told from others.

    Args:
        most: Connections that a peer may have to each port; 0 is no limit.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._ports: set[int] = set()
        # By inode, in the order in which they were first seen: port and peer, or None of a socket that is no connection to a port.
        self._known: dict[int, tuple[int, str] | None] = {}
        self._over: set[tuple[int, str]] = set()
        self._task: asyncio.Task[None] | None = None

    def add_port(self, port: int) -> None:
        """Bound the connections to a port too."""
        self._ports.add(port)

    def start(self) -> None:
        """Look four times a second from now on."""
        if self._most and self._ports:
            self._task = asyncio.create_task(self._look(), name="connections")

    async def stop(self) -> None:
        """Look no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP_SECONDS)
            try:
                self._sweep()
            # Descriptors may be used up by what is bounded elsewhere: the next look may succeed.
            except OSError as error:
                _log.warning("connections cannot be counted", error=error.strerror)

    def _sweep(self) -> None:
        descriptors = _sockets()
        known = {inode: connection for inode, connection in self._known.items() if inode in descriptors}
        for inode in descriptors.keys() - known.keys():
            known[inode] = self._connection(descriptors[inode])
        self._known = known
        counts: Counter[tuple[int, str]] = Counter()
        for inode, connection in known.items():
            if connection is None:
                continue
            counts[connection] += 1
            if counts[connection] > self._most:
                _shut_down(descriptors[inode], inode)
        over = {connection for connection, count in counts.items() if count > self._most}
        for port, peer in over - self._over:
            _log.warning(
                "a peer has too many connections", peer=peer, port=port, connections=counts[port, peer], most=self._most
            )
        self._over = over

    def _connection(self, descriptor: int) -> tuple[int, str] | None:
        try:
            with socket.socket(fileno=os.dup(descriptor)) as found:
                if found.family not in (socket.AF_INET, socket.AF_INET6) or found.getsockname()[1] not in self._ports:
                    return None
                return found.getsockname()[1], peer_of(found.getpeername()[0])
        # It listens, or has ended by now.
        except OSError:
            return None


def _sockets() -> dict[int, int]:
    """Return this process's sockets: the descriptor of each inode."""
    found: dict[int, int] = {}
    for name in os.listdir(_DESCRIPTORS):
        # gRPC closes what it likes meanwhile.
        with contextlib.suppress(OSError):
            status = os.fstat(int(name))
            if stat.S_ISSOCK(status.st_mode):
                found[status.st_ino] = int(name)
    return found


def _shut_down(descriptor: int, inode: int) -> None:
    """Shut a socket down, if a descriptor is still that socket's."""
    with contextlib.suppress(OSError), socket.socket(fileno=os.dup(descriptor)) as found:
        if os.fstat(found.fileno()).st_ino == inode:
            found.shutdown(socket.SHUT_RDWR)


def peer_of(host: str) -> str:
    """Return the peer of an address: itself in IPv4, also where a socket of IPv6 shows it, and its network in IPv6."""
    address = ipaddress.ip_address(host.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is None:
            return str(ipaddress.ip_network((address, _IPV6_PREFIX), strict=False))
        address = address.ipv4_mapped
    return str(address)
