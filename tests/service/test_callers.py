"""The file of callers: what it may say, and how a mistake in it is told."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import pytest

from retraced_server.service.callers import CallerLimits, Callers
from retraced_server.service.reloaded import FileError, Reloaded

DIGEST = hashlib.sha256(b"a-token").hexdigest()
OTHER = hashlib.sha256(b"another").hexdigest()
DEFAULTS = CallerLimits(max_requests=128, max_upload_bytes=1 << 30)


def _callers(folder: Path, text: str) -> Callers:
    path = folder / "callers.toml"
    path.write_text(text)
    return Callers.read(path, DEFAULTS)


def test_a_caller_is_known_by_each_of_its_tokens_and_by_its_certificate(tmp_path: Path) -> None:
    callers = _callers(
        tmp_path,
        f"""
        [callers.nightly-build]
        token_sha256 = ["{DIGEST}", "{OTHER}"]
        max_requests = 4
        max_archive_size = "512MiB"
        max_upload = "2GiB"

        [callers."who@example.com"]
        certificate = "who.example.com"
        """,
    )
    for token in ("a-token", "another"):
        found = callers.by_token(token)
        assert found is not None
        assert found.name == "nightly-build"
        assert found.limits == CallerLimits(max_requests=4, max_archive_bytes=512 << 20, max_upload_bytes=2 << 30)
    assert callers.by_token("") is callers.by_token("a-toke") is callers.by_token("a-tokens") is None
    named = callers.by_certificate({"x", "who.example.com"})
    assert named is not None
    assert (named.name, named.limits) == ("who@example.com", DEFAULTS)
    assert callers.by_certificate({"who.example.co"}) is callers.by_certificate(set()) is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "callers: Field required"),
        ("[callers]", "callers: "),
        ("[callers.a]", "callers.a: Value error, a caller has a token_sha256 or a certificate"),
        ("[callers.a]\ntoken_sha256 = 'a-token'", "callers.a.token_sha256.0: "),
        ("[callers.a]\ntoken = 'a-token'", "callers.a.token: Extra inputs"),
        (f"[callers.a]\ntoken_sha256 = '{DIGEST}'\nmax_requests = 0", "callers.a.max_requests: "),
        (f"[callers.a]\ntoken_sha256 = '{DIGEST}'\nmax_archive_size = 'much'", "callers.a.max_archive_size: "),
        (f"[callers.'a b']\ntoken_sha256 = '{DIGEST}'", "callers.a b: "),
        (f"[callers.anonymous]\ntoken_sha256 = '{DIGEST}'", "no caller may be called anonymous"),
        (f"[callers.a]\ntoken_sha256='{DIGEST}'\n[callers.b]\ntoken_sha256='{DIGEST}'", "two callers have the same token"),
        ("[callers.a]\ncertificate='x'\n[callers.b]\ncertificate='x'", "two callers have the same token or certificate"),
        ("[callers.a", "is no TOML: "),
    ],
)
def test_a_mistake_is_named_with_its_place_and_never_with_a_token(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(FileError) as caught:
        _callers(tmp_path, text)
    assert said in str(caught.value)
    assert str(tmp_path / "callers.toml") in str(caught.value)
    assert "a-token" not in str(caught.value)


def test_a_file_that_is_no_text_or_not_there_is_named(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff")
    for name, said in (("binary", "is no TOML"), ("nothing", "No such file")):
        with pytest.raises(FileError, match=said):
            Callers.read(tmp_path / name, DEFAULTS)


def test_a_file_is_read_again_when_it_changes_and_a_mistake_in_it_changes_nothing(tmp_path: Path, log: list[Any]) -> None:
    path = tmp_path / "callers.toml"
    path.write_text(f"[callers.a]\ntoken_sha256 = '{DIGEST}'")
    read = Reloaded([path], lambda: Callers.read(path, DEFAULTS))

    def known() -> list[bool]:
        return [read.value.by_token(token) is not None for token in ("a-token", "another")]

    assert known() == [True, False]
    replacement = tmp_path / "new.toml"
    replacement.write_text(f"[callers.a]\ntoken_sha256 = '{OTHER}'")
    os.replace(replacement, path)
    assert known() == [False, True]
    path.write_text("[callers.a]\ntoken_sha256 = 'a-token'")
    assert known() == known() == [False, True]
    assert [entry["log_level"] for entry in log] == ["info", "warning"]
    assert "a-token" not in str(log)
    path.unlink()
    assert known() == [False, True]
