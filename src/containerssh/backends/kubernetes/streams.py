"""The streams of programs in pods: how the API is asked for them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Literal

from containerssh.backends.kubernetes.errors import APIError
from containerssh.backends.kubernetes.exchange import Exchange, come_back, counted
from containerssh.backends.kubernetes.exec_stream import RemoteStream
from containerssh.backends.kubernetes.kinds import Kind, Target, named, way_to
from containerssh.backends.kubernetes.opening import StreamOpener

_DOING = {"exec": "starting a program in", "attach": "attaching to"}


@asynccontextmanager
async def program_streams(
    exchange: Exchange,
    opener: StreamOpener,
    verb: Literal["exec", "attach"],
    kind: Kind,
    namespace: str,
    pod: str,
    container: str,
    command: Sequence[str] = (),
    *,
    stdin: bool,
    stderr: bool,
    tty: bool,
) -> AsyncIterator[RemoteStream]:
    """
    The scope of a program's streams; *command* is for ``exec``.

    Raises:
        APIError: the API refused, or is away.
        ConfigError: something named in the configuration cannot be used.
        ProtocolError: its answer cannot be understood.
    """
    asked = [("container", container), ("stdout", "true"), *(("command", word) for word in command)]
    wanted = {"stdin": stdin, "stderr": stderr and not tty, "tty": tty}
    asked += [(name, "true") for name, value in wanted.items() if value]
    target = way_to(kind, namespace, named(pod), verb, query=asked)
    with counted():
        doing = f"{_DOING[verb]} the pod {pod}"
        stream = await _open(exchange, opener, doing, target, stdin=stdin, stderr=stderr, tty=tty)
    try:
        yield stream
    finally:
        await stream.close()


async def _open(
    exchange: Exchange, opener: StreamOpener, doing: str, target: Target, *, stdin: bool, stderr: bool, tty: bool
) -> RemoteStream:
    """Streams, from a server that may be busy."""
    deadline = exchange.deadline()
    while True:
        await exchange.turn()
        try:
            async with exchange.soon(doing):
                return await opener.open(doing, target, stdin=stdin, stderr=stderr, tty=tty)
        except APIError as exc:
            await come_back(exc, deadline)
