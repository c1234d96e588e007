"""The helper process: one LDAP session with a server for each attempt, through OpenLDAP's libraries.

An order is answered with ``{"ok": entry}``, ``{"refused": reason}`` or ``{"unavailable": reason, "passing": bool}``;
``passing`` says whether a retry could help.
"""

from __future__ import annotations

import base64
import json
import secrets
import socket
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ldap
from ldap.controls.ppolicy import PasswordPolicyControl
from ldap.ldapobject import LDAPObject

from containerssh.auth.ldap.limits import CHILDREN, ENTRY_BYTES
from containerssh.auth.ldap.names import UnusableNameError, in_filter, normal_dn, to_bind
from containerssh.auth.worker import begin, bounded, receive, send, serve

_MEMORY = 1 << 29
_MESSAGES = 2000
_GROUPS = 1000
_NO_ATTRIBUTES = "1.1"
_SCOPES = {"sub": ldap.SCOPE_SUBTREE, "one": ldap.SCOPE_ONELEVEL}
# Results for a wrong password, or one that does not permit a login (RFC 4511 appendix A).
_WRONG = (
    ldap.INVALID_CREDENTIALS,
    ldap.INAPPROPRIATE_AUTH,
    ldap.INSUFFICIENT_ACCESS,
    ldap.CONSTRAINT_VIOLATION,
    ldap.UNWILLING_TO_PERFORM,
    ldap.NO_SUCH_OBJECT,
    ldap.INVALID_DN_SYNTAX,
)
_PASSING = (ldap.SERVER_DOWN, ldap.CONNECT_ERROR, ldap.TIMEOUT, ldap.BUSY, ldap.UNAVAILABLE, ldap.LOCAL_ERROR)
_POLICY = {0: "the password has expired", 1: "the account is locked", 2: "the password must be changed"}
# Active Directory's ADS_UF_ACCOUNTDISABLE; OpenLDAP's password policy; 389 Directory Server.
_DISABLED_BIT = 2
_STATE = ("userAccountControl", "pwdAccountLockedTime", "nsAccountLock")
_LOCKED_FOR_GOOD = b"000001010000Z"


class RefusedError(Exception):
    """The credentials were checked and found wrong."""


class UnavailableError(Exception):
    """The credentials could not be checked, and a retry would not help."""


@dataclass(frozen=True)
class Settings:
    """The settings from the gateway's configuration."""

    start_tls: bool
    authorities: str
    """The path of the CA certificates; empty without TLS."""
    tls_version: str
    timeout: float
    """The time limit in seconds."""
    bind_dn: str
    bind_password_file: str
    user_bind: str
    user_base: str
    user_scope: str
    user_filter: str
    username_attribute: str
    required_groups: Sequence[str]
    group_attribute: str
    group_base: str
    group_filter: str
    attributes: Sequence[str]
    """Additional attributes of the user's entry."""


@dataclass(frozen=True)
class Entry:
    """An entry found by a search."""

    dn: str
    attributes: Mapping[str, Sequence[bytes]]
    """Values by lower-case attribute name."""

    def values(self, name: str) -> Sequence[bytes]:
        return self.attributes.get(name.lower(), ())

    def text(self, name: str) -> Sequence[str]:
        return [value.decode("utf-8", "replace") for value in self.values(name)]


def main(descriptor: int, text: str) -> None:
    """Run the helper until its socket closes; *text* is the settings in JSON."""
    gateway = begin(descriptor)
    settings = Settings(**json.loads(text))
    try:
        for group in settings.required_groups:
            normal_dn(group)
        send(gateway, {"ok": ldap.VENDOR_VERSION})
    except ValueError as exc:
        send(gateway, {"unavailable": str(exc)})
        return
    serve(gateway, lambda child: _attempt(child, settings), children=CHILDREN, memory=_MEMORY)


def _attempt(gateway: socket.socket, settings: Settings) -> None:
    order = receive(gateway)
    with bounded(gateway, settings.timeout):
        answer = _answer(settings, order)
    send(gateway, answer)


def _answer(settings: Settings, order: Mapping[str, Any]) -> Mapping[str, Any]:
    try:
        conversation = Conversation(settings, order["url"])
        if order["do"] == "password":
            return {"ok": conversation.password(order["user"], base64.b64decode(order["password"]))}
        return {"ok": conversation.keys(order["user"])}
    except (RefusedError, UnusableNameError) as exc:
        return {"refused": _text(exc)}
    except UnavailableError as exc:
        return {"unavailable": _text(exc), "passing": False}
    except ldap.LDAPError as exc:
        return {"unavailable": _text(exc), "passing": isinstance(exc, _PASSING)}
    except (OSError, ValueError, MemoryError) as exc:
        return {"unavailable": _text(exc) or type(exc).__name__, "passing": True}


