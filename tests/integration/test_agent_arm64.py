"""The agent's binary for arm64 does its work, in an emulator that runs the programs it starts as they are."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

from containerssh.agent.binaries import agent_binary
from containerssh.agent.link import FRAMED_ARGUMENTS, AgentLink, framed_link
from containerssh.backends.container import ContainerConnection, Execution
from containerssh.core.requests import PtyRequest, WindowSize
from tests.support.agent import MemoryChannel, PipeReader, PipeWriter
from tests.support.openssh import run
from tests.support.tools import tool

LIMIT = timedelta(seconds=20)
EXECUTION = Execution(("/bin/sh",), {}, command_start=LIMIT, signal=LIMIT, window=LIMIT)
DATA = os.urandom(1_000_000)


@asynccontextmanager
async def emulated() -> AsyncIterator[AgentLink]:
    """A link to that binary, in a process that has ended when the scope is left."""
    pipe = asyncio.subprocess.PIPE
    argv = (tool("qemu-aarch64-static"), str(agent_binary("aarch64")), *FRAMED_ARGUMENTS)
    process = await asyncio.create_subprocess_exec(*argv, stdin=pipe, stdout=pipe)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        async with framed_link(PipeReader(process.stdout), PipeWriter(process.stdin)) as link:
            yield link
    finally:
        process.stdin.close()
        async with asyncio.timeout(20):
            await process.wait()


async def test_programs_and_terminals_work_with_the_agent_for_arm64() -> None:
    async with emulated() as link:
        connection = ContainerConnection(link, EXECUTION)
        channel = MemoryChannel()
        async with connection.session(channel) as session:
            await session.run_command("sha256sum; echo oops >&2; exit 7")
            channel.send(DATA)
            channel.send(b"")
            assert await channel.over() == 7
        assert channel.out.data.split()[0].decode() == hashlib.sha256(DATA).hexdigest()
        assert channel.err.data == b"oops\n"

        channel = MemoryChannel()
        async with connection.session(channel) as session:
            await session.request_pty(PtyRequest("vt220", WindowSize(99, 33)))
            await session.run_command("stty size; echo $TERM; kill -9 $$")
            ended = await channel.over()
        assert getattr(ended, "name", None) == "KILL", ended
        assert channel.out.data == b"33 99\r\nvt220\r\n"


async def test_openssh_moves_files_with_the_agent_for_arm64(tmp_path: Path) -> None:
    (tmp_path / "up").write_bytes(DATA)
    # Emulated it cannot start itself once more, as it does in a container.
    server = f"{tool('qemu-aarch64-static')} {agent_binary('aarch64')} sftp --root {tmp_path}"
    batch = f"mkdir d\nput {tmp_path}/up d/a\nrename d/a d/b\nln -s b d/c\ndf\nget d/c {tmp_path}/back\n"
    (await run(tool("sftp"), "-b", "-", "-D", server, stdin=batch.encode())).check()
    assert (tmp_path / "back").read_bytes() == DATA
    assert (tmp_path / "d" / "c").readlink() == Path("b")
