"""Where forwards end: in the container's network and file system, never in the host's."""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from containerssh.auth.hashes import hash_password
from containerssh.backends.host_addresses import no_addresses
from tests.support import server as product
from tests.support.forwarding import echo, listening, talk, unused_port
from tests.support.oci import image, needs_root
from tests.support.openssh import OpenSSH
from tests.support.services import Engine
from tests.support.upstream_agent import agent_image

pytestmark = [needs_root, pytest.mark.root, pytest.mark.oci]

MODES = ("forwardingMode", "reverseForwardingMode", "socketForwardingMode", "socketListenMode", "x11ForwardingMode")
ALLOWED = {"security": {"forwarding": {**dict.fromkeys(MODES, "enable"), "agentForwardingMode": "enable"}}}
USERS = {"alice": {"password": hash_password("secret")}}


def oci(**changes: Any) -> dict[str, Any]:
    return {"backend": "oci", "oci": {"image": str(image()), **changes}, **ALLOWED}


async def talk_in_the_end(port: int) -> bytes:
    """What an echo answers, once it is there."""
    while True:
        with suppress(ConnectionResetError):
            if answer := await talk(port, b"data"):
                return answer


async def check_network(openssh: OpenSSH, config: dict[str, Any]) -> None:
    back = unused_port()
    async with product.serving(config, USERS) as server, listening(echo) as outside:
        # Inside, a port of its own echoes, and another one leads to the client; outside, neither is there.
        command = f"nc -ll -p 4000 -e cat & echo ready; sleep 1; echo hello | nc 127.0.0.1 {back}; cat"
        local = unused_port()
        argv = openssh.command(server, "-L", f"{local}:localhost:4000", "-R", f"{back}:127.0.0.1:{outside}")
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            *argv, command, stdin=pipe, stdout=pipe, env=openssh.environment()
        )
        assert process.stdin is not None
        assert process.stdout is not None
        async with asyncio.timeout(30):
            assert await process.stdout.readline() == b"ready\n"
            assert await talk_in_the_end(local) == b"data"
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection("127.0.0.1", back)
            assert await process.stdout.readline() == b"hello\n"
            process.stdin.close()
            await process.wait()
        for port in (outside, server.port):
            for host in ("127.0.0.1", "localhost", "0.0.0.0", "::ffff:127.0.0.1"):
                done = await openssh.run(server, None, "-W", f"[{host}]:{port}", "-o", "LogLevel=INFO")
                assert (done.status, done.stdout) == (255, b"")
                assert b"connect failed" in done.stderr, done


@pytest.mark.parametrize("runtime", ["crun", "runc"])
async def test_the_embedded_backends_forwards_end_in_the_container(openssh: OpenSSH, runtime: str) -> None:
    await check_network(openssh, oci(runtime=runtime))


def docker(engine: Engine, network: str, **execution: Any) -> dict[str, Any]:
    settings = {
        "shellCommand": ["/bin/sh"],
        "container": {"image": "bb:latest"},
        "host": {"networkmode": network},
        **execution,
    }
    return {"backend": "docker", "docker": {"connection": {"host": engine.address}, "execution": settings}, **ALLOWED}


@pytest.mark.parametrize(("network", "transport"), [("none", "socket"), ("none", "attach"), ("bridge", "socket")])
async def test_dockers_forwards_end_in_the_container(
    openssh: OpenSSH, engine: Engine, network: str, transport: str
) -> None:
    await check_network(openssh, docker(engine, network, agentTransport=transport))


async def reached(openssh: OpenSSH, server: product.Server, host: str, port: int) -> bytes:
    """What an echo at *host* answers through ``ssh -W``, or what ssh says of a refusal."""
    done = await openssh.run(server, None, "-W", f"[{host}]:{port}", "-o", "LogLevel=INFO", stdin=b"data")
    return done.stdout or done.stderr


def gateway(engine: Engine) -> str:
    # The network itself tells its gateway only if the engine was started again since it was made.
    name = engine.docker("run", "--detach", "bb:latest", "sleep", "600").strip()
    try:
        return engine.docker("inspect", name, "-f", "{{.NetworkSettings.Networks.bridge.Gateway}}").strip()
    finally:
        engine.docker("rm", "--force", name)


