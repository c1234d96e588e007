"""Getting the streams of a program in a pod: by WebSocket, or by SPDY where the server does not do that."""

from __future__ import annotations

import base64
import hashlib
import os
import ssl
from collections.abc import Sequence

from containerssh.backends.kubernetes import spdy, websocket
from containerssh.backends.kubernetes.channels import Codec
from containerssh.backends.kubernetes.credentials import Access, Credentials
from containerssh.backends.kubernetes.errors import APIError, away, broken, parse_status, refusal
from containerssh.backends.kubernetes.exec_stream import RemoteStream
from containerssh.backends.kubernetes.kinds import Target
from containerssh.backends.kubernetes.upgrade import Upgraded, upgrade
from containerssh.core.errors import ProtocolError
from containerssh.web.head import Head

_AWAY = (OSError, EOFError, ssl.SSLError)
_MAGIC = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class StreamOpener:
    """
    Opens streams at one API server, and remembers how.

    A server that has no ``v5.channel.k8s.io`` refuses it in one of many ways, and so does one that gives an account the
    right to create execs but not to get them, which a WebSocket needs and SPDY does not. Whether it was that is only
    known once SPDY has worked.
    """

    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials
        self.by_spdy = False
        """Whether SPDY is what this server wants."""

    async def open(self, doing: str, target: Target, *, stdin: bool, stderr: bool, tty: bool) -> RemoteStream:
        """
        Streams of what *target* names. Close them.

        Raises:
            APIError: the API refused, or is away.
            ProtocolError: its answer cannot be understood.
        """
        refused: APIError | ProtocolError | None = None
        codec: Codec
        if not self.by_spdy:
            try:
                got = await self._by_websocket(doing, target)
            except _UnsupportedError as exc:
                refused = exc.error
            else:
                codec = websocket.WebSocketCodec()
                return RemoteStream(got.wire, codec, stdin=stdin, stderr=stderr, tty=tty)
        try:
            got = await self._by_spdy(doing, target)
        except (APIError, ProtocolError) as exc:
            told = exc.reason if isinstance(exc, APIError) else ""
            if told in ("", "Forbidden"):
                # Perhaps it has learnt something: the next one tries both.
                self.by_spdy = False
            if refused is None or told:
                raise
            raise refused from exc
        self.by_spdy = True
        codec = spdy.SPDYCodec(stdin=stdin, stderr=stderr, tty=tty)
        return RemoteStream(got.wire, codec, stdin=stdin, stderr=stderr, tty=tty)

    async def _by_websocket(self, doing: str, target: Target) -> Upgraded:
        key = base64.b64encode(os.urandom(16)).decode()
        headers = [
            ("Connection", "Upgrade"),
            ("Upgrade", "websocket"),
            ("Sec-WebSocket-Version", "13"),
            ("Sec-WebSocket-Key", key),
            ("Sec-WebSocket-Protocol", websocket.PROTOCOL),
        ]
        got = await self._ask(doing, "GET", target, headers)
        told = got.head.headers
        accepted = base64.b64encode(hashlib.sha1(f"{key}{_MAGIC}".encode(), usedforsecurity=False).digest()).decode()
        if got.head.status != 101:
            error = _refused(doing, got)
            if _may_be_the_protocol(got):
                raise _UnsupportedError(error)
            raise error
        if told.get("sec-websocket-protocol") != websocket.PROTOCOL:
            got.abort()
            raise _UnsupportedError(broken(f"{doing}: the API server does not speak {websocket.PROTOCOL}"))
        if not _turned_into(got.head, "websocket") or told.get("sec-websocket-accept") != accepted:
            got.abort()
            raise broken(f"{doing}: the API server did not turn the connection into a WebSocket")
        return got

    async def _by_spdy(self, doing: str, target: Target) -> Upgraded:
        headers = [
            ("Connection", "Upgrade"),
            ("Upgrade", "SPDY/3.1"),
            ("X-Stream-Protocol-Version", spdy.PROTOCOL),
            ("Content-Length", "0"),
        ]
        got = await self._ask(doing, "POST", target, headers)
        if got.head.status != 101:
            raise _refused(doing, got)
        if not _turned_into(got.head, "spdy/3.1") or got.head.headers.get("x-stream-protocol-version") != spdy.PROTOCOL:
            got.abort()
            raise broken(f"{doing}: the API server did not turn the connection into SPDY")
        return got

    async def _ask(self, doing: str, method: str, target: Target, headers: Sequence[tuple[str, str]]) -> Upgraded:
        got, access = await self._ask_once(doing, method, target, headers)
        if got.head.status == 401 and self._credentials.refused(access):
            got.abort()
            got, _ = await self._ask_once(doing, method, target, headers)
        return got

    async def _ask_once(
        self, doing: str, method: str, target: Target, headers: Sequence[tuple[str, str]]
    ) -> tuple[Upgraded, Access]:
        access = await self._credentials.access()
        try:
            return await upgrade(access, method, target(access), headers), access
        except _AWAY as exc:
            raise away(doing, exc) from exc


class _UnsupportedError(Exception):
    """The server does not seem to know the protocol; *error* says what to tell if it was not that."""

    def __init__(self, error: APIError | ProtocolError) -> None:
        super().__init__()
        self.error = error


def _refused(doing: str, got: Upgraded) -> APIError:
    got.abort()
    return refusal(doing, got.head.status, got.body, retry_after=got.head.headers.get("retry-after"))


def _may_be_the_protocol(got: Upgraded) -> bool:
    """Whether another protocol may fare better."""
    if got.head.status == 403:
        return True
    told = parse_status(got.body)
    # What says why in the API's own words does not mean the protocol, but for its missing methods.
    return got.head.status in (400, 405, 426, 501, 502) and (told is None or got.head.status == 405)


def _turned_into(head: Head, protocol: str) -> bool:
    return head.headers.get("upgrade", "").strip().lower() == protocol
