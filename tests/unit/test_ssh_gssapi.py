"""The messages of a GSSAPI authentication, whatever bytes they hold."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest
from asyncssh.packet import SSHPacket, String
from hypothesis import given
from hypothesis import strategies as st

from containerssh.core.errors import AuthFailed, ProtocolError
from containerssh.ssh.gssapi import ERROR_TOKEN, EXCHANGE_COMPLETE, MIC, RESPONSE, TOKEN, Exchange, read_mechanisms

KERBEROS = bytes.fromhex("06092a864886f712010202")


def listed(*names: bytes) -> bytes:
    return len(names).to_bytes(4, "big") + b"".join(String(name) for name in names)


@dataclass
class Link:
    """Keeps what is sent."""

    sent: list[tuple[int, bytes]] = field(default_factory=list)
    exchange: Exchange | None = None
    session_id: bytes = b"session"
    ticket_context: object | None = None

    def auth_gssapi(self, exchange: Exchange) -> None:
        self.exchange = exchange

    def auth_message(self, kind: int, field: bytes) -> None:
        self.sent.append((kind, field))


def exchange_on(link: Link) -> Exchange:
    return Exchange(link, b"head", listed(KERBEROS))


@given(st.binary(max_size=300))
def test_any_payload_is_read_or_refused(payload: bytes) -> None:
    try:
        mechanisms = read_mechanisms(payload)
    except (AuthFailed, ProtocolError):
        return
    assert listed(*mechanisms) == payload


@given(st.lists(st.binary(max_size=128), max_size=16))
def test_the_mechanisms_come_in_the_clients_order(names: list[bytes]) -> None:
    assert list(read_mechanisms(listed(*names))) == names


@pytest.mark.parametrize("payload", [listed(*[b"x"] * 17), listed(b"x" * 129), b"\xff\xff\xff\xff"])
def test_more_or_longer_mechanisms_than_any_client_has_are_refused(payload: bytes) -> None:
    with pytest.raises(AuthFailed):
        read_mechanisms(payload)


async def test_an_exchange_sends_and_takes_the_messages_of_the_rfc() -> None:
    link = Link()
    exchange = exchange_on(link)
    assert link.exchange is exchange
    exchange.received(TOKEN, SSHPacket(String(b"one")))
    assert await exchange.choose(KERBEROS) == b"one"
    exchange.received(TOKEN, SSHPacket(String(b"two")))
    assert await exchange.answer(b"ours") == b"two"
    exchange.received(MIC, SSHPacket(String(b"code")))
    proof = await exchange.finish(b"last")
    assert (proof.message, proof.code) == (String(b"session") + b"head", b"code")
    assert link.sent == [(RESPONSE, KERBEROS), (TOKEN, b"ours"), (TOKEN, b"last")]


async def test_a_context_without_a_last_token_sends_none() -> None:
    link = Link()
    exchange = exchange_on(link)
    exchange.received(MIC, SSHPacket(String(b"code")))
    await exchange.finish()
    assert link.sent == []


@pytest.mark.parametrize(
    ("kind", "body"),
    [(TOKEN, String(b"more")), (EXCHANGE_COMPLETE, b""), (ERROR_TOKEN, String(b"no")), (MIC, String(bytes(65537)))],
)
async def test_nothing_but_a_code_ends_an_exchange(kind: int, body: bytes) -> None:
    exchange = exchange_on(Link())
    exchange.received(kind, SSHPacket(body))
    with pytest.raises(AuthFailed):
        await exchange.finish(b"last")


async def test_a_heap_of_messages_is_not_kept() -> None:
    exchange = exchange_on(Link())
    for number in range(1000):
        assert exchange.received(TOKEN, SSHPacket(String(bytes([number % 256]))))
    assert [await exchange.answer(b""), await exchange.answer(b"")] == [b"\0", b"\1"]
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(exchange.answer(b""), 0.01)


async def test_messages_of_a_server_are_none_of_a_client() -> None:
    exchange = exchange_on(Link())
    for kind in (RESPONSE, 62, 64, 67):
        assert not exchange.received(kind, SSHPacket(String(b"")))
