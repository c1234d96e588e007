"""Session mode beside connection mode: a container for each program instead of one for the login."""

from __future__ import annotations

from pathlib import Path

from benchmarks import measure
from benchmarks.report import Report
from benchmarks.servers import KEX, Client, Server, containerssh

_CIPHER = "aes128-gcm@openssh.com"


def compare(report: Report, client: Client, servers: list[Server], folder: Path, rounds: int, size: int) -> None:
    """Logins (*rounds* of them) and transfers (of *size* MiB) for each of our *servers* in both modes, in turn."""
    for server in servers:
        if server.forks:
            continue
        name = f"{server.name} in session mode"
        with containerssh(server.name, folder / f"{server.name}-session", client, mode="session") as other:
            both = {server.name: server, name: other}
            for one in both.values():
                measure.login(client, one, kex=KEX)
            for number in range(rounds):
                for column, one in both.items():
                    taken = measure.login(client, one, kex=KEX)
                    report.add("modes: login to first byte, ms", column, taken.first_byte)
                    if number % 5 == 0:
                        report.add("modes: down, MiB/s", column, measure.download(client, one, _CIPHER, size))
                        report.add("modes: up, MiB/s", column, measure.upload(client, one, _CIPHER, size))
