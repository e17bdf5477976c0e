"""How the server and its callers prove to each other who they are, from the settings; and where it may do without."""

from __future__ import annotations

from dataclasses import dataclass

import grpc

from retraced_server.service.authentication import Authenticator
from retraced_server.service.callers import CallerLimits, Callers
from retraced_server.service.credentials import TlsFiles, server_credentials
from retraced_server.service.listen import is_local
from retraced_server.service.reloaded import FileError, Reloaded
from retraced_server.service.settings import Settings


class SecurityError(Exception):
    """The settings cannot be served with; the message says what to do."""


@dataclass(frozen=True)
class Security:
    """What a server is secured by. `credentials` is None where it speaks plain text."""

    credentials: grpc.ServerCredentials | None
    authenticate: Authenticator


def open_security(settings: Settings) -> Security:
    """Read the files that the settings name.

    Raises:
        SecurityError: A file cannot be used, or one is missing.
    """
    files = _tls_files(settings)
    limits = CallerLimits(
        max_requests=settings.max_requests_per_caller,
        max_upload_bytes=settings.max_upload_per_caller,
        max_crashes=settings.max_crashes_per_caller,
    )
    path = settings.callers
    try:
        credentials = None if files is None else server_credentials(files)
        callers = None if path is None else Reloaded([path], lambda: Callers.read(path, limits))
    except FileError as error:
        raise SecurityError(str(error)) from error
    return Security(credentials, Authenticator(callers, certificates=settings.tls_client_ca is not None, limits=limits))


def check_exposure(settings: Settings, security: Security) -> None:
    """Refuse to be reached from other machines by anybody, or in plain text, unless told to.

    Raises:
        SecurityError: That is what the settings come to.
    """
    if settings.allow_insecure or is_local(settings.host):
        return
    missing = []
    if security.credentials is None:
        missing.append("without TLS (--tls-certificate and --tls-key)")
    if not security.authenticate.names_callers:
        missing.append("without authentication (--callers or --tls-client-ca)")
    if missing:
        raise SecurityError(
            f"{settings.host} is reached from other machines, and is not served {' and '.join(missing)}; "
            "give these, or listen on 127.0.0.1, or say --allow-insecure where something else guards the server"
        )


def _tls_files(settings: Settings) -> TlsFiles | None:
    certificate, key, client_ca = settings.tls_certificate, settings.tls_key, settings.tls_client_ca
    if certificate is not None and key is not None:
        return TlsFiles(certificate, key, client_ca)
    if certificate is not None or key is not None:
        raise SecurityError("--tls-certificate and --tls-key go together, and one of them is missing")
    if client_ca is not None:
        raise SecurityError("--tls-client-ca needs --tls-certificate and --tls-key")
    return None
