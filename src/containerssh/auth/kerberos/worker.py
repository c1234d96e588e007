"""The helper process: it runs the Kerberos libraries on untrusted input, isolated from the gateway.

It holds the libraries and one configuration (``KRB5_CONFIG`` applies to a whole process). An order is answered with
``{"ok": ...}``, ``{"refused": reason}`` or ``{"unavailable": reason}``.
"""

from __future__ import annotations

import base64
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gssapi
import krb5
from gssapi.raw.chan_bindings import ChannelBindings
from gssapi.raw.misc import GSSError
from gssapi.raw.types import AddressType

from containerssh.auth.kerberos.limits import CALL_SECONDS, CHILDREN
from containerssh.auth.worker import begin, bounded, receive, send, serve

_KERBEROS = gssapi.OID.from_int_seq("1.2.840.113554.1.2.2")
_MEMORY = 1 << 30
# RFC 4120 section 7.5.9, in the library's numbering; other errors say nothing about the password.
_CODES = -1765328384
_WRONG = {
    1: "the account has expired",
    6: "there is no such principal",
    12: "the KDC's policy forbids it",
    18: "the account is locked",
    21: "the account is not valid yet",
    23: "the password has expired",
    24: "the password is wrong",
    31: "the password is wrong",
    210: "the password is wrong",
}


class RefusedError(Exception):
    """The credentials were checked and found wrong."""


class UnavailableError(Exception):
    """The credentials could not be checked."""


@dataclass(frozen=True)
class Settings:
    """The settings from the gateway's configuration."""

    keytab: str
    acceptor: str
    """The acceptor's principal; empty for any in the keytab."""
    folder: str
    """A private folder for the libraries' files, in memory (tmpfs) if available."""

    @property
    def store(self) -> dict[bytes | str, bytes | str]:
        return {"keytab": f"FILE:{self.keytab}"}


def main(descriptor: int, keytab: str, acceptor: str, folder: str) -> None:
    """Run the helper until its socket closes."""
    gateway = begin(descriptor)
    settings = Settings(keytab, acceptor, folder)
    try:
        send(gateway, {"ok": _greeting(settings)})
    except (krb5.Krb5Error, OSError, UnavailableError) as exc:
        send(gateway, {"unavailable": _text(exc)})
        return
    serve(gateway, lambda child: _attempt(child, settings), children=CHILDREN, memory=_MEMORY)


def _greeting(settings: Settings) -> dict[str, Any]:
    """
    The first message: the default realm (the keytab's if the configuration names none), and the keytab's principals.
    """
    context = krb5.init_context()
    owners = _owners(context, settings)
    try:
        realm = krb5.get_default_realm(context).decode()
    except krb5.Krb5Error:
        realms = {owner.rpartition("@")[2] for owner in owners}
        if len(realms) != 1:
            text = f"there is no default_realm, and the keys are of {len(realms)} realms"
            raise UnavailableError(text) from None
        (realm,) = realms
        with Path(settings.folder, "last.conf").open("w", encoding="utf-8") as last:
            last.write(f"[libdefaults]\ndefault_realm = {realm}\n")
    return {"realm": realm, "owners": owners}


def _owners(context: krb5.Context, settings: Settings) -> list[str]:
    """The principals of the keytab, host principals first."""
    keytab = krb5.kt_resolve(context, f"FILE:{settings.keytab}".encode())
    names = {krb5.unparse_name_flags(context, entry.principal).decode() for entry in keytab}
    if not names:
        raise UnavailableError("the keytab holds no keys")
    return sorted(names, key=lambda name: (not name.startswith("host/"), name))


# -- a child, for one attempt ------------------------------------------------------------------------------------------


