"""
OpenSSH's own regression scripts about certificates, against our front. Of users: authorities in authorized keys and in
the configuration, principals, options, revocation, for every type of key, security keys included. Of hosts.

Their configuration of sshd is turned into ours for each connection; programs run on this host. Three things are left
out: DSA keys, SHA-1, and that a line ``cert-authority`` without ``principals`` takes a certificate that names
nobody for everybody's.
"""

from __future__ import annotations

from contextlib import closing

import pytest

from containerssh.core.handlers import ServerHandler
from tests.support import regress
from tests.support.ssh_front import serving

pytestmark = [pytest.mark.root, pytest.mark.timeout(900)]

LEFT_OUT_OF_USERS = {
    'test_one "empty principals"\tsuccess "" authorized_keys\n': "",
    "s/^rsa/ssh-rsa/": "s/^rsa/rsa-sha2-512/",
}
LEFT_OUT_OF_HOSTS = {
    # No host key is kept by a security key.
    'PLAIN_TYPES=`echo "$SSH_KEYTYPES" |': 'PLAIN_TYPES=`echo "$SSH_KEYTYPES" | grep -v ^sk- |',
}


async def test_the_script_about_users_certificates_passes() -> None:
    with regress.scripts() as folder, closing(regress.users_file(folder)) as users:

        def around(inner: ServerHandler) -> ServerHandler:
            return regress.AsSshdIsConfigured(inner, folder, users)

        async with serving(around=around, host_keys=regress.host_keys(folder)) as server:
            await regress.passes(folder, "cert-userkey", {"sshd_proxy": server.port}, LEFT_OUT_OF_USERS)
            assert len(server.backend.logins) > 80


async def test_the_script_about_host_certificates_passes() -> None:
    with regress.scripts() as folder, closing(regress.users_file(folder)) as users:

        def around(inner: ServerHandler) -> ServerHandler:
            return regress.AsSshdIsConfigured(inner, folder, users)

        async with (
            serving(around=around, host_keys=regress.host_keys(folder)) as server,
            regress.with_chosen_host_keys(server, folder / "sshd_proxy") as port,
        ):
            await regress.passes(folder, "cert-hostkey", {"sshd_proxy": port}, LEFT_OUT_OF_HOSTS)
            assert len(server.backend.logins) > 30
