"""The gateway's side of the helper process (:mod:`.worker`)."""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import json
import logging
import os
import shutil
import socket
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import containerssh
from containerssh.core.codes import OCICode
from containerssh.core.errors import BackendError
from containerssh.core.messages import Event

logger = logging.getLogger(__name__)

_PACKET = 128 * 1024
_START_LIMIT = 20.0
_END_LIMIT = 15.0


@dataclass(frozen=True)
class Ended:
    """How a child of the helper ended: its status (negative: a signal) and the last 8 KiB of its output."""

    status: int
    output: str

    @property
    def last_words(self) -> str:
        """The output in a form for error messages."""
        return self.output.strip() or (
            f"status {self.status}" if self.status >= 0 else f"killed by signal {-self.status}"
        )


@dataclass(eq=False)
class Child:
    """A child process of the helper."""

    number: int
    launcher: Launcher
    ended: asyncio.Future[Ended]

    async def start(self, do: str, **order: object) -> None:
        """
        Start the child: ``run`` a container, ``check`` whether its files can be assembled, ``exec`` a program, or
        ``call`` a function of :mod:`.trees`.
        """
        await self.launcher.tell(self.number, do, **order)

    async def wait(self) -> Ended:
        """Wait for the end of the child. May be cancelled and called again."""
        return await asyncio.shield(self.ended)

    async def stop(self) -> Ended:
        """
        Kill the container, let the runtime clean up, and kill the runtime if that takes longer than 5 s.

        A child that is not a runtime is killed.
        """
        for attempt in range(60):
            if self.ended.done():
                break
            await self.launcher.tell(self.number, "kill" if attempt >= 50 else "stop")
            await asyncio.wait([self.ended], timeout=0.1)
        return await self.wait()


@dataclass(frozen=True)
class IdRanges:
    """
    The user and group ids that an unprivileged user may map into user namespaces, from /etc/subuid and /etc/subgid.
    """

    uids: tuple[int, int]
    gids: tuple[int, int]

    @property
    def size(self) -> int:
        """The number of ids of a container. Id 0 of the helper's namespace is the user itself and not included."""
        return min(self.uids[1], self.gids[1])


def id_ranges() -> IdRanges:
    """
    The first range of this user in both files.

    Raises:
        BackendError: there is no range, or newuidmap is missing.
    """
    user = _user_name()
    missing = [name for name in ("newuidmap", "newgidmap") if shutil.which(name) is None]
    if missing:
        text = f"{' and '.join(missing)} are needed without root: apt install uidmap"
        raise BackendError(OCICode.RUNTIME_MISSING, text)
    found = []
    for name in ("/etc/subuid", "/etc/subgid"):
        ranges = _read_ranges(Path(name), user)
        if not ranges:
            kind = name.removeprefix("/etc/")
            text = f"{name} has no range of 1000 or more ids for {user}: usermod --add-{kind}s 100000-165535 {user}"
            raise BackendError(OCICode.RUNTIME_MISSING, text)
        found.append(max(ranges, key=lambda entry: entry[1]))
    return IdRanges(*found)


def _user_name() -> str:
    try:
        return getpass.getuser() if os.geteuid() == os.getuid() else str(os.geteuid())
    except (KeyError, OSError):
        return str(os.geteuid())


def _read_ranges(path: Path, user: str) -> list[tuple[int, int]]:
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        return []
    ranges = []
    for line in lines:
        parts = line.strip().split(":")
        if len(parts) == 3 and parts[0] in (user, str(os.geteuid())) and parts[1].isdigit() and parts[2].isdigit():
            ranges.append((int(parts[1]), int(parts[2])))
    return [entry for entry in ranges if entry[1] >= 1000]


