"""Pulls that take longer than other requests may, from an engine of which only what a pull needs is there."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta
from urllib.parse import parse_qs, urlsplit

import pytest

from containerssh.backends.docker.client import EngineClient
from containerssh.backends.docker.endpoint import open_endpoint
from containerssh.backends.docker.engine_error import EngineError
from containerssh.backends.docker.reference import parse_reference
from containerssh.config.docker import DockerConnectionConfig

PING = b"HTTP/1.1 200 OK\r\nApi-Version: 1.41\r\nOstype: linux\r\nServer: Docker/20.10\r\nContent-Length: 0\r\n\r\n"
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"


class PullingEngine:
    """Sends *messages* one after another, with a pause before each."""

    def __init__(self, *messages: Mapping[str, object], pause: float = 0) -> None:
        self.messages = messages
        self.pause = pause
        self.asked: list[dict[str, list[str]]] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                _, target, _ = (await reader.readuntil(b"\r\n\r\n")).split(b" ", 2)
                url = urlsplit(target.decode())
                if not url.path.endswith("/images/create"):
                    writer.write(PING)
                    continue
                self.asked.append(parse_qs(url.query))
                writer.write(HEAD)
                for message in self.messages:
                    await asyncio.sleep(self.pause)
                    line = json.dumps(message).encode() + b"\r\n"
                    writer.write(f"{len(line):x}\r\n".encode() + line + b"\r\n")
                writer.write(b"0\r\n\r\n")
                await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def client_of(engine: PullingEngine, http: timedelta) -> AsyncIterator[EngineClient]:
    server = await asyncio.start_server(engine.serve, "127.0.0.1", 0)
    async with server:
        host = f"tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        client = EngineClient(open_endpoint(DockerConnectionConfig(host=host)), http)
        try:
            yield client
        finally:
            await client.close()


async def pull(client: EngineClient, platform: str = "") -> None:
    await client.pull(parse_reference("lab/guest:2"), platform=platform, credentials="", progress=lambda _: None)


async def test_a_pull_takes_longer_than_a_request_may_and_names_its_platform() -> None:
    engine = PullingEngine(*[{"status": "Extracting"}] * 4, pause=0.45)
    async with client_of(engine, timedelta(seconds=1.5)) as client:
        await pull(client, "linux/arm64")
    assert engine.asked == [{"fromImage": ["docker.io/lab/guest"], "tag": ["2"], "platform": ["linux/arm64"]}]


async def test_an_error_amid_a_pull_is_its_failure() -> None:
    engine = PullingEngine(
        {"status": "Pulling"}, {"errorDetail": {"message": "no space left"}, "error": "no space left"}
    )
    async with client_of(engine, timedelta(seconds=5)) as client:
        with pytest.raises(EngineError, match="no space left"):
            await pull(client)
    assert "platform" not in engine.asked[0]
