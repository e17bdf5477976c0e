"""Who calls: found out before anything else is read of a call."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Protocol

from retraced_server.errors import Reason, RetracedError
from retraced_server.service.callers import ANONYMOUS, NO_LIMITS, Caller, CallerLimits, Callers
from retraced_server.service.reloaded import Reloaded


class Peer(Protocol):
    """What gRPC knows of a caller."""

    def invocation_metadata(self) -> Iterable[tuple[str, str | bytes]] | None:
        """Return the call's metadata."""
        ...

    def auth_context(self) -> Mapping[str, Iterable[bytes]]:
        """Return what the handshake has shown: the names in the caller's certificate among it."""
        ...


class Authenticator:
    """Names callers.

    A token goes before a certificate: `authorization: Bearer TOKEN` of one of the callers. Without a token, a certificate that TLS has
    verified names its caller: by the callers' file where there is one, and else by its common name, or its first alternative name.

    Args:
        callers: The callers; None: there is no file of them.
        certificates: Whether callers show certificates.
        limits: The limits of a caller that no file names.
    """

    def __init__(
        self, callers: Reloaded[Callers] | None = None, *, certificates: bool = False, limits: CallerLimits = NO_LIMITS
    ) -> None:
        self._callers = callers
        self._certificates = certificates
        self._limits = limits

    @property
    def names_callers(self) -> bool:
        """Whether callers have to say who they are."""
        return self._callers is not None or self._certificates

    def __call__(self, peer: Peer) -> Caller:
        """Return who calls.

        Raises:
            RetracedError: UNAUTHENTICATED; it does not say what was wrong.
        """
        if not self.names_callers:
            return Caller(ANONYMOUS, self._limits)
        caller = self._by_callers(peer, self._callers.value) if self._callers is not None else self._by_name(peer)
        if caller is None:
            raise RetracedError(Reason.UNAUTHENTICATED, self._expected())
        return caller

    def _by_callers(self, peer: Peer, callers: Callers) -> Caller | None:
        given = [value for key, value in peer.invocation_metadata() or () if key == "authorization"]
        if given:
            scheme, _, token = str(given[0]).partition(" ")
            return callers.by_token(token) if len(given) == 1 and scheme.lower() == "bearer" else None
        return callers.by_certificate(set(_certificate_names(peer))) if self._certificates else None

    def _by_name(self, peer: Peer) -> Caller | None:
        name = next(_certificate_names(peer), None)
        return None if name is None else Caller(name, self._limits)

    def _expected(self) -> str:
        token = "the metadata `authorization: Bearer TOKEN`, with a token that this server knows"
        certificate = "a client certificate that names a caller of this server"
        if self._callers is None:
            return f"the caller is not known: a call needs {certificate}"
        return f"the caller is not known: a call needs {f'{token}, or {certificate}' if self._certificates else token}"


def _certificate_names(peer: Peer) -> Iterator[str]:
    shown = peer.auth_context()
    for key in ("x509_common_name", "x509_subject_alternative_name"):
        for name in shown.get(key, ()):
            if name:
                yield name.decode(errors="replace")