def _attempt(gateway: socket.socket, settings: Settings) -> None:
    order = receive(gateway)
    try:
        match order["do"]:
            case "accept":
                answer = _accept(gateway, settings, order)
            case "exchange":
                answer = _exchange(gateway, settings, order)
            case "verify":
                answer = _verify(order)
            case _:
                answer = _password(gateway, settings, order["user"], _decode(order["password"]))
        send(gateway, {"ok": answer})
    except RefusedError as exc:
        send(gateway, {"refused": _text(exc)})
    except (UnavailableError, OSError, krb5.Krb5Error, GSSError) as exc:
        send(gateway, {"unavailable": _text(exc)})


def _accept(gateway: socket.socket, settings: Settings, order: dict[str, Any]) -> dict[str, Any]:
    """Exchange tokens until the context is complete and verify the MIC; return the principal and delegated tickets."""
    context = _acceptor(settings, order["address"])
    while True:
        try:
            with bounded(gateway, CALL_SECONDS):
                token = context.step(_decode(order["token"])) or b""
        except GSSError as exc:
            if exc.token:
                send(gateway, {"token": _encode(exc.token), "failed": True})
            raise RefusedError(f"the ticket was refused: {_text(exc)}") from exc
        if context.complete:
            break
        send(gateway, {"token": _encode(token), "complete": False})
        order = receive(gateway)
    _check_kind(context)
    send(gateway, {"token": _encode(token), "complete": True})
    order = receive(gateway)
    try:
        context.verify_signature(_decode(order["message"]), _decode(order["code"]))
    except GSSError as exc:
        raise RefusedError("the message integrity code is wrong") from exc
    principal = str(context.initiator_name)
    return {"principal": principal, **_delegated(context, principal, settings)}


def _check_kind(context: gssapi.SecurityContext) -> None:
    if context.mech != _KERBEROS or gssapi.RequirementFlag.integrity not in context.actual_flags:
        raise RefusedError("the mechanism is not Kerberos, or does not protect the integrity of messages")


def _exchange(gateway: socket.socket, settings: Settings, order: dict[str, Any]) -> dict[str, Any]:
    """
    Process the single token of Kerberos and sign the exchange hash (RFC 4462 section 2.1); return the exported context
    for :func:`_verify`, then the principal and delegated tickets.
    """
    context = _acceptor(settings, order["address"])
    try:
        with bounded(gateway, CALL_SECONDS):
            token = context.step(_decode(order["token"])) or b""
    except GSSError as exc:
        raise RefusedError(f"the ticket was refused: {_text(exc)}") from exc
    if not context.complete or gssapi.RequirementFlag.mutual_authentication not in context.actual_flags:
        raise RefusedError("the client does not want to know who the server is")
    _check_kind(context)
    code = context.get_signature(_decode(order["digest"]))
    principal = str(context.initiator_name)
    tickets = _delegated(context, principal, settings)
    send(gateway, {"token": _encode(token), "code": _encode(code), "context": _encode(context.export())})
    return {"principal": principal, **tickets}


def _verify(order: dict[str, Any]) -> dict[str, Any]:
    """Verify a MIC with an exported context; return its principal."""
    context = gssapi.SecurityContext(token=_decode(order["context"]))
    try:
        context.verify_signature(_decode(order["message"]), _decode(order["code"]))
    except GSSError as exc:
        raise RefusedError("the message integrity code is wrong") from exc
    return {"principal": str(context.initiator_name)}


def _acceptor(settings: Settings, address: str = "") -> gssapi.SecurityContext:
    """
    Create the acceptor's context. *address* is the client's, for tickets restricted to addresses; the library checks
    IPv4 only.
    """
    name = gssapi.Name(settings.acceptor, gssapi.NameType.kerberos_principal) if settings.acceptor else None
    try:
        keys = gssapi.Credentials(name=name, usage="accept", mechs=[_KERBEROS], store=settings.store)
    except GSSError as exc:
        who = settings.acceptor or "anybody"
        raise UnavailableError(f"the keytab has no key of {who} that can be used: {_text(exc)}") from exc
    bindings: ChannelBindings | None = None
    with suppress(OSError):
        # SSH clients send no channel bindings (RFC 4462 section 3.4), so these affect nothing else.
        bindings = ChannelBindings(AddressType.ip, socket.inet_pton(socket.AF_INET, address))
    context = gssapi.SecurityContext(creds=keys, usage="accept", channel_bindings=bindings)
    # By default, an error token for the peer is returned like a normal token.
    vars(context)["__DEFER_STEP_ERRORS__"] = False
    return context


