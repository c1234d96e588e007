"""Programs on an engine behind TLS: the end of their input is not the end of their output."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from containerssh.backends.docker.backend import DockerBackend
from containerssh.backends.docker.half_close import open_tls
from containerssh.config.docker import DockerConfig
from containerssh.core.instance import open_instance
from tests.support.docker import Channel, Seen, a_login, gone, way_to
from tests.support.server import free_port
from tests.support.services import Engine, wait_until
from tests.support.tools import tool
from tests.support.upstream_agent import agent_image
from tests.support.webhook import Authority

pytestmark = pytest.mark.docker


@asynccontextmanager
async def tls_to(engine: Engine, authority: Authority, folder: Path) -> AsyncIterator[int]:
    """A port of this machine where haproxy takes TLS off and passes each side's end on by itself."""
    issued = authority.issue("haproxy")
    both = folder / "both.pem"
    both.write_bytes(issued.cert.read_bytes() + issued.key.read_bytes())
    port, config = free_port(), folder / "haproxy.cfg"
    config.write_text(
        "defaults\n mode tcp\n timeout connect 5s\n timeout client 60s\n timeout server 60s\n"
        f"listen engine\n bind 127.0.0.1:{port} ssl crt {both}\n server it unix@{engine.socket}\n"
    )
    process = await asyncio.create_subprocess_exec(
        tool("haproxy"), "-db", "-f", config, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
    )

    def listening() -> bool:
        import socket

        assert process.returncode is None, "haproxy ended"
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return True
        return False

    try:
        await asyncio.to_thread(wait_until, listening, within=10, what="haproxy listens")
        yield port
    finally:
        process.terminate()
        await process.wait()


@pytest.mark.parametrize("agent", ["none", "image", "injected"])
async def test_output_after_the_end_of_input_arrives_through_tls(engine: Engine, tmp_path: Path, agent: str) -> None:
    authority = Authority(tmp_path)
    login = a_login()
    async with tls_to(engine, authority, tmp_path) as port:
        settings = DockerConfig.model_validate(
            {
                "connection": {"host": f"tcp://127.0.0.1:{port}", "cacert": authority.cert.read_text()},
                "execution": {
                    "agent": agent,
                    "container": {"image": agent_image(engine)},
                    "host": {"networkmode": "none"},
                    "idleCommand": ["/bin/sleep", "600"],
                    "shellCommand": ["/bin/sh"],
                },
                "timeouts": {"containerStart": "20s", "commandStart": "5s"},
            }
        )
        with open_instance(tmp_path / "state", tmp_path / "run") as instance:
            backend = DockerBackend(instance)
            async with backend.login(login, settings, Seen()) as handler:
                channel = Channel(bytes(range(256)) * 8_000)
                async with handler.session(channel) as session:
                    await session.run_command("wc -c; sleep 0.2; seq 1 300000; exit 3")
                    assert await channel.ended() == 3
            await backend.close()
        await gone(engine, login)
    assert channel.out.data.startswith(b"2048000\n1\n")
    assert channel.out.data.endswith(b"\n300000\n")
    assert len(channel.out.data) == 8 + 1_988_895


async def test_a_slow_reader_holds_the_other_side_back(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    sent = 0

    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        with contextlib.suppress(OSError):
            while sent < 64 << 20:
                writer.write(b"x" * 65536)
                await writer.drain()
                sent += 65536
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0, ssl=authority.server_tls("engine")) as server:
        port = server.sockets[0].getsockname()[1]
        reader, writer = await open_tls("127.0.0.1", port, ssl.create_default_context(cafile=authority.cert))
        before = -1
        while before != sent:
            before = sent
            await asyncio.sleep(0.2)
        assert sent < 32 << 20, "it is held back"
        received = 0
        while data := await reader.read(65536):
            received += len(data)
        assert received == 64 << 20
        writer.transport.abort()


@pytest.mark.parametrize("end", ["cut", "no TLS"])
async def test_what_is_cut_off_is_an_error_and_not_an_end(tmp_path: Path, end: str) -> None:
    authority = Authority(tmp_path)

    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"half")
        await writer.drain()
        raw: Any = writer.transport
        raw.abort()

    tls = authority.server_tls("engine") if end == "cut" else None
    async with await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(OSError):
            reader, _ = await open_tls("127.0.0.1", port, ssl.create_default_context(cafile=authority.cert))
            while await reader.read(100):
                pass


async def test_a_stranger_is_not_talked_to(tmp_path: Path, engine: Engine) -> None:
    stranger, trusted = Authority(tmp_path, "stranger"), Authority(tmp_path, "trusted")
    async with way_to(engine, stranger.server_tls("engine")) as way:
        port = int(way.address.rpartition(":")[2])
        with pytest.raises(ssl.SSLCertVerificationError):
            await open_tls("127.0.0.1", port, ssl.create_default_context(cafile=trusted.cert))
