"""Hearing of pods that start: what a server is asked for, however many wait. The API server is a stand-in."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from containerssh.backends.kubernetes.errors import APIError
from containerssh.backends.kubernetes.events import EventWatches
from tests.support.hostile_api import Hostile, hostile, reply
from tests.support.waiting import until


def event(number: int, uid: object, kind: str = "ADDED") -> bytes:
    about: dict[str, Any] = {
        "metadata": {"name": f"e{number}", "uid": f"e{number}", "resourceVersion": str(100 + number)},
        "involvedObject": {"uid": uid},
        "message": f"{number}",
    }
    return json.dumps({"type": kind, "object": about}).encode() + b"\n"


async def test_all_who_wait_share_one_watch_and_hear_of_their_own_pod() -> None:
    watching: asyncio.Queue[asyncio.StreamWriter] = asyncio.Queue()

    async def answer(_: Hostile, head: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if "watch=1" in head:
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
            watching.put_nowait(writer)
            await reader.read()
        # What was there before is not asked for: it may be an hour's.
        writer.write(reply({"metadata": {"resourceVersion": "7", "continue": "more"}, "items": [{"any": "thing"}]}))

    async with asyncio.timeout(20), hostile(answer) as (server, client):
        watches = EventWatches(client)
        watches.begin("default")
        writer = await watching.get()
        # Before the answer to the request that created the pod; and events about nothing.
        writer.write(event(1, "a") + event(2, None) + event(3, "b", "DELETED"))
        async with watches.of_pod("default", "a") as first, watches.of_pod("default", "b") as second:
            writer.write(event(4, "b") + event(5, "c") + event(6, "a", "MODIFIED"))
            assert [(await first.next())["message"] for _ in range(2)] == ["1", "6"]
            assert (await second.next())["message"] == "4"
        # It goes on for those who come next.
        writer.write(event(8, "d"))
        async with watches.of_pod("default", "d") as third:
            assert (await third.next())["message"] == "8"
        writer.transport.abort()
        again = await watching.get()
        async with watches.of_pod("default", "e") as fourth:
            again.write(event(9, "e"))
            assert (await fourth.next())["message"] == "9"
        await watches.close()
        asked = [request.split()[1] for request in server.requests]
    assert ["watch=1" in path for path in asked] == [False, True, True]
    assert "limit=1" in asked[0].split("?")[1].split("&")
    assert "resourceVersion=7" in asked[1]
    assert "resourceVersion=108" in asked[2], "it goes on where it was cut"


async def test_who_may_not_see_events_is_told_and_the_next_one_tries_again() -> None:
    status = {"kind": "Status", "reason": "Forbidden", "message": "no events for you"}

    async def answer(_: Hostile, __: str, ___: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(reply(status, "403 Forbidden"))

    async with asyncio.timeout(20), hostile(answer) as (server, client):
        watches = EventWatches(client)
        for number in (1, 2):
            async with watches.of_pod("default", "a") as events:
                with pytest.raises(APIError, match="no events for you"):
                    await events.next()
            assert len(server.requests) == number
        await watches.close()


async def test_who_waits_while_a_token_runs_out_hears_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("containerssh.backends.kubernetes.events._PAUSES", (0.05, 0.1))
    refused = 4

    async def answer(server: Hostile, head: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(server.requests) <= refused:
            writer.write(reply({"kind": "Status", "reason": "Unauthorized"}, "401 Unauthorized"))
        elif "watch=1" in head:
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n" + event(1, "a"))
            await writer.drain()
            await reader.read()
        else:
            writer.write(reply({"metadata": {"resourceVersion": "7"}, "items": []}))

    async with asyncio.timeout(20), hostile(answer) as (server, client):
        watches = EventWatches(client)
        async with watches.of_pod("default", "a") as events:
            assert (await events.next())["message"] == "1"
        assert len(server.requests) > refused
        await watches.close()


async def test_what_nobody_needs_any_more_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("containerssh.backends.kubernetes.events._LINGER", 0.05)
    open_watches = 0

    async def answer(_: Hostile, head: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal open_watches
        if "watch=1" not in head:
            writer.write(reply({"metadata": {"resourceVersion": "7"}, "items": []}))
            return
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n" + event(1, "a"))
        open_watches += 1
        await reader.read()
        open_watches -= 1

    async with asyncio.timeout(20), hostile(answer) as (_, client):
        watches = EventWatches(client)
        async with watches.of_pod("default", "a") as events:
            await events.next()
            # Longer than it lingers: somebody waits.
            await asyncio.sleep(0.2)
            assert open_watches == 1
        await until(lambda: open_watches == 0)
        async with watches.of_pod("default", "a") as events:
            assert (await events.next())["message"] == "1"
        await watches.close()