class Conversation:
    """A connection to one server; it is closed by the end of this process."""

    def __init__(self, settings: Settings, url: str) -> None:
        self._settings = settings
        self._connection: LDAPObject = ldap.initialize(url)
        options = {
            ldap.OPT_PROTOCOL_VERSION: ldap.VERSION3,
            # Do not follow referrals: they would send passwords to another server.
            ldap.OPT_REFERRALS: ldap.OPT_OFF,
            ldap.OPT_NETWORK_TIMEOUT: settings.timeout,
            ldap.OPT_TIMEOUT: settings.timeout,
        }
        encrypted = url.lower().startswith("ldaps://") or settings.start_tls
        if encrypted:
            options |= {
                ldap.OPT_X_TLS_CACERTFILE: settings.authorities,
                ldap.OPT_X_TLS_REQUIRE_CERT: ldap.OPT_X_TLS_DEMAND,
                **_lowest(settings.tls_version),
                # Must be last: it applies the TLS settings.
                ldap.OPT_X_TLS_NEWCTX: 0,
            }
        for option, value in options.items():
            self._connection.set_option(option, value)
        if encrypted and not url.lower().startswith("ldaps://"):
            self._connection.start_tls_s()

    def password(self, username: str, password: bytes) -> Mapping[str, Any]:
        """
        Verify the password; return the user's entry.

        Raises:
            RefusedError: the password is wrong, there is no such user, or a required group is missing.
            UnavailableError, ldap.LDAPError: the server could not decide.
        """
        settings = self._settings
        if not password or not username:
            # A bind with an empty password succeeds without authentication (RFC 4513 section 5.1.2).
            raise RefusedError("an empty password")
        if not settings.user_bind:
            self._bind_account()
            entry = self._find(username)
            found = self._described(username, entry)
            # The same requests for an unknown user, so that the time does not reveal it.
            self._bind(entry.dn if entry else self._nobody, password)
            if entry is None:
                raise RefusedError("there is no such user")
        else:
            name = to_bind(settings.user_bind, username)
            self._bind(name, password)
            entry = self._read(name, username) if "=" in settings.user_bind else self._find(username)
            if entry is None:
                raise RefusedError("the password is right, but there is no entry like userFilter")
            if "=" not in settings.user_bind:
                # The bind name and the searched attribute might belong to different users.
                self._bind(entry.dn, password)
            found = self._described(username, entry)
        self._check_groups(found["groups"])
        return found

    def keys(self, username: str) -> Mapping[str, Any]:
        """The user's entry, without verification of a password; raises as above."""
        self._bind_account()
        entry = self._find(username)
        found = self._described(username, entry)
        if entry is None:
            raise RefusedError("there is no such user")
        if _is_disabled(entry):
            raise RefusedError("the account is disabled")
        self._check_groups(found["groups"])
        return found

    @property
    def _nobody(self) -> str:
        return f"cn={secrets.token_hex(8)},{self._settings.user_base}"

    def _bind_account(self) -> None:
        settings = self._settings
        if not settings.bind_dn:
            return
        password = Path(settings.bind_password_file).read_bytes().rstrip(b"\r\n")
        if not password:
            raise UnavailableError("bindPasswordFile is empty")
        try:
            self._bind(settings.bind_dn, password)
        except RefusedError as exc:
            # No retry: directories lock accounts after several failures.
            raise UnavailableError(f"the directory refuses the account bindDN: {exc}") from exc

    def _bind(self, name: str, password: bytes) -> None:
        """Bind as *name*; raises RefusedError if the password is wrong or does not permit a login."""
        number = self._connection.simple_bind(name, password, serverctrls=[PasswordPolicyControl()])
        try:
            kind, _, _, controls, *_ = self._connection.result4(number, timeout=self._settings.timeout)
        except _WRONG as exc:
            raise RefusedError(_text(exc)) from exc
        if kind != ldap.RES_BIND:
            # The library also accepts other response types, such as the end of a search.
            raise UnavailableError("the server answers what it was not asked")
        for control in controls:
            if isinstance(control, PasswordPolicyControl) and control.error in _POLICY:
                raise RefusedError(_POLICY[control.error])

    def _find(self, username: str) -> Entry | None:
        """The single entry of this user; raises RefusedError if there are several."""
        settings = self._settings
        wanted = in_filter(settings.user_filter, {"username": username})
        return self._only(settings.user_base, _SCOPES[settings.user_scope], wanted)

    def _read(self, dn: str, username: str) -> Entry | None:
        return self._only(dn, ldap.SCOPE_BASE, in_filter(self._settings.user_filter, {"username": username}))

    def _only(self, base: str, scope: int, wanted: str) -> Entry | None:
        settings = self._settings
        names = {settings.username_attribute, settings.group_attribute, *settings.attributes, *_STATE} - {""}
        found = list(self._search(base, scope, wanted, sorted(names), limit=1))
        if len(found) > 1:
            raise RefusedError("userFilter fits more than one entry")
        return found[0] if found else None

    def _search(self, base: str, scope: int, wanted: str, names: Collection[str], limit: int) -> Iterator[Entry]:
        """The entries found, at most *limit* + 1; referrals are ignored."""
        number = self._connection.search_ext(base, scope, wanted, list(names), sizelimit=limit + 1)
        size = count = 0
        for _ in range(_MESSAGES):
            try:
                kind, data, *_ = self._connection.result4(number, all=0, timeout=self._settings.timeout)
            except ldap.SIZELIMIT_EXCEEDED:
                if count > limit:
                    return
                raise
            if kind == ldap.RES_SEARCH_RESULT:
                return
            if kind != ldap.RES_SEARCH_ENTRY:
                continue
            for dn, attributes in data:
                size += len(dn) + sum(len(name) + sum(map(len, values)) for name, values in attributes.items())
                if size > ENTRY_BYTES:
                    raise UnavailableError(f"what was found has more than {ENTRY_BYTES >> 10} KiB")
                # Attributes with an option (";lang-de") were not requested.
                yield Entry(dn, {name.lower(): values for name, values in attributes.items()})
                count += 1
                if count > limit:
                    return
        raise UnavailableError("the directory sends more than was asked for")

    def _described(self, username: str, entry: Entry | None) -> dict[str, Any]:
        """The answer to the gateway about *entry*; without an entry the same requests are made."""
        settings = self._settings
        groups = list(entry.text(settings.group_attribute)) if entry else []
        if settings.group_filter:
            names = {"dn": entry.dn if entry else self._nobody, "username": username}
            wanted = in_filter(settings.group_filter, names)
            found = self._search(settings.group_base, ldap.SCOPE_SUBTREE, wanted, [_NO_ATTRIBUTES], limit=_GROUPS)
            groups += [group.dn for group in found]
        return {
            "dn": entry.dn if entry else "",
            "names": entry.text(settings.username_attribute) if entry else [],
            "groups": list(dict.fromkeys(groups)),
            "attributes": {
                name: [base64.b64encode(value).decode() for value in entry.values(name)] if entry else []
                for name in settings.attributes
            },
        }

    def _check_groups(self, groups: Collection[str]) -> None:
        if not self._settings.required_groups:
            return
        required = {normal_dn(group) for group in self._settings.required_groups}
        for group in groups:
            try:
                if normal_dn(group) in required:
                    return
            except ValueError:
                continue
        raise RefusedError("the user is in none of requiredGroups")


