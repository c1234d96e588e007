"""Clients that go away in the middle of something."""

from __future__ import annotations

import asyncio
import random
import socket
import struct
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import asyncssh

LIMIT = 60.0
DIALOGUE = 6_000
"""About as many bytes a client sends up to the first data of its first program."""

STAGES = ("tcp", "handshake", "authentication", "login", "program", "data")
"""What a client had reached when it was cut off."""


@dataclass(frozen=True)
class Cut:
    """When and how a client goes."""

    after: int | None
    """Once it has sent so many bytes; None: *pause* after it has logged in."""
    pause: float
    """So many seconds later."""
    reset: bool
    """With an RST; else it closes, and takes nothing more."""


def random_cut(chance: random.Random, *, logins: float) -> Cut:
    """Somewhere; a share *logins* of the cuts comes after the client has logged in."""
    reset = chance.random() < 0.5
    if chance.random() < logins:
        return Cut(None, chance.choice((0, chance.random() * 0.05, chance.random() * 0.4)), reset)
    # Half of them where most happens in few bytes: the banner, and the packets after the key exchange's first.
    after = chance.choice((chance.randrange(40), chance.randrange(2_500), chance.randrange(DIALOGUE)))
    return Cut(after, chance.choice((0, 0, chance.random() * 0.05)), reset)


class _Client(asyncssh.SSHClient):
    def __init__(self, reached: Callable[[str], None]) -> None:
        self._reached = reached

    def validate_host_public_key(self, *_: object) -> bool:
        self._reached("authentication")
        return True

    def auth_completed(self) -> None:
        self._reached("login")


class Aborter:
    """Runs clients against a port, and counts the stages at which they were cut off."""

    def __init__(self, port: int, key: asyncssh.SSHKey, *, user: str = "alice", seed: int = 1) -> None:
        self._port = port
        self._key = key
        self._user = user
        self._chance = random.Random(seed)
        self.stages: Counter[str] = Counter()

    async def run(self, count: int, *, logins: float, at_once: int = 8) -> None:
        """Cut off *count* clients, *at_once* at a time."""
        cuts = [random_cut(self._chance, logins=logins) for _ in range(count)]
        await self.run_cuts(cuts, at_once=at_once)

    async def run_cuts(self, cuts: Sequence[Cut], *, at_once: int = 8) -> None:
        waiting = list(cuts)

        async def work() -> None:
            while waiting:
                self.stages[await self._one(waiting.pop())] += 1

        async with asyncio.TaskGroup() as group:
            for _ in range(at_once):
                group.create_task(work())

    async def _one(self, cut: Cut) -> str:
        loop = asyncio.get_running_loop()
        outside = socket.create_connection(("127.0.0.1", self._port))
        if cut.reset:
            outside.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client_end, inside = _tcp_pair()
        for sock in (outside, inside):
            sock.setblocking(False)
        stage = STAGES[0]
        logged_in = asyncio.Event()

        def reached(what: str) -> None:
            nonlocal stage
            stage = what
            if what == "login":
                logged_in.set()

        async def there() -> None:
            sent = 0
            while data := await loop.sock_recv(inside, 65536):
                if cut.after is not None and sent + len(data) > cut.after:
                    await loop.sock_sendall(outside, data[: cut.after - sent])
                    await asyncio.sleep(cut.pause)
                    return
                await loop.sock_sendall(outside, data)
                sent += len(data)

        async def back() -> None:
            while data := await loop.sock_recv(outside, 65536):
                if stage == "tcp":
                    reached("handshake")
                await loop.sock_sendall(inside, data)

        async def timed() -> None:
            await logged_in.wait()
            await asyncio.sleep(cut.pause)

        tasks = [asyncio.create_task(there()), asyncio.create_task(back())]
        if cut.after is None:
            tasks.append(asyncio.create_task(timed()))
        user = asyncio.create_task(self._use(client_end, reached))
        try:
            await asyncio.wait([*tasks, user], timeout=LIMIT, return_when=asyncio.FIRST_COMPLETED)
        finally:
            # The cut: what the client still has to say goes nowhere.
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            outside.close()
            inside.close()
            await asyncio.wait([user], timeout=LIMIT)
            user.cancel()
            await asyncio.gather(user, return_exceptions=True)
        return stage

    async def _use(self, sock: socket.socket, reached: Callable[[str], None]) -> None:
        connection: Any = None
        with suppress(OSError, asyncssh.Error, asyncio.IncompleteReadError):
            try:
                connection = await asyncssh.connect(
                    sock=sock,
                    username=self._user,
                    client_keys=[self._key],
                    known_hosts=([], [], []),
                    agent_path=None,
                    config=None,
                    client_factory=lambda: _Client(reached),
                )
                program = await connection.create_process(
                    "cat; sleep 100", encoding=None, env={"A": "b"}, term_type=self._chance.choice((None, "xterm"))
                )
                reached("program")
                while True:
                    program.stdin.write(self._chance.randbytes(self._chance.randrange(20_000)) + b"\n")
                    await program.stdout.read(1000)
                    reached("data")
            finally:
                if connection is not None:
                    connection.abort()
                    await connection.wait_closed()


def _tcp_pair() -> tuple[socket.socket, socket.socket]:
    """As ``socketpair``, with addresses, which the library wants to know."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        one = socket.create_connection(listener.getsockname())
        other, _ = listener.accept()
    return one, other
