"""What an OpenSSH client brings along and takes with it works in a pod, by both ways of the data."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from containerssh.auth.hashes import hash_password
from tests.support.cluster import Cluster
from tests.support.desktop import display, ssh_agent
from tests.support.forwarding import echo, listening, talk, unused_port
from tests.support.local_backend import read_public_key
from tests.support.openssh import OpenSSH, run, ssh_options
from tests.support.pods import no_pods, section
from tests.support.server import Server, serving
from tests.support.tools import tool

pytestmark = pytest.mark.root

MODES = ("forwardingMode", "reverseForwardingMode", "socketForwardingMode", "x11ForwardingMode", "agentForwardingMode")
WINDOW = r"""
number=${DISPLAY##*:} number=${number%%.*}
{ printf 'l\0\013\0\0\0\022\0\020\0\0\0MIT-MAGIC-COOKIE-1\0\0'; tail -c 16 "$XAUTHORITY"; sleep 2; } |
    nc localhost $((6000 + number)) | head -c 1 | od -An -tu1
"""
"""What the display says to its cookie: 1 for yes."""


async def check_agent_and_sockets(openssh: OpenSSH, server: Server) -> None:
    """Their agent's socket in the pod, asked from outside through a forward: busybox has nothing that could."""
    control, brought_back = str(openssh.folder / "control"), openssh.folder / "agent"
    pipe = asyncio.subprocess.PIPE
    async with ssh_agent(openssh) as (socket, key):
        env = {**openssh.environment(), "SSH_AUTH_SOCK": str(socket)}
        argv = openssh.command(server, "-A", "-M", "-S", control)
        process = await asyncio.create_subprocess_exec(
            *argv, 'echo "$SSH_AUTH_SOCK"; cat', stdin=pipe, stdout=pipe, env=env
        )
        assert process.stdin is not None
        assert process.stdout is not None
        async with asyncio.timeout(30):
            inside = (await process.stdout.readline()).decode().strip()
        more = openssh.command(server, "-S", control, "-O", "forward", "-L", f"{brought_back}:{inside}")
        (await run(*more, env=env)).check()
        done = await run(tool("ssh-add"), "-L", env={"SSH_AUTH_SOCK": str(brought_back)})
        assert done.check().stdout.decode().startswith(read_public_key(key))
        process.stdin.close()
        await process.wait()


async def check_display(openssh: OpenSSH, server: Server) -> None:
    async with display(openssh.folder) as variables:
        argv = openssh.command(server, "-Y", *ssh_options(f"XAuthLocation={tool('xauth')}"))
        done = await run(*argv, WINDOW, env={**openssh.environment(), **variables})
    assert done.check().stdout.split() == [b"1"], done


async def check_forwards(openssh: OpenSSH, server: Server) -> None:
    back, local = unused_port(), unused_port()
    async with listening(echo) as outside:
        options = ("-L", f"{local}:localhost:4000", "-R", f"{back}:127.0.0.1:{outside}")
        command = f"nc -ll -p 4000 -e cat & echo hello | nc 127.0.0.1 {back}; cat"
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            *openssh.command(server, *options), command, stdin=pipe, stdout=pipe, env=openssh.environment()
        )
        assert process.stdin is not None
        assert process.stdout is not None
        async with asyncio.timeout(30):
            assert await process.stdout.readline() == b"hello\n"
            assert await talk(local, b"by a port") == b"by a port"
            process.stdin.close()
            await process.wait()


async def check_files(openssh: OpenSSH, server: Server) -> None:
    up, down = openssh.folder / "up", openssh.folder / "down"
    up.write_bytes(bytes(range(256)) * 4096)
    command = openssh.command(server)
    batch = f"put {up} /tmp/there\nget /tmp/there {down}\n".encode()
    at = command.index("-p")
    argv = [tool("sftp"), *ssh_options("BatchMode=no"), "-b", "-", *command[1:at], "-P", *command[at + 1 :]]
    (await run(*argv, stdin=batch, env=openssh.environment())).check()
    assert down.read_bytes() == up.read_bytes()


@pytest.mark.parametrize("link", ["exec", "direct"])
async def test_keys_windows_ports_sockets_and_files_work_in_a_pod(
    cluster: Cluster, namespace: str, tmp_path: Path, link: str
) -> None:
    openssh = OpenSSH(tmp_path)
    settings = {
        "backend": "kubernetes",
        "kubernetes": section(cluster, namespace, link=link),
        "security": {"forwarding": dict.fromkeys(MODES, "enable")},
        "sftp": {"server": "builtin"},
    }
    async with serving(settings, {"alice": {"password": hash_password("secret", "bcrypt")}}) as server:
        for check in (check_agent_and_sockets, check_display, check_forwards, check_files):
            await check(openssh, server)
        await no_pods(cluster, namespace)
