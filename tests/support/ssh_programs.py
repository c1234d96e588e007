"""The clients of the matrix, each as one program run to its end: what its user would start."""

from __future__ import annotations

import asyncio
import shlex
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncssh
import paramiko
from paramiko.agent import AgentRequestHandler

from tests.support.images import go_program
from tests.support.openssh import Done, OpenSSH, run
from tests.support.server import Server
from tests.support.tools import tool

USER, PASSWORD = "alice", "secret"
SUPPORT = Path(__file__).parent
LIMIT = 60.0


@dataclass(frozen=True)
class Ask:
    """One program to run on *server*, with files of the client's own below *home*."""

    server: Server
    home: Path
    command: str | None
    """None for the shell."""
    stdin: bytes = b""
    pty: bool = False
    rekey: int = 0
    """New keys after so many bytes, where the client has an option for it."""
    signal: str = ""
    """The one to send once the program has written something, where the client can: :data:`SENDS_SIGNALS`."""
    agent: Path | None = None
    """The socket of an ssh-agent that comes along, where the client can: :data:`FORWARDS_AGENTS`."""
    asking: bool = False
    """Ask again and again whether the server lives, several times a second if the client can."""


Client = Callable[[Ask], Awaitable[Done]]


def _words(ask: Ask) -> list[str]:
    return [] if ask.command is None else [ask.command]


def _variables(ask: Ask, **more: str) -> dict[str, str]:
    return {"HOME": str(ask.home), **({"SSH_AUTH_SOCK": str(ask.agent)} if ask.agent else {}), **more}


async def openssh(ask: Ask) -> Done:
    options = (["-tt"] if ask.pty else ["-T"]) + (["-o", f"RekeyLimit={ask.rekey}"] if ask.rekey else [])
    options += ["-A"] if ask.agent else []
    options += ["-o", "ServerAliveInterval=1", "-o", "ServerAliveCountMax=30"] if ask.asking else []
    client = OpenSSH(ask.home)
    argv = [*client.command(ask.server, *options), *_words(ask)]
    return await run(*argv, stdin=ask.stdin, env={**client.environment(), **_variables(ask)}, limit=LIMIT)


async def plink(ask: Ask) -> Done:
    folder = ask.home / ".putty" / "sessions"
    folder.mkdir(parents=True, exist_ok=True)
    settings = f"RekeyBytes={ask.rekey or '1G'}\nSSHHostKey=\nPingIntervalSecs={int(ask.asking)}\n"
    (folder / "matrix").write_text(settings)
    keys = await run(tool("ssh-keyscan"), "-p", str(ask.server.port), "-t", "ed25519", "127.0.0.1")
    key = asyncssh.import_public_key(keys.stdout.split(b" ", 1)[1]).get_fingerprint()
    argv = [tool("plink"), "-load", "matrix", "-batch", "-ssh", "-t" if ask.pty else "-T", "-P", str(ask.server.port)]
    argv += [*(["-A"] if ask.agent else []), "-hostkey", key, "-pw", PASSWORD, f"{USER}@127.0.0.1"]
    return await run(*argv, *_words(ask), stdin=ask.stdin, env=_variables(ask), limit=LIMIT)


async def dbclient(ask: Ask) -> Done:
    argv = [tool("dbclient"), "-y", "-y", "-t" if ask.pty else "-T", "-p", str(ask.server.port)]
    argv += [*(["-A"] if ask.agent else []), *(["-K", "1"] if ask.asking else []), f"{USER}@127.0.0.1"]
    env = _variables(ask, DROPBEAR_PASSWORD=PASSWORD)
    if ask.pty:
        # It asks for a terminal only where it has one itself.
        argv = [tool("script"), "-qec", shlex.join([*argv, *_words(ask)]), "/dev/null"]
        return await run(*argv, stdin=ask.stdin, env=env, limit=LIMIT)
    return await run(*argv, *_words(ask), stdin=ask.stdin, env=env, limit=LIMIT)


async def libssh(ask: Ask) -> Done:
    argv: list[str | Path] = [sys.executable, SUPPORT / "libssh.py", str(ask.server.port), USER, PASSWORD]
    argv += (["--pty"] if ask.pty else []) + (["--rekey", str(ask.rekey)] if ask.rekey else [])
    argv += ["--signal", ask.signal] if ask.signal else []
    return await run(*argv, *_words(ask), stdin=ask.stdin, env={"HOME": str(ask.home)}, limit=LIMIT)


