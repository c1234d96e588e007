"""The section ``auth.ldap``: a directory that checks passwords and holds public keys."""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, field_validator

from containerssh.config import tls
from containerssh.config.http import TLSVersion
from containerssh.config.model import ConfigModel, Duration, Problem, default_for_zero, seconds

_SYSTEM_AUTHORITIES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)
_LARGEST_PASSWORD = 1024
_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")


def _attribute(name: str) -> str:
    # RFC 4512 section 2.5, without options.
    if name and not re.fullmatch(r"[A-Za-z][A-Za-z0-9-]*|[0-9]+(\.[0-9]+)+", name):
        raise ValueError(f"{name!r} cannot be the name of an attribute")
    return name


Attribute = Annotated[str, AfterValidator(_attribute)]


class LDAPConfig(ConfigModel):
    """A directory (LDAP, Active Directory) for the method `ldap`."""

    urls: tuple[str, ...] = ()
    """Its servers, `ldaps://host:636` or `ldap://host:389`; the first that answers is used."""

    start_tls: bool = Field(False, alias="startTLS")
    """Switch `ldap://` connections to TLS before anything is sent."""

    allow_plaintext: bool = False
    """Send passwords over `ldap://` without TLS. They can be read in transit."""

    cacert: str = ""
    """The CA certificates that the servers' certificates are checked with: PEM text or a file name. Empty: the
    system's."""

    tls_version: TLSVersion = Field("1.2", alias="tlsVersion")
    """The lowest accepted version of TLS: `1.2` or `1.3`."""

    timeout: Duration = seconds(5)
    """How long one server may take for one login, before the next one is tried; at least 100 ms."""

    auth_timeout: Duration = seconds(15)
    """How long the servers are tried again while none gives a valid answer; at least 100 ms."""

    bind_dn: str = Field("", alias="bindDN")
    """The DN of the account that searches for users. Empty: anonymous search."""

    bind_password_file: str = ""
    """A file with that account's password; it is read for each login."""

    user_bind: str = ""
    """Bind directly as the user, with this name, instead of searching with an account first:
    `uid={username},ou=people,dc=example,dc=com` or `{username}@example.com`."""

    user_base: str = ""
    """The base of searches for users."""

    user_scope: Literal["sub", "one"] = "sub"
    """The scope of searches for users: the subtree (`sub`) or direct children only (`one`)."""

    user_filter: str = "(uid={username})"
    """The filter that matches a user's entry."""

    username_attribute: Attribute = "uid"
    """The attribute that becomes the user's authenticated name."""

    enforce_username: bool = True
    """That name must equal the user name exactly."""

    required_groups: tuple[str, ...] = ()
    """The DNs of groups. A user must be a member of at least one. Empty: no group is required."""

    group_attribute: Attribute = "memberOf"
    """The attribute of a user's entry that names the groups."""

    group_base: str = ""
    """The base of searches for groups, for directories whose user entries do not list them."""

    group_filter: str = ""
    """The filter that matches a user's groups: `(member={dn})`, `(memberUid={username})`."""

    public_key_attribute: Attribute = "sshPublicKey"
    """The attribute with the user's public keys, each as a line of OpenSSH's authorized_keys file."""

    metadata: dict[str, Attribute] = Field(default_factory=dict)
    """Names of metadata, each with the attribute it is taken from."""

    _zero_timeout = field_validator("timeout", "auth_timeout")(default_for_zero)

    @property
    def authorities(self) -> str:
        """`cacert`; where it is empty, the system's file."""
        if self.cacert:
            return self.cacert
        found = (ssl.get_default_verify_paths().cafile, *_SYSTEM_AUTHORITIES)
        return next((name for name in found if name and Path(name).is_file()), "")

    @property
    def plaintext_urls(self) -> Iterator[tuple[int, str]]:
        """The servers that passwords would be sent to without TLS, with their places in the list."""
        if not self.start_tls:
            yield from ((number, url) for number, url in enumerate(self.urls) if not _is_ldaps(url))

    @property
    def binds_by_name(self) -> bool:
        """Whether `userBind` is a DN, which locates the user's entry."""
        return "=" in self.user_bind

    def bind_password(self) -> str:
        """
        What the file holds, without a line end.

        Raises:
            ValueError: it cannot be read, or holds no password.
        """
        try:
            with Path(self.bind_password_file).open("rb") as file:
                password = file.read(_LARGEST_PASSWORD + 1).decode().rstrip("\r\n")
        except (OSError, ValueError) as exc:
            reason = getattr(exc, "strerror", None) or "it is not text"
            raise ValueError(f"cannot read {self.bind_password_file!r}: {reason}") from exc
        if not password or len(password) > _LARGEST_PASSWORD or "\0" in password:
            raise ValueError(f"{self.bind_password_file!r} holds no password")
        return password

    def problems(self) -> Iterator[Problem]:
        if not find_spec("ldap"):
            text = "needs a Python package that is not installed: pip install 'containerssh[ldap]'"
            yield Problem("", f"{text} (building it takes gcc, libldap-dev and libsasl2-dev)")
        yield from self._server_problems()
        for key, value in (("timeout", self.timeout), ("authTimeout", self.auth_timeout)):
            if value < seconds(0.1):
                yield Problem(key, "must be at least 100ms")
        yield from self._account_problems()
        yield from self._name_problems()

    def _server_problems(self) -> Iterator[Problem]:
        if not self.urls:
            yield Problem("urls", "name a server: ldaps://host")
        for number, url in enumerate(self.urls):
            if not _is_server(url):
                yield Problem(f"urls.{number}", f"{url!r} is not ldaps://host, ldap://host, or one of them with a port")
        if not self.allow_plaintext:
            for number, _ in self.plaintext_urls:
                text = "passwords would be sent unprotected: write ldaps://, or set startTLS"
                yield Problem(f"urls.{number}", text)
        if len(list(self.plaintext_urls)) < len(self.urls):
            yield from self._authority_problems()

    def _authority_problems(self) -> Iterator[Problem]:
        if not self.authorities:
            yield Problem("cacert", "the system's authorities are not found; name those of the directory")
            return
        try:
            tls.trust(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), self.authorities)
        except ValueError as exc:
            yield Problem("cacert", str(exc))

    def _account_problems(self) -> Iterator[Problem]:
        if bool(self.bind_dn) != bool(self.bind_password_file):
            missing = "bindPasswordFile" if self.bind_dn else "bindDN"
            # A bind with a name but no password would be anonymous (RFC 4513 section 5.1.2).
            yield Problem(missing, "bindDN and bindPasswordFile belong together: set both or neither")
        elif self.bind_dn:
            try:
                self.bind_password()
            except ValueError as exc:
                yield Problem("bindPasswordFile", str(exc))

    def _name_problems(self) -> Iterator[Problem]:
        if not self.user_base and not self.binds_by_name:
            yield Problem("userBase", "say below which entry users are: ou=people,dc=example,dc=com")
        if not self.username_attribute:
            yield Problem("usernameAttribute", "it must name an attribute")
        templates = {
            "userBind": (self.user_bind, {"username"}),
            "userFilter": (self.user_filter, {"username"}),
            "groupFilter": (self.group_filter, {"username", "dn"}),
        }
        for key, (template, known) in templates.items():
            if template:
                yield from _template_problems(key, template, known)
        if bool(self.group_base) != bool(self.group_filter):
            missing = "groupFilter" if self.group_base else "groupBase"
            yield Problem(missing, "groupBase and groupFilter belong together: set both or neither")
        for number, group in enumerate(self.required_groups):
            if "=" not in group:
                yield Problem(
                    f"requiredGroups.{number}", f"{group!r} is not a name like cn=admins,ou=groups,dc=example"
                )
        if self.required_groups and not self.group_attribute and not self.group_filter:
            yield Problem("requiredGroups", "nothing says who is in a group: set groupAttribute or groupFilter")


