"""A real directory: OpenLDAP's slapd on loopback ports, all of its files below a folder."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.server import free_port
from tests.support.services import wait_until
from tests.support.tools import tool
from tests.support.webhook import Authority

BASE = "dc=example,dc=test"
PEOPLE, GROUPS = f"ou=people,{BASE}", f"ou=groups,{BASE}"
READER, ADMIN = f"cn=reader,{BASE}", f"cn=admin,{BASE}"
START_LIMIT = 20.0
_READER_PASSWORD = "userPassword: reader-pw"

_CONFIG = """\
include /etc/ldap/schema/core.schema
include /etc/ldap/schema/cosine.schema
include /etc/ldap/schema/inetorgperson.schema
include /etc/ldap/schema/nis.schema
attributetype ( 1.3.6.1.4.1.24552.500.1.1.1.13 NAME 'sshPublicKey'
    EQUALITY octetStringMatch SYNTAX 1.3.6.1.4.1.1466.115.121.1.40 )
objectclass ( 1.3.6.1.4.1.24552.500.1.1.2.0 NAME 'ldapPublicKey' SUP top AUXILIARY MAY ( sshPublicKey $ uid ) )
# Of Active Directory's users; OpenLDAP's own file of them does not go together with the overlay memberof.
attributetype ( 1.2.840.113556.1.4.221 NAME 'sAMAccountName'
    EQUALITY caseIgnoreMatch SYNTAX 1.3.6.1.4.1.1466.115.121.1.15 SINGLE-VALUE )
attributetype ( 1.2.840.113556.1.4.656 NAME 'userPrincipalName'
    EQUALITY caseIgnoreMatch SYNTAX 1.3.6.1.4.1.1466.115.121.1.15 SINGLE-VALUE )
attributetype ( 1.2.840.113556.1.4.8 NAME 'userAccountControl'
    EQUALITY integerMatch SYNTAX 1.3.6.1.4.1.1466.115.121.1.27 SINGLE-VALUE )
objectclass ( 1.3.6.1.4.1.24552.500.1.1.2.99 NAME 'testAccount' SUP top AUXILIARY
    MAY ( sAMAccountName $ userPrincipalName $ userAccountControl ) )
modulepath /usr/lib/ldap
moduleload back_mdb
moduleload memberof
moduleload ppolicy
pidfile {folder}/pid
TLSCACertificateFile {folder}/authority.pem
TLSCertificateFile {folder}/slapd.pem
TLSCertificateKeyFile {folder}/slapd.key
# What it would allow is what its clients must not ask for.
allow bind_anon_cred bind_anon_dn
sizelimit 500
database mdb
suffix "{base}"
rootdn "{admin}"
rootpw admin-pw
directory {folder}/data
maxsize 16777216
overlay memberof
overlay ppolicy
access to attrs=userPassword by anonymous auth by * none
access to * by dn="{reader}" read by self read by users read by anonymous {anonymous}
"""


@dataclass(frozen=True)
class Directory:
    """
    A directory with the users alice, bob and carol, whose passwords are ``<user>-pw``; alice and bob are of the group
    ``staff``, and alice of ``nested`` through it.
    """

    folder: Path
    plain: str
    """The URL for connections that begin without TLS."""
    ldaps: str
    process: subprocess.Popen[bytes]

    @property
    def settings(self) -> dict[str, object]:
        """An ``ldap`` section, with an account that looks users up."""
        password = self.folder / "reader"
        password.write_text("reader-pw\n")
        password.chmod(0o600)
        return {
            "urls": [self.ldaps],
            "cacert": str(self.folder / "authority.pem"),
            "bindDN": READER,
            "bindPasswordFile": str(password),
            "userBase": PEOPLE,
        }

    def add(self, *ldif: str) -> None:
        """Add entries, each of them in LDIF."""
        self._change("ldapadd", ldif)

    def modify(self, *ldif: str) -> None:
        """Carry out changes, each of them in LDIF."""
        self._change("ldapmodify", ldif)

    def _change(self, program: str, ldif: Sequence[str]) -> None:
        subprocess.run(
            [tool(program), "-x", "-H", self.plain, "-D", ADMIN, "-w", "admin-pw"],
            input="\n\n".join(ldif).encode(), env={"LDAPNOINIT": "1"}, check=True, capture_output=True,
        )  # fmt: skip


def person(name: str, **attributes: str | Sequence[str]) -> str:
    """A person's entry; the password is ``<name>-pw``."""
    every: Mapping[str, str | Sequence[str]] = {
        "objectClass": ["inetOrgPerson", "ldapPublicKey", "testAccount"],
        "uid": name,
        "cn": name.title(),
        "sn": name.title(),
        "userPassword": f"{name}-pw",
        **attributes,
    }
    lines = [f"dn: uid={name},{PEOPLE}"]
    for attribute, values in every.items():
        lines += [f"{attribute}: {value}" for value in ([values] if isinstance(values, str) else values)]
    return "\n".join(lines)


def group(name: str, *members: str, base: str = GROUPS) -> str:
    """The entry of a group; *members* are names of entries."""
    return "\n".join([f"dn: cn={name},{base}", "objectClass: groupOfNames", *(f"member: {dn}" for dn in members)])


@contextmanager
def running_slapd(folder: Path, *, anonymous: str = "auth") -> Iterator[Directory]:
    """A directory; strangers have the access *anonymous* to entries, and its certificate is for 127.0.0.1."""
    authority = Authority(folder)
    authority.issue("slapd")
    (folder / "data").mkdir()
    text = _CONFIG.format(folder=folder, base=BASE, reader=READER, admin=ADMIN, anonymous=anonymous)
    (folder / "slapd.conf").write_text(text)
    plain, ldaps = (f"{scheme}://127.0.0.1:{free_port()}" for scheme in ("ldap", "ldaps"))
    log = (folder / "slapd.out").open("wb")
    with log:
        process = subprocess.Popen(
            [tool("slapd"), "-d", "0", "-f", str(folder / "slapd.conf"), "-h", f"{plain} {ldaps}"],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    directory = Directory(folder, plain, ldaps, process)
    try:
        wait_until(lambda: _answers(directory), within=START_LIMIT, what="slapd")
        directory.add(
            f"dn: {BASE}\nobjectClass: dcObject\nobjectClass: organization\no: Example",
            *(f"dn: ou={name},{BASE}\nobjectClass: organizationalUnit" for name in ("people", "groups")),
            f"dn: {READER}\nobjectClass: organizationalRole\nobjectClass: simpleSecurityObject\n" + _READER_PASSWORD,
            *(person(name) for name in ("alice", "bob", "carol")),
            group("staff", f"uid=alice,{PEOPLE}", f"uid=bob,{PEOPLE}"),
            group("nested", f"cn=staff,{GROUPS}"),
        )
        yield directory
    finally:
        process.kill()
        process.wait()


def _answers(directory: Directory) -> bool:
    if directory.process.poll() is not None:
        raise ChildProcessError(f"slapd ended: {(directory.folder / 'slapd.out').read_text()}")
    done = subprocess.run(
        [tool("ldapwhoami"), "-x", "-H", directory.plain], env={"LDAPNOINIT": "1"}, capture_output=True
    )
    return done.returncode == 0