async def test_the_host_is_not_reached_through_dockers_bridge_unless_it_is_listed(
    openssh: OpenSSH, engine: Engine
) -> None:
    config, address = docker(engine, "bridge"), gateway(engine)
    listed = {"forwardingMode": "filter", "forwardingAllow": ["*", address]}
    async with listening(echo, host=None) as port:
        async with product.serving(config, USERS) as server:
            for host in (address, f"::ffff:{address}"):
                assert b"the address is not allowed" in await reached(openssh, server, host, port)
        config["security"] = {"forwarding": listed}
        async with product.serving(config, USERS) as server:
            assert await reached(openssh, server, address, port) == b"data"


async def test_the_host_of_an_engine_elsewhere_is_not_reached_either(
    openssh: OpenSSH, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As if this machine had no interface of the engine's host.
    monkeypatch.setattr("containerssh.backends.docker.container.host_addresses", no_addresses)
    async with listening(echo, host=None) as port, product.serving(docker(engine, "bridge"), USERS) as server:
        assert b"the address is not allowed" in await reached(openssh, server, gateway(engine), port)


async def test_the_images_agent_is_not_sent_to_addresses_of_the_host(openssh: OpenSSH, engine: Engine) -> None:
    image = {"image": agent_image(engine)}
    config = docker(engine, "bridge", agent="image", idleCommand=["/bin/sleep", "600"], container=image)
    async with listening(echo, host=None) as port, product.serving(config, USERS) as server:
        assert b"not permitted" in await reached(openssh, server, gateway(engine), port)


async def test_a_container_in_the_hosts_network_reaches_the_host(openssh: OpenSSH, engine: Engine) -> None:
    async with listening(echo, host=None) as port, product.serving(docker(engine, "host"), USERS) as server:
        for host in ("localhost", gateway(engine)):
            assert await reached(openssh, server, host, port) == b"data"


async def test_sockets_are_the_containers(openssh: OpenSSH, tmp_path: Path) -> None:
    hidden = Path("/tmp") / f"outside-{os.getpid()}"
    local, reverse = openssh.folder / "local", openssh.folder / "to-nothing"
    async with product.serving(oci(), USERS) as server, listening(echo, hidden), listening(echo) as here:
        options = ("-L", f"{reverse}:{hidden}", "-R", f"/tmp/inside:127.0.0.1:{here}", "-L", f"{local}:/tmp/inside")
        argv = openssh.command(server, *options)
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            *argv, "ls -l /tmp/inside; cat", stdin=pipe, stdout=pipe, env=openssh.environment()
        )
        assert process.stdin is not None
        assert process.stdout is not None
        async with asyncio.timeout(30):
            assert (await process.stdout.readline()).startswith(b"srw-------")
            assert not os.path.exists("/tmp/inside")  # noqa: ASYNC240, PTH110  a moment
            assert await talk(local, b"out, in, and out again") == b"out, in, and out again"
            assert await talk(reverse, b"") == b""
            process.stdin.close()
            await process.wait()
    hidden.unlink()


@pytest.mark.parametrize(
    "changes", [{}, {"user": "demo"}, {"readOnlyRoot": True}, {"readOnlyRoot": True, "user": "demo"}]
)
async def test_agent_and_display_need_nothing_of_the_image(openssh: OpenSSH, changes: dict[str, Any]) -> None:
    async with product.serving(oci(**changes), USERS) as server:
        agent = openssh.folder / "agent"
        async with listening(echo, agent):
            argv = openssh.command(server, "-A")
            env = {**openssh.environment(), "SSH_AUTH_SOCK": str(agent)}
            process = await asyncio.create_subprocess_exec(
                *argv,
                'ls -ln "$SSH_AUTH_SOCK"; ls -ldn "${SSH_AUTH_SOCK%/*}"; id -u',
                stdout=asyncio.subprocess.PIPE,
                env=env,
            )
            out, _ = await asyncio.wait_for(process.communicate(), 30)
    socket, folder, user = out.decode().splitlines()
    assert socket.startswith("srw-------"), out
    assert folder.startswith("drwx------")
    assert socket.split()[2] == folder.split()[2] == user
