"""Faults of our own: what they cost, and whom."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from typing import Any

from containerssh.core.codes import GeneralCode
from containerssh.ssh.options import ServerOptions
from containerssh.ssh.server import SSHServer
from tests.support.hostile_client import client
from tests.support.local_backend import LocalBackend
from tests.support.ssh_front import Front, host_key, logged


@dataclass(frozen=True)
class FaultyOptions(ServerOptions):
    """Options that cannot be read for so many connections."""

    faults: list[Exception] = field(default_factory=list)

    def __getattribute__(self, name: str) -> Any:
        if name == "exchange_by_tickets" and self.faults:
            raise self.faults.pop()
        return super().__getattribute__(name)


async def test_a_fault_while_a_connection_is_taken_in_costs_that_connection_only() -> None:
    backend = LocalBackend()
    options = FaultyOptions(host_keys=[host_key("ssh-ed25519")], host="127.0.0.1", port=0)
    server = SSHServer(backend, options)
    with logged() as log:
        async with server.serving() as listening, asyncio.timeout(20):
            options.faults.append(RuntimeError("a fault"))
            reader, writer = await asyncio.open_connection("127.0.0.1", listening.port)
            assert await reader.read() == b""
            writer.close()
            assert server.accepting
            async with client(Front(backend, listening.addresses, log, server)) as connection:
                assert (await connection.run("echo in")).stdout == "in\n"
    errors = [event for level, event, _ in log.lines if level >= logging.ERROR]
    assert [event.code for event in errors] == [GeneralCode.UNKNOWN_ERROR]
    assert "a fault" in errors[0].text
