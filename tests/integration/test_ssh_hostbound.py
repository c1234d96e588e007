"""Keys that say for which server they are used: OpenSSH's agents keep to it, and so does the server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import asyncssh
import pytest

from containerssh.core.codes import SSHCode
from tests.support.certificates import new_authority
from tests.support.local_backend import LocalBackend, read_public_key
from tests.support.openssh import Done, OpenSSH, run, ssh_options
from tests.support.packing import strings
from tests.support.raw_client import FAILURE, KEY_ACCEPTABLE, REQUEST, SUCCESS, RawClient, message
from tests.support.ssh_front import Front, serving
from tests.support.tools import tool
from tests.support.waiting import until

METHOD = b"publickey-hostbound-v00@openssh.com"


@pytest.fixture
def openssh(tmp_path: Path) -> OpenSSH:
    return OpenSSH(tmp_path, password=None)


@asynccontextmanager
async def ssh_agent(folder: Path) -> AsyncIterator[Callable[..., Awaitable[Done]]]:
    """OpenSSH's agent at ``agent`` in *folder*; runs ``ssh-add`` with it."""
    path = folder / "agent"
    agent = await asyncio.create_subprocess_exec(
        tool("ssh-agent"), "-D", "-a", str(path), stdout=asyncio.subprocess.DEVNULL
    )
    try:
        await until(path.exists)
        yield lambda *arguments: run(tool("ssh-add"), "-q", *arguments, env={"SSH_AUTH_SOCK": str(path)})
    finally:
        agent.terminate()
        await agent.wait()


async def log_in(openssh: OpenSSH, server: Front, key: Path) -> Done:
    """With the agent's *key*, of which the client itself has the public half only."""
    settings = ssh_options(f"IdentityAgent={openssh.folder / 'agent'}", f"IdentityFile={key}.pub")
    return await openssh.run(server, "echo in", *settings)


async def test_an_agents_key_for_one_server_opens_that_one_and_no_other(openssh: OpenSSH) -> None:
    key, other = await openssh.make_key(), await openssh.make_key("host")
    backend = LocalBackend(keys={read_public_key(key)})
    known_hosts = openssh.folder / "known_hosts"
    async with serving(backend) as server, serving(backend, host_keys=[str(other)]) as elsewhere:
        for place in (server, elsewhere):
            # So that the client, and ssh-add, know the host's key.
            (await openssh.run(place, "true", "-i", str(key))).check()
        async with ssh_agent(openssh.folder) as add:
            (await add("-h", f"[127.0.0.1]:{server.port}", "-H", str(known_hosts), str(key))).check()
            assert (await log_in(openssh, server, key)).check().stdout == b"in\n"
            assert (await log_in(openssh, elsewhere, key)).status == 255


async def test_an_agents_key_for_hosts_of_an_authority_opens_one_with_its_certificate(openssh: OpenSSH) -> None:
    key, authority = await openssh.make_key(), await new_authority(openssh)
    host = await authority.sign(await openssh.make_key("host"), "127.0.0.1", host=True)
    known_hosts = openssh.folder / "known_hosts"
    known_hosts.write_text(f"@cert-authority 127.0.0.1 {authority.line}\n")
    backend = LocalBackend(keys={read_public_key(key)})
    async with (
        serving(backend, host_keys=[str(host)], host_certificates=[f"{host}-cert.pub"]) as server,
        ssh_agent(openssh.folder) as add,
    ):
        (await add("-h", "127.0.0.1", "-H", str(known_hosts), str(key))).check()
        # The authority is for the name without a port, and so is the agent's rule.
        settings = ssh_options("HostKeyAlias=127.0.0.1", f"IdentityAgent={openssh.folder / 'agent'}")
        (await openssh.run(server, "true", *settings, "-o", f"IdentityFile={key}.pub")).check()


async def test_openssh_names_the_host_key_in_its_request(openssh: OpenSSH) -> None:
    key = await openssh.make_key()
    backend = LocalBackend(keys={read_public_key(key)})
    async with serving(backend) as server:
        done = (await openssh.run(server, "true", "-vvv", "-i", str(key), *ssh_options("LogLevel=DEBUG3"))).check()
        (event, labels) = server.log.of(SSHCode.AUTH_SUCCESSFUL)[0]
    assert METHOD in done.stderr
    assert (event.text, labels["method"]) == ("Public key authentication successful", "public key")
    assert labels["fingerprint"] == asyncssh.read_public_key(f"{key}.pub").get_fingerprint()


# -- requests that no client of OpenSSH's makes --------------------------------------------------------------------


def bound(key: asyncssh.SSHKey, host_key: bytes, *, signed: bool) -> bytes:
    fields = message(REQUEST, b"alice", b"ssh-connection", METHOD).asbytes()
    return fields + bytes([signed]) + strings(b"ssh-ed25519", key.public_data, host_key)


def with_signature(key: asyncssh.SSHKey, session: bytes, data: bytes) -> bytes:
    return data + strings(key.sign(strings(session) + data, b"ssh-ed25519"))


def send(client: RawClient, data: bytes) -> None:
    client.send(data[0], raw=data[1:])


@asynccontextmanager
async def strange_client(key: asyncssh.SSHKey) -> AsyncIterator[tuple[RawClient, bytes, Front]]:
    """One whose key is known, and the host key that it was shown."""
    known = " ".join(key.export_public_key().decode().split()[:2])
    async with serving(LocalBackend(keys={known})) as server, RawClient.connected(server) as client:
        yield client, client.host_key, server


async def test_a_request_that_names_the_host_key_is_a_login() -> None:
    key = asyncssh.generate_private_key("ssh-ed25519")
    async with strange_client(key) as (client, host_key, _):
        send(client, bound(key, host_key, signed=False))
        assert (await client.answer(KEY_ACCEPTABLE)).get_binary() == b"ssh-ed25519"
        send(client, with_signature(key, client.session, bound(key, host_key, signed=True)))
        await client.answer(SUCCESS)


async def test_a_request_that_names_another_host_key_is_refused_however_well_signed() -> None:
    key, other = (asyncssh.generate_private_key("ssh-ed25519") for _ in range(2))
    async with strange_client(key) as (client, host_key, server):
        for wrong in (other.public_data, host_key + b"\0", host_key[:-1], b""):
            send(client, bound(key, wrong, signed=False))
            await client.answer(FAILURE)
        send(client, with_signature(key, client.session, bound(key, other.public_data, signed=True)))
        await client.answer(FAILURE)
        assert server.backend.asked == []
    assert "another host key" in str(server.log.of(SSHCode.AUTH_FAILED)[-1])


async def test_a_signature_that_leaves_the_host_key_out_is_refused() -> None:
    key = asyncssh.generate_private_key("ssh-ed25519")
    async with strange_client(key) as (client, host_key, server):
        plain = message(REQUEST, b"alice", b"ssh-connection", b"publickey").asbytes()
        plain += b"\1" + strings(b"ssh-ed25519", key.public_data)
        signature = key.sign(strings(client.session) + plain, b"ssh-ed25519")
        send(client, bound(key, host_key, signed=True) + strings(signature))
        await client.answer(FAILURE)
        # The one method's fields under the other's name.
        send(client, with_signature(key, client.session, plain.replace(b"\0\0\0\x09publickey", strings(METHOD))))
        await client.answer(FAILURE)
        data = bound(key, host_key, signed=True).replace(strings(METHOD), strings(b"publickey"))
        send(client, with_signature(key, client.session, data))
        await client.answer(FAILURE)
    assert server.backend.logins == []
