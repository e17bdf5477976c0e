"""Asks a server's standard health service whether it serves: `python -m retraced_server.healthcheck [ADDRESS]`.

For container health checks: without an address it asks the server that the environment makes, at RETRACED_HEALTH_PORT of RETRACED_HOST, or
where there is none at RETRACED_PORT. It speaks plain text, so a server with TLS needs the former. Exits 0 if it serves, 1 if it does not
or cannot be reached.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

import grpc
from grpc_health.v1 import health_pb2

_TIMEOUT_SECONDS = 3.0


def main(arguments: list[str]) -> int:
    """Print the server's state, and return the exit status."""
    address = arguments[0] if arguments else _address(os.environ)
    with grpc.insecure_channel(address) as channel:
        # Not `HealthStub`: its published types leave its methods out.
        check = channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )
        try:
            answer = check(health_pb2.HealthCheckRequest(), timeout=_TIMEOUT_SECONDS)
        except grpc.RpcError as error:
            print(f"{address}: {error.code().name}", file=sys.stderr)
            return 1
    print(f"{address}: {health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)}")
    return 0 if answer.status == health_pb2.HealthCheckResponse.SERVING else 1


def _address(environment: Mapping[str, str]) -> str:
    host, health_port = environment.get("RETRACED_HOST", ""), environment.get("RETRACED_HEALTH_PORT", "")
    port = health_port or environment.get("RETRACED_PORT", "") or "50051"
    if host.startswith("unix:"):
        return f"127.0.0.1:{health_port}" if health_port else host
    bare = host.removeprefix("[").removesuffix("]")
    # A server that listens on every address listens on this one.
    bare = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(bare, bare)  # noqa: S104 - it is asked, and not bound
    return f"[{bare}]:{port}" if ":" in bare else f"{bare}:{port}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
