"""Health and reflection, as tools of others ask for them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from retraced_server import healthcheck
from retraced_server.service import health
from tests.service.conftest import Start
from tests.service.fake_engine import FACTS, FakeEngine
from tests.support.waiting import until

_OURS = "retraced.v1.GraphTransformService"
_REFLECTIONS = ("grpc.reflection.v1", "grpc.reflection.v1alpha")
Serving = health_pb2.HealthCheckResponse


async def _check(channel: grpc.aio.Channel, service: str) -> int:
    check = channel.unary_unary(
        "/grpc.health.v1.Health/Check",
        request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
        response_deserializer=health_pb2.HealthCheckResponse.FromString,
    )
    return (await check(health_pb2.HealthCheckRequest(service=service))).status


def _watch(channel: grpc.aio.Channel, service: str) -> AsyncIterator[health_pb2.HealthCheckResponse]:
    watch = channel.unary_stream(
        "/grpc.health.v1.Health/Watch",
        request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
        response_deserializer=health_pb2.HealthCheckResponse.FromString,
    )
    return aiter(watch(health_pb2.HealthCheckRequest(service=service)))


@pytest.mark.parametrize("service", ["", _OURS])
async def test_health_says_whether_a_request_would_be_taken(
    channel: grpc.aio.Channel, engine: FakeEngine, service: str
) -> None:
    assert await _check(channel, service) == Serving.SERVING
    engine.ready = False
    assert await _check(channel, service) == Serving.NOT_SERVING


async def test_a_server_whose_workers_are_not_there_yet_does_not_serve(start: Start) -> None:
    async with start(opened=False) as address, grpc.aio.insecure_channel(address) as channel:
        assert await _check(channel, "") == Serving.NOT_SERVING


async def test_health_of_a_service_that_is_not_there_is_not_found(channel: grpc.aio.Channel) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await _check(channel, "nobody.v1.Nothing")
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    assert (await anext(_watch(channel, "nobody.v1.Nothing"))).status == Serving.SERVICE_UNKNOWN


async def test_every_watcher_hears_of_every_change(channel: grpc.aio.Channel, engine: FakeEngine) -> None:
    leaver, stayer = _watch(channel, ""), _watch(channel, _OURS)
    assert (await anext(leaver)).status == (await anext(stayer)).status == Serving.SERVING
    del leaver
    for ready, status in ((False, Serving.NOT_SERVING), (True, Serving.SERVING)):
        engine.ready = ready
        assert (await asyncio.wait_for(anext(stayer), 10)).status == status


async def test_many_watchers_cost_no_more_than_one() -> None:
    asked, ready = 0, True

    def serving() -> bool:
        nonlocal asked
        asked += 1
        return ready

    told: list[int] = []

    class Watcher:
        async def write(self, response: health_pb2.HealthCheckResponse) -> None:
            told.append(response.status)

    servicer = health.HealthServicer((_OURS,), serving)
    # Any: what gRPC gives a method, of which it uses one method.
    context: Any = Watcher()
    watching = [asyncio.create_task(servicer.Watch(health_pb2.HealthCheckRequest(), context)) for _ in range(200)]
    await until(lambda: len(told) == 200, "every watcher is told")
    ready = False
    await until(lambda: len(told) == 400, "every watcher is told again")
    servicer.close()
    await asyncio.gather(*watching)
    assert told == [Serving.SERVING] * 200 + [Serving.NOT_SERVING] * 200
    assert asked < 200


async def test_the_containers_health_check_agrees(
    address: str, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RETRACED_PORT", address.rpartition(":")[2])
    monkeypatch.setenv("RETRACED_HOST", "0.0.0.0")
    assert await asyncio.to_thread(healthcheck.main, []) == 0
    engine.ready = False
    assert await asyncio.to_thread(healthcheck.main, []) == 1
    assert capsys.readouterr().out == f"{address}: SERVING\n{address}: NOT_SERVING\n"


async def _reflected(
    channel: grpc.aio.Channel, package: str, service: str = _OURS
) -> tuple[set[str], descriptor_pool.DescriptorPool]:
    """The services that are listed, and every file that a service needs, by one version of reflection."""
    reflect = channel.stream_stream(
        f"/{package}.ServerReflection/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )
    asked = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol=service),
    ]
    listed, described = [answer async for answer in reflect(iter(asked))]
    files = {
        file.name: file
        for file in map(descriptor_pb2.FileDescriptorProto.FromString, described.file_descriptor_response.file_descriptor_proto)
    }
    pool = descriptor_pool.DescriptorPool()
    while files:
        name = next(name for name, file in files.items() if not set(file.dependency) & set(files))
        pool.Add(files.pop(name))
    return {service.name for service in listed.list_services_response.service}, pool


@pytest.mark.parametrize("package", _REFLECTIONS)
async def test_reflection_lists_the_services_and_describes_each(channel: grpc.aio.Channel, package: str) -> None:
    names, _ = await _reflected(channel, package)
    assert names == {_OURS, "grpc.health.v1.Health", *(f"{version}.ServerReflection" for version in _REFLECTIONS)}
    for name in names:
        _, pool = await _reflected(channel, package, name)
        assert pool.FindServiceByName(name).methods


@pytest.mark.parametrize("package", _REFLECTIONS)
async def test_a_tool_that_knows_only_reflection_can_call_every_method(channel: grpc.aio.Channel, package: str) -> None:
    _, pool = await _reflected(channel, package)
    answers = {}
    for method in pool.FindServiceByName(_OURS).methods:
        request, response = map(message_factory.GetMessageClass, (method.input_type, method.output_type))
        sent = [json_format.ParseDict(message, request()) for message in _REQUESTS[method.name]]
        call = channel.stream_stream(f"/{_OURS}/{method.name}", request.SerializeToString, response.FromString)
        answers[method.name] = [json_format.MessageToDict(answer) async for answer in call(iter(sent))]
    assert [found["name"] for found in answers["ListPasses"][0]["passes"]] == ["decompose", "retrace"]
    assert answers["GetServerInfo"][0]["torchVersion"] == FACTS.torch_version
    assert [next(iter(answer)) for answer in answers["TransformGraph"]] == ["accepted", "outputChunk", "summary"]


_REQUESTS: dict[str, list[dict[str, object]]] = {
    "ListPasses": [{}],
    "GetServerInfo": [{}],
    # Bytes are base64 in JSON.
    "TransformGraph": [{"spec": {"pipeline": "retrace", "archiveSize": 3}}, {"archiveChunk": "YWJj"}],
}