def _lowest(version: str) -> Mapping[int, object]:
    """The library options for the minimum TLS version."""
    if ldap.get_option(ldap.OPT_X_TLS_PACKAGE) == "GnuTLS":
        # With GnuTLS (Debian's build), OpenLDAP ignores the other option.
        newer = {"1.2": "+VERS-TLS1.2:+VERS-TLS1.3", "1.3": "+VERS-TLS1.3"}[version]
        return {ldap.OPT_X_TLS_CIPHER_SUITE: f"NORMAL:-VERS-ALL:{newer}"}
    return {ldap.OPT_X_TLS_PROTOCOL_MIN: {"1.2": 0x303, "1.3": 0x304}[version]}


def _is_disabled(entry: Entry) -> bool:
    """Whether the account is disabled; for passwords, the bind fails by itself."""
    control, locked, disabled = (entry.text(name) for name in _STATE)
    return (
        any(value.isdecimal() and int(value) & _DISABLED_BIT for value in control)
        or _LOCKED_FOR_GOOD.decode() in locked
        or any(value.lower() == "true" for value in disabled)
    )


def _text(error: BaseException) -> str:
    """The message of an error, for the administrator."""
    if isinstance(error, ldap.LDAPError) and error.args and isinstance(error.args[0], dict):
        said = (error.args[0].get("desc"), error.args[0].get("info"))
        return ": ".join(str(part) for part in said if part)[:500] or type(error).__name__
    return str(error)[:500] or type(error).__name__
