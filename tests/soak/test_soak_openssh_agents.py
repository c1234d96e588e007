"""
OpenSSH's own regression script about keys that an ssh-agent may use for some hosts only, over up to five hops. Each hop
is a login of ours with a host key of its own, its programs run on this host, and the agent is forwarded to them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from containerssh.core.handlers import (
    AuthMethod,
    ConnectionHandler,
    NetworkHandler,
    Notices,
    PartialSuccess,
    PublicKey,
    ServerHandler,
    SessionChannel,
    SessionHandler,
)
from containerssh.core.layer import ConnectionLayer, NetworkLayer, ServerLayer
from containerssh.core.metadata import ConnectionMetadata, Login
from tests.support import regress
from tests.support.forwarding import AgentServer
from tests.support.ssh_front import serving

pytestmark = [pytest.mark.root, pytest.mark.timeout(900)]

HOSTS = "abcde"


@dataclass(eq=False)
class TellsTheKey(ServerLayer):
    """Writes what each login was proved with to a file, as sshd's ``ExposeAuthInfo`` does."""

    folder: Path

    @asynccontextmanager
    async def accept(self, meta: ConnectionMetadata) -> AsyncIterator[NetworkHandler]:
        async with self.inner.accept(meta) as network:
            yield _Telling(network, told(self.folder, meta))


@dataclass(eq=False)
class _Telling(NetworkLayer):
    told: Path

    async def authenticated(
        self, login: Login, method: AuthMethod, before: PartialSuccess | None, key: PublicKey | None = None
    ) -> Login | PartialSuccess:
        assert key is not None
        self.told.write_text(f"publickey {key.authorized_key}\n")
        return await super().authenticated(login, method, before, key)


@dataclass(eq=False)
class ShowsTheFile(ServerLayer):
    """Tells programs its path, whatever variables their user may set."""

    folder: Path

    @asynccontextmanager
    async def accept(self, meta: ConnectionMetadata) -> AsyncIterator[NetworkHandler]:
        async with self.inner.accept(meta) as network:
            yield _Showing(network, told(self.folder, meta))


@dataclass(eq=False)
class _Showing(NetworkLayer):
    told: Path

    @asynccontextmanager
    async def login(self, login: Login, notices: Notices) -> AsyncIterator[ConnectionHandler]:
        async with self.inner.login(login, notices) as connection:
            yield _Connection(connection, self.told)


@dataclass(eq=False)
class _Connection(ConnectionLayer):
    told: Path

    @asynccontextmanager
    async def session(self, channel: SessionChannel) -> AsyncIterator[SessionHandler]:
        async with self.inner.session(channel) as session:
            await session.set_env("SSH_USER_AUTH", str(self.told))
            await session.set_env("LC_ALL", "C")
            yield session


def told(folder: Path, meta: ConnectionMetadata) -> Path:
    return folder / f"auth-info-{meta.connection_id}"


async def test_the_script_about_keys_for_some_hosts_only_passes() -> None:
    with regress.scripts() as folder, closing(regress.users_file(folder)) as users:

        def around(inner: ServerHandler) -> ServerHandler:
            programs = ShowsTheFile(AgentServer(inner), folder)
            return TellsTheKey(regress.AsSshdIsConfigured(programs, folder, users), folder)

        async with serving(around=around, host_keys=regress.host_keys(folder)) as server, AsyncExitStack() as hops:
            ports = {"sshd_proxy": server.port}
            for host in HOSTS:
                name = f"sshd_proxy_host_{host}"
                ports[name] = await hops.enter_async_context(regress.with_chosen_host_keys(server, folder / name))
            await regress.passes(folder, "agent-restrict", ports, {})
            assert len(server.backend.logins) > 80
