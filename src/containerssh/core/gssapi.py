"""The contract between the SSH front and an authenticator for GSSAPI (RFC 4462)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class IntegrityProof:
    """What a client signs at the end of a GSSAPI authentication (RFC 4462 section 3.5)."""

    message: bytes
    """
    The data that the code must cover, built from the session identifier and the request as the server received them.
    """
    code: bytes
    """The client's message integrity code (MIC) of *message*."""


@dataclass(frozen=True)
class ExchangedKeys:
    """The result of a GSSAPI key exchange (RFC 4462 section 2.1)."""

    token: bytes
    """The token to send to the client; empty if there is none."""
    code: bytes
    """The server's message integrity code of the exchange hash, which authenticates the server."""
    context: object = field(repr=False)
    """The security context, for a later ``gssapi-keyex`` authentication; secret."""


class GSSAPIExchange(ABC):
    """
    The client's side of a GSSAPI authentication (RFC 4462 section 3). The authenticator holds the security context and
    calls, in this order: :meth:`choose` once, :meth:`answer` for each further token that it needs, :meth:`finish` once.

    Raises:
        AuthFailed: by each method, if the client gives up or sends an unexpected message.
    """

    @property
    def exchanged(self) -> object | None:
        """
        The result of the connection's key exchange (:class:`ExchangedKeys`) if the client authenticates with the same
        security context (``gssapi-keyex``, section 4); then only :meth:`finish` is called. None if a context must be
        established.
        """
        return None

    @property
    @abstractmethod
    def mechanisms(self) -> Sequence[bytes]:
        """The mechanisms that the client offers, best first: object identifiers in DER, with tag and length."""

    @abstractmethod
    async def choose(self, mechanism: bytes) -> bytes:
        """Select *mechanism*, one of those offered; return the client's first token."""

    @abstractmethod
    async def answer(self, token: bytes) -> bytes:
        """Send the server's *token*; return the client's next one."""

    @abstractmethod
    async def finish(self, token: bytes = b"") -> IntegrityProof:
        """
        Send the server's last *token*, if there is one, when the context is complete. The caller verifies the result.
        """

    @abstractmethod
    def tell_error(self, token: bytes) -> None:
        """Send the mechanism's error token to the client; the attempt fails afterwards."""
