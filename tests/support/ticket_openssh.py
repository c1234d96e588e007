"""OpenSSH's client as a user runs it who has logged in to a Kerberos realm."""

from __future__ import annotations

from pathlib import Path

from tests.support.kdc import KDC
from tests.support.openssh import OpenSSH


class TicketOpenSSH(OpenSSH):
    """OpenSSH's client with a ticket."""

    tickets: dict[str, str]

    def environment(self) -> dict[str, str]:
        return {**super().environment(), **self.tickets}


async def client_of(kdc: KDC, folder: Path, user: str = "alice", ticket: str = "alice") -> TicketOpenSSH:
    """A client that logs in as *user* with a ticket of the principal *ticket*."""
    client = TicketOpenSSH(folder, user, password=None)
    client.tickets = await kdc.ticket(ticket)
    return client