def _template_problems(key: str, template: str, known: set[str]) -> Iterator[Problem]:
    used = set(_PLACEHOLDER.findall(template))
    if unknown := sorted(used - known):
        yield Problem(key, f"{{{unknown[0]}}} stands for nothing; known are {_listed(known)}")
    if not used & known:
        yield Problem(key, f"it is the same for everybody; {_listed(known)} must be in it")
    is_filter = key.endswith("Filter")
    if is_filter and not (template.startswith("(") and template.endswith(")") and _balanced(template)):
        yield Problem(key, "no filter: it must be in parentheses, each of them closed")


def _listed(names: set[str]) -> str:
    return " and ".join(sorted(f"{{{name}}}" for name in names))


def _balanced(text: str) -> bool:
    depth = 0
    for character in text:
        depth += {"(": 1, ")": -1}.get(character, 0)
        if depth < 0:
            return False
    return depth == 0


def _is_ldaps(url: str) -> bool:
    return url.lower().startswith("ldaps://")


def _is_server(url: str) -> bool:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return False
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    whole = f"{parts.scheme}://{host}{'' if port is None else f':{port}'}"
    return (
        parts.scheme in ("ldap", "ldaps") and bool(parts.hostname) and port != 0 and url.lower() in (whole, whole + "/")
    )
