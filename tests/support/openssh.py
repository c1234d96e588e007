"""The real OpenSSH client, run as a user runs it, with nothing of this machine's own configuration."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pexpect

from tests.support.tools import tool

LIMIT = 30.0


class Server(Protocol):
    """What a client needs to know of a server."""

    @property
    def port(self) -> int: ...


@dataclass(frozen=True)
class Done:
    """A program that ended."""

    status: int
    stdout: bytes
    stderr: bytes

    def check(self) -> Done:
        """Itself; fails the test if the status is not 0."""
        assert self.status == 0, self
        return self


async def run(*argv: str | Path, stdin: bytes = b"", env: dict[str, str] | None = None, limit: float = LIMIT) -> Done:
    """Run a program to its end, in a process group of its own that is killed after *limit* seconds."""
    program = await asyncio.create_subprocess_exec(
        *argv,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={"PATH": os.environ["PATH"], "LC_ALL": "C", **(env or {})},
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(limit):
            out, err = await program.communicate(stdin)
    finally:
        if program.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(program.pid, 9)
            await program.wait()
    assert program.returncode is not None
    return Done(program.returncode, out, err)


class OpenSSH:
    """``ssh`` with a home folder of its own below *folder*."""

    def __init__(self, folder: Path, user: str = "alice", password: str | None = "secret") -> None:
        self.folder = folder
        self.user = user
        self.password = password

    def command(self, server: Server, *options: str) -> list[str]:
        """The command line up to the host's name; *options* win."""
        known_hosts = self.folder / "known_hosts"
        settings = {
            "StrictHostKeyChecking": "accept-new",
            "UserKnownHostsFile": str(known_hosts),
            "GlobalKnownHostsFile": "/dev/null",
            "UpdateHostKeys": "no",
            "NumberOfPasswordPrompts": "1",
            "LogLevel": "ERROR",
            "ConnectTimeout": "10",
            "IdentitiesOnly": "yes",
        }
        fixed = [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]
        return [tool("ssh"), "-F", "/dev/null", *options, *fixed, "-p", str(server.port), f"{self.user}@127.0.0.1"]

    def environment(self) -> dict[str, str]:
        """Its environment; a helper program supplies the password, since there is no terminal."""
        env = {"HOME": str(self.folder), "PATH": os.environ["PATH"], "LC_ALL": "C"}
        if self.password is not None:
            helper = self.folder / "askpass"
            if not helper.exists():
                # Once: one that is just being written cannot be run for a client beside this one.
                helper.write_text('#!/bin/sh\nprintf "%s\\n" "$TEST_PASSWORD"\n')
                helper.chmod(0o700)
            env |= {"SSH_ASKPASS": str(helper), "SSH_ASKPASS_REQUIRE": "force", "TEST_PASSWORD": self.password}
        return env

    async def run(
        self, server: Server, command: str | None = None, *options: str, stdin: bytes = b"", limit: float = LIMIT
    ) -> Done:
        """Log in and run *command*, without one the shell; as ``ssh [options] user@host command``."""
        argv = [*self.command(server, *options), *([] if command is None else [command])]
        return await run(*argv, stdin=stdin, env=self.environment(), limit=limit)

    async def begun(self, server: Server, command: str) -> asyncio.subprocess.Process:
        """Start the client; returns once *command* has written a first line, which is consumed. The caller ends it."""
        pipe = asyncio.subprocess.PIPE
        client = await asyncio.create_subprocess_exec(
            *self.command(server), command, env=self.environment(), stdin=pipe, stdout=pipe, stderr=pipe
        )
        assert client.stdout is not None
        async with asyncio.timeout(LIMIT):
            assert await client.stdout.readline(), await client.communicate()
        return client

    def spawn(
        self, server: Server, command: str | None = None, *options: str, dimensions: tuple[int, int] = (24, 80)
    ) -> pexpect.spawn[bytes]:
        """The client on a terminal of *dimensions* (rows, columns); use its ``expect(..., async_=True)``."""
        argv = [*self.command(server, "-tt", *options), *([] if command is None else [command])]
        return pexpect.spawn(
            argv[0], argv[1:], env=self.environment(), timeout=LIMIT, dimensions=dimensions, encoding=None
        )

    async def make_key(self, name: str = "id", kind: str = "ed25519", *more: str) -> Path:
        """A new key pair; the private key's path."""
        path = self.folder / name
        await self.keygen("-q", "-t", kind, "-N", "", "-f", str(path), *more)
        return path

    async def keygen(self, *arguments: str) -> Done:
        """Run ``ssh-keygen``."""
        return (await run(tool("ssh-keygen"), *arguments)).check()


def ssh_options(*settings: str) -> Sequence[str]:
    """``-o`` before each of *settings*."""
    return [word for setting in settings for word in ("-o", setting)]
