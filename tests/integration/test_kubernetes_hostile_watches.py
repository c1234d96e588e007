"""Watches of a server that forgets, fails, and refuses."""

from __future__ import annotations

import asyncio
import json
import re
from contextlib import aclosing
from typing import Any

import pytest

from containerssh.backends.kubernetes.client import PODS
from containerssh.backends.kubernetes.errors import APIError
from tests.support.hostile_api import Hostile, hostile, reply


def event(kind: str, content: dict[str, Any]) -> bytes:
    return json.dumps({"type": kind, "object": content}).encode() + b"\n"


def pod(name: str, version: int) -> dict[str, Any]:
    return {"metadata": {"name": name, "uid": name, "resourceVersion": str(version)}}


async def test_a_watch_that_is_too_old_begins_anew_without_doubles() -> None:
    lists = iter([[pod("a", 1), pod("b", 2)], [pod("a", 1), pod("c", 8)]])
    watches = iter(
        [
            event("ADDED", pod("a", 1)) + event("MODIFIED", pod("b", 5)),
            event("ERROR", {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old"}),
            event("BOOKMARK", {"metadata": {"resourceVersion": "20"}}) + b'{"type": "ADD',
            event("MODIFIED", pod("c", 21)),
        ]
    )

    async def answer(_: Hostile, head: str, __: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if "watch=1" in head:
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n" + next(watches))
            await writer.drain()
            raise EOFError
        writer.write(reply({"metadata": {"resourceVersion": "8"}, "items": next(lists)}))

    seen = []
    async with hostile(answer) as (server, client), aclosing(client.watch(PODS, "default")) as events:
        async with asyncio.timeout(10):
            async for one in events:
                seen.append((one.type, one.object["metadata"]["name"]))
                if len(seen) == 6:
                    break
    assert seen == [
        ("ADDED", "a"), ("ADDED", "b"), ("MODIFIED", "b"), ("ADDED", "c"), ("DELETED", "b"), ("MODIFIED", "c"),
    ]  # fmt: skip
    versions = re.findall(r"resourceVersion=(\w+)", " ".join(server.requests))
    assert versions == ["8", "5", "8", "20"]


async def test_a_watch_that_fails_again_and_again_lists_anew() -> None:
    """What it knows may be of a server that was put back to an older state."""
    lists = iter([[pod("a", 9000)], [pod("a", 5)]])

    async def answer(_: Hostile, head: str, __: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if "resourceVersion=9000" in head:
            status = {"kind": "Status", "reason": "Timeout", "message": "Too large resource version"}
            writer.write(reply(status, "504 Gateway Timeout"))
        elif "watch=1" in head:
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n" + event("MODIFIED", pod("a", 6)))
            await writer.drain()
            raise EOFError
        else:
            items = next(lists)
            writer.write(
                reply({"metadata": {"resourceVersion": items[0]["metadata"]["resourceVersion"]}, "items": items})
            )

    async with hostile(answer) as (_, client), aclosing(client.watch(PODS, "default")) as events:
        async with asyncio.timeout(10):
            versions = [(await anext(events)).object["metadata"]["resourceVersion"] for _ in range(3)]
    assert versions == ["9000", "5", "6"]


async def test_a_watch_that_is_not_let_in_for_a_moment_goes_on() -> None:
    """The token has run out, and its successor is there a moment later."""
    watches = iter([reply({"kind": "Status", "reason": "Unauthorized"}, "401 Unauthorized")])

    async def answer(_: Hostile, head: str, __: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if "watch=1" not in head:
            writer.write(reply({"metadata": {"resourceVersion": "1"}, "items": []}))
        elif refused := next(watches, None):
            writer.write(refused)
        else:
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n" + event("ADDED", pod("a", 2)))
            await writer.drain()
            raise EOFError

    async with hostile(answer) as (_, client), aclosing(client.watch(PODS, "default")) as events:
        async with asyncio.timeout(10):
            assert (await anext(events)).object["metadata"]["name"] == "a"


async def test_a_watch_that_is_refused_for_good_says_so() -> None:
    async def answer(_: Hostile, head: str, __: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        status = {"kind": "Status", "reason": "Forbidden", "message": "may not watch"}
        listed = {"metadata": {"resourceVersion": "8"}, "items": []}
        writer.write(reply(status, "403 Forbidden") if "watch=1" in head else reply(listed))

    async with hostile(answer) as (_, client):
        with pytest.raises(APIError, match="may not watch"):
            await anext(client.watch(PODS, "default"))
