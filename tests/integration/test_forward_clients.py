"""Forwards asked for by other clients than OpenSSH's."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncssh
import paramiko
import pytest

from tests.support.clients import logged_in
from tests.support.forwarding import (
    LIMIT,
    digest,
    echo,
    forwarding,
    listening,
    refused,
    talk,
    unused_port,
)
from tests.support.ssh_front import host_key
from tests.support.tools import tool

DATA = os.urandom(1_000_000)
DIGEST = hashlib.sha256(DATA).hexdigest().encode()


@asynccontextmanager
async def running(argv: list[str], env: dict[str, str], *ports: int) -> AsyncIterator[None]:
    """A client that goes on until the scope's end; entered when all *ports* can be connected to."""
    quiet = asyncio.subprocess.DEVNULL
    process = await asyncio.create_subprocess_exec(
        *argv, env={"PATH": os.environ["PATH"], **env}, stdin=asyncio.subprocess.PIPE, stdout=quiet, stderr=quiet
    )
    try:
        async with asyncio.timeout(LIMIT):
            for port in ports:
                while True:
                    try:
                        _, writer = await asyncio.open_connection("127.0.0.1", port)
                    except ConnectionRefusedError:
                        assert process.returncode is None, "the client has ended"
                        await asyncio.sleep(0.02)
                    else:
                        writer.close()
                        break
        yield
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def check(local: int, remote: int) -> None:
    assert await talk(local, DATA) == DATA
    assert await talk(remote, b"data") == hashlib.sha256(b"data").hexdigest().encode()


async def test_plink_forwards_both_ways(tmp_path: Path) -> None:
    local, remote = unused_port(), unused_port()
    key = asyncssh.import_private_key(host_key("ssh-ed25519")).get_fingerprint()
    async with forwarding() as server, listening(echo) as there, listening(digest) as here:
        argv = [tool("plink"), "-batch", "-N", "-P", str(server.port), "-hostkey", key, "-pw", "secret"]
        forwards = ["-L", f"{local}:localhost:{there}", "-R", f"{remote}:127.0.0.1:{here}"]
        async with running([*argv, *forwards, "alice@127.0.0.1"], {"HOME": str(tmp_path)}, local, remote):
            await check(local, remote)
        assert await refused(remote)
    assert not server.front.log.errors


async def test_dbclient_forwards_both_ways(tmp_path: Path) -> None:
    local, remote = unused_port(), unused_port()
    async with forwarding() as server, listening(echo) as there, listening(digest) as here:
        argv = [tool("dbclient"), "-y", "-y", "-N", "-p", str(server.port)]
        forwards = ["-L", f"{local}:localhost:{there}", "-R", f"{remote}:127.0.0.1:{here}"]
        env = {"DROPBEAR_PASSWORD": "secret", "HOME": str(tmp_path)}
        async with running([*argv, *forwards, "alice@127.0.0.1"], env, local, remote):
            await check(local, remote)
        assert await refused(remote)
    assert not server.front.log.errors


async def test_asyncssh_forwards_ports_and_sockets_both_ways(tmp_path: Path) -> None:
    inside, reverse, outside = tmp_path / "inside", tmp_path / "reverse", tmp_path / "outside"
    async with (
        forwarding() as server,
        listening(echo) as there,
        listening(digest) as here,
        listening(echo, inside),
        logged_in(server) as client,
    ):
        listener = await client.forward_local_port("127.0.0.1", 0, "localhost", there)
        remote = await client.forward_remote_port("localhost", 0, "127.0.0.1", here)
        assert remote.get_port() > 0
        await check(listener.get_port(), remote.get_port())
        await client.forward_local_path(str(outside), str(inside))
        assert await talk(outside, DATA) == DATA
        await client.forward_remote_path_to_port(str(reverse), "127.0.0.1", here)
        assert await talk(reverse, DATA) == DIGEST
        remote.close()
        await remote.wait_closed()
        assert await refused(remote.get_port())
        with pytest.raises(asyncssh.ChannelOpenError, match="refused") as caught:
            await client.open_connection("127.0.0.1", unused_port())
        assert caught.value.code == asyncssh.OPEN_CONNECT_FAILED
        with pytest.raises(asyncssh.ChannelOpenError, match="no such file"):
            await client.open_unix_connection(str(tmp_path / "nothing"))
    assert not server.front.log.errors


async def test_an_unknown_cancel_is_refused_and_answers_keep_their_order() -> None:
    async with forwarding() as server, listening(echo) as taken, logged_in(server) as client:
        string, word = asyncssh.packet.String, asyncssh.packet.UInt32
        asked = [
            (b"cancel-tcpip-forward", string("localhost") + word(1)),
            (b"tcpip-forward", string("localhost") + word(0)),
            (b"keepalive@openssh.com", b""),
            (b"tcpip-forward", string("127.0.0.1") + word(taken)),
            (b"no-such-request@example.com", b""),
            (b"tcpip-forward", string("localhost") + word(70000)),
            (b"streamlocal-forward@openssh.com", string("")),
            (b"cancel-streamlocal-forward@openssh.com", string("/x")),
            (b"tcpip-forward", b"\0\0"),
        ]
        answers = await asyncio.gather(*(client._make_global_request(name, body) for name, body in asked))
        good = [kind == asyncssh.constants.MSG_REQUEST_SUCCESS for kind, _ in answers]
        assert good == [False, True, True, False, False, False, False, False, False]
        port = answers[1][1].get_uint32()
        # This client refuses channels that it knows nothing of.
        with pytest.raises(ConnectionResetError):
            await talk(port, b"x")
        body = string("localhost") + word(port)
        for expected in (asyncssh.constants.MSG_REQUEST_SUCCESS, asyncssh.constants.MSG_REQUEST_FAILURE):
            assert (await client._make_global_request(b"cancel-tcpip-forward", body))[0] == expected
        assert await refused(port)
    assert not server.front.log.errors


async def test_paramiko_forwards_both_ways() -> None:
    def both(port: int, there: int) -> tuple[bytes, bytes]:
        with paramiko.SSHClient() as client:
            client.set_missing_host_key_policy(paramiko.AutoAddPolicy())
            client.connect("127.0.0.1", port, "alice", "secret", allow_agent=False, look_for_keys=False)
            transport = client.get_transport()
            assert transport is not None
            local = transport.open_channel("direct-tcpip", ("localhost", there), ("127.0.0.1", 1))
            local.sendall(DATA[:100_000])
            local.shutdown_write()
            forwarded = local.makefile("rb").read()
            remote = transport.request_port_forward("127.0.0.1", 0)
            probe = transport.open_channel("direct-tcpip", ("127.0.0.1", remote), ("127.0.0.1", 1))
            incoming = transport.accept(LIMIT)
            assert incoming is not None
            incoming.sendall(b"from the client")
            incoming.close()
            backward = probe.makefile("rb").read()
            transport.cancel_port_forward("127.0.0.1", remote)
            with pytest.raises(paramiko.ChannelException) as caught:
                transport.open_channel("direct-tcpip", ("127.0.0.1", remote), ("127.0.0.1", 1))
            assert caught.value.code == 2
            return forwarded, backward

    async with forwarding() as server, listening(echo) as there:
        forwarded, backward = await asyncio.to_thread(both, server.port, there)
    assert forwarded == DATA[:100_000]
    assert backward == b"from the client"
    assert not server.front.log.errors
