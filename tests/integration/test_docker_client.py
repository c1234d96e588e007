"""The Engine API client against real engines, by socket, TCP and TLS, and by ways that fail."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from containerssh.backends.docker.client import EngineClient
from containerssh.backends.docker.container import EngineContainer, persist
from containerssh.backends.docker.endpoint import open_endpoint
from containerssh.backends.docker.engine_error import Cure, EngineError
from containerssh.backends.docker.launch import LABEL_LAUNCH
from containerssh.backends.docker.reference import parse_reference
from containerssh.config.docker import DockerConnectionConfig
from containerssh.core.errors import ConfigError
from tests.support.docker import way_to
from tests.support.podman import ENGINES, Podman, engine_of, on
from tests.support.services import Engine, wait_until
from tests.support.webhook import Authority

pytestmark = pytest.mark.docker

NO_NETWORK = {"NetworkMode": "none"}


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> Engine:
    return engine_of(request)


@asynccontextmanager
async def client_of(
    host: str | Path, http: float = 15, certificates: Mapping[str, str] | None = None
) -> AsyncIterator[EngineClient]:
    address = f"unix://{host}" if isinstance(host, Path) else host
    connection = DockerConnectionConfig.model_validate({"host": address, **(certificates or {})})
    client = EngineClient(open_endpoint(connection), timedelta(seconds=http))
    try:
        yield client
    finally:
        await client.close()


@asynccontextmanager
async def container_of(client: EngineClient, *command: str, **more: Any) -> AsyncIterator[EngineContainer]:
    container = EngineContainer(client)
    body = {
        "Image": "bb:latest",
        "Cmd": list(command),
        "HostConfig": NO_NETWORK,
        "Labels": {LABEL_LAUNCH: container.launch},
        **more,
    }
    try:
        await container.create(body, name="", platform="")
        yield container
    finally:
        await container.remove()


async def an_end(container: EngineContainer) -> EngineError:
    for _ in range(200):
        if reason := await container.ended():
            return reason
        await asyncio.sleep(0.05)
    raise TimeoutError


def launched(engine: Engine, container: EngineContainer) -> list[str]:
    return engine.docker("ps", "-aq", "--filter", f"label={LABEL_LAUNCH}={container.launch}").split()


async def output_of(client: EngineClient, container: str, errors: list[bytes], stdin: bytes | None) -> bytes:
    """What a container writes that gets *stdin* and its end; with None the input stays open."""
    attached = await client.attach_container(container, errors.append)
    try:
        await client.start_container(container)
        if stdin is not None:
            await attached.input.write(stdin)
            await attached.input.write_eof()
        output = b""
        while data := await attached.output.read():
            output += data
        return output
    finally:
        await attached.close()


async def test_streams_of_a_container_arrive_after_the_end_of_its_input(engine: Engine) -> None:
    streams = {"OpenStdin": True, "StdinOnce": True, "AttachStdin": True}
    async with (
        client_of(engine.socket) as client,
        container_of(client, "sh", "-c", "wc -c; echo late; echo oops >&2", **streams) as container,
    ):
        errors: list[bytes] = []
        output = await output_of(client, container.id, errors, b"x" * 300_000)
    assert output == b"300000\nlate\n"
    assert b"".join(errors) == b"oops\n"


@on("docker")
async def test_the_engine_is_reached_by_tls_with_both_certificates(engine: Engine, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    ours = authority.issue("gateway")
    pem = {"cacert": authority.cert.read_text(), "cert": ours.cert.read_text(), "key": ours.key.read_text()}
    async with (
        way_to(engine, authority.server_tls("engine", ask_clients=True)) as way,
        client_of(way.address, certificates=pem) as client,
    ):
        assert (await client.info()).api >= (1, 41)
        async with container_of(client, "echo", "hi") as container:
            # The way knows no end of input by TLS alone; test_docker_tls.py has that.
            assert await output_of(client, container.id, [], None) == b"hi\n"


@on("docker")
async def test_an_engine_with_a_strangers_certificate_is_not_talked_to(engine: Engine, tmp_path: Path) -> None:
    stranger, trusted = Authority(tmp_path, "stranger"), Authority(tmp_path, "trusted")
    async with (
        way_to(engine, stranger.server_tls("engine")) as way,
        client_of(way.address, certificates={"cacert": trusted.cert.read_text()}) as client,
    ):
        with pytest.raises(EngineError, match="certificate"):
            await client.info()
        assert way.requests == []


def test_a_certificate_that_cannot_be_read_is_the_configurations_fault() -> None:
    with pytest.raises(ConfigError):
        open_endpoint(DockerConnectionConfig.model_validate({"host": "tcp://127.0.0.1:1", "cacert": "no PEM"}))


async def test_requests_share_a_connection(engine: Engine) -> None:
    async with way_to(engine) as way, client_of(way.address) as client:
        for _ in range(5):
            await client.inspect_image(parse_reference("bb:latest"))
        assert way.connections == 1


async def test_a_connection_that_the_engine_closed_is_replaced(engine: Engine) -> None:
    async with way_to(engine) as way, client_of(way.address) as client:
        assert await client.inspect_image(parse_reference("bb:latest")) is not None
        way.cut()
        assert await client.inspect_image(parse_reference("bb:latest")) is not None
        assert way.connections == 2


async def test_the_engines_words_tell_what_is_wrong(engine: Engine) -> None:
    async with client_of(engine.socket) as client:
        with pytest.raises(EngineError, match=r"(?i)no such image: .*none/such") as refused:
            await client.create_container({"Image": "none/such:1"}, name="", platform="")
        assert refused.value.permanent


@on("docker")  # Podman creates it, and refuses the start
async def test_a_limit_that_cannot_be_is_told(engine: Engine) -> None:
    async with client_of(engine.socket) as client:
        with pytest.raises(EngineError, match="Minimum memory limit") as refused:
            body = {"Image": "bb:latest", "HostConfig": {"Memory": 4096}}
            await client.create_container(body, name="", platform="")
        assert refused.value.permanent


async def test_a_values_place_in_a_path_cannot_be_left(engine: Engine) -> None:
    body = {"Image": "bb:latest", "HostConfig": NO_NETWORK}
    async with client_of(engine.socket) as client:
        with pytest.raises(EngineError, match=r"Invalid container name|names must match"):
            await client.create_container(body, name="x&fromSrc=- HTTP/1.1\r\nX: y", platform="")
        if not isinstance(engine, Podman):
            # Podman has no platform here, only in a pull.
            with pytest.raises(EngineError):
                await client.create_container(body, name="", platform="../../x?y=z")


async def test_an_engine_that_is_away_may_come_back(tmp_path: Path) -> None:
    async with client_of(tmp_path / "none.sock") as client:
        with pytest.raises(EngineError) as away:
            await client.info()
    assert away.value.cure is Cure.WAIT


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"HTTP/1.1 200 OK\r\nApi-Version: 1.40\r\nServer: Docker/19.03\r\nContent-Length: 0\r\n\r\n", "too old"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", "does not answer like a Docker engine"),
        (b"HTTP/1.1 200 OK\r\nApi-Version: 1.x\r\nContent-Length: 0\r\n\r\n", "does not answer like a Docker engine"),
        (b"HTTP/1.1 302 Found\r\nLocation: http://169.254.169.254/\r\nContent-Length: 0\r\n\r\n", "status 302"),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "not HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n" + b"[" * 6_000_000, "longer than"),
    ],
)
async def test_something_else_than_an_engine_is_refused(answer: bytes, words: str) -> None:
    """A fake engine: a real one does not answer like this."""

    async def fake(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        try:
            await writer.drain()
        except OSError:
            return
        writer.close()

    server = await asyncio.start_server(fake, "127.0.0.1", 0)
    async with server, client_of(f"127.0.0.1:{server.sockets[0].getsockname()[1]}") as client:
        with pytest.raises(EngineError, match=words) as refused:
            await client.info()
    assert refused.value.permanent


@on("docker")
async def test_an_engine_that_does_not_answer_is_given_up_in_time(engine: Engine) -> None:
    async with way_to(engine) as way, client_of(way.address, http=0.2) as client:
        way.hold = lambda request: b"/_ping" in request
        with pytest.raises(EngineError, match=r"no answer within 0\.2 s") as late:
            await client.info()
    assert late.value.cure is Cure.WAIT


async def test_programs_start_beside_the_main_one(engine: Engine) -> None:
    async with client_of(engine.socket) as client, container_of(client, "sleep", "60") as container:
        await container.start()
        errors: list[bytes] = []
        exec_id = await client.create_exec(container.id, ("sh", "-c", "cat; echo err >&2"), attached=True)
        attached = await client.attach_exec(exec_id, errors.append)
        await attached.input.write(b"abc")
        await attached.input.write_eof()
        assert await attached.output.read() == b"abc"
        assert await attached.output.read() == b""
        await attached.close()
        assert b"".join(errors) == b"err\n"
        await client.start_exec(await client.create_exec(container.id, ("kill", "-9", "-1"), attached=False))


async def test_the_reason_for_an_early_end_has_the_containers_last_words(engine: Engine) -> None:
    async with client_of(engine.socket) as client, container_of(client, "sh", "-c", "echo no; exit 7") as container:
        await container.start()
        reason = await an_end(container)
    assert "ended with status 7" in reason.explanation
    assert reason.explanation.endswith("no")
    assert "7" not in reason.user_message


async def test_a_program_that_is_not_there_is_refused_in_the_engines_words(engine: Engine) -> None:
    async with client_of(engine.socket) as client, container_of(client, "/no/such") as container:
        with pytest.raises(EngineError, match="no such file or directory"):
            await container.start()


# -- what is created is removed ----------------------------------------------------------------------------------


def body_of(container: EngineContainer) -> dict[str, Any]:
    return {
        "Image": "bb:latest",
        "Cmd": ["sleep", "60"],
        "HostConfig": NO_NETWORK,
        "Labels": {LABEL_LAUNCH: container.launch},
    }


async def test_a_container_whose_create_reply_was_lost_is_removed(engine: Engine) -> None:
    async with way_to(engine) as way, client_of(way.address) as client:
        container = EngineContainer(client)
        await client.info()
        way.swallow = lambda request: b"/containers/create" in request
        with pytest.raises(EngineError) as lost:
            await container.create(body_of(container), name="", platform="")
        assert lost.value.lost
        assert len(launched(engine, container)) == 1
        await container.remove()
    assert launched(engine, container) == []


async def test_a_second_try_after_a_lost_reply_leaves_one_container(engine: Engine) -> None:
    name = f"containerssh-test-{secrets.token_hex(4)}"
    async with way_to(engine) as way, client_of(way.address) as client:
        container = EngineContainer(client)
        await client.info()
        way.swallow = lambda request: b"/containers/create" in request
        with pytest.raises(EngineError):
            await container.create(body_of(container), name=name, platform="")
        way.swallow = lambda _: False
        await container.create(body_of(container), name=name, platform="")
        assert [found[:12] for found in launched(engine, container)] == [container.id[:12]]
        await container.remove()
    assert launched(engine, container) == []


async def test_a_create_request_that_is_cancelled_under_way_leaves_nothing(engine: Engine) -> None:
    async with way_to(engine) as way, client_of(way.address) as client:
        container = EngineContainer(client)
        await client.info()
        way.hold = lambda request: b"/containers/create" in request
        creating = asyncio.create_task(container.create(body_of(container), name="", platform=""))
        await asyncio.wait_for(way.held.wait(), 10)
        creating.cancel()
        with pytest.raises(asyncio.CancelledError):
            await creating
        assert len(launched(engine, container)) == 1
        way.release.set()
        await container.remove()
    assert launched(engine, container) == []


@on("docker")
async def test_removal_goes_on_until_the_engine_is_back(engine: Engine) -> None:
    async with (
        way_to(engine) as way,
        client_of(way.address) as client,
        container_of(client, "true") as container,
    ):
        way.refuse = True
        way.cut()
        removing = asyncio.create_task(container.remove())
        await asyncio.sleep(0)
        connections = way.connections
        await asyncio.to_thread(wait_until, lambda: way.connections >= connections + 2, within=10, what="more tries")
        way.refuse = False
        await asyncio.wait_for(removing, 10)
        assert launched(engine, container) == []


@pytest.mark.root
async def test_a_socket_that_is_closed_to_us_is_not_waited_for(tmp_path: Path) -> None:
    listening = await asyncio.start_unix_server(lambda *_: None, tmp_path / "engine.sock")
    (tmp_path / "engine.sock").chmod(0o600)
    async with listening, client_of(tmp_path / "engine.sock") as client:
        os.seteuid(65534)
        try:
            with pytest.raises(EngineError, match="the server's user may not use the socket") as caught:
                await persist(client.ping, on_error=lambda _: None)
        finally:
            os.seteuid(0)
    assert caught.value.cure is Cure.FEW_TRIES
