"""Key exchanges by tickets: whatever a stranger sends, and what becomes of a client that leaves meanwhile."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from asyncssh.misc import DisconnectError, ProtocolError
from asyncssh.packet import MPInt, PacketDecodeError, SSHPacket, String
from hypothesis import given
from hypothesis import strategies as st

from containerssh.core.codes import AuthCode
from containerssh.core.errors import AuthFailed, AuthUnavailable
from containerssh.core.gssapi import ExchangedKeys
from containerssh.ssh.ticket_exchange import NAMES, TicketExchange

POINT = bytes([9, *bytes(31)])
"""A good point of Curve25519: its base."""


@dataclass
class Connection:
    """Keeps what is sent; *answer* is the judge's."""

    answer: ExchangedKeys | Exception = field(default_factory=lambda: ExchangedKeys(b"token", b"code", "context"))
    leaves: bool = False
    left: bool = False
    logger: Any = None
    sent: list[tuple[int, bytes]] = field(default_factory=list)
    context: object | None = None
    keys: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.front = self

    def is_client(self) -> bool:
        return False

    def get_hash_prefix(self) -> bytes:
        return b"prefix"

    def send_packet(self, kind: int, *fields: bytes, handler: object = None) -> None:
        self.sent.append((kind, b"".join(fields)))

    async def exchange_keys(self, token: bytes, digest: bytes) -> ExchangedKeys:
        self.left = self.leaves
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def keys_exchanged(self, context: object) -> None:
        self.context = context

    def send_newkeys(self, secret: bytes, digest: bytes) -> None:
        self.keys.append(digest)


def exchange(connection: Connection, name: bytes = NAMES[0]) -> TicketExchange:
    connection.logger = type("Logger", (), {"get_child": lambda self, *_, **__: self})()
    return TicketExchange(name, connection)


@given(st.binary(max_size=200), st.sampled_from(NAMES))
async def test_any_bytes_are_a_ticket_or_the_end(payload: bytes, name: bytes) -> None:
    connection = Connection()
    try:
        await exchange(connection, name)._process_ticket(30, 0, SSHPacket(payload))
    except (PacketDecodeError, ProtocolError):
        assert not connection.sent
        assert not connection.keys
        return
    assert [kind for kind, _ in connection.sent] == [32]


async def test_a_good_ticket_ends_the_exchange_and_a_second_one_the_connection() -> None:
    connection = Connection()
    running = exchange(connection)
    payload = String(b"ticket") + String(POINT)
    await running._process_ticket(30, 0, SSHPacket(payload))
    ((kind, answer),) = connection.sent
    assert kind == 32
    assert answer.endswith(String(b"code") + b"\1" + String(b"token"))
    assert (connection.context, len(connection.keys)) == ("context", 1)
    with pytest.raises(ProtocolError):
        await running._process_ticket(30, 0, SSHPacket(payload))


async def test_without_a_token_for_the_client_none_is_sent() -> None:
    connection = Connection(ExchangedKeys(b"", b"code", "context"))
    await exchange(connection)._process_ticket(30, 0, SSHPacket(String(b"ticket") + String(POINT)))
    assert connection.sent[0][1].endswith(String(b"code") + b"\0")


@pytest.mark.parametrize("point", [b"", bytes(32), bytes(31), MPInt(9)])
async def test_a_point_that_is_none_is_refused_before_anybody_judges(point: bytes) -> None:
    connection = Connection(RuntimeError("somebody was asked"))
    with pytest.raises(ProtocolError):
        await exchange(connection)._process_ticket(30, 0, SSHPacket(String(b"ticket") + String(point)))


@pytest.mark.parametrize("leaves", [True, False])
@pytest.mark.parametrize("kind", [AuthFailed, AuthUnavailable])
async def test_a_refusal_is_told_without_its_reason(kind: type[AuthFailed], leaves: bool) -> None:
    connection = Connection(kind(AuthCode.FAILED, "the reason"), leaves=leaves)
    running = exchange(connection)._process_ticket(30, 0, SSHPacket(String(b"ticket") + String(POINT)))
    if leaves:
        await running
        assert not connection.sent
        return
    with pytest.raises(DisconnectError) as caught:
        await running
    assert [number for number, _ in connection.sent] == [34]
    assert b"the reason" not in connection.sent[0][1] + str(caught.value).encode()
    assert not connection.keys


async def test_who_has_left_gets_no_keys() -> None:
    connection = Connection(leaves=True)
    await exchange(connection)._process_ticket(30, 0, SSHPacket(String(b"ticket") + String(POINT)))
    assert not connection.sent
    assert not connection.keys
