"""
OpenSSH's own regression scripts about certificates, against our front. Of users: authorities in authorized keys and in
the configuration, principals, options, revocation, for every type of key, security keys included. Of hosts.

Their configuration of sshd is turned into ours for each connection; programs run on this host. Three things are left
out: DSA keys, SHA-1, and that a line ``cert-authority`` without ``principals`` takes a certificate that names
nobody for everybody's.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from containerssh.auth.public_keys import PublicKeys
from containerssh.auth.users import UsersFile
from containerssh.config.auth import PublicKeyAuthConfig
from containerssh.config.security import SecurityConfig
from containerssh.core.errors import ConfigError
from containerssh.core.handlers import ConnectionHandler, NetworkHandler, Notices, ServerHandler
from containerssh.core.layer import NetworkLayer, ServerLayer
from containerssh.core.metadata import ConnectionMetadata, Login
from containerssh.layers.authentication import AuthenticationServer, Authenticators
from containerssh.layers.security import Policy, SecurityConnection
from containerssh.ssh.options import ServerOptions
from tests.support.openssh import run
from tests.support.server import free_port
from tests.support.ssh_front import serving
from tests.support.tools import tool

pytestmark = [pytest.mark.root, pytest.mark.timeout(900)]

REGRESS = Path("/usr/lib/openssh/regress")
LEFT_OUT = {
    "cert-userkey": {
        'test_one "empty principals"\tsuccess "" authorized_keys\n': "",
        "s/^rsa/ssh-rsa/": "s/^rsa/rsa-sha2-512/",
    },
    # No host key is kept by a security key.
    "cert-hostkey": {'PLAIN_TYPES=`echo "$SSH_KEYTYPES" |': 'PLAIN_TYPES=`echo "$SSH_KEYTYPES" | grep -v ^sk- |'},
}
HOST_KEYS = ("ssh-ed25519", "ssh-rsa", "ecdsa-sha2-nistp256")

CLIENT = """#!/bin/sh
case " $* " in
*" -Q key-plain ") {ssh} "$@" | grep -v ssh-dss ;;
*) exec {ssh} "$@" ;;
esac
"""
SERVER = """#!/bin/sh
case " $* " in
*" -i "*) exec {regress}/netcat 127.0.0.1 {port} ;;
*) exec {sshd} "$@" ;;
esac
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """A copy of the scripts."""
    path = Path(f"/tmp/regress-{os.getpid()}")
    if not REGRESS.is_dir():
        pytest.fail("OpenSSH's regression scripts are missing; make soak installs them (Debian package openssh-tests)")
    shutil.copytree(REGRESS, path, symlinks=True)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def host_keys(folder: Path) -> list[str]:
    """The scripts take them for theirs."""
    for kind in HOST_KEYS:
        short = kind.removeprefix("ssh-").partition("-")[0]
        argv = [tool("ssh-keygen"), "-q", "-t", short, "-N", "", "-f", str(folder / kind)]
        subprocess.run(argv, check=True, stdin=subprocess.DEVNULL)
    return [str(folder / kind) for kind in HOST_KEYS]


@dataclass(eq=False)
class AsSshdIsConfigured(ServerLayer):
    """Judges keys for each connection as the script's configuration of sshd says at that moment."""

    folder: Path
    users: UsersFile

    @asynccontextmanager
    async def accept(self, meta: ConnectionMetadata) -> AsyncIterator[NetworkHandler]:
        said: dict[str, str] = {}
        for line in (self.folder / "sshd_proxy").read_text().splitlines():
            name, _, value = line.strip().partition(" ")
            said.setdefault(name.lower(), value.strip())
        certificates = {
            "trustedUserCAKeys": [said["trustedusercakeys"]] if "trustedusercakeys" in said else [],
            "authorizedPrincipalsFile": said.get("authorizedprincipalsfile", ""),
        }
        config = {"certificates": certificates, "revokedKeys": said.get("revokedkeys", "")}
        keys = PublicKeys(PublicKeyAuthConfig.model_validate(config), self.users, self.users)
        layers = AuthenticationServer(_Bound(self.inner), Authenticators(public_key=keys))
        async with layers.accept(meta) as network:
            yield network


