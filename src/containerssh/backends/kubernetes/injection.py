"""Bringing the server's agent into a pod, and its link, both through one exec."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass
from functools import cache

from containerssh.agent.binaries import agent_binary
from containerssh.agent.link import FRAMED_ARGUMENTS, AgentLink, framed_link
from containerssh.agent.transport import FramedTransport, Transport
from containerssh.backends.kubernetes.client import KubernetesClient
from containerssh.backends.kubernetes.direct import DirectWay
from containerssh.backends.kubernetes.exec_stream import RemoteStream
from containerssh.backends.kubernetes.pod import AGENT_FOLDER
from containerssh.core.codes import AgentCode, KubernetesCode
from containerssh.core.errors import BackendError, ContainerSSHError, ProtocolError, describe
from containerssh.core.messages import Event
from containerssh.core.streams import ByteReader
from containerssh.core.text import one_line

logger = logging.getLogger(__name__)

FOLDERS = (AGENT_FOLDER, "/dev/shm", "/tmp", "/var/tmp", "/run", "")  # noqa: S108  tried in turn, a new folder in each
"""Where the agent may lie for a moment; the last one stands for the root."""

_GREETING = b"containerssh "
_FIRST_WORDS = 64 * 1024
_AGENT_LINES = 50
_LAST_WORDS = 1.0
_NO_ROOM = 91
_NOT_WHOLE = 92
_PIECE = 16 * 1024
"""TLS keeps, as long as the login lasts, a buffer for the largest thing that it was given to send at a time."""

# The agent's file is gone as soon as it runs: shared pods do not fill up, and nobody finds it there. What comes on
# standard input is read to the byte ("head" may read ahead: nothing follows before the agent has spoken). The shell
# stays until then, since containerd drops input once the first program's output is closed.
_UPLOAD = r"""
mask=$(umask)
umask 077
name=$1
room=$2
shift 2
for program in mkdir chmod head wc rm; do
    command -v "$program" >/dev/null && continue
    echo "the image has no program $program" >&2
    exit 127
done
folder=
for place in "$@"; do
    try=$place/$name
    mkdir "$try" 2>/dev/null || continue
    if (printf '#!/bin/sh\nexit 0\n' >"$try/agent" && chmod 700 "$try/agent" && "$try/agent") 2>/dev/null; then
        if [ "$room" -eq 0 ] || head -c "$room" /dev/zero 2>/dev/null >"$try/agent"; then
            folder=$try
            break
        fi
    fi
    rm -rf "$try"
done
if [ -z "$folder" ]; then
    echo "no folder in which a program may be put and executed" >&2
    exit 91
fi
trap 'rm -rf "$folder"' EXIT
echo "containerssh $(uname -m)"
read -r size sum || exit 92
head -c "$size" >"$folder/agent" || exit 92
if [ "$(wc -c <"$folder/agent")" -ne "$size" ]; then
    echo "the agent did not arrive whole" >&2
    exit 92
fi
if command -v sha256sum >/dev/null && [ "$(sha256sum <"$folder/agent")" != "$sum  -" ]; then
    echo "the agent did not arrive as it was sent" >&2
    exit 93
fi
chmod 700 "$folder/agent"
exec 9<"$folder/agent"
rm -rf "$folder"
trap - EXIT
umask "$mask"
unset mask name room program folder place try size sum OLDPWD SHLVL
exec /proc/self/fd/9 serve --stdio
"""


Why = Callable[[], Awaitable[ContainerSSHError | None]]
"""What has become of the pod, if it is why a link ended."""
WayTo = Callable[[str], AbstractAsyncContextManager[DirectWay | None]]
"""The agent's way to this server, which the API server sees at the given address."""


class KeptOut(BackendError):
    """The agent cannot be brought into this container; it runs, and programs may be started otherwise."""

    default_user_message = "The container does not take what is needed for this login."
    no_room = False
    """Whether that is for want of a folder."""


class NotWhole(BackendError):
    """The folder for the agent, which had room for a small program, could not take all of it."""

    size = 0
    """Of the agent, in bytes."""


@dataclass(frozen=True)
class Place:
    """A container of a pod."""

    client: KubernetesClient
    namespace: str
    pod: str
    container: str


class LinkReader(ByteReader):
    """What comes from the agent. When that ends, *why* says what has become of the pod, if it has to do with it."""

    def __init__(self, source: ByteReader, why: Why) -> None:
        self._source = source
        self._why = why
        self._before = b""

    async def line(self) -> bytes:
        """The first line, without its end; empty if the output ends before there is one. Raises ConnectionError."""
        while b"\n" not in self._before:
            data = await self._source.read()
            if not data or len(self._before) > _FIRST_WORDS:
                return b""
            self._before += data
        line, _, self._before = self._before.partition(b"\n")
        return line

    async def read(self) -> bytes:
        if self._before:
            data, self._before = self._before, b""
            return data
        try:
            data = await self._source.read()
        except ConnectionError:
            if (reason := await self._why()) is not None:
                raise reason from None
            raise
        if not data and (reason := await self._why()) is not None:
            raise reason
        return data


async def injected_link(
    undo: AsyncExitStack,
    place: Place,
    *,
    installed: bool,
    name: str,
    why: Why,
    way_to: WayTo | None = None,
) -> AgentLink:
    """
    The link of an agent that is started in *place*; *undo* closes it, and with that the agent ends. *installed*: an
    init container has put it there, else it is uploaded, into a folder named after *name*. With *way_to* the agent is
    asked to connect by itself.

    Raises:
        KeptOut: the container has no shell, or no place for the agent.
        BackendError, ProtocolError: the cluster refuses, or the agent does not answer.
    """
    room = 0
    while True:
        async with AsyncExitStack() as opened:
            try:
                link = await _started(opened, place, installed=installed, name=name, room=room, why=why, way_to=way_to)
            except NotWhole as exc:
                if room or not exc.size:
                    raise
                # Only now, since it takes time: each folder is filled to see whether the agent fits.
                room = exc.size
                continue
            undo.push_async_callback(opened.pop_all().aclose)
            return link


