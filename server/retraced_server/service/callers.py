"""Who may call: names, what proves each, and what each is allowed. Read from a file of the operator's.

    [callers.nightly-build]
    token_sha256 = "2b20bf8f65024f8fc0f6f8f451ad643511c007fe6d3fc7339cde5f039db19bf5"
    max_requests = 4

    [callers.notebooks]
    certificate = "notebooks.example.com"
    max_archive_size = "512MiB"

The file holds digests of tokens, never tokens: who reads it cannot call. Tokens are random and long (`retraced token` makes one), so a
digest without salt and stretching is enough.
"""

from __future__ import annotations

import hashlib
import hmac
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import (
    BaseModel,
    BeforeValidator,
    ByteSize,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)

from retraced_server.service.reloaded import FileError, read_bytes

ANONYMOUS = "anonymous"
"""The caller of every call, where nobody is named."""

UNKNOWN = "unknown"
"""Stands for a caller that is refused, in logs."""


@dataclass(frozen=True)
class CallerLimits:
    """What one caller is allowed; 0 is no limit, or for archives the server's.

    Attributes:
        max_requests: Calls at a time.
        max_archive_bytes: The largest archive.
        max_upload_bytes: Bytes of all archives of its calls at a time.
        max_crashes: Workers that its programs may crash in ten minutes.
    """

    max_requests: int = 0
    max_archive_bytes: int = 0
    max_upload_bytes: int = 0
    max_crashes: int = 0


NO_LIMITS = CallerLimits()
"""Of a caller that nothing limits but the server."""


@dataclass(frozen=True)
class Caller:
    """Who calls."""

    name: str
    limits: CallerLimits = NO_LIMITS


Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}$")]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Digests = Annotated[tuple[Sha256, ...], BeforeValidator(lambda value: (value,) if isinstance(value, str) else value)]
"""One digest, or several: a new token is taken beside the old one until that is struck out."""


class Entry(BaseModel):
    """One caller in the file. Limits that are left out are the server's."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    token_sha256: Digests = ()
    certificate: str = ""
    max_requests: int | None = Field(None, ge=1)
    max_archive_size: ByteSize | None = Field(None, ge=1)
    max_upload: ByteSize | None = Field(None, ge=1)
    max_crashes: int | None = Field(None, ge=1)

    @model_validator(mode="after")
    def _can_be_known(self) -> Entry:
        if not self.token_sha256 and not self.certificate:
            raise ValueError("a caller has a token_sha256 or a certificate")
        return self


class _File(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    callers: Mapping[Name, Entry] = Field(min_length=1)

    @model_validator(mode="after")
    def _are_distinct(self) -> _File:
        if taken := self.callers.keys() & {ANONYMOUS, UNKNOWN}:
            raise ValueError(f"no caller may be called {taken.pop()}")
        proofs = [proof for entry in self.callers.values() for proof in (*entry.token_sha256, entry.certificate) if proof]
        if len(set(proofs)) < len(proofs):
            raise ValueError("two callers have the same token or certificate")
        return self


class Callers:
    """The callers of one file."""

    def __init__(self, entries: Mapping[str, Entry], defaults: CallerLimits) -> None:
        self._entries = entries
        self._defaults = defaults

    @staticmethod
    def read(path: Path, defaults: CallerLimits) -> Callers:
        """Read a file.

        Args:
            path: The file, TOML.
            defaults: The limits of callers for which it gives none.

        Raises:
            FileError: It cannot be read, or is not as it should be.
        """
        try:
            text = read_bytes(path).decode()
            return Callers(_File.model_validate(tomllib.loads(text)).callers, defaults)
        except ValidationError as error:
            # Not the input: somebody may have put a token where its digest belongs.
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(str(part) for part in first["loc"] if part != "[key]")
            raise FileError(f"{path}: {where or 'the file'}: {first['msg']}") from error
        except ValueError as error:
            raise FileError(f"{path} is no TOML: {error}") from error

    def by_token(self, token: str) -> Caller | None:
        """Return the caller that has a token. Takes as long for one as for another, and for none."""
        digest = hashlib.sha256(token.encode()).hexdigest()
        found = None
        for name, entry in self._entries.items():
            for known in entry.token_sha256:
                if hmac.compare_digest(known, digest):
                    found = self._caller(name, entry)
        return found

    def by_certificate(self, names: Collection[str]) -> Caller | None:
        """Return the caller whose certificate has one of these names; where several have, the first of the file."""
        return next((self._caller(name, entry) for name, entry in self._entries.items() if entry.certificate in names), None)

    def _caller(self, name: str, entry: Entry) -> Caller:
        limits = CallerLimits(
            max_requests=entry.max_requests or self._defaults.max_requests,
            max_archive_bytes=entry.max_archive_size or self._defaults.max_archive_bytes,
            max_upload_bytes=entry.max_upload or self._defaults.max_upload_bytes,
            max_crashes=entry.max_crashes or self._defaults.max_crashes,
        )
        return Caller(name, limits)
