"""TLS to a server, as a caller says it."""

from __future__ import annotations

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class Tls:
    """Which certificates a connection is made with; paths of PEM files.

    Attributes:
        ca: Authorities, one of which has to have signed the server's certificate. None: those that gRPC comes with, or those of the
            file that the environment variable GRPC_DEFAULT_SSL_ROOTS_FILE_PATH names.
        certificate: The caller's own certificate, for a server that asks for one.
        key: Its private key.
        server_name: The name that the server's certificate has to have. None: the host of the address. Several addresses have one name
            in common.

    Raises:
        ValueError: Only one of `certificate` and `key` is given.
    """

    ca: str | os.PathLike[str] | None = None
    certificate: str | os.PathLike[str] | None = None
    key: str | os.PathLike[str] | None = None
    server_name: str | None = None

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("a certificate and its key go together: only one of them is given")
