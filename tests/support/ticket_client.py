"""A client that shows Kerberos tickets, in any order and to any effect (RFC 4462 section 3)."""

from __future__ import annotations

import gssapi

from containerssh.auth.kerberos.authenticator import KERBEROS
from tests.support.kdc import HOME
from tests.support.raw_client import REQUEST, RESPONSE, TOKEN, RawClient, message


class TicketClient(RawClient):
    """A client that shows tickets."""

    def request(self, user: str, *mechanisms: bytes) -> None:
        """Ask to be let in by Kerberos, or offer other *mechanisms*."""
        listed = b"".join(len(name).to_bytes(4, "big") + name for name in mechanisms or (KERBEROS,))
        count = len(mechanisms or (KERBEROS,)).to_bytes(4, "big")
        self.send(REQUEST, user.encode(), b"ssh-connection", b"gssapi-with-mic", raw=count + listed)

    def signed(self, context: gssapi.SecurityContext, user: str, session: bytes | None = None) -> bytes:
        """The integrity code of a request (RFC 4462 section 3.5)."""
        known = session or self.session
        head = message(REQUEST, user.encode(), b"ssh-connection", b"gssapi-with-mic").asbytes()
        code: bytes = context.get_signature(len(known).to_bytes(4, "big") + known + head)
        return code

    async def exchange(self, user: str, context: gssapi.SecurityContext) -> None:
        """All but the code."""
        self.request(user)
        assert (await self.answer(RESPONSE)).get_binary() == KERBEROS
        self.send(TOKEN, context.step() or b"")
        context.step((await self.answer(TOKEN)).get_binary())
        assert context.complete


def context() -> gssapi.SecurityContext:
    """One to be used once, with the ticket that the environment names."""
    name = gssapi.Name(f"host/localhost@{HOME}", gssapi.NameType.kerberos_principal)
    flags = gssapi.RequirementFlag.mutual_authentication | gssapi.RequirementFlag.integrity
    return gssapi.SecurityContext(name=name, usage="initiate", flags=flags)
