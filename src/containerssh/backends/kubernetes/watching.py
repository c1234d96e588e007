"""Watching objects at a server that forgets, restarts and is away at times."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import aclosing

from containerssh.backends.kubernetes.connections import read_more
from containerssh.backends.kubernetes.errors import APIError
from containerssh.backends.kubernetes.exchange import Exchange
from containerssh.backends.kubernetes.kinds import Kind, way_to
from containerssh.backends.kubernetes.listing import current_version, list_objects
from containerssh.backends.kubernetes.pauses import Pauses
from containerssh.backends.kubernetes.watch import Known, Lines, Passing, WatchEvent, is_expired, parse_event
from containerssh.core.errors import ProtocolError

_WATCH_SECONDS = (240, 480)
"""Between these the server ends a watch, so that those of many logins do not end together."""
_PAUSES = (0.2, 10.0)
_WATCH_FAILURES = 3
"""After so many in a row only a new list is sure to lead on."""


async def watch_objects(
    exchange: Exchange, kind: Kind, namespace: str, query: Mapping[str, str], known: Known
) -> AsyncGenerator[WatchEvent]:
    """
    What *known* does not know yet of the objects that fit *query*, and then what becomes of them, for ever.

    Raises:
        APIError: the first list failed, or a later refusal that lasts.
        ConfigError, ProtocolError: as for the first list.
    """
    if not known.version:
        for event in await _begin(exchange, kind, namespace, query, known):
            yield event
    pauses, failures = Pauses(*_PAUSES), 0
    while True:
        began = asyncio.get_running_loop().time()
        if failures >= _WATCH_FAILURES:
            known.version = ""
        try:
            if not known.version:
                for event in await _begin(exchange, kind, namespace, query, known):
                    yield event
            async with aclosing(_watch_once(exchange, kind, namespace, query, known)) as events:
                async for event in events:
                    pauses.reset()
                    failures = 0
                    yield event
            failures = 0
        except APIError as exc:
            failures += 1
            if is_expired(exc):
                known.version = ""
            elif not (exc.passing or exc.status == 401):
                raise
        except ProtocolError:
            # A cut in the middle of something; a new list is sure to be right.
            known.version = ""
        if asyncio.get_running_loop().time() - began < pauses.upcoming:
            await pauses.wait()


async def _begin(
    exchange: Exchange, kind: Kind, namespace: str, query: Mapping[str, str], known: Known
) -> Iterator[WatchEvent]:
    if isinstance(known, Passing):
        known.version = await current_version(exchange, kind, namespace, query)
        return iter(())
    before = known.keys()
    return known.replace(*await list_objects(exchange, kind, namespace, query), before)


async def _watch_once(
    exchange: Exchange, kind: Kind, namespace: str, query: Mapping[str, str], known: Known
) -> AsyncGenerator[WatchEvent]:
    doing = f"watching {kind.plural}"
    seconds = random.randint(*_WATCH_SECONDS)  # noqa: S311  spreads requests, hides nothing
    asked = {
        **query,
        "watch": "1",
        "allowWatchBookmarks": "true",
        "resourceVersion": known.version,
        "timeoutSeconds": str(seconds),
    }
    lines = Lines()
    deadline = exchange.deadline() + seconds
    async with exchange.request(doing, "GET", way_to(kind, namespace, query=asked)) as response:
        while data := await read_more(response, deadline, doing):
            for line in lines.feed(data):
                for event in known.take(parse_event(line, doing)):
                    yield event
