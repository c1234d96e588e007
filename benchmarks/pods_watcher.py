"""A process that follows pods as a gateway does, seen from outside: what it receives, spends and keeps."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

import uvloop

from benchmarks.kubernetes import Ground, connected
from benchmarks.processes import cpu_seconds, own_memory
from containerssh.backends.kubernetes.client import PODS
from containerssh.backends.kubernetes.following import Followed, Followers

_LIMIT = 60.0
_PAUSE = 0.05
_CHUNK = 1 << 18


@dataclass(frozen=True)
class Spent:
    """Since it was told what to follow."""

    cpu: float
    received: int
    """Bytes, TLS included."""


@dataclass(eq=False)
class Watcher:
    """The process. It answers a line of text with the number of its pods whose status has that message."""

    process: asyncio.subprocess.Process
    counter: _Counter
    followed: int
    began_in: float = 0.0
    """Seconds until it knew all its pods."""
    growth: int = 0
    """Bytes of memory for that."""
    _cpu_before: float = 0.0

    async def begin(self, names: Sequence[str]) -> None:
        """Follow the pods *names*; returns when all are known."""
        await self._line()
        memory = own_memory(self.process.pid)
        self._cpu_before = self._cpu()
        began = time.perf_counter()
        self._say(json.dumps(names))
        await self._line()
        self.began_in = time.perf_counter() - began
        self.growth = own_memory(self.process.pid) - memory

    def spent(self) -> Spent:
        return Spent(self._cpu() - self._cpu_before, self.counter.received)

    async def all_have(self, message: str) -> None:
        """Wait until it has heard of all its pods that their status has this message."""
        while True:
            self._say(message)
            if int(await self._line()) == self.followed:
                return
            await asyncio.sleep(_PAUSE)

    def _cpu(self) -> float:
        return cpu_seconds(self.process.pid, with_ended_children=False)

    def _say(self, text: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(text.encode() + b"\n")

    async def _line(self) -> bytes:
        assert self.process.stdout is not None
        async with asyncio.timeout(_LIMIT):
            return await self.process.stdout.readline()


@asynccontextmanager
async def watching(ground: Ground, label: str, names: Sequence[str]) -> AsyncIterator[Watcher]:
    """A process that follows the pods *names*: by one watch for the *label*, or, if that is empty, by one for each."""
    async with _counting(ground.cluster.port) as counter:
        connection = {**ground.connection, "host": f"https://127.0.0.1:{counter.port}"}
        command = [sys.executable, "-m", "benchmarks.pods_watcher", json.dumps(connection), ground.namespace, label]
        process = await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )
        try:
            watcher = Watcher(process, counter, len(names))
            await watcher.begin(names)
            yield watcher
        finally:
            process.kill()
            await process.wait()


@dataclass
class _Counter:
    """A way to the API server that counts what comes from there."""

    port: int = 0
    received: int = 0
    tasks: set[asyncio.Task[None]] = field(default_factory=set)


@asynccontextmanager
async def _counting(port: int) -> AsyncIterator[_Counter]:
    counter = _Counter()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        counter.tasks.add(task)
        there_reader, there_writer = await asyncio.open_connection("127.0.0.1", port, limit=_CHUNK)
        try:
            await both_ways(reader, writer, there_reader, there_writer)
        except asyncio.CancelledError:
            # The end of all of this, which the library would complain of.
            pass
        finally:
            writer.transport.abort()
            there_writer.transport.abort()
            counter.tasks.discard(task)

    async def both_ways(
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        there_reader: asyncio.StreamReader,
        there_writer: asyncio.StreamWriter,
    ) -> None:
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(copy(reader, there_writer))
                tasks.create_task(copy(there_reader, writer, received=True))
        except* OSError:
            pass

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, received: bool = False) -> None:
        while data := await reader.read(_CHUNK):
            counter.received += len(data) if received else 0
            writer.write(data)
            await writer.drain()
        writer.close()

    # A watch for each pod opens a connection for each, and all at once.
    server = await asyncio.start_server(accept, "127.0.0.1", 0, backlog=2048, limit=_CHUNK)
    counter.port = server.sockets[0].getsockname()[1]
    try:
        yield counter
    finally:
        server.close()
        for task in tuple(counter.tasks):
            task.cancel()
        await asyncio.gather(*counter.tasks, return_exceptions=True)


async def _watch(connection: Mapping[str, object], namespace: str, label: str) -> None:
    """That process: says that it has begun, is told what to follow, says that all of it is known, and is asked then."""
    loop = asyncio.get_running_loop()
    async with connected(connection) as client, AsyncExitStack() as stack:
        # What the first request loads is not part of what is measured.
        await client.list(PODS, namespace, label_selector="nothing-has-this")
        print("begun", flush=True)
        names = json.loads(await loop.run_in_executor(None, sys.stdin.readline))
        followers = Followers(client)
        followed = [await stack.enter_async_context(followers.follow(namespace, name, label=label)) for name in names]
        await asyncio.gather(*(_seen(one) for one in followed))
        print("all known", flush=True)
        while question := await loop.run_in_executor(None, sys.stdin.readline):
            message = question.rstrip("\n")
            print(
                sum(one.pod is not None and one.pod["status"].get("message") == message for one in followed), flush=True
            )


async def _seen(followed: Followed) -> None:
    while followed.pod is None:
        await followed.news()


if __name__ == "__main__":
    uvloop.run(_watch(json.loads(sys.argv[1]), sys.argv[2], sys.argv[3]))
