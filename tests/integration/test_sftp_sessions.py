"""SFTP sessions of a container backend, over a real agent: the channel is in memory."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from containerssh.agent.process import Program
from containerssh.agent.sftp import FileReport
from containerssh.backends.container import ContainerConnection, ContainerSession, Execution
from containerssh.backends.programs import RunningProgram
from containerssh.core.codes import SFTPCode
from containerssh.core.errors import BackendError, ProtocolError, Rejected
from containerssh.core.files import UPSTREAM_SERVER, FileEvent, SFTPRules
from containerssh.core.handlers import SessionHandler
from containerssh.core.requests import PtyRequest, WindowSize
from containerssh.core.streams import ByteReader
from tests.support.agent import MemoryChannel, agent_link, until
from tests.support.packing import strings

LIMIT = timedelta(seconds=10)
EXECUTION = Execution(("/bin/sh",), {}, command_start=LIMIT, signal=LIMIT, window=LIMIT)


class Recorded(MemoryChannel):
    """A channel of somebody who records what happens to files."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[FileEvent] = []

    @property
    def takes_file_events(self) -> bool:
        return True

    async def file_event(self, event: FileEvent) -> None:
        self.events.append(event)


class Noise(ByteReader):
    def __init__(self, data: bytes) -> None:
        self._data = data

    async def read(self) -> bytes:
        data, self._data = self._data, b""
        return data


def packet(kind: int, body: bytes) -> bytes:
    return (len(body) + 1).to_bytes(4, "big") + bytes([kind]) + body


@pytest.mark.parametrize("transport", ["socket", "framed"])
async def test_sftp_is_served_by_the_agent_and_reported(transport: str, tmp_path: Path) -> None:
    channel = Recorded()
    execution = replace(EXECUTION, subsystems={"sftp": UPSTREAM_SERVER})
    async with agent_link(transport) as link, ContainerConnection(link, execution).session(channel) as session:
        await session.request_pty(PtyRequest("xterm", WindowSize(80, 24)))
        await session.run_sftp(SFTPRules(root=str(tmp_path), digest=True))
        channel.send(packet(1, b"\0\0\0\3"))
        channel.send(packet(3, b"\0\0\0\1" + strings(b"new") + b"\0\0\0\x0a" + b"\0\0\0\0"))
        channel.send(packet(6, b"\0\0\0\2" + strings(bytes(4)) + bytes(8) + strings(b"hello")))
        channel.send(packet(4, b"\0\0\0\3" + strings(bytes(4))))
        channel.send(packet(13, b"\0\0\0\4" + strings(b"../none")))
        channel.send(b"")
        assert await channel.over() == 0
    assert (tmp_path / "new").read_bytes() == b"hello"
    digest = hashlib.sha256(b"hello").hexdigest()
    assert channel.events == [FileEvent("file", "/new", written=5, created=True, sha256=digest)]
    assert channel.err.data == b""


async def test_a_session_that_is_left_hears_what_was_open(tmp_path: Path) -> None:
    channel = Recorded()
    async with agent_link("socket") as link:
        async with ContainerConnection(link, EXECUTION).session(channel) as session:
            await session.run_sftp(SFTPRules(server="builtin", root=str(tmp_path)))
            channel.send(packet(1, b"\0\0\0\3"))
            channel.send(packet(3, b"\0\0\0\1" + strings(b"new") + b"\0\0\0\x0a" + b"\0\0\0\0"))
            await until((tmp_path / "new").exists, "the file is there")
        assert channel.events == [FileEvent("file", "/new", created=True)]


async def test_rules_are_not_dropped_where_nobody_would_keep_them() -> None:
    class Elsewhere:
        async def start(self, program: Program) -> RunningProgram:
            raise AssertionError(program)

    execution = replace(EXECUTION, subsystems={"sftp": UPSTREAM_SERVER})
    session = ContainerSession(Elsewhere(), execution, MemoryChannel())
    with pytest.raises(BackendError) as caught:
        await session.run_sftp(SFTPRules(read_only=True))
    assert caught.value.code is SFTPCode.FAILED
    with pytest.raises(Rejected):
        await SessionHandler().run_sftp(SFTPRules(umask=0))


async def test_reports_that_are_none_end_the_session() -> None:
    lost: list[Exception] = []
    report = FileReport(Noise(b"{}\n"), MemoryChannel(), lost.append)
    await report.finished()
    assert [type(error) for error in lost] == [ProtocolError]
