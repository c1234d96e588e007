"""The gateway's side of the helper process (:mod:`.worker`)."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import containerssh
from containerssh.auth.kerberos.limits import CHILDREN, PACKET
from containerssh.config.auth import KerberosConfig
from containerssh.core.codes import AuthCode
from containerssh.core.errors import AuthFailed, AuthUnavailable, ConfigError
from containerssh.core.messages import Event

logger = logging.getLogger(__name__)

_START_LIMIT = 20.0
_END_LIMIT = 5.0
_PASSED_ON = ("PATH", "KRB5RCACHENAME", "KRB5RCACHEDIR", "KRB5_TRACE", "TZ")


class Attempt:
    """An attempt's child of the helper; made by :meth:`Helper.attempt`."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    async def ask(self, **order: object) -> Mapping[str, Any]:
        """
        Send *order*; the answer.

        Raises:
            AuthFailed: the credentials are wrong.
            AuthUnavailable: they could not be judged, or the child has ended.
        """
        loop = asyncio.get_running_loop()
        try:
            await loop.sock_sendall(self._connection, json.dumps(order).encode())
            answer = json.loads(await loop.sock_recv(self._connection, PACKET))
        except (OSError, ValueError, RecursionError) as exc:
            text = "the Kerberos libraries did not answer: they took too long or crashed"
            raise AuthUnavailable(AuthCode.BACKEND_ERROR, text) from exc
        return _read(answer)

    async def result(self) -> Mapping[str, Any]:
        """What follows an error's token; raises as :meth:`ask`."""
        try:
            answer = json.loads(await asyncio.get_running_loop().sock_recv(self._connection, PACKET))
        except (OSError, ValueError, RecursionError) as exc:
            raise AuthUnavailable(AuthCode.BACKEND_ERROR, "the Kerberos libraries ended") from exc
        return _read(answer)


class Helper:
    """A helper process with one configuration; made by :func:`open_helper`. One that died is started again."""

    def __init__(self, config: KerberosConfig, acceptor: str, folder: Path) -> None:
        self._config = config
        self._acceptor = acceptor
        self._folder = folder
        self._places = asyncio.Semaphore(CHILDREN)
        self._starting = asyncio.Lock()
        self._process: asyncio.subprocess.Process | None = None
        self._socket: socket.socket | None = None
        self.realm = ""
        """The default realm."""
        self.owners: tuple[str, ...] = ()
        """The principals whose keys there are."""

    async def start(self) -> None:
        """
        Start it.

        Raises:
            ConfigError: it has no keys, no default realm, or not the libraries; the text says which.
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
            text = "the Kerberos libraries cannot be used; is containerssh[kerberos] installed as a whole?"
            raise ConfigError(AuthCode.CONFIG_ERROR, text) from exc
        if "ok" not in greeting:
            text = f"Kerberos cannot be used with the keytab {self._config.keytab}: {greeting.get('unavailable')}"
            raise ConfigError(AuthCode.CONFIG_ERROR, text, keytab=self._config.keytab)
        self.realm = str(greeting["ok"]["realm"])
        self.owners = tuple(greeting["ok"]["owners"])

    async def _spawn(self, descriptor: int) -> asyncio.subprocess.Process:
        source = Path(containerssh.__file__).parent.parent
        program = (
            "import sys; sys.path.insert(0, sys.argv[1]); "
            "from containerssh.auth.kerberos.worker import Settings, main; "
            "main(int(sys.argv[2]), Settings(*sys.argv[3:]))"
        )
        # The first file wins over what follows it.
        files = (self._folder / "first.conf", self._config.libraries_config, self._folder / "last.conf")
        return await asyncio.create_subprocess_exec(
            sys.executable,
            *("-I", "-c", program, str(source), str(descriptor)),
            *(self._config.keytab, self._acceptor, str(self._folder)),
            stdin=asyncio.subprocess.DEVNULL,
            pass_fds=(descriptor,),
            start_new_session=True,
            env={
                **{name: os.environ[name] for name in _PASSED_ON if name in os.environ},
                "KRB5_CONFIG": ":".join(map(str, files)),
                "KRB5CCNAME": "MEMORY:",
                "KRB5_KTNAME": f"FILE:{self._config.keytab}",
                "LC_ALL": "C",
            },
            cwd="/",
        )

    @asynccontextmanager
    async def attempt(self) -> AsyncIterator[Attempt]:
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
                yield Attempt(ours)

    async def _pass_on(self, theirs: socket.socket) -> None:
        async with self._starting:
            if self._process is None or self._process.returncode is not None:
                logger.warning(
                    Event(AuthCode.BACKEND_ERROR, "The helper process for Kerberos died; it is started again")
                )
                self._close_socket()
                try:
                    await self.start()
                except ConfigError as exc:
                    raise AuthUnavailable(AuthCode.BACKEND_ERROR, "Kerberos is not available") from exc
        assert self._socket is not None
        try:
            socket.send_fds(self._socket, [b"\0"], [theirs.fileno()])
        except OSError as exc:
            raise AuthUnavailable(AuthCode.BACKEND_ERROR, "the helper process for Kerberos does not listen") from exc

    def _close_socket(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    async def close(self) -> None:
        """End it, and wait until it is gone."""
        self._close_socket()
        if self._process is None:
            return
        try:
            async with asyncio.timeout(_END_LIMIT):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()


@asynccontextmanager
async def open_helper(config: KerberosConfig, acceptor: str) -> AsyncIterator[Helper]:
    """
    A helper for the server's life; *acceptor* is a principal, or empty.

    Raises:
        ConfigError: as :meth:`Helper.start`.
    """
    # Tickets pass through this folder: on no disk, where that can be had.
    memory = "/dev/shm"  # noqa: S108  mkdtemp makes a folder in it that is ours alone, under a name of its choice
    folder = Path(tempfile.mkdtemp(prefix="containerssh-krb5-", dir=memory if os.access(memory, os.W_OK) else None))
    try:
        skew = max(1, round(config.clock_skew.total_seconds()))
        (folder / "first.conf").write_text(f"[libdefaults]\nclockskew = {skew}\n", encoding="utf-8")
        helper = Helper(config, acceptor, folder)
        try:
            await helper.start()
            yield helper
        finally:
            await helper.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def decode(answer: Mapping[str, Any], name: str) -> bytes:
    """The bytes *name* of an answer; empty if there are none. Raises AuthUnavailable."""
    try:
        return base64.b64decode(str(answer.get(name, "")), validate=True)
    except ValueError as exc:
        raise AuthUnavailable(AuthCode.BACKEND_ERROR, "the helper process for Kerberos sent nonsense") from exc


def encode(data: bytes) -> str:
    """*data* for an order."""
    return base64.b64encode(data).decode()


def _read(answer: Any) -> Mapping[str, Any]:
    match answer:
        case {"ok": {"principal": str() as principal, **more}}:
            return {"principal": principal, "tickets": more.get("tickets", "")}
        case {"refused": str() as reason}:
            raise AuthFailed(AuthCode.FAILED, reason)
        case {"unavailable": str() as reason}:
            raise AuthUnavailable(AuthCode.BACKEND_ERROR, reason)
        case {"token": str() as token, "complete": bool() as complete}:
            return {"token": token, "complete": complete}
        case {"token": str() as token, "failed": True}:
            return {"token": token, "failed": True}
        case _:
            raise AuthUnavailable(AuthCode.BACKEND_ERROR, "the helper process for Kerberos sent nonsense")
