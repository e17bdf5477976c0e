"""`retraced token`, and how commands say who calls and connect with TLS."""

from __future__ import annotations

import hashlib
import stat
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.support import Run
from tests.client.fake_server import FakeServer, answers
from tests.support.certificates import Authority


@pytest.fixture(autouse=True)
def _no_token_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RETRACED_TOKEN", raising=False)


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer(answers(b"")) as server:
        yield server


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text("of-the-file\n")
    return path


def test_a_new_token_goes_into_a_file_of_its_owner_and_its_digest_is_printed(retraced: Run, tmp_path: Path) -> None:
    path = tmp_path / "new.token"
    ended = retraced("token", "nightly@example.com", "-o", path)
    token = path.read_text().removesuffix("\n")
    assert (ended.code, ended.err) == (0, "")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(token) >= 43
    assert token not in ended.out
    assert tomllib.loads(ended.out) == {
        "callers": {"nightly@example.com": {"token_sha256": hashlib.sha256(token.encode()).hexdigest()}}
    }


def test_tokens_differ_and_none_is_written_over(retraced: Run, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for path in (first, second):
        assert retraced("token", "nightly", "-o", path).code == 0
    before = first.read_text()
    assert before != second.read_text()
    ended = retraced("token", "nightly", "-o", first)
    assert (ended.code, ended.out) == (2, "")
    assert "File exists" in ended.err
    assert first.read_text() == before


def test_a_name_that_no_server_takes_is_refused(retraced: Run, tmp_path: Path) -> None:
    for name in ("", "two words", "-x", "x" * 65, 'a"]\n'):
        ended = retraced("token", "-o", tmp_path / "token", "--", name)
        assert (ended.code, ended.out) == (2, "")
    assert list(tmp_path.iterdir()) == []


def test_the_token_of_the_file_goes_before_that_of_the_environment(
    retraced: Run, server: FakeServer, token_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert retraced("info", "--server", server.address).code == 0
    monkeypatch.setenv("RETRACED_TOKEN", "of-the-environment")
    assert retraced("info", "--server", server.address).code == 0
    assert retraced("passes", "--server", server.address, "--token-file", token_file).code == 0
    assert [authorization for authorization, _ in server.callers] == [None, "Bearer of-the-environment", "Bearer of-the-file"]


def test_a_token_that_cannot_be_read_or_would_go_in_plain_text_ends_with_2(
    retraced: Run, server: FakeServer, token_file: Path, tmp_path: Path
) -> None:
    ended = retraced("info", "--server", server.address, "--token-file", tmp_path / "nothing")
    assert (ended.code, server.callers) == (2, [])
    assert "CREDENTIALS_INVALID: cannot read the token in" in ended.err
    ended = retraced("info", "--server", "example.invalid:1", "--token-file", token_file)
    assert ended.code == 2
    assert "in plain text" in ended.err
    assert "of-the-file" not in ended.err
    assert retraced("info", "--server", "example.invalid:1", "--token-file", token_file, "--allow-insecure").code == 3


def test_certificates_are_given_by_their_files(retraced: Run, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    own = authority.pair("me.example", common_name="me", file="own")
    with FakeServer(answers(b""), authority.server_credentials()) as server:
        files = ("--tls-ca", authority.path, "--tls-certificate", own.certificate, "--tls-key", own.key)
        assert retraced("info", "--server", server.address, *files).code == 0
        plain = retraced("info", "--server", server.address)
        assert plain.code == 3
        assert "a server with TLS needs --tls" in plain.err
        unknown = retraced("info", "--server", server.address, "--tls")
        assert unknown.code == 3
        assert "what to do: give the certificate of the authority that signed the server's with --tls-ca FILE" in unknown.err
        half = retraced("info", "--server", server.address, "--tls-certificate", own.certificate)
        assert half.code == 2
        assert "--tls-certificate and --tls-key go together" in half.err
    assert server.callers == [(None, b"me")]


def test_several_servers_are_named_with_commas_and_with_tls_their_name_in_common(retraced: Run, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    own = authority.pair("me.example", common_name="me", file="own")
    files = ("--tls-ca", authority.path, "--tls-certificate", own.certificate, "--tls-key", own.key)
    with FakeServer(answers(b""), authority.server_credentials("build.example")) as server:
        both = ("--server", f"{server.address},127.0.0.1:1", *files)
        assert retraced("info", *both, "--tls-server-name", "build.example").code == 0
        nameless = retraced("info", *both)
    assert nameless.code == 2
    assert "--tls-server-name, says which" in nameless.err
    assert server.callers == [(None, b"me")]


def test_a_server_without_tls_is_told_from_one_that_is_not_there(retraced: Run, server: FakeServer) -> None:
    ended = retraced("info", "--server", server.address, "--tls")
    assert ended.code == 3
    assert "what to do: leave --tls and its like out: the server speaks plain text" in ended.err


def test_tls_is_not_for_a_server_that_is_started_for_the_call(retraced: Run) -> None:
    ended = retraced("info", "--tls")
    assert ended.code == 2
    assert "TLS is for a server that --server or RETRACED_SERVER names" in ended.err


@pytest.mark.parametrize("source", ["--server", "RETRACED_SERVER"])
def test_an_address_that_is_none_ends_with_2_and_says_what_is_wrong(
    retraced: Run, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    if source == "RETRACED_SERVER":
        monkeypatch.setenv(source, "localhost:70000")
    for command in (["info"], ["passes"]):
        ended = retraced(*command, *(["--server", "localhost:70000"] if source == "--server" else []))
        assert (ended.code, ended.out) == (2, "")
        assert ended.err.startswith("retraced: ADDRESS_INVALID: 'localhost:70000' is no server's address: '70000' is no port")
