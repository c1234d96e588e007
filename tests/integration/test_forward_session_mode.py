"""The client's ssh-agent and display where each session has a container of its own, or the image its own agent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from containerssh.auth.hashes import hash_password
from tests.support.desktop import display, ssh_agent
from tests.support.images import zoo_image
from tests.support.local_backend import read_public_key
from tests.support.openssh import OpenSSH, run, ssh_options
from tests.support.server import Server, serving
from tests.support.services import Engine
from tests.support.tools import tool
from tests.support.upstream_agent import forwarding_image

pytestmark = pytest.mark.docker

WINDOW = """
import os, socket, struct, subprocess
display = os.environ["DISPLAY"]
cookie = bytes.fromhex(subprocess.check_output(["xauth", "-q", "list", display], text=True).split()[-1])
number = int(display.rpartition(":")[2].partition(".")[0])
for key in (cookie, cookie[::-1]):
    server = socket.create_connection(("localhost", 6000 + number))
    name = b"MIT-MAGIC-COOKIE-1"
    server.sendall(struct.pack("<BxHHHHxx", ord("l"), 11, 0, len(name), len(key)) + name + bytes(2) + key)
    answer = server.recv(1)
    print("taken" if answer == b"\\1" else "refused", flush=True)
"""
"""An X11 client without a library: what the display says to its cookie, and to another one."""


@asynccontextmanager
async def server_with(engine: Engine, image: str, **execution: Any) -> AsyncIterator[Server]:
    container = {"container": {"image": image}, "host": {"NetworkMode": "none"}, "imagePullPolicy": "Never"}
    docker = {
        "connection": {"host": engine.address},
        "execution": {**container, "shellCommand": ["/bin/sh"], **execution},
    }
    modes = ("forwardingMode", "reverseForwardingMode", "x11ForwardingMode")
    security = {"forwarding": dict.fromkeys(modes, "enable")}
    users = {"alice": {"password": hash_password("secret", "bcrypt")}}
    async with serving({"backend": "docker", "docker": docker, "security": security}, users) as server:
        yield server


async def check_display(openssh: OpenSSH, server: Server) -> None:
    async with display(openssh.folder) as variables:
        argv = openssh.command(server, "-Y", *ssh_options(f"XAuthLocation={tool('xauth')}"))
        done = await run(*argv, "exec python3 -", stdin=WINDOW.encode(), env={**openssh.environment(), **variables})
    assert done.stdout == b"taken\nrefused\n", done


async def test_each_session_has_the_clients_keys_in_a_container_of_its_own(engine: Engine, openssh: OpenSSH) -> None:
    image = zoo_image(engine, "debian")
    async with server_with(engine, image, mode="session") as server, ssh_agent(openssh) as (socket, key):
        env = {**openssh.environment(), "SSH_AUTH_SOCK": str(socket)}
        control = server.folder / "control"
        argv = openssh.command(server, "-N", "-M", "-A", "-S", str(control))
        master = await asyncio.create_subprocess_exec(*argv, env=env)
        await server.until(control.exists, "the connection is there")

        async def session(command: str, *options: str) -> list[str]:
            done = await run(*openssh.command(server, "-S", str(control), *options), command, env=env)
            return done.check().stdout.decode().splitlines()

        try:
            both = await asyncio.gather(*(session("ssh-add -L; hostname", "-A") for _ in range(2)))
            assert all(lines[0].startswith(read_public_key(key)) and len(lines) == 2 for lines in both)
            assert both[0][1] != both[1][1], "two containers"
            assert await session('echo "<$SSH_AUTH_SOCK>"') == ["<>"]
            # There is no container that a port of the connection could be in.
            with pytest.raises(AssertionError, match="remote port forwarding failed"):
                await session("true", "-O", "forward", "-R", "0:127.0.0.1:1")
        finally:
            master.terminate()
            await master.wait()


async def test_each_session_has_a_display_of_its_own(engine: Engine, openssh: OpenSSH) -> None:
    async with server_with(engine, zoo_image(engine, "debian"), mode="session") as server:
        await check_display(openssh, server)


async def test_the_images_own_agent_shows_windows_on_the_clients_display(engine: Engine, openssh: OpenSSH) -> None:
    image = forwarding_image(engine, zoo_image(engine, "debian"))
    async with server_with(engine, image, agent="image") as server:
        await check_display(openssh, server)
