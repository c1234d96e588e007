"""A helper process that isolates libraries which parse untrusted input and might crash, hang or fill the memory.

The helper forks a child for each attempt (:mod:`.worker` is its side). A failing child affects only its own attempt. A
child ends when its socket is closed. A helper that died is restarted. Each message is one packet of JSON.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import sys
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar

import containerssh
from containerssh.auth.worker import PACKET
from containerssh.core.codes import AuthCode
from containerssh.core.errors import AuthUnavailable, ConfigError
from containerssh.core.messages import Event

logger = logging.getLogger(__name__)

_START_LIMIT = 20.0
_END_LIMIT = 5.0


class Child:
    """The child of one attempt; created by :meth:`HelperProcess.child`."""

    def __init__(self, connection: socket.socket, libraries: str) -> None:
        self._connection = connection
        self._libraries = libraries

    async def ask(self, order: Mapping[str, object]) -> Any:
        """
        Send *order* and return the answer, any JSON.

        Raises:
            AuthUnavailable: the child has ended.
        """
        try:
            await asyncio.get_running_loop().sock_sendall(self._connection, json.dumps(order).encode())
        except OSError as exc:
            raise self._ended() from exc
        return await self.answer()

    async def answer(self) -> Any:
        """The next answer; raises like :meth:`ask`."""
        try:
            return json.loads(await asyncio.get_running_loop().sock_recv(self._connection, PACKET))
        except (OSError, ValueError, RecursionError) as exc:
            raise self._ended() from exc

    def _ended(self) -> AuthUnavailable:
        text = f"the {self._libraries} libraries did not answer: they took too long or crashed"
        return AuthUnavailable(AuthCode.BACKEND_ERROR, text)


class HelperProcess(ABC):
    """A helper with one configuration."""

    libraries: ClassVar[str]
    """What it is for, in messages; also the name of the extra in lower case."""
    worker: ClassVar[str]
    """The module with ``main(descriptor, *arguments)``, which the helper runs."""

    def __init__(self, children: int) -> None:
        """The maximum number of *children* at the same time; further attempts wait."""
        self._places = asyncio.Semaphore(children)
        self._starting = asyncio.Lock()
        self._process: asyncio.subprocess.Process | None = None
        self._socket: socket.socket | None = None

    @property
    @abstractmethod
    def arguments(self) -> Sequence[str]:
        """Arguments of ``main`` after the descriptor; no secrets, since every user of the machine can read them."""

    @property
    @abstractmethod
    def environment(self) -> Mapping[str, str]:
        """Its complete environment."""

    def greeted(self, greeting: Any) -> None:
        """
        It has started, and said *greeting*.

        Raises:
            ConfigError: it cannot be used.
        """

    async def start(self) -> None:
        """
        Start it.

        Raises:
            ConfigError: its libraries or settings cannot be used.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        self._socket = ours
        with theirs:
            self._process = await self._spawn(theirs.fileno())
        try:
            async with asyncio.timeout(_START_LIMIT):
                greeting = json.loads(await asyncio.get_running_loop().sock_recv(ours, PACKET))
        except (TimeoutError, OSError, ValueError) as exc:
            extra = f"containerssh[{self.libraries.lower()}]"
            text = f"the {self.libraries} libraries cannot be used; is {extra} installed as a whole?"
            raise ConfigError(AuthCode.CONFIG_ERROR, text) from exc
        self.greeted(greeting)

    async def _spawn(self, descriptor: int) -> asyncio.subprocess.Process:
        source = Path(containerssh.__file__).parent.parent
        program = (
            "import sys; sys.path.insert(0, sys.argv[1]); "
            f"from {self.worker} import main; "
            "main(int(sys.argv[2]), *sys.argv[3:])"
        )
        return await asyncio.create_subprocess_exec(
            sys.executable,
            *("-I", "-c", program, str(source), str(descriptor), *self.arguments),
            stdin=asyncio.subprocess.DEVNULL,
            pass_fds=(descriptor,),
            start_new_session=True,
            env={**_passed_on("PATH", "TZ"), "LC_ALL": "C", **self.environment},
            cwd="/",
        )

    @asynccontextmanager
    async def child(self) -> AsyncIterator[Child]:
        """
        A child for one attempt; it ends with the scope. Waits while there are too many.

        Raises:
            AuthUnavailable: the helper cannot be started.
        """
        async with self._places:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with ours:
                ours.setblocking(False)
                with theirs:
                    await self._pass_on(theirs)
                yield Child(ours, self.libraries)

    async def _pass_on(self, theirs: socket.socket) -> None:
        async with self._starting:
            if self._process is None or self._process.returncode is not None:
                text = f"The helper process for {self.libraries} died; it is started again"
                logger.warning(Event(AuthCode.BACKEND_ERROR, text))
                self._close_socket()
                try:
                    await self.start()
                except ConfigError as exc:
                    raise AuthUnavailable(AuthCode.BACKEND_ERROR, f"{self.libraries} is not available") from exc
        assert self._socket is not None
        try:
            socket.send_fds(self._socket, [b"\0"], [theirs.fileno()])
        except OSError as exc:
            text = f"the helper process for {self.libraries} does not listen"
            raise AuthUnavailable(AuthCode.BACKEND_ERROR, text) from exc

    def _close_socket(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    async def close(self) -> None:
        """Terminate it, and wait until it has ended."""
        self._close_socket()
        if self._process is None:
            return
        try:
            async with asyncio.timeout(_END_LIMIT):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()


def _passed_on(*names: str) -> dict[str, str]:
    return {name: os.environ[name] for name in names if name in os.environ}
