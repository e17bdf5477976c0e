"""How commands are told of a server: the options, and the client that they make."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import click

from retraced._attempts import ATTEMPTS
from retraced.client import Client
from retraced.errors import CredentialsInvalid
from retraced.tls import Tls

_Command = TypeVar("_Command", bound=Callable[..., object])


@dataclass
class Connection:
    """What the options and the environment say of the way to a server."""

    token_file: str | None = None
    tls: bool = False
    tls_ca: str | None = None
    tls_certificate: str | None = None
    tls_key: str | None = None
    tls_server_name: str | None = None
    allow_insecure: bool = False
    no_retry: bool = False

    @property
    def encrypted(self) -> bool:
        """Whether TLS is asked for, by any of its options."""
        return self.tls or any((self.tls_ca, self.tls_certificate, self.tls_key, self.tls_server_name))

    def client(self, address: str) -> Client:
        """Return a client of the server at an address.

        Raises:
            CredentialsInvalid: A file cannot be read, or the token not be sent.
        """
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise click.UsageError("--tls-certificate and --tls-key go together")
        tls = Tls(self.tls_ca, self.tls_certificate, self.tls_key, self.tls_server_name) if self.encrypted else None
        attempts = 1 if self.no_retry else ATTEMPTS
        return Client(address, token=self._token(), tls=tls, allow_insecure=self.allow_insecure, attempts=attempts)

    def _token(self) -> str | None:
        if self.token_file is None:
            return os.environ.get("RETRACED_TOKEN") or None
        try:
            with open(self.token_file) as file:
                return file.read().strip()
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is no text"
            raise CredentialsInvalid(f"cannot read the token in {self.token_file}: {why}") from error


_FILES = {
    "token_file": "A file with the token that says who calls. Without it: that of RETRACED_TOKEN, if there is one.",
    "tls_ca": "Authorities, PEM, one of which has to have signed the server's certificate; implies --tls.",
    "tls_certificate": "Your certificate, PEM, for a server that asks for one; implies --tls.",
    "tls_key": "Its private key, PEM.",
}
_FLAGS = {
    "tls": "Connect with TLS, to a server with a certificate of a public authority.",
    "allow_insecure": "Send the token in plain text, also to another machine.",
    "no_retry": "Fail at once where the server says that it may succeed later, instead of asking again up to four times.",
}


def server_option(command: _Command) -> _Command:
    """`--server`, which is handed to the command, and the options beside it, which set `Session.connection`."""
    options = [
        click.option(
            "--server",
            metavar="HOST:PORT",
            help="The server, or several: IP addresses with commas between, or dns:///NAME:PORT. Without it: those of RETRACED_SERVER, "
            "or else one that is started for this call.",
        ),
        *(
            click.option(_name(field), metavar="FILE", type=click.Path(), expose_value=False, callback=_set(field), help=text)
            for field, text in _FILES.items()
        ),
        click.option(
            "--tls-server-name",
            metavar="NAME",
            expose_value=False,
            callback=_set("tls_server_name"),
            help="The name in the server's certificate, where it is not that of --server; implies --tls.",
        ),
        *(
            click.option(_name(field), is_flag=True, expose_value=False, callback=_set(field), help=text)
            for field, text in _FLAGS.items()
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def _name(field: str) -> str:
    return "--" + field.replace("_", "-")


def _set(field: str) -> Callable[[click.Context, click.Parameter, Any], None]:
    def callback(context: click.Context, _parameter: click.Parameter, value: Any) -> None:
        if value:
            setattr(context.obj.connection, field, value)

    return callback
