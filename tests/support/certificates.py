"""Certificates of an authority that a test makes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import grpc
import trustme

from retraced import Tls


@dataclass(frozen=True)
class Pair:
    """PEM files of a certificate and its key."""

    certificate: Path
    key: Path


class Authority:
    """Signs certificates, and puts them into a folder.

    Attributes:
        path: Its own certificate, a PEM file.
    """

    def __init__(self, folder: Path, name: str = "ca") -> None:
        folder.mkdir(exist_ok=True)
        self._folder = folder
        self._ca = trustme.CA()
        self.path = folder / f"{name}.pem"
        self._ca.cert_pem.write_to_path(self.path)

    def pair(self, *names: str, common_name: str | None = None, file: str = "server") -> Pair:
        """Makes a certificate for these names, in the place of one of the same file."""
        made = self._ca.issue_cert(*names, common_name=common_name)
        pair = Pair(self._folder / f"{file}.pem", self._folder / f"{file}.key")
        made.private_key_pem.write_to_path(pair.key)
        pair.certificate.write_bytes(b"".join(part.bytes() for part in made.cert_chain_pems))
        return pair

    def server_credentials(self, name: str = "127.0.0.1") -> grpc.ServerCredentials:
        """Those of a server of this name that asks for certificates of this authority."""
        pair = self.pair(name)
        chain = [(pair.key.read_bytes(), pair.certificate.read_bytes())]
        return grpc.ssl_server_credentials(chain, self.path.read_bytes(), require_client_auth=True)

    def tls(self, own: Pair | None = None) -> Tls:
        """How a client connects that trusts this authority."""
        return Tls(self.path) if own is None else Tls(self.path, own.certificate, own.key)
