"""TLS of the server: its certificate, its key, and the authority that its callers' certificates come from."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

import grpc

from retraced_server.service.reloaded import FileError, Reloaded, read_bytes


@dataclass(frozen=True)
class TlsFiles:
    """PEM files.

    Attributes:
        certificate: The server's certificate, with what leads from it to its authority.
        key: Its private key, not encrypted.
        client_ca: Authorities whose certificates callers must show; None: callers need none.
    """

    certificate: Path
    key: Path
    client_ca: Path | None = None

    @property
    def paths(self) -> tuple[Path, ...]:
        """All of them."""
        return (self.certificate, self.key, *([] if self.client_ca is None else [self.client_ca]))


def server_credentials(files: TlsFiles) -> grpc.ServerCredentials:
    """Return the credentials of a server. A connection that comes after files were renewed is served with the renewed ones.

    Raises:
        FileError: A file cannot be read, or the key is not that of the certificate.
    """
    current = Reloaded(files.paths, lambda: _configuration(files))
    served = current.value

    def renewed() -> grpc.ServerCertificateConfiguration | None:
        """Asked by gRPC before each handshake, in a thread of its own."""
        nonlocal served
        before, served = served, current.value
        return None if served is before else served

    certificates = files.client_ca is not None
    # Its published types leave out that the function may give None.
    return grpc.dynamic_ssl_server_credentials(served, renewed, certificates)  # type: ignore[arg-type]


def _configuration(files: TlsFiles) -> grpc.ServerCertificateConfiguration:
    certificate, key = read_bytes(files.certificate), read_bytes(files.key)
    authority = None if files.client_ca is None else read_bytes(files.client_ca)
    # gRPC would say nothing of files that do not fit, and fail every handshake.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        # An encrypted key would have a prompt at the terminal ask for its password.
        context.load_cert_chain(files.certificate, files.key, password="")
    except (ssl.SSLError, ValueError) as error:
        raise FileError(f"{files.certificate} and {files.key} are no certificate and its key: {_reason(error)}") from error
    if authority is not None:
        try:
            context.load_verify_locations(cadata=authority.decode(errors="replace"))
        except (ssl.SSLError, ValueError) as error:
            raise FileError(f"{files.client_ca} holds no certificates of authorities: {_reason(error)}") from error
    return grpc.ssl_server_certificate_configuration([(key, certificate)], root_certificates=authority)


def _reason(error: Exception) -> str:
    reason = error.reason if isinstance(error, ssl.SSLError) else ""
    return (reason or str(error)).replace("_", " ").lower()
