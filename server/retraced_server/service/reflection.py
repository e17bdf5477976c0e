"""Reflection, `grpc.reflection.v1` and `v1alpha`: tools learn the service's methods and messages from the server.

The two protocols differ in their package's name alone. grpcio-reflection has v1alpha only; newer tools ask for v1 first, or for nothing
else.
"""

from __future__ import annotations

from collections.abc import Sequence

import grpc
import grpc.aio
from google.protobuf import descriptor_pb2, descriptor_pool, text_format
from grpc_reflection.v1alpha import reflection, reflection_pb2

_V1 = reflection.SERVICE_NAME.replace("v1alpha", "v1")


def add_reflection(server: grpc.aio.Server, services: Sequence[str]) -> None:
    """Offer both services at a server.

    Args:
        server: The server, which has not been started.
        services: The full names of its other services.
    """
    names = _V1, reflection.SERVICE_NAME
    servicer = reflection.aio.ReflectionServicer((*services, *names), pool=_pool_with_v1())
    method = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler(name, {"ServerReflectionInfo": method}) for name in names]
    )


def _pool_with_v1() -> descriptor_pool.DescriptorPool:
    """Return the default pool, with the file of v1 in it: tools ask for the definition of every service that is listed."""
    pool = descriptor_pool.Default()
    file = descriptor_pb2.FileDescriptorProto()
    reflection_pb2.DESCRIPTOR.CopyToProto(file)
    renamed = text_format.MessageToString(file).replace("v1alpha", "v1")
    pool.AddSerializedFile(text_format.Parse(renamed, descriptor_pb2.FileDescriptorProto()).SerializeToString())
    return pool
