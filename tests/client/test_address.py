"""Which texts are servers' addresses, and what is said of those that are none."""

from __future__ import annotations

import pytest

from retraced import AsyncClient, Client, errors
from retraced._address import check_address


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1:50051",
        "localhost:1",
        "build.example.com:65535",
        "under_score:80",
        "[::1]:50051",
        "[fe80::1%eth0]:50051",
        "unix:/run/retraced.sock",
        "unix:///run/retraced.sock",
        "unix-abstract:retraced",
        "dns:build.example.com:50051",
        "dns:///build.example.com:50051",
        "dns://1.1.1.1/build.example.com:50051",
        "ipv4:10.0.0.1:50051,10.0.0.2:50051",
        "ipv6:[::1]:50051",
        "ipv4:80",
        "xds:///retraced",
    ],
)
def test_every_form_that_grpc_connects_to_is_an_address(address: str) -> None:
    check_address(address)
    Client(address).close()


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("localhost", "it has no port; retraced serve listens on 50051 unless it is told otherwise: localhost:50051"),
        ("[::1]", "it has no port"),
        ("dns:///example.com", "it has no port"),
        ("ipv4:10.0.0.1:50051,10.0.0.2", "it has no port"),
        ("localhost:0", "'0' is no port: one is a number from 1 to 65535"),
        ("localhost:65536", "'65536' is no port"),
        ("localhost:-1", "'-1' is no port"),
        ("localhost:http", "'http' is no port"),
        ("localhost:50051/", "'50051/' is no port"),
        ("localhost:\u0665", "'\u0665' is no port"),
        ("localhost:", "'' is no port"),
        (":50051", "it has no host; this machine is 127.0.0.1:50051"),
        ("two words:50051", "'two words' is no host"),
        ("user@host:50051", "'user@host' is no host"),
        ("::1:50051", "an IPv6 address stands in brackets"),
        ("http://localhost:50051", "http: is no scheme of gRPC; give HOST:PORT alone"),
        ("https://example.com:443", "https: is no scheme of gRPC; give HOST:PORT alone and TLS (--tls)"),
        ("grpc://localhost:50051", "grpc: is no scheme of gRPC"),
        ("/run/retraced.sock", "it has no port"),
    ],
)
def test_what_is_none_says_what_is_wrong(address: str, said: str) -> None:
    for client in (Client, AsyncClient):
        with pytest.raises(errors.AddressInvalid) as raised:
            client(address)
        assert repr(address) in raised.value.message
        assert said in raised.value.message
        assert raised.value.metadata == {"address": address}
