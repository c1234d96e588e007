"""What an OpenSSH client brings along and takes with it, through a whole server, in a container of each backend."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import pytest_asyncio

from containerssh.auth.hashes import hash_password
from tests.support.container_backends import Place
from tests.support.desktop import display, ssh_agent
from tests.support.forwarding import digest, echo, listening, talk, unused_port
from tests.support.local_backend import read_public_key
from tests.support.openssh import OpenSSH, run, ssh_options
from tests.support.server import Server, serving
from tests.support.tools import tool

pytestmark = pytest.mark.asyncio(loop_scope="module")

MODES = (
    "forwardingMode",
    "reverseForwardingMode",
    "socketForwardingMode",
    "socketListenMode",
    "x11ForwardingMode",
    "agentForwardingMode",
)
WINDOW = r"""
number=${DISPLAY##*:} number=${number%%.*} answer=$(mktemp)
{
    printf 'l\0\013\0\0\0\022\0\020\0\0\0MIT-MAGIC-COOKIE-1\0\0'
    tail -c 16 "$XAUTHORITY"
    for _ in $(seq 100); do [ -s "$answer" ] || sleep 0.1; done
} | nc localhost $((6000 + number)) >"$answer"
head -c 1 "$answer" | od -An -tu1
"""
"""What the display says to its cookie: 1 for yes."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(place: Place) -> AsyncIterator[Server]:
    settings = {
        **place.section(),
        "security": {"forwarding": dict.fromkeys(MODES, "enable")},
        "sftp": {"server": "builtin"},
    }
    async with serving(settings, {"alice": {"password": hash_password("secret", "bcrypt")}}) as made:
        yield made


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def screen(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[dict[str, str]]:
    """One X server for all of them."""
    async with display(tmp_path_factory.mktemp("display")) as variables:
        yield variables


@asynccontextmanager
async def running(
    openssh: OpenSSH, server: Server, command: str, *options: str, **env: str
) -> AsyncIterator[asyncio.StreamReader]:
    """The client, and what *command* writes; its input ends with the scope, and then it has to end well."""
    pipe = asyncio.subprocess.PIPE
    client = await asyncio.create_subprocess_exec(
        *openssh.command(server, *options), command, stdin=pipe, stdout=pipe, env={**openssh.environment(), **env}
    )
    assert client.stdin is not None
    assert client.stdout is not None
    try:
        async with asyncio.timeout(60):
            yield client.stdout
            client.stdin.close()
            assert await client.wait() == 0
    finally:
        if client.returncode is None:
            client.kill()
            await client.wait()


async def test_a_terminal_has_the_size_of_the_clients(openssh: OpenSSH, server: Server) -> None:
    command = "stty size; until [ \"$(stty size)\" = '44 111' ]; do sleep 0.05; done; echo resized; exit 3"
    terminal = openssh.spawn(server, command, dimensions=(33, 99))
    await asyncio.to_thread(terminal.expect, b"33 99\r\n")
    terminal.setwinsize(44, 111)
    await asyncio.to_thread(terminal.expect, b"resized\r\n")
    await asyncio.to_thread(terminal.wait)
    assert terminal.exitstatus == 3


async def test_the_clients_keys_are_those_of_its_ssh_agent(openssh: OpenSSH, server: Server) -> None:
    """Their agent's socket in the container, asked from outside through a forward: busybox has nothing that could."""
    control, brought_back = str(openssh.folder / "control"), openssh.folder / "agent"
    async with ssh_agent(openssh) as (socket, key):
        keys, options = {"SSH_AUTH_SOCK": str(socket)}, ("-A", "-M", "-S", control)
        async with running(openssh, server, 'echo "$SSH_AUTH_SOCK"; cat', *options, **keys) as output:
            inside = (await output.readline()).decode().strip()
            more = openssh.command(server, "-S", control, "-O", "forward", "-L", f"{brought_back}:{inside}")
            (await run(*more, env=openssh.environment())).check()
            done = await run(tool("ssh-add"), "-L", env={"SSH_AUTH_SOCK": str(brought_back)})
            assert done.check().stdout.decode().startswith(read_public_key(key))


async def test_windows_are_shown_on_the_clients_display(
    openssh: OpenSSH, server: Server, screen: dict[str, str]
) -> None:
    argv = openssh.command(server, "-Y", *ssh_options(f"XAuthLocation={tool('xauth')}"))
    done = await run(*argv, WINDOW, env={**openssh.environment(), **screen})
    assert done.check().stdout.split() == [b"1"], done


async def test_ports_and_sockets_are_forwarded_both_ways(openssh: OpenSSH, server: Server) -> None:
    back, local, by_socket = unused_port(), unused_port(), openssh.folder / "by-socket"
    async with listening(echo) as echoes, listening(digest) as digests:
        options = (
            *("-L", f"{local}:localhost:4000", "-R", f"{back}:127.0.0.1:{digests}"),
            *("-R", f"/tmp/inside:127.0.0.1:{echoes}", "-L", f"{by_socket}:/tmp/inside"),
        )
        listens = "until netstat -ltn | grep -q :4000; do sleep 0.02; done"
        command = f"nc -ll -p 4000 -e cat & {listens}; printf data | nc 127.0.0.1 {back}; echo; cat; kill $!"
        async with running(openssh, server, command, *options) as output:
            assert (await output.readline()).decode().startswith("3a6eb0790f39ac87c94f3856b2dd2c5d110e6811602261a9")
            assert await talk(local, b"by a port") == b"by a port"
            assert await talk(by_socket, b"out, in, and out again") == b"out, in, and out again"
    await openssh.run(server, "rm -f /tmp/inside")


async def test_files_are_put_and_fetched(openssh: OpenSSH, server: Server, tmp_path: Path) -> None:
    up, down = tmp_path / "up", tmp_path / "down"
    up.write_bytes(bytes(range(256)) * 4096)
    command = openssh.command(server)
    batch = f"put {up} /tmp/there\nrename /tmp/there /tmp/renamed\nget /tmp/renamed {down}\n".encode()
    at = command.index("-p")
    argv = [tool("sftp"), *ssh_options("BatchMode=no"), "-b", "-", *command[1:at], "-P", *command[at + 1 :]]
    (await run(*argv, stdin=batch, env=openssh.environment())).check()
    assert down.read_bytes() == up.read_bytes()