async def go(ask: Ask) -> Done:
    program = await asyncio.to_thread(built_go_client)
    argv: list[str | Path] = [program, "-port", str(ask.server.port), "-user", USER, "-password", PASSWORD]
    argv += (["-pty"] if ask.pty else []) + (["-rekey", str(ask.rekey)] if ask.rekey else [])
    argv += (["-signal", ask.signal] if ask.signal else []) + (["-agent", str(ask.agent)] if ask.agent else [])
    argv += ["-asking"] if ask.asking else []
    return await run(*argv, *_words(ask), stdin=ask.stdin, limit=LIMIT)


def built_go_client() -> Path:
    """Go's client."""
    return go_program(SUPPORT / "goclient")


async def asyncssh_(ask: Ask) -> Done:
    async with asyncssh.connect(
        "127.0.0.1",
        ask.server.port,
        username=USER,
        password=PASSWORD,
        known_hosts=None,
        client_keys=None,
        config=None,
        rekey_bytes=ask.rekey or 1 << 30,
        agent_path=str(ask.agent) if ask.agent else None,
        agent_forwarding=bool(ask.agent),
        keepalive_interval=0.1 if ask.asking else 0,
    ) as client:
        terminal: dict[str, Any] = {"term_type": "xterm", "term_size": (99, 33)} if ask.pty else {"request_pty": False}
        if ask.signal:
            process = await client.create_process(ask.command, encoding=None, **terminal)
            first = await process.stdout.readline()
            process.send_signal(ask.signal)
            done = await process.wait()
            assert isinstance(done.stdout, bytes)
            return Done(done.returncode or 0, first + done.stdout, b"")
        done = await client.run(ask.command, input=ask.stdin, encoding=None, **terminal)
    assert isinstance(done.stdout, bytes)
    assert isinstance(done.stderr, bytes)
    return Done(done.returncode if done.returncode is not None else -1, done.stdout, done.stderr)


async def paramiko_(ask: Ask) -> Done:
    return await asyncio.to_thread(_with_paramiko, ask)


def _with_paramiko(ask: Ask) -> Done:
    from threading import Thread

    with paramiko.SSHClient() as client:
        client.set_missing_host_key_policy(paramiko.AutoAddPolicy())
        client.connect("127.0.0.1", ask.server.port, USER, PASSWORD, allow_agent=False, look_for_keys=False)
        transport: Any = client.get_transport()
        if ask.rekey:
            transport.packetizer.REKEY_BYTES = ask.rekey
        if ask.asking:
            transport.set_keepalive(1)
        channel = transport.open_session()
        # It takes the socket from this process's own environment.
        handler = AgentRequestHandler(channel) if ask.agent else None
        if ask.pty:
            channel.get_pty("xterm", 99, 33)
        if ask.command is None:
            channel.invoke_shell()
        else:
            channel.exec_command(ask.command)

        def send() -> None:
            channel.sendall(ask.stdin)
            channel.shutdown_write()

        errors: list[bytes] = []

        def listen() -> None:
            errors.extend(iter(lambda: channel.recv_stderr(65536), b""))

        threads = [Thread(target=send), Thread(target=listen)]
        for thread in threads:
            thread.start()
        output = b"".join(iter(lambda: channel.recv(65536), b""))
        for thread in threads:
            thread.join(LIMIT)
        if handler is not None:
            handler.close()
        return Done(channel.recv_exit_status(), output, b"".join(errors))


CLIENTS: dict[str, Client] = {
    "openssh": openssh,
    "plink": plink,
    "dbclient": dbclient,
    "paramiko": paramiko_,
    "libssh": libssh,
    "asyncssh": asyncssh_,
    "go": go,
}
KEEPS_ITS_KEYS = frozenset({"dbclient"})
"""Clients without an option for it: they make new keys after a GiB or some hours."""
SENDS_SIGNALS = frozenset({"libssh", "asyncssh", "go"})
FORWARDS_AGENTS = frozenset(CLIENTS) - {"libssh"}
ASKS = frozenset(CLIENTS) - {"libssh"}
"""Clients that can ask whether the server lives by themselves."""
