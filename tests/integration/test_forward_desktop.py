"""The client's ssh-agent and its display, for programs in the container."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from pathlib import Path

import asyncssh
import paramiko
import pytest

from containerssh.core.codes import SecurityCode
from tests.support.agent import until
from tests.support.desktop import COOKIE, display, ssh_agent
from tests.support.forwarding import LIMIT, Forwarding, client, forwarding, refused
from tests.support.local_backend import LocalBackend, read_public_key
from tests.support.openssh import Done, OpenSSH, run, ssh_options
from tests.support.services import wait_until
from tests.support.ssh_front import host_key, serving
from tests.support.tools import tool


async def with_agent(openssh: OpenSSH, server: Forwarding, command: str, socket: Path, *options: str) -> Done:
    argv = [*openssh.command(server.front, "-A", *options), command]
    return await run(*argv, env={**openssh.environment(), "SSH_AUTH_SOCK": str(socket)})


async def test_the_clients_keys_are_seen_inside_and_the_socket_is_nobody_elses(openssh: OpenSSH) -> None:
    async with forwarding() as server, ssh_agent(openssh) as (socket, key):
        command = 'ssh-add -L && stat -c "%a %U %n" "$SSH_AUTH_SOCK" "${SSH_AUTH_SOCK%/*}"'
        done = await with_agent(openssh, server, command, socket)
        lines = done.stdout.decode().splitlines()
        assert lines[0].startswith(read_public_key(key)), done
        modes = [line.split()[:2] for line in lines[1:]]
        assert modes == [["600", "root"], ["700", "root"]]
        folder = Path(lines[2].split()[2])
        await until(lambda: not folder.exists(), "socket and folder are gone")
        without = await openssh.run(server.front, 'echo "<$SSH_AUTH_SOCK>"')
    assert without.stdout == b"<>\n"
    assert not server.front.log.errors


async def test_one_socket_serves_all_sessions_until_the_connection_ends(openssh: OpenSSH) -> None:
    async with forwarding() as server, ssh_agent(openssh) as (socket, _):
        env = {**openssh.environment(), "SSH_AUTH_SOCK": str(socket)}
        async with client(openssh, server, "-A", env=env) as control:

            async def session(command: str) -> bytes:
                argv = [*openssh.command(server.front, "-A", "-S", str(control)), command]
                return (await run(*argv, env=env)).check().stdout

            first = await session('echo "$SSH_AUTH_SOCK"')
            assert await session('echo "$SSH_AUTH_SOCK"') == first
            # The session that it was asked in is over.
            found = await session(f"SSH_AUTH_SOCK={first.decode().strip()} ssh-add -l | wc -l")
            assert found == b"1\n"
        await until(lambda: not Path(first.decode().strip()).exists(), "the socket is gone")


async def test_git_fetches_over_ssh_inside_with_the_clients_key(openssh: OpenSSH, tmp_path: Path) -> None:
    work, bare = tmp_path / "work", tmp_path / "bare.git"
    git = [tool("git"), "-c", "user.name=a", "-c", "user.email=a@b", "-c", "init.defaultBranch=main"]
    (await run(*git, "init", "-q", str(work))).check()
    (await run(*git, "-C", str(work), "commit", "-q", "--allow-empty", "-m", "first")).check()
    (await run(*git, "clone", "-q", "--bare", str(work), str(bare))).check()
    async with forwarding() as server, ssh_agent(openssh) as (socket, key):
        hosting = LocalBackend(keys={read_public_key(key)}, password=b"none of this")
        async with serving(hosting) as forge:
            settings = " ".join(ssh_options("StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null"))
            command = f"GIT_SSH_COMMAND='ssh -F /dev/null {settings} -o BatchMode=yes' git clone -q ssh://bob@127.0.0.1"
            command += f":{forge.port}{bare} {tmp_path}/cloned"
            done = await with_agent(openssh, server, command, socket)
    assert done.status == 0, done
    assert (tmp_path / "cloned/.git").exists()


async def test_plink_forwards_its_agent(openssh: OpenSSH) -> None:
    async with forwarding() as server, ssh_agent(openssh) as (socket, _):
        key = asyncssh.import_private_key(host_key("ssh-ed25519")).get_fingerprint()
        argv = [tool("plink"), "-batch", "-A", "-P", str(server.port), "-hostkey", key, "-pw", "secret"]
        env = {"HOME": str(openssh.folder), "SSH_AUTH_SOCK": str(socket)}
        done = await run(*argv, "alice@127.0.0.1", "ssh-add -l", env=env)
    assert done.status == 0, done
    assert b"ED25519" in done.stdout


async def test_an_agent_is_refused_where_the_operator_says_so(openssh: OpenSSH) -> None:
    async with (
        forwarding(security={"forwarding": {"agentForwardingMode": "disable"}}) as server,
        ssh_agent(openssh) as (socket, _),
    ):
        done = await with_agent(openssh, server, 'echo "<$SSH_AUTH_SOCK>"', socket)
    assert done.stdout == b"<>\n"
    assert SecurityCode.AGENT_FORWARDING_REJECTED in server.front.log


async def test_a_real_clock_is_shown_on_the_clients_display(openssh: OpenSSH) -> None:
    async with forwarding() as server, display(openssh.folder) as variables:
        env = {**openssh.environment(), **variables}
        argv = openssh.command(server.front, "-Y", *ssh_options(f"XAuthLocation={tool('xauth')}"))
        command = "xclock & for n in $(seq 100); do xwininfo -name xclock >/dev/null 2>&1 && break; sleep 0.1; done"
        command += "; xwininfo -name xclock | grep -c 'Map State: IsViewable'; echo $DISPLAY; kill %1"
        done = await run(*argv, command, env=env)
        assert done.stdout.splitlines()[0] == b"1", done
        assert done.stdout.splitlines()[1].startswith(b"localhost:1")
        # Xvfb itself lets nobody in without the cookie.
        assert (await run(tool("xdpyinfo"), env={"DISPLAY": variables["DISPLAY"], "HOME": "/"})).status != 0
    assert not server.front.log.errors


class Windows:
    """A client that takes X11 channels, and what came through them."""

    def __init__(self, port: int) -> None:
        self.client = paramiko.SSHClient()
        self.client.set_missing_host_key_policy(paramiko.AutoAddPolicy())
        self.client.connect("127.0.0.1", port, "alice", "secret", allow_agent=False, look_for_keys=False)
        self.channels: list[paramiko.Channel] = []

    def run(self, command: str, *, single: bool = False, cookie: str = COOKIE) -> tuple[str, paramiko.Channel]:
        """The first line that *command* writes, and the session."""
        session = self.transport.open_session()
        session.request_x11(0, "MIT-MAGIC-COOKIE-1", cookie, single, handler=self._take)
        session.exec_command(command)
        return session.makefile().readline(), session

    @property
    def transport(self) -> paramiko.Transport:
        transport = self.client.get_transport()
        assert transport is not None
        return transport

    def _take(self, channel: paramiko.Channel, origin: tuple[str, int]) -> None:
        del origin
        self.channels.append(channel)


async def test_the_cookie_is_where_programs_look_and_in_no_log(openssh: OpenSSH) -> None:
    def look(port: int) -> str:
        windows = Windows(port)
        with windows.client:
            first, _ = windows.run('xauth -q list "$DISPLAY" | head -1; cat')
            again, _ = windows.run('echo "$DISPLAY"')
            other, _ = windows.run('echo "$DISPLAY"', cookie=COOKIE[:-2] + "00")
            assert again != other
            return first

    async with forwarding() as server:
        found = await asyncio.to_thread(look, server.port)
    assert found.split()[1:] == ["MIT-MAGIC-COOKIE-1", COOKIE]
    logged = [f"{event.text} {labels}" for _, event, labels in server.front.log.lines]
    assert not any(COOKIE in line or COOKIE[:8] in line for line in logged)


async def test_a_display_for_one_connection_takes_one(openssh: OpenSSH) -> None:
    def connections(port: int, single: bool) -> int:
        windows = Windows(port)
        with windows.client:
            shown, _ = windows.run('echo "$DISPLAY"; cat', single=single)
            number = 6000 + int(shown.rpartition(":")[2].split(".")[0])
            opened = []
            for _ in range(3):
                with suppress(ConnectionError):
                    opened.append(socket.create_connection(("127.0.0.1", number), LIMIT))
            for one in opened:
                with suppress(OSError):
                    one.sendall(b"x")
            wait_until(lambda: bool(windows.channels), within=LIMIT, what="the first has come")
            if not single:
                wait_until(lambda: len(windows.channels) == 3, within=LIMIT, what="all have come")
            for one in opened:
                one.close()
            return len(windows.channels)

    async with forwarding() as server:
        assert await asyncio.to_thread(connections, server.port, True) == 1
        assert await asyncio.to_thread(connections, server.port, False) == 3


async def test_a_display_and_its_cookie_go_with_the_connection(openssh: OpenSSH) -> None:
    def look(port: int) -> tuple[str, str]:
        windows = Windows(port)
        with windows.client:
            first, session = windows.run('echo "$DISPLAY $XAUTHORITY"')
            session.close()
            shown, authority = first.split()
            assert Path(authority).exists()
            return shown, authority

    async with forwarding() as server:
        shown, authority = await asyncio.to_thread(look, server.port)
        await until(lambda: not Path(authority).parent.exists(), "the cookie is gone")
        assert await refused(6000 + int(shown.rpartition(":")[2].split(".")[0]))


async def test_a_display_is_refused_unless_allowed_and_with_a_cookie_that_is_none() -> None:
    def ask(port: int, cookie: str) -> None:
        windows = Windows(port)
        with windows.client, pytest.raises(paramiko.SSHException):
            windows.run("true", cookie=cookie)

    async with forwarding(security={}) as server:
        await asyncio.to_thread(ask, server.port, COOKIE)
    assert SecurityCode.X11_FORWARDING_REJECTED in server.front.log
    async with forwarding() as server:
        for cookie in ("xyz", "0", "00" * 2000):
            await asyncio.to_thread(ask, server.port, cookie)
    assert not server.front.log.errors
