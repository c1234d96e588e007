"""Forwards through a real agent, asked for by OpenSSH's client."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
from pathlib import Path

import pytest

from containerssh.core.codes import SSHCode
from tests.support.agent import until
from tests.support.forwarding import client, digest, echo, forwarding, listening, refused, talk, unused_port
from tests.support.openssh import OpenSSH, run, ssh_options

DATA = os.urandom(3_000_000)


@pytest.mark.parametrize("transport", ["socket", "framed"])
async def test_a_local_forward_carries_both_directions_and_half_closes(openssh: OpenSSH, transport: str) -> None:
    here = unused_port()
    async with forwarding(transport) as server, listening(echo) as there, listening(digest) as digests:
        options = ("-L", f"{here}:localhost:{there}", "-L", f"{openssh.folder}/digests:127.0.0.1:{digests}")
        async with client(openssh, server, *options):
            assert await talk(here, DATA) == DATA
            assert await talk(openssh.folder / "digests", DATA) == hashlib.sha256(DATA).hexdigest().encode()
    assert not server.front.log.errors


async def test_standard_input_and_output_can_be_a_connection(openssh: OpenSSH) -> None:
    async with forwarding() as server, listening(echo) as there:
        done = await openssh.run(server.front, None, "-W", f"127.0.0.1:{there}", stdin=DATA)
    assert (done.status, done.stdout) == (0, DATA)


async def test_a_target_that_is_not_there_is_told_instead_of_the_channel(openssh: OpenSSH) -> None:
    async with forwarding() as server:
        for target, why in (
            (f"127.0.0.1:{unused_port()}", "connect failed: connection refused"),
            ("no.such.name.invalid:80", "connect failed"),
        ):
            done = await openssh.run(server.front, None, "-W", target, "-o", "LogLevel=INFO")
            assert done.status == 255
            assert why in done.stderr.decode(), done
    assert SSHCode.NEW_CHANNEL_REJECTED in server.front.log
    assert not server.front.log.errors


async def test_a_jump_goes_through_the_container(openssh: OpenSSH) -> None:
    async with forwarding() as server, forwarding() as inner:
        jump = " ".join(openssh.command(server.front, "-W", "%h:%p"))
        done = await openssh.run(inner.front, "echo through", "-o", f"ProxyCommand={jump}")
    assert (done.status, done.stdout) == (0, b"through\n"), done


async def test_a_dynamic_forward_resolves_names_in_the_container(openssh: OpenSSH) -> None:
    here = unused_port()
    async with forwarding() as server, listening(echo) as there, client(openssh, server, "-D", str(here)):
        for host in (b"\3\x09localhost", b"\1\x7f\0\0\1"):
            reader, writer = await asyncio.open_connection("127.0.0.1", here)
            writer.write(b"\5\1\0")
            assert await reader.readexactly(2) == b"\5\0"
            writer.write(b"\5\1\0" + host + there.to_bytes(2, "big"))
            assert (await reader.readexactly(10))[:2] == b"\5\0"
            writer.write(b"ping")
            assert await reader.readexactly(4) == b"ping"
            writer.close()


@pytest.mark.parametrize("transport", ["socket", "framed"])
async def test_a_reverse_forward_is_cancelled_and_asked_for_again(openssh: OpenSSH, transport: str) -> None:
    async with forwarding(transport) as server, listening(digest) as here, client(openssh, server) as control:
        there = unused_port()

        async def ask(what: str, spec: str) -> str:
            argv = openssh.command(server.front, "-S", str(control), "-O", what, "-R", spec)
            done = await run(*argv, env=openssh.environment())
            assert done.status == 0, done
            return done.stdout.decode()

        for _ in range(2):
            await ask("forward", f"{there}:127.0.0.1:{here}")
            assert await talk(there, DATA) == hashlib.sha256(DATA).hexdigest().encode()
            await ask("cancel", f"{there}:127.0.0.1:{here}")
            assert await refused(there)
        found = re.search(r"\d+", await ask("forward", f"0:127.0.0.1:{here}"))
        assert found
        free = int(found[0])
        assert await talk(free, b"data") == hashlib.sha256(b"data").hexdigest().encode()
    assert await refused(free)
    assert not server.front.log.errors


async def test_a_port_that_is_taken_is_refused(openssh: OpenSSH) -> None:
    async with forwarding() as server, listening(echo) as taken:
        options = ("-R", f"127.0.0.1:{taken}:127.0.0.1:1", *ssh_options("ExitOnForwardFailure=yes"))
        done = await openssh.run(server.front, "true", *options)
    assert done.status == 255
    assert b"remote port forwarding failed" in done.stderr


async def test_unix_sockets_are_forwarded_both_ways(openssh: OpenSSH, tmp_path: Path) -> None:
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    reverse = tmp_path / "reverse"
    async with forwarding() as server, listening(echo, inside), listening(digest) as here:
        missing = tmp_path / "to-nothing"
        local = ("-L", f"{outside}:{inside}", "-L", f"{missing}:{tmp_path}/nothing")
        options = ("-R", f"{reverse}:127.0.0.1:{here}")
        async with client(openssh, server, *local, *options) as control:
            assert await talk(outside, DATA) == DATA
            assert await talk(missing, b"") == b""
            assert reverse.stat().st_mode & 0o777 == 0o600
            assert await talk(reverse, b"x") == hashlib.sha256(b"x").hexdigest().encode()
            argv = openssh.command(server.front, "-S", str(control), "-O", "cancel", *options)
            (await run(*argv, env=openssh.environment())).check()
            # The client does not wait for our answer to this.
            await until(lambda: not reverse.exists(), "the socket is gone")
    assert not server.front.log.errors


async def test_fifty_forwards_at_once_with_sessions_beside_them(openssh: OpenSSH) -> None:
    here, back = unused_port(), unused_port()
    data = os.urandom(400_000)
    async with forwarding() as server, listening(echo) as there:
        options = ("-L", f"{here}:127.0.0.1:{there}", "-R", f"127.0.0.1:{back}:127.0.0.1:{there}")
        async with client(openssh, server, *options) as control:
            one_more = run(*openssh.command(server.front, "-S", str(control)), "echo beside", env=openssh.environment())
            beside = asyncio.create_task(one_more)
            answers = await asyncio.gather(*(talk((here, back)[n % 2], data) for n in range(50)))
            assert (await beside).stdout == b"beside\n"
    assert answers == [data] * 50
    assert not server.front.log.errors


async def test_nothing_is_left_when_the_client_has_gone(openssh: OpenSSH, tmp_path: Path) -> None:
    reverse = tmp_path / "reverse"
    port = unused_port()
    async with forwarding() as server, listening(echo) as here:
        options = ("-R", f"{reverse}:127.0.0.1:{here}", "-R", f"127.0.0.1:{port}:127.0.0.1:{here}")
        async with client(openssh, server, *options):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"x")
            assert await reader.readexactly(1) == b"x"
            assert reverse.exists()
        assert await reader.read(1) == b""
        writer.close()
        assert await refused(port)
        await until(lambda: not (reverse.exists() or server.front.backend.open_scopes), "nothing is left")


async def test_a_program_finds_the_forwards_that_were_asked_for_before_it(openssh: OpenSSH, tmp_path: Path) -> None:
    reverse = tmp_path / "reverse"
    async with forwarding("framed") as server, listening(echo) as here:
        for _ in range(5):
            options = ("-R", f"{reverse}:127.0.0.1:{here}")
            done = await openssh.run(server.front, f"test -S {reverse}", *options)
            assert done.status == 0
            await until(lambda: not reverse.exists(), "the socket is gone")
