"""OpenSSH's own regression scripts, whose sshd is a front of ours in this process."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from containerssh.auth.public_keys import PublicKeys
from containerssh.auth.users import UsersFile
from containerssh.config.auth import PublicKeyAuthConfig
from containerssh.config.security import SecurityConfig
from containerssh.core.errors import ConfigError
from containerssh.core.handlers import ConnectionHandler, NetworkHandler, Notices
from containerssh.core.layer import NetworkLayer, ServerLayer
from containerssh.core.metadata import ConnectionMetadata, Login
from containerssh.layers.authentication import AuthenticationServer, Authenticators
from containerssh.layers.security import Policy, SecurityConnection
from containerssh.ssh.options import ServerOptions
from tests.support.openssh import run
from tests.support.server import free_port
from tests.support.ssh_front import Front
from tests.support.tools import tool

_REGRESS = Path("/usr/lib/openssh/regress")
_HOST_KEYS = ("ssh-ed25519", "ssh-rsa", "ecdsa-sha2-nistp256")

_CLIENT = """#!/bin/sh
case " $* " in
*" -Q key-plain ") {ssh} "$@" | grep -v ssh-dss ;;
*) exec {ssh} "$@" ;;
esac
"""
_SERVER = """#!/bin/sh
case " $* " in
{joined}
*) exec {sshd} "$@" ;;
esac
"""


@contextmanager
def scripts() -> Iterator[Path]:
    """A copy of the scripts, with host keys that they take for theirs."""
    folder = Path(f"/tmp/regress-{os.getpid()}")
    if not _REGRESS.is_dir():
        pytest.fail("OpenSSH's regression scripts are missing; make soak installs them (Debian package openssh-tests)")
    shutil.copytree(_REGRESS, folder, symlinks=True)
    try:
        for kind in _HOST_KEYS:
            short = kind.removeprefix("ssh-").partition("-")[0]
            argv = [tool("ssh-keygen"), "-q", "-t", short, "-N", "", "-f", str(folder / kind)]
            subprocess.run(argv, check=True, stdin=subprocess.DEVNULL)
        yield folder
    finally:
        shutil.rmtree(folder)


def host_keys(folder: Path) -> list[str]:
    """Those of :func:`scripts`."""
    return [str(folder / kind) for kind in _HOST_KEYS]


def users_file(folder: Path) -> UsersFile:
    """One with the scripts' user, and the file of keys that they write; the caller closes it."""
    path = folder / "users.json"
    path.write_text(json.dumps({"users": {"root": {"authorizedKeysFile": str(folder / "authorized_keys_root")}}}))
    path.chmod(0o600)
    return UsersFile(path)


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


@asynccontextmanager
async def with_chosen_host_keys(server: Front, config: Path) -> AsyncIterator[int]:
    """A port from which connections are led to *server*, which first gets the host key that *config* of sshd names."""

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        named = await asyncio.to_thread(_host_key_of, config)
        options = ServerOptions(*named, "127.0.0.1", 0)
        try:
            settings = await server.server.prepare(options)
        except ConfigError:
            # sshd leaves out what is not a certificate of a host.
            settings = await server.server.prepare(replace(options, host_certificates=()))
        server.server.use(settings)
        theirs, ours = await asyncio.open_connection("127.0.0.1", server.port)
        await asyncio.gather(_carry(reader, ours), _carry(theirs, writer))

    async with await asyncio.start_server(relay, "127.0.0.1", 0) as between:
        yield between.sockets[0].getsockname()[1]


def _host_key_of(config: Path) -> tuple[list[str], list[str]]:
    """The last one that sshd's configuration names, and the certificates."""
    lines = [line.split() for line in config.read_text().splitlines()]
    keys = [words[1] for words in lines if words[:1] in (["HostKey"], ["Hostkey"])]
    return keys[-1:], [words[1] for words in lines if words[:1] == ["HostCertificate"]]


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()


async def passes(folder: Path, script: str, ports: Mapping[str, int], changes: Mapping[str, str]) -> None:
    """
    Run one of the scripts. Its sshd for each file of configuration is whoever listens on that one's port; *changes* are
    made to the script before.
    """
    joined = "\n".join(
        f'*" -i -f {folder / name} "*) exec {folder}/netcat 127.0.0.1 {port} ;;' for name, port in ports.items()
    )
    environment = {
        "TEST_SHELL": "sh",
        "TEST_SSH_SSH": str(_program(folder / "ssh-for-scripts", _CLIENT.format(ssh=tool("ssh")))),
        "TEST_SSH_SSHD": str(_program(folder / "sshd-stand-in", _SERVER.format(joined=joined, sshd=tool("sshd")))),
        "TEST_SSH_PORT": str(free_port()),
        "TEST_SSH_UNSAFE_PERMISSIONS": "1",
        "BUILDDIR": str(folder),
        "HOME": str(folder),
        "USER": "root",
        "LOGNAME": "root",
    }
    path = folder / f"{script}.sh"
    text = path.read_text()
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    _program(path, text)
    done = await run("sh", folder / "test-exec.sh", folder, path, env=environment, limit=300)
    assert done.status == 0, (done.stdout.decode()[-3000:], done.stderr.decode()[-1000:])
    assert b"SKIPPED" not in done.stdout
    assert done.stdout.splitlines()[-1].startswith(b"ok "), done.stdout


def _program(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o755)
    return path
