"""A server with TLS and callers, as an operator runs it for others."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from retraced import Client, EmbeddedServer, Tls, errors
from tests.support.certificates import Authority
from tests.support.models import by_name

from .conftest import server_arguments

pytestmark = pytest.mark.slow

_TOKEN = "nobody-else-knows-this"


def test_callers_work_over_tls_and_no_job_reads_what_the_server_is_secured_by(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    served = authority.pair("127.0.0.1")
    callers = tmp_path / "callers.toml"
    callers.write_text(f'[callers.nightly]\ntoken_sha256 = "{hashlib.sha256(_TOKEN.encode()).hexdigest()}"\n')
    files = ("--tls-certificate", str(served.certificate), "--tls-key", str(served.key), "--callers", str(callers))
    archive = by_name("input_and_id").archive
    with EmbeddedServer(server_arguments("--import", "tests.support.fault_passes", *files)) as server:
        with Client(server.address, token=_TOKEN, tls=Tls(authority.path)) as client:
            assert client.transform(archive, "retrace").modified is False
            for path in (served.key, callers):
                with pytest.raises(errors.SandboxReadDenied):
                    client.transform(archive, f'fault-read{{path="{path}"}}')
        with Client(server.address, tls=Tls(authority.path)) as client, pytest.raises(errors.Unauthenticated):
            client.transform(archive, "retrace")
        callers.write_text(callers.read_text().replace("nightly", "renamed"))
        with Client(server.address, token=_TOKEN, tls=Tls(authority.path)) as client:
            client.info()
        log = server.log
    assert all(f"caller={name}" in log for name in ("nightly", "renamed", "unknown"))
    assert _TOKEN not in log


def test_a_server_of_ones_own_is_not_secured_by_the_settings_of_another(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TLS_CERTIFICATE", "TLS_KEY", "CALLERS"):
        monkeypatch.setenv(f"RETRACED_{name}", "/no/such/file")
    with EmbeddedServer() as server, Client(server.address) as client:
        assert client.info().version