@dataclass(eq=False)
class Launcher:
    """The helper process, started by :func:`open_launcher`."""

    socket: socket.socket
    ranges: IdRanges | None
    """The ids of a helper in its own user namespace; None for root."""
    _children: dict[int, Child] = field(default_factory=dict)
    _numbers: int = 0
    _gone: BackendError | None = None
    _sending: asyncio.Lock = field(default_factory=asyncio.Lock)
    """asyncio supports only one writer per socket."""

    @property
    def alive(self) -> bool:
        """Whether the helper still runs; if not, its containers have ended as well."""
        return self._gone is None

    def child(self) -> Child:
        """
        Create a child: arrange for its :meth:`Child.stop` first, then start it.

        Raises:
            BackendError: the helper has ended.
        """
        if self._gone:
            raise self._gone
        self._numbers += 1
        child = Child(self._numbers, self, asyncio.get_running_loop().create_future())
        self._children[child.number] = child
        return child

    async def tell(self, task: int, do: str, **order: object) -> None:
        """
        Send one order. If the helper has ended, nothing is raised; :meth:`listen` handles that.

        Raises:
            BackendError: the order is too long.
        """
        packet = json.dumps({"task": task, "do": do, **order}).encode()
        if len(packet) > _PACKET:
            raise BackendError(OCICode.CONFIG_ERROR, "the container has too many or too long binds")
        async with self._sending:
            with contextlib.suppress(ConnectionError):
                await asyncio.get_running_loop().sock_sendall(self.socket, packet)

    async def execute(self, argv: Sequence[str], environment: Mapping[str, str], **order: object) -> Ended:
        """Run a program to completion; it is killed when the caller is cancelled."""
        return await self._to_end("exec", argv=list(argv), environment=dict(environment), **order)

    async def call(self, function: str, **arguments: object) -> Ended:
        """Run a function of :mod:`.trees` to completion; it is killed when the caller is cancelled."""
        return await self._to_end("call", function=function, arguments=arguments)

    async def check(self, **order: object) -> Ended:
        """Check whether ``run`` could assemble this container's files; if so, the status is 0."""
        return await self._to_end("check", **order)

    async def _to_end(self, do: str, **order: object) -> Ended:
        child = self.child()
        try:
            await child.start(do, **order)
            return await child.wait()
        finally:
            if not child.ended.done():
                await self.tell(child.number, "kill")

    async def listen(self) -> None:
        """Process the reports of the helper until it ends."""
        loop = asyncio.get_running_loop()
        try:
            while packet := await loop.sock_recv(self.socket, _PACKET):
                self._report(json.loads(packet))
        except ConnectionError as exc:
            logger.warning(Event(OCICode.RUNTIME, f"The connection to the helper process broke ({exc})"))
        finally:
            self._gone = BackendError(OCICode.CONTAINER_CREATE_FAILED, "the helper process has ended")
            for child in self._children.values():
                if not child.ended.done():
                    child.ended.set_result(Ended(125, "the helper process has ended"))

    def _report(self, message: dict[str, Any]) -> None:
        child = self._children.get(message.get("task", 0))
        if child is None:
            return
        if "ended" in message:
            del self._children[child.number]
            child.ended.set_result(Ended(message["ended"], message["output"]))


@asynccontextmanager
async def open_launcher() -> AsyncIterator[Launcher]:
    """
    Start the helper; at the end, kill all containers and wait for the helper.

    Raises:
        BackendError: the helper cannot be started, or this user may not create user namespaces.
    """
    rootless = os.geteuid() != 0
    ranges = id_ranges() if rootless else None
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        ours.setblocking(False)
        with theirs:
            process = await _spawn(theirs.fileno(), rootless=rootless)
        try:
            launcher = Launcher(ours, ranges)
            try:
                async with asyncio.timeout(_START_LIMIT):
                    await _greet(ours, ranges)
            except (TimeoutError, OSError, KeyError, ValueError) as exc:
                raise BackendError(OCICode.RUNTIME_MISSING, "the helper process did not start") from exc
            listening = asyncio.create_task(launcher.listen())
            try:
                yield launcher
            finally:
                listening.cancel()
                await asyncio.wait([listening])
        finally:
            ours.close()
            await _wait_for(process)


async def _spawn(descriptor: int, *, rootless: bool) -> asyncio.subprocess.Process:
    source = Path(containerssh.__file__).parent.parent
    program = (
        "import sys; sys.path.insert(0, sys.argv[1]); from containerssh.backends.oci.worker import main; "
        "main(int(sys.argv[2]), user_namespace=sys.argv[3] == 'True')"
    )
    return await asyncio.create_subprocess_exec(
        sys.executable,
        *("-I", "-c", program, str(source), str(descriptor), str(rootless)),
        stdin=asyncio.subprocess.DEVNULL,
        pass_fds=(descriptor,),
        start_new_session=True,
        env=clean_environment(),
        cwd="/",
    )


def clean_environment() -> dict[str, str]:
    """The environment of the helper and its programs, without secrets."""
    kept = ("PATH", "HOME", "XDG_RUNTIME_DIR", "SSL_CERT_FILE", "SSL_CERT_DIR", "HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY")
    environment = {name: os.environ[name] for name in kept if name in os.environ}
    environment.setdefault("PATH", os.defpath)
    if "/sbin" not in environment["PATH"].split(":"):
        environment["PATH"] += ":/usr/local/sbin:/usr/sbin:/sbin"  # where Debian has runc
    return environment


async def _greet(ours: socket.socket, ranges: IdRanges | None) -> None:
    loop = asyncio.get_running_loop()
    message = json.loads(await loop.sock_recv(ours, _PACKET))
    if ranges is not None:
        await _map_ids(int(message["map"]), ranges)
        await loop.sock_sendall(ours, b'{"mapped": true}')
        message = json.loads(await loop.sock_recv(ours, _PACKET))
    if not message["ready"]:
        raise ValueError(message)


async def _map_ids(pid: int, ranges: IdRanges) -> None:
    for program, own, (start, count) in (
        ("newuidmap", os.geteuid(), ranges.uids),
        ("newgidmap", os.getegid(), ranges.gids),
    ):
        entries = (str(number) for number in (pid, 0, own, 1, 1, start, count))
        process = await asyncio.create_subprocess_exec(
            program,
            *entries,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await process.communicate()
        if process.returncode != 0:
            raise BackendError(OCICode.RUNTIME_MISSING, f"{program} failed: {output.decode(errors='replace').strip()}")


async def _wait_for(process: asyncio.subprocess.Process) -> None:
    try:
        async with asyncio.timeout(_END_LIMIT):
            await process.wait()
    except TimeoutError:
        logger.warning(Event(OCICode.CONTAINER_REMOVE_FAILED, "The helper process did not end and was killed"))
        process.kill()
        await process.wait()
