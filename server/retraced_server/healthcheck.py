"""Asks a server's standard health service whether it serves: `python -m retraced_server.healthcheck [HOST:PORT]`.

For container health checks. Exits 0 if it serves, 1 if it does not or cannot be reached.
"""

from __future__ import annotations

import os
import sys

import grpc
from grpc_health.v1 import health_pb2

_TIMEOUT_SECONDS = 3.0


def main(arguments: list[str]) -> int:
    """Prints the server's state, and returns the exit status."""
    address = arguments[0] if arguments else f"127.0.0.1:{os.environ.get('RETRACED_PORT', '50051')}"
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


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
