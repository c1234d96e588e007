"""Following pods while the API, and our credentials for it, come and go. The API server is a stand-in."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from containerssh.backends.kubernetes.following import Followed, Followers
from tests.support.hostile_api import Hostile, hostile, reply
from tests.support.kubernetes import connected
from tests.support.waiting import until

EXPIRED = {"type": "ERROR", "object": {"kind": "Status", "code": 410, "reason": "Expired"}}


@dataclass
class Store:
    """Pods, and what has happened to them, served as the API serves lists and watches."""

    version: int = 10
    there: dict[str, dict[str, Any]] = field(default_factory=dict)
    history: list[tuple[int, dict[str, Any]]] = field(default_factory=list)
    forgotten: int = 0
    """Watches from up to there are too old."""
    watching: list[asyncio.StreamWriter] = field(default_factory=list)
    asked: list[float] = field(default_factory=list)
    """When."""
    refused: bytes = b""
    """Instead of all else."""

    def put(self, uid: str) -> dict[str, Any]:
        self.version += 1
        metadata = {"name": "one", "uid": uid, "resourceVersion": str(self.version)}
        self.there[uid] = {"metadata": metadata, "status": {"phase": "Running"}}
        self._tell("ADDED", self.there[uid])
        return self.there[uid]

    def remove(self, uid: str) -> None:
        self.version += 1
        gone = self.there.pop(uid)
        metadata = {**gone["metadata"], "resourceVersion": str(self.version)}
        self._tell("DELETED", {**gone, "metadata": metadata})

    def cut(self) -> None:
        for writer in self.watching:
            writer.transport.abort()
        self.watching.clear()

    def _tell(self, kind: str, pod: dict[str, Any]) -> None:
        event = {"type": kind, "object": pod}
        self.history.append((self.version, event))
        for writer in self.watching:
            writer.write(json.dumps(event).encode() + b"\n")

    async def answer(self, _: Hostile, head: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.asked.append(asyncio.get_running_loop().time())
        if self.refused:
            writer.write(self.refused)
        elif "watch=1" not in head:
            items = list(self.there.values())
            writer.write(reply({"metadata": {"resourceVersion": str(self.version)}, "items": items}))
        else:
            found = re.search(r"resourceVersion=(\d+)", head)
            assert found is not None
            since = int(found[1])
            events = [event for at, event in self.history if at > since] if since > self.forgotten else [EXPIRED]
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n" + b"".join(json.dumps(event).encode() + b"\n" for event in events))
            self.watching.append(writer)
            await reader.read()


@asynccontextmanager
async def following(store: Store, folder: Path) -> AsyncIterator[tuple[Followed, Path]]:
    """The pod ``one`` of *store*, followed by a server whose token is in the file."""
    token = folder / "token"
    token.write_text("good")
    async with hostile(store.answer) as (server, _):
        connection = {"host": f"http://127.0.0.1:{server.port}", "bearerTokenFile": str(token)}
        async with connected(connection) as client:
            followers = Followers(client)
            async with followers.follow("default", "one") as followed:
                yield followed, token
            await followers.close()


async def test_a_pod_that_is_deleted_while_our_token_is_missing_is_known_to_be_gone(tmp_path: Path) -> None:
    store = Store()
    pod = store.put("1")
    async with asyncio.timeout(20), following(store, tmp_path) as (followed, token):
        await until(lambda: followed.pod is not None and bool(store.watching))
        followed.follow_only(pod)
        token.unlink()
        store.cut()
        store.remove("1")
        await asyncio.sleep(0.3)
        assert not followed.gone
        token.write_text("new")
        await until(lambda: followed.gone)


async def test_a_pod_that_came_and_went_while_the_watch_was_cut_is_known_to_be_gone(tmp_path: Path) -> None:
    store = Store()
    async with asyncio.timeout(20), following(store, tmp_path) as (followed, token):
        await until(lambda: bool(store.watching))
        token.unlink()
        store.cut()
        # Only the answer to the request that created it has told of it.
        followed.follow_only(store.put("1"))
        store.remove("1")
        store.forgotten = store.version
        token.write_text("new")
        await until(lambda: followed.gone)


async def test_another_pod_of_the_name_is_seen_though_the_first_one_went_unseen(tmp_path: Path) -> None:
    store = Store()
    store.put("1")
    async with asyncio.timeout(20), following(store, tmp_path) as (followed, token):
        await until(lambda: followed.pod is not None and bool(store.watching))
        token.unlink()
        store.cut()
        store.remove("1")
        pod = store.put("2")
        store.forgotten = store.version - 1
        token.write_text("new")
        await until(lambda: followed.pod is not None and followed.pod["metadata"]["uid"] == "2")
        followed.follow_only(pod)
        assert not followed.gone
        assert followed.failure is None


@pytest.mark.parametrize("status", ["401 Unauthorized", "503 Service Unavailable"])
async def test_an_api_that_takes_nobody_for_a_while_is_asked_less_and_less(
    tmp_path: Path, status: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("containerssh.backends.kubernetes.following._PAUSES", (0.05, 0.4))
    store = Store(refused=reply({"kind": "Status", "message": "not now"}, status))
    async with asyncio.timeout(20), following(store, tmp_path) as (followed, _):
        await until(lambda: len(store.asked) >= 6)
        store.refused = b""
        store.put("1")
        await until(lambda: followed.pod is not None)
        assert followed.failure is None
    pauses = [after - before for before, after in pairwise(store.asked[:6])]
    # The least that each may be: half of 0.05, 0.1, 0.2, 0.4 and 0.4 s.
    assert all(pause >= least for pause, least in zip(pauses, (0.02, 0.045, 0.095, 0.19, 0.19), strict=True))
