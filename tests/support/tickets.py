"""Clients with tickets, judged without the SSH between them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import gssapi

from containerssh.auth.kerberos.authenticator import KERBEROS, KerberosAuthenticator, open_kerberos
from containerssh.config.auth import KerberosConfig
from containerssh.core.gssapi import GSSAPIExchange, IntegrityProof
from containerssh.core.metadata import AuthAttempt, Login, SocketAddress, Value
from tests.support.kdc import HOME, KDC

SPNEGO = bytes.fromhex("06062b0601050502")

MESSAGE = b"the session and the request"


def attempt(user: str = "alice") -> AuthAttempt:
    known = {"from": Value("before")}
    return AuthAttempt(SocketAddress("127.0.0.1", 4711), "0" * 32, known, {"A": Value("b")}, username=user)


@asynccontextmanager
async def kerberos(kdc: KDC, **more: object) -> AsyncIterator[KerberosAuthenticator]:
    section = {"keytab": str(kdc.keytab), "configPath": str(kdc.config), **more}
    async with open_kerberos(KerberosConfig.model_validate(section)) as authenticator:
        yield authenticator


class Client(GSSAPIExchange):
    """A client with a ticket: the contract's other side, without the SSH between them."""

    def __init__(
        self,
        environment: dict[str, str],
        service: str = f"host/localhost@{HOME}",
        *,
        delegates: bool = False,
        signs: bytes = MESSAGE,
    ) -> None:
        flags = gssapi.RequirementFlag.mutual_authentication | gssapi.RequirementFlag.integrity
        if delegates:
            flags |= gssapi.RequirementFlag.delegate_to_peer
        store: dict[bytes | str, bytes | str] = {"ccache": environment["KRB5CCNAME"]}
        self.context = gssapi.SecurityContext(
            name=gssapi.Name(service, gssapi.NameType.kerberos_principal),
            creds=gssapi.Credentials(usage="initiate", store=store),
            mech=gssapi.OID.from_int_seq("1.2.840.113554.1.2.2"),
            flags=flags,
            usage="initiate",
        )
        self.first = self.context.step() or b""
        self.signs = signs
        self.offers: Sequence[bytes] = [SPNEGO, KERBEROS]
        self.error = b""

    @property
    def mechanisms(self) -> Sequence[bytes]:
        return self.offers

    async def choose(self, mechanism: bytes) -> bytes:
        assert mechanism == KERBEROS
        return self.first

    async def answer(self, token: bytes) -> bytes:
        return self.context.step(token) or b""

    async def finish(self, token: bytes = b"") -> IntegrityProof:
        if not self.context.complete:
            self.context.step(token)
        return IntegrityProof(MESSAGE, self.context.get_signature(self.signs))

    def tell_error(self, token: bytes) -> None:
        self.error = token


async def judged(authenticator: KerberosAuthenticator, client: GSSAPIExchange, user: str = "alice") -> Login:
    async with AsyncExitStack() as undo:
        return await authenticator.authenticate_gssapi(attempt(user), client, undo)