@dataclass(eq=False)
class _Bound(ServerLayer):
    """What a credential takes away is taken away."""

    @asynccontextmanager
    async def accept(self, meta: ConnectionMetadata) -> AsyncIterator[NetworkHandler]:
        async with self.inner.accept(meta) as network:
            yield _BoundNetwork(network)


@dataclass(eq=False)
class _BoundNetwork(NetworkLayer):
    def login(self, login: Login, notices: Notices) -> AbstractAsyncContextManager[ConnectionHandler]:
        return self._login(login, notices)

    @asynccontextmanager
    async def _login(self, login: Login, notices: Notices) -> AsyncIterator[ConnectionHandler]:
        async with self.inner.login(login, notices) as connection:
            yield SecurityConnection(connection, Policy(SecurityConfig.default(), login.restrictions))


def program(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o755)
    return path


def users_file(folder: Path) -> UsersFile:
    path = folder / "users.json"
    path.write_text(json.dumps({"users": {"root": {"authorizedKeysFile": str(folder / "authorized_keys_root")}}}))
    path.chmod(0o600)
    return UsersFile(path)


async def passes(folder: Path, script: str, port: int) -> None:
    """Run one of the scripts, whose sshd is whoever listens on *port*."""
    stand_in = SERVER.format(regress=folder, port=port, sshd=tool("sshd"))
    environment = {
        "TEST_SHELL": "sh",
        "TEST_SSH_SSH": str(program(folder / "ssh-for-scripts", CLIENT.format(ssh=tool("ssh")))),
        "TEST_SSH_SSHD": str(program(folder / "sshd-stand-in", stand_in)),
        "TEST_SSH_PORT": str(free_port()),
        "TEST_SSH_UNSAFE_PERMISSIONS": "1",
        "BUILDDIR": str(folder),
        "HOME": str(folder),
        "USER": "root",
        "LOGNAME": "root",
    }
    path = folder / f"{script}.sh"
    text = path.read_text()
    for old, new in LEFT_OUT[script].items():
        assert old in text
        text = text.replace(old, new)
    program(path, text)
    done = await run("sh", folder / "test-exec.sh", folder, path, env=environment, limit=300)
    assert done.status == 0, (done.stdout.decode()[-3000:], done.stderr.decode()[-1000:])
    assert b"SKIPPED" not in done.stdout
    assert done.stdout.splitlines()[-1].startswith(b"ok "), done.stdout


async def test_the_script_about_users_certificates_passes(folder: Path, host_keys: list[str]) -> None:
    users = users_file(folder)

    def around(inner: ServerHandler) -> ServerHandler:
        return AsSshdIsConfigured(inner, folder, users)

    async with serving(around=around, host_keys=host_keys) as server:
        await passes(folder, "cert-userkey", server.port)
        assert len(server.backend.logins) > 80
    users.close()


async def test_the_script_about_host_certificates_passes(folder: Path, host_keys: list[str]) -> None:
    users = users_file(folder)

    def around(inner: ServerHandler) -> ServerHandler:
        return AsSshdIsConfigured(inner, folder, users)

    async with serving(around=around, host_keys=host_keys) as server:

        async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            """The server first gets the host key, and the certificate, that the script has chosen."""
            lines = [line.split() for line in (folder / "sshd_proxy").read_text().splitlines()]
            keys = [words[1] for words in lines if words[:1] == ["HostKey"]]
            certificates = [words[1] for words in lines if words[:1] == ["HostCertificate"]]
            options = ServerOptions(keys[-1:], certificates, "127.0.0.1", 0)
            try:
                settings = await server.server.prepare(options)
            except ConfigError:
                # sshd leaves out what is no certificate of a host.
                settings = await server.server.prepare(replace(options, host_certificates=()))
            server.server.use(settings)
            theirs, ours = await asyncio.open_connection("127.0.0.1", server.port)
            await asyncio.gather(_carry(reader, ours), _carry(theirs, writer))

        async with await asyncio.start_server(relay, "127.0.0.1", 0) as between:
            await passes(folder, "cert-hostkey", between.sockets[0].getsockname()[1])
        assert len(server.backend.logins) > 30
    users.close()


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()
