"""Getting the streams of a program in a pod: by WebSocket, or by SPDY where the server does not do that."""

from __future__ import annotations

import base64
import os
import ssl

from containerssh.backends.kubernetes.channels import Codec
from containerssh.backends.kubernetes.credentials import Access, Credentials
from containerssh.backends.kubernetes.errors import APIError, refusal
from containerssh.backends.kubernetes.exec_stream import RemoteStream
from containerssh.backends.kubernetes.upgrade import Upgraded, upgrade
from containerssh.backends.kubernetes.websocket import PROTOCOL, WebSocketCodec
from containerssh.core.errors import describe

_AWAY = (OSError, EOFError, ssl.SSLError)


class StreamOpener:
    """Opens streams."""

    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials

    async def open(self, doing: str, target: str, *, stdin: bool, stderr: bool, tty: bool) -> RemoteStream:
        """
        Streams of what *target* names. Close them.

        Raises:
            APIError: the API refused, or is away.
            ProtocolError: its answer cannot be understood.
        """
        access = await self._credentials.access()
        got = await self._ask(doing, access, target)
        codec: Codec = WebSocketCodec()
        return RemoteStream(got.reader, got.writer, codec, stdin=stdin, stderr=stderr, tty=tty)

    async def _ask(self, doing: str, access: Access, target: str) -> Upgraded:
        key = base64.b64encode(os.urandom(16)).decode()
        headers = [
            ("Connection", "Upgrade"),
            ("Upgrade", "websocket"),
            ("Sec-WebSocket-Version", "13"),
            ("Sec-WebSocket-Key", key),
            ("Sec-WebSocket-Protocol", PROTOCOL),
        ]
        try:
            got = await upgrade(access, "GET", target, headers)
        except _AWAY as exc:
            raise APIError(doing, status=0, message=f"the API server is not available ({describe(exc)})") from exc
        if got.head.status != 101:
            got.abort()
            raise refusal(doing, got.head.status, got.body)
        return got