async def _started(
    undo: AsyncExitStack, place: Place, *, installed: bool, name: str, room: int, why: Why, way_to: WayTo | None
) -> AgentLink:
    """
    See :func:`injected_link`; only folders with *room* bytes are used.

    Raises:
        NotWhole: another folder may do.
    """
    if installed:
        command: tuple[str, ...] = (f"{AGENT_FOLDER}/agent", *FRAMED_ARGUMENTS)
    else:
        command = ("sh", "-c", _UPLOAD, "sh", f".containerssh-{name}", str(room), *FOLDERS)
    stream = await undo.enter_async_context(place.client.exec(place.namespace, place.pod, place.container, command))
    words = _Words(stream)
    undo.push_async_callback(words.close)
    reader = LinkReader(stream.stdout, why)
    size = 0
    try:
        way = None if way_to is None else await undo.enter_async_context(way_to(stream.own_host))
        if not installed:
            content, digest = await _wanted(reader, direct=way is not None)
            size = len(content)
            await _upload(stream, content, digest)
        if way is None:
            return await undo.enter_async_context(framed_link(reader, stream.stdin))

        async def move(first: Transport) -> Transport | None:
            direct = await way.move(first, stream.stdin)
            return None if direct is None else FramedTransport(LinkReader(direct, why), direct)

        link = await undo.enter_async_context(framed_link(reader, stream.stdin, move))
        await way.settle()
        return link
    except (OSError, ProtocolError, BackendError) as exc:
        failure = await _failure(stream, words, exc, installed=installed)
        if isinstance(failure, NotWhole):
            failure.size = size
        elif failure.code == KubernetesCode.EXEC_FAILED:
            failure = await why() or failure
        raise failure from exc


async def _wanted(reader: LinkReader, *, direct: bool) -> tuple[bytes, str]:
    """The agent for the machine that the shell names, and its SHA-256."""
    line = await reader.line()
    if not line.startswith(_GREETING):
        raise ConnectionResetError("the container's shell does not answer")
    machine = line.removeprefix(_GREETING).decode("ascii", "replace").strip()[:32]
    return await asyncio.to_thread(_agent, machine, direct)


async def _upload(stream: RemoteStream, content: bytes, digest: str) -> None:
    await stream.stdin.write(f"{len(content)} {digest}\n".encode())
    for start in range(0, len(content), _PIECE):
        await stream.stdin.write(content[start : start + _PIECE])


@cache
def _agent(machine: str, direct: bool) -> tuple[bytes, str]:
    content = agent_binary(machine or None, direct=direct).read_bytes()
    return content, hashlib.sha256(content).hexdigest()


async def _failure(stream: RemoteStream, words: _Words, error: Exception, *, installed: bool) -> ContainerSSHError:
    """The one error to tell: the end of the exec explains that the agent does not answer."""
    if isinstance(error, BackendError) and error.code in (KubernetesCode.POD_ENDED, KubernetesCode.DIRECT_FAILED):
        return error
    if isinstance(error, BackendError) and error.code == AgentCode.BINARY_MISSING:
        return KeptOut(KubernetesCode.AGENT_KEPT_OUT, error.explanation)
    status: int | None = None
    said = ""
    try:
        async with asyncio.timeout(_LAST_WORDS):
            status = await stream.wait()
            await words.whole()
    except TimeoutError:
        pass
    except ContainerSSHError as exc:
        said = exc.explanation
    said = one_line(" ".join(filter(None, (said, words.text))))
    lowered = said.lower()
    # The runtime's words for a program that is not there, or that its policy forbids.
    missing = any(text in lowered for text in ("executable file not found", "no such file or directory"))
    if status in (_NO_ROOM, 126, 127) or (status is None and (missing or "permission denied" in lowered)):
        what = "the agent is not where the init container should have put it" if installed else "it has no shell"
        kept_out = KeptOut(KubernetesCode.AGENT_KEPT_OUT, f"the container does not take the agent: {said or what}")
        kept_out.no_room = status == _NO_ROOM
        return kept_out
    end = f", it ended with status {status}" if status is not None else ""
    text = f"the agent in the pod cannot be reached ({describe(error)}{end}{': ' if said else ''}{said})"
    kind = NotWhole if status == _NOT_WHOLE and not installed else BackendError
    return kind(KubernetesCode.EXEC_FAILED, text)


class _Words:
    """What the agent says on standard error: for the log, up to a limit; all of it is read."""

    def __init__(self, stream: RemoteStream) -> None:
        self._stream = stream
        self._lines = 0
        self.text = ""
        """The last of it."""
        self._task = asyncio.create_task(self._hear())

    async def whole(self) -> None:
        """Returns when there is no more."""
        await asyncio.shield(self._task)

    async def close(self) -> None:
        """Hear no more."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _hear(self) -> None:
        stderr = self._stream.stderr
        assert stderr is not None
        try:
            while data := await stderr.read():
                self.text = one_line(data.decode("utf-8", "replace"))
                self._lines += 1
                if self._lines <= _AGENT_LINES:
                    logger.info(Event(KubernetesCode.AGENT_LOG, self.text))
        except ConnectionError:
            return
