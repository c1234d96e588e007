"""An editor's server in the container outlives the session that started it, and is reached in every way."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from pathlib import Path

import paramiko
import pytest

from tests.support.openssh import OpenSSH, run
from tests.support.server import Server, free_port
from tests.support.services import Engine
from tests.support.shared_folder import complaints, sharing
from tests.support.waiting import until

pytestmark = [pytest.mark.docker, pytest.mark.oci]

LIMIT = 20.0
MODES = ("forwardingMode", "reverseForwardingMode", "socketForwardingMode", "socketListenMode")
ALLOWED = {"forwarding": dict.fromkeys(MODES, "enable")}
EDITORS_SERVER = """
import asyncio, os

async def serve(reader, writer):
    while line := await reader.readline():
        writer.write(b"%d got " % os.getpid() + line)
    writer.write(b"goodbye\\n")
    writer.close()

async def main():
    await asyncio.start_server(serve, "127.0.0.1", 8080)
    await asyncio.start_unix_server(serve, "/tmp/editor.sock")
    print("listening", flush=True)
    await asyncio.sleep(3600)

asyncio.run(main())
"""
INSTALL = f"""
umask 077
cat >/tmp/server.py <<'END'
{EDITORS_SERVER}
END
nohup setsid python3 /tmp/server.py >/tmp/server.log 2>&1 </dev/null &
for n in $(seq 100); do grep -q listening /tmp/server.log && break; sleep 0.1; done
echo "pid $!, port 8080, exec server ready"
exit 3
"""
Opened = Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]


@pytest.fixture(params=["docker", "oci"])
def where(request: pytest.FixtureRequest) -> Engine | None:
    """Docker's engine, or None for the oci backend."""
    if request.param == "oci":
        return None
    engine: Engine = request.getfixturevalue("engine")
    return engine


@asynccontextmanager
async def master(openssh: OpenSSH, server: Server, *options: str) -> AsyncIterator[tuple[str, str]]:
    """A connection that forwards and has no session of its own; what others give to use it."""
    control = openssh.folder / "control"
    process = await asyncio.create_subprocess_exec(
        *openssh.command(server, "-N", "-M", "-S", str(control), *options), env=openssh.environment()
    )
    try:
        await until(control.exists, LIMIT)
        yield "-S", str(control)
    finally:
        process.kill()
        await process.wait()
        control.unlink(missing_ok=True)


async def through_socks(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"\5\1\0\5\1\0\3\x09localhost" + (8080).to_bytes(2, "big"))
    assert await reader.readexactly(2) == b"\5\0"
    assert (await reader.readexactly(10))[:2] == b"\5\0"
    return reader, writer


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, word: bytes) -> int:
    """The number of the process that answers to *word*."""
    writer.write(word + b"\n")
    number, _, answer = (await reader.readline()).partition(b" ")
    assert answer == b"got " + word + b"\n"
    return int(number)


async def test_a_server_that_a_shell_started_serves_after_it(
    where: Engine | None, openssh: OpenSSH, tmp_path: Path
) -> None:
    """As VS Code does: ``ssh -T -D PORT host bash`` gets a script, and the editor then works through the forwards."""
    socks, local, outside = free_port(), free_port(), tmp_path / "outside"
    forwards = ("-D", f"127.0.0.1:{socks}", "-L", f"{local}:127.0.0.1:8080", "-L", f"{outside}:/tmp/editor.sock")
    async with asyncio.timeout(100), sharing(where, tmp_path / "data", "debian", security=ALLOWED) as server:
        for _ in range(2):
            outside.unlink(missing_ok=True)
            async with master(openssh, server, *forwards) as shared:
                argv = [*openssh.command(server, "-T", *shared), "bash"]
                done = await run(*argv, stdin=INSTALL.encode(), env=openssh.environment())
                assert (done.status, done.stdout.endswith(b"exec server ready\n")) == (3, True), done
                ways: list[Opened] = [
                    through_socks(socks),
                    asyncio.open_connection("127.0.0.1", local),
                    asyncio.open_unix_connection(outside),
                ]
                streams = await asyncio.gather(*ways)
                answering = {await ask(*stream, b"one") for stream in streams}
                # Sessions come and go; streams that say nothing meanwhile stay.
                for _ in range(3):
                    argv = [*openssh.command(server, *shared), "sleep 0.3; cat /tmp/server.log"]
                    assert (await run(*argv, env=openssh.environment())).check().stdout == b"listening\n"
                answering |= {await ask(*stream, b"two") for stream in streams}
                assert len(answering) == 1, "one server, the first"
                for reader, writer in streams:
                    writer.write_eof()
                    assert await reader.read() == b"goodbye\n"
                    writer.close()
            # Another connection meets another container, without that server.
        assert complaints(server) == []


async def test_all_on_one_connection_with_questions_that_nobody_knows(engine: Engine, tmp_path: Path) -> None:
    """As JetBrains' tools do by their Java library: programs, files and a forward, and requests to see that we live."""
    content = os.urandom(2_000_000)

    def work(port: int) -> None:
        with paramiko.SSHClient() as client:
            client.set_missing_host_key_policy(paramiko.AutoAddPolicy())
            client.connect("127.0.0.1", port, "alice", "secret", allow_agent=False, look_for_keys=False)
            transport = client.get_transport()
            assert transport is not None
            assert transport.global_request("keepalive@openssh.com", wait=True) is not None
            assert transport.global_request("keep-alive@jcraft.com", wait=True) is None
            assert transport.global_request("something@example.com", wait=True) is None
            with client.open_sftp() as files:
                with files.open("/data/worker.jar", "wb") as remote:
                    remote.set_pipelined(True)
                    remote.write(content)
                with files.open("/data/server.py", "w") as remote:
                    remote.write(EDITORS_SERVER)
                _, started, _ = client.exec_command("exec python3 /data/server.py")
                assert started.readline() == "listening\n"
                forward = transport.open_channel("direct-tcpip", ("127.0.0.1", 8080), ("127.0.0.1", 1))
                forward.settimeout(LIMIT)
                stream = forward.makefile("rwb", -1)
                for number in range(20):
                    word = b"word %d\n" % number
                    stream.write(word)
                    stream.flush()
                    assert stream.readline().endswith(b"got " + word)
                    assert files.stat("/data/worker.jar").st_size == len(content)
                    _, out, _ = client.exec_command(f"echo {number}; exit {number}")
                    assert (out.read(), out.channel.recv_exit_status()) == (b"%d\n" % number, number)
                forward.shutdown_write()
                assert stream.readline() == b"goodbye\n"
                forward.close()

    async with sharing(engine, tmp_path / "data", "debian", security=ALLOWED) as server:
        await asyncio.to_thread(work, server.port)
        assert complaints(server) == []
        unknown = [line["level"] for line in server.log if "unknown" in line["message"].lower()]
        assert set(unknown) <= {"debug"}
    assert (tmp_path / "data/worker.jar").read_bytes() == content
