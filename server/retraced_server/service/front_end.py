"""The gRPC server of one engine: our service, health and reflection."""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2_grpc

from retraced_server.engine.base import Engine
from retraced_server.service import convert, health
from retraced_server.service.authentication import Authenticator
from retraced_server.service.calls import Calls, Observer
from retraced_server.service.connections import ConnectionLimits, PeerConnections
from retraced_server.service.instance import GraphTransforms, RequestLimits
from retraced_server.service.listen import listen
from retraced_server.service.reflection import add_reflection
from retraced_server.service.servicer import GraphTransformServicer

# A chunk that is too long, but not by far, is read, so that its caller hears of it as of every other error.
_MAX_REQUEST_BYTES = 4 << 20
_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.max_receive_message_length", _MAX_REQUEST_BYTES),
    # No message is decompressed: gRPC looks at its length only afterwards, when a message of that length has become gigabytes.
    ("grpc.compression_enabled_algorithms_bitset", 1),
    # Two servers on one port would each get some of the calls.
    ("grpc.so_reuseport", 0),
    ("grpc.max_concurrent_streams", 1000),
    # Of each upload at most this much is on its way. Left to itself gRPC widens that to tens of megabytes, and is not faster for it.
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", 4 << 20),
    # A caller that vanishes without a word is noticed, and its job ended, after 80 s.
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
)
# What has ended by then has sent its status.
_STOP_SECONDS = 1.0


class FrontEnd:
    """Answers calls. It may start before its engine, which it does not start or stop: until `open`, callers are told to come later."""

    def __init__(
        self,
        engine: Engine,
        limits: RequestLimits,
        spool_dir: Path,
        spool_memory: int,
        authenticate: Authenticator | None = None,
        *,
        connections: ConnectionLimits | None = None,
        send_tracebacks: bool = False,
    ) -> None:
        connections = connections or ConnectionLimits()
        connections.reserve_descriptors()
        options = _OPTIONS + connections.channel_options()
        self._peers = PeerConnections(connections.per_peer)
        self._transforms = GraphTransforms(engine, limits, spool_dir, spool_memory)
        self._calls = Calls(authenticate or Authenticator(), send_tracebacks=send_tracebacks)
        self._health = health.HealthServicer((convert.SERVICE,), lambda: not self.obstacles())
        self._server = grpc.aio.server(options=options)
        self._server.add_generic_rpc_handlers((GraphTransformServicer(self._transforms, self._calls).handler(),))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        add_reflection(self._server, (convert.SERVICE, health.SERVICE))
        self._health_server = grpc.aio.server(options=options)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._health_server)

    def obstacles(self) -> list[str]:
        """Why no request would be taken and answered now; none where one would."""
        return self._transforms.obstacles()

    def observe(self, *observers: Observer) -> None:
        """Have observers look at every call that ends from now on."""
        self._calls.observe(*observers)

    def listen(self, host: str, port: int, credentials: grpc.ServerCredentials | None = None) -> str:
        """Take an address; see `listen.listen`."""
        return self._bounded(listen(self._server, host, port, credentials))

    def listen_for_health_checks(self, host: str, port: int) -> str:
        """Take an address for health checks alone, in plain text: many that ask have no certificate, and no token."""
        return self._bounded(listen(self._health_server, host, port))

    def _bounded(self, address: str) -> str:
        if not address.startswith("unix:"):
            self._peers.add_port(int(address.rpartition(":")[2]))
        return address

    async def start(self) -> None:
        """Begin to answer."""
        await self._server.start()
        await self._health_server.start()
        self._peers.start()

    def open(self) -> None:
        """Take requests from now on: the engine has started."""
        self._transforms.open()

    async def stop(self) -> None:
        """End what still runs, and answer nothing more. The engine has drained before."""
        self._health.close()
        await asyncio.gather(self._server.stop(_STOP_SECONDS), self._health_server.stop(_STOP_SECONDS))
        await self._peers.stop()
        await self._calls.ended()
