"""TLS: who connects, who does not, and certificates that are renewed while the server runs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat, load_pem_private_key

from retraced import AsyncClient, Tls, errors
from retraced_server.service.authentication import Authenticator
from retraced_server.service.credentials import TlsFiles, server_credentials
from retraced_server.service.reloaded import FileError
from tests.service.conftest import Start
from tests.support.certificates import Authority, Pair


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "certificates")


@pytest.fixture
def served(authority: Authority) -> Pair:
    return authority.pair("127.0.0.1", "localhost")


async def _version(address: str, tls: Tls | None) -> str:
    async with AsyncClient(address, tls=tls) as client:
        return (await client.info()).version


async def test_a_client_that_trusts_the_authority_is_answered_and_another_is_not(
    start: Start, authority: Authority, served: Pair, tmp_path: Path
) -> None:
    async with start(credentials=server_credentials(TlsFiles(served.certificate, served.key))) as address:
        assert await _version(address, authority.tls())
        assert await _version(address.replace("127.0.0.1", "localhost"), authority.tls())
        for tls in (None, Tls(), Authority(tmp_path / "others").tls()):
            with pytest.raises(errors.ServerUnreachable):
                await _version(address, tls)


async def test_a_certificate_of_another_host_is_not_taken(start: Start, authority: Authority) -> None:
    pair = authority.pair("elsewhere.example")
    async with start(credentials=server_credentials(TlsFiles(pair.certificate, pair.key))) as address:
        with pytest.raises(errors.ServerUnreachable):
            await _version(address, authority.tls())


async def test_a_caller_is_named_by_its_certificate_and_not_served_without_one(
    start: Start, authority: Authority, served: Pair, tmp_path: Path, log: list[Any]
) -> None:
    files = TlsFiles(served.certificate, served.key, authority.path)
    async with start(credentials=server_credentials(files), authenticate=Authenticator(certificates=True)) as address:
        common = authority.pair("host.example", common_name="nightly", file="common")
        alternative = authority.pair("notebooks.example", file="alternative")
        for pair in (common, alternative):
            assert await _version(address, authority.tls(pair))
        stranger = Authority(tmp_path / "others").pair("host.example", common_name="nightly", file="stranger")
        for own in (None, stranger):
            with pytest.raises(errors.ServerUnreachable):
                await _version(address, authority.tls(own))
    assert [entry["caller"] for entry in log if entry["event"] == "request ended"] == ["nightly", "notebooks.example"]


async def test_a_renewed_certificate_serves_the_next_connection(
    start: Start, authority: Authority, served: Pair, tmp_path: Path
) -> None:
    async with start(credentials=server_credentials(TlsFiles(served.certificate, served.key))) as address:
        assert await _version(address, authority.tls())
        renewing = Authority(tmp_path / "renewing")
        renewed = renewing.pair("127.0.0.1")
        # The certificate comes first, as it does where files are copied: until the key is there the old ones are served.
        served.certificate.write_bytes(renewed.certificate.read_bytes())
        assert await _version(address, authority.tls())
        served.key.write_bytes(renewed.key.read_bytes())
        assert await _version(address, renewing.tls())
        with pytest.raises(errors.ServerUnreachable):
            await _version(address, authority.tls())


async def test_connections_that_stand_are_not_cut_by_a_renewal(start: Start, authority: Authority, served: Pair) -> None:
    async with (
        start(credentials=server_credentials(TlsFiles(served.certificate, served.key))) as address,
        AsyncClient(address, tls=authority.tls()) as client,
    ):
        await client.info()
        authority.pair("127.0.0.1")
        assert (await client.info()).version
        assert await _version(address, authority.tls())


def test_files_that_cannot_be_served_with_are_named(authority: Authority, served: Pair, tmp_path: Path) -> None:
    other = authority.pair("127.0.0.1", file="other")
    nothing, no_pem = tmp_path / "nothing.pem", tmp_path / "no.pem"
    no_pem.write_text("hello")
    for files, said in (
        (TlsFiles(nothing, served.key), f"cannot read {nothing}: No such file"),
        (TlsFiles(tmp_path, served.key), f"cannot read {tmp_path}: Is a directory"),
        (TlsFiles(no_pem, served.key), f"{no_pem} and {served.key} are no certificate and its key"),
        (TlsFiles(served.certificate, other.key), "key values mismatch"),
        (TlsFiles(served.certificate, served.key, no_pem), f"{no_pem} holds no certificates"),
        (TlsFiles(served.certificate, served.key, served.key), f"{served.key} holds no certificates"),
    ):
        with pytest.raises(FileError, match=re.escape(said)):
            server_credentials(files)


def test_a_key_with_a_password_is_refused_and_nobody_is_asked_for_it(served: Pair) -> None:
    key = load_pem_private_key(served.key.read_bytes(), password=None)
    served.key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")))
    with pytest.raises(FileError, match="are no certificate and its key"):
        server_credentials(TlsFiles(served.certificate, served.key))