def _delegated(context: gssapi.SecurityContext, principal: str, settings: Settings) -> dict[str, str]:
    tickets = context.delegated_creds
    if tickets is None:
        return {}
    if str(tickets.name) != principal:
        raise RefusedError(f"tickets of {tickets.name} came with a login of {principal}")
    with _cache(settings) as path:
        tickets.store({"ccache": f"FILE:{path}"}, usage="initiate", overwrite=True, mech=_KERBEROS)
        return {"tickets": _encode(path.read_bytes())}


def _password(gateway: socket.socket, settings: Settings, user: str, password: bytes) -> dict[str, Any]:
    """
    Obtain a ticket for *user* of the default realm, from a KDC that proves knowledge of a key in the keytab (RFC 4120
    section 10).
    """
    context = krb5.init_context()
    client = krb5.parse_name_flags(context, user.encode())
    if client.realm != krb5.get_default_realm(context):
        raise RefusedError("passwords are judged in the default realm alone")
    try:
        with bounded(gateway, CALL_SECONDS):
            options = krb5.get_init_creds_opt_alloc(context)
            tickets = krb5.get_init_creds_password(context, client, options, password=password)
    except krb5.Krb5Error as exc:
        if reason := _WRONG.get(exc.err_code - _CODES):
            raise RefusedError(reason) from exc
        raise
    principal = krb5.unparse_name_flags(context, tickets.client).decode()
    if principal != krb5.unparse_name_flags(context, client).decode():
        raise RefusedError("the ticket is another principal's")
    with _cache(settings) as path:
        cache = krb5.cc_resolve(context, f"FILE:{path}".encode())
        krb5.cc_initialize(context, cache, tickets.client)
        krb5.cc_store_cred(context, cache, tickets)
        content = path.read_bytes()
        with bounded(gateway, CALL_SECONDS):
            _verify_kdc(context, principal, path, settings)
    return {"principal": principal, "tickets": _encode(content)}


def _verify_kdc(context: krb5.Context, principal: str, cache: Path, settings: Settings) -> None:
    """Verify the KDC: request a ticket for this server and decrypt it with the keytab."""
    user = gssapi.Credentials(usage="initiate", mechs=[_KERBEROS], store={"ccache": f"FILE:{cache}"})
    owners = [settings.acceptor] if settings.acceptor else _owners(context, settings)
    last: Exception | None = None
    for owner in owners[:8]:
        service = gssapi.Name(owner, gssapi.NameType.kerberos_principal)
        ours = gssapi.SecurityContext(name=service, creds=user, mech=_KERBEROS, usage="initiate")
        try:
            token = ours.step()
        except GSSError as exc:
            last = exc
            continue
        theirs = _acceptor(settings)
        try:
            theirs.step(token)
        except GSSError as exc:
            last = exc
            continue
        if theirs.complete and str(theirs.initiator_name) == principal:
            return
    raise UnavailableError(f"the KDC could not prove with the keytab that it is the right one: {_text(last)}")


@contextmanager
def _cache(settings: Settings) -> Iterator[Path]:
    """A temporary credential cache; yields its path."""
    path = Path(settings.folder, f"cache-{os.getpid()}")
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


def _text(error: BaseException | None) -> str:
    """The message of an error, for the administrator."""
    if isinstance(error, GSSError):
        words = [*error.get_all_statuses(error.maj_code, True), *error.get_all_statuses(error.min_code, False)]
        return ": ".join(dict.fromkeys(words))
    return str(error)[:1000]


def _encode(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _decode(text: str) -> bytes:
    return base64.b64decode(text)
