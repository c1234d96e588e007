"""Servers that trust an authority, and whom they let in."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from containerssh.auth.public_keys import PublicKeys
from containerssh.auth.users import UsersFile
from containerssh.config.auth import PublicKeyAuthConfig
from containerssh.layers.authentication import AuthenticationServer, Authenticators
from tests.support.certificates import Authority
from tests.support.openssh import OpenSSH
from tests.support.ssh_front import Front, serving


@asynccontextmanager
async def trusting(
    *authorities: Authority, users: UsersFile | None = None, proxies: Any = (), revoked: str = "", **more: Any
) -> AsyncIterator[Front]:
    """A server that trusts *authorities*; *more* are other keys of ``auth.publicKey.certificates``."""
    section = {"trustedUserCAKeys": [authority.line for authority in authorities], **more}
    config = PublicKeyAuthConfig.model_validate({"certificates": section, "revokedKeys": revoked})
    keys = PublicKeys(config, users, users)
    async with serving(
        around=lambda inner: AuthenticationServer(inner, Authenticators(public_key=keys)), proxies=proxies
    ) as server:
        yield server


async def enters(openssh: OpenSSH, server: Front, key: Path, user: str = "alice") -> bool:
    """Whether the certificate beside *key* logs in."""
    client = OpenSSH(openssh.folder, user=user, password=None)
    done = await client.run(server, "echo in", "-i", str(key))
    if done.status != 0:
        assert b"Permission denied (publickey)" in done.stderr, done
    return done.stdout == b"in\n"
