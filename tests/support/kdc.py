"""Real Kerberos realms: MIT's KDC on a loopback port, all of its files below a folder."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.openssh import run
from tests.support.server import free_port
from tests.support.services import wait_until
from tests.support.tools import tool

HOME, ABROAD = "HOME.EXAMPLE", "ABROAD.EXAMPLE"
"""Two realms that trust one another; HOME is the default."""
START_LIMIT = 20.0


@dataclass(frozen=True)
class KDC:
    """A KDC that answers for both realms."""

    folder: Path
    process: subprocess.Popen[bytes]

    @property
    def config(self) -> Path:
        """A ``krb5.conf``."""
        return self.folder / "krb5.conf"

    @property
    def keytab(self) -> Path:
        """Keys of host/localhost and of imap/localhost, at HOME."""
        return self.folder / "server.keytab"

    def settings(self, **more: object) -> dict[str, object]:
        """A ``kerberos`` section."""
        return {"method": "kerberos", "kerberos": {"keytab": str(self.keytab), "configPath": str(self.config), **more}}

    async def ticket(self, user: str = "alice", *options: str, realm: str = HOME) -> dict[str, str]:
        """Log *user* in like kinit, with the password ``<user>-pw``; returns the environment for its clients."""
        cache = self.folder / f"cache-{realm}-{user.replace('/', '-')}-{len(list(self.folder.iterdir()))}"
        env = {"KRB5_CONFIG": str(self.config), "KRB5CCNAME": f"FILE:{cache}"}
        done = await run(tool("kinit"), *options, f"{user}@{realm}", stdin=f"{user}-pw\n".encode(), env=env)
        done.check()
        return env

    async def klist(self, cache: Path) -> str:
        """What is in a credential cache."""
        env = {"KRB5_CONFIG": str(self.config), "KRB5CCNAME": f"FILE:{cache}"}
        return (await run(tool("klist"), "-a", env=env)).check().stdout.decode()


@contextmanager
def running_kdc(folder: Path, *, pac: bool = True) -> Iterator[KDC]:
    """
    Realms with the users alice, bob, alice/admin, and at HOME three who may not log in: ``locked``, ``expired``,
    ``mustchange``. *pac*: tickets hold a PAC, as MIT's do by default.
    """
    port = free_port()
    _configure(folder, port, pac=pac)
    for realm in (HOME, ABROAD):
        _make_realm(folder, realm)
    env = _environment(folder)
    log = (folder / "krb5kdc.out").open("wb")
    with log:
        process = subprocess.Popen(
            [tool("krb5kdc"), "-n", "-r", HOME, "-r", ABROAD], env=env, stdout=log, stderr=log, start_new_session=True
        )
    try:
        listening = (folder / "kdc.log", "commencing operation")
        wait_until(
            lambda: listening[0].exists() and listening[1] in listening[0].read_text(),
            within=START_LIMIT,
            what="krb5kdc",
        )
        yield KDC(folder, process)
    finally:
        process.kill()
        process.wait()


def _environment(folder: Path) -> Mapping[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "KRB5_CONFIG": str(folder / "krb5.conf"),
        "KRB5_KDC_PROFILE": str(folder / "kdc.conf"),
    }


def _make_realm(folder: Path, realm: str) -> None:
    _admin(folder, tool("kdb5_util"), "-r", realm, "create", "-s", "-P", "master")
    commands = [f"addprinc -pw {user.replace('/', '-')}-pw {user}" for user in ("alice", "bob")]
    commands += ["addprinc -pw alice/admin-pw alice/admin"]
    # Both realms hold both keys of the trust.
    commands += [f"addprinc -pw trust krbtgt/{one}@{other}" for one, other in ((HOME, ABROAD), (ABROAD, HOME))]
    if realm == HOME:
        commands += [f"addprinc -pw {user}-pw {options} {user}" for user, options in _SHUT_OUT.items()]
        commands += [f"addprinc -randkey {name}/localhost" for name in ("host", "imap")]
        commands += [f"ktadd -k {folder}/server.keytab host/localhost imap/localhost"]
    _admin(folder, tool("kadmin.local"), "-r", realm, lines=commands)


_SHUT_OUT = {"locked": "-allow_tix", "expired": '-expire "2001-01-01"', "mustchange": "+needchange"}


def _admin(folder: Path, *command: str, lines: Sequence[str] = ()) -> None:
    subprocess.run(
        command, env=_environment(folder), input="".join(f"{line}\n" for line in lines).encode(), check=True,
        capture_output=True,
    )  # fmt: skip


def _configure(folder: Path, port: int, *, pac: bool) -> None:
    realms = "".join(f"{realm} = {{\n kdc = 127.0.0.1:{port}\n}}\n" for realm in (HOME, ABROAD))
    (folder / "krb5.conf").write_text(
        f"[libdefaults]\ndefault_realm = {HOME}\ndns_lookup_realm = false\ndns_lookup_kdc = false\n"
        "dns_canonicalize_hostname = false\nrdns = false\nforwardable = true\nudp_preference_limit = 1\n"
        f"[realms]\n{realms}[domain_realm]\nlocalhost = {HOME}\n"
    )
    databases = "".join(
        f"{realm} = {{\n database_name = {folder}/{realm}.db\n key_stash_file = {folder}/{realm}.stash\n"
        f" acl_file = {folder}/acl\n max_life = 10h\n default_principal_flags = +preauth\n"
        f" disable_pac = {str(not pac).lower()}\n}}\n"
        for realm in (HOME, ABROAD)
    )
    (folder / "kdc.conf").write_text(
        f"[kdcdefaults]\nkdc_listen = 127.0.0.1:{port}\nkdc_tcp_listen = 127.0.0.1:{port}\n"
        f"[realms]\n{databases}[logging]\nkdc = FILE:{folder}/kdc.log\n"
    )
