"""What is remembered of a key exchange decides as the library does."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, cast

import asyncssh
import pytest
from asyncssh import constants
from asyncssh.misc import DisconnectError
from asyncssh.packet import Boolean, NameList, PacketDecodeError, SSHPacket, UInt32
from hypothesis import given, settings
from hypothesis import strategies as st

from containerssh.ssh import key_exchange
from containerssh.ssh.algorithms import CLIENT_SIGNATURES, Kind, accepted
from containerssh.ssh.connection import Connection
from containerssh.ssh.host_keys import HostKey
from containerssh.ssh.key_exchange import KexConnection, Offer, prepare
from containerssh.ssh.options import ServerOptions

# Those whose objects are made in no time.
KEX = [name for name in accepted(Kind.KEX) if name.startswith(("curve25519", "ecdh-sha2-nistp256"))]
CIPHERS, MACS = list(accepted(Kind.CIPHERS)), list(accepted(Kind.MACS))
KEYS = [HostKey(asyncssh.generate_private_key(name)) for name in ("ssh-ed25519", "ecdsa-sha2-nistp256")]
HOST_KEYS = [name for key in KEYS for name in key.algorithms]
OPTIONS = ServerOptions(())
COOKIE = bytes(range(16))
EXTRA = ("ext-info-c", "kex-strict-c-v00@openssh.com", "kexguess2@matt.ucc.asn.au")


class Wire(asyncio.Transport):
    """Takes what is sent to the client."""

    def __init__(self) -> None:
        super().__init__()
        self.sent = b""

    def write(self, data: Any) -> None:
        self.sent += data

    def is_closing(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return 0


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


@pytest.fixture(scope="module")
def prepared(loop: asyncio.AbstractEventLoop) -> Offer:
    return loop.run_until_complete(prepare(OPTIONS, KEYS, KEX, CIPHERS, MACS, CLIENT_SIGNATURES))


def fresh(prepared: Offer) -> Offer:
    """That of a server without any connections so far."""
    return replace(prepared, remembered=key_exchange._Remembered())


def connection(loop: asyncio.AbstractEventLoop, offer: Offer) -> KexConnection:
    """One whose versions were exchanged."""
    made = KexConnection(loop, offer, OPTIONS, cast(Connection, None))
    made._transport = Wire()
    made._send_version()
    return made


def names(known: Sequence[str]) -> st.SearchStrategy[list[str]]:
    return st.lists(st.sampled_from([*known, "unknown"]), max_size=4)


@st.composite
def proposals(draw: st.DrawFn) -> bytes:
    """A client's KEXINIT; one in some is cut short or too long."""
    lists = [
        draw(names(KEX)) + draw(st.lists(st.sampled_from(EXTRA), unique=True)),
        *(draw(names(known)) for known in (HOST_KEYS, CIPHERS, CIPHERS, MACS, MACS, ["none"], ["none"], [], [])),
    ]
    encoded = b"".join(NameList([name.encode() for name in each]) for each in lists)
    whole = COOKIE + encoded + Boolean(draw(st.booleans())) + UInt32(0)
    return draw(st.sampled_from([whole, whole, whole, whole, whole[:-1], whole + b"\0", whole[: len(whole) // 2]]))


def judged(connection: KexConnection, proposal: bytes, *, seq: int = 0) -> object:
    """What becomes of the connection."""
    connection._recv_seq = seq
    payload = bytes([constants.MSG_KEXINIT]) + proposal
    packet = SSHPacket(payload)
    packet.get_byte()
    try:
        connection._process_kexinit(constants.MSG_KEXINIT, seq, packet)
    except (DisconnectError, PacketDecodeError) as exc:
        return str(exc)
    assert connection._kex is not None
    assert connection._signer is not None
    assert connection._client_kexinit == payload
    return (
        type(connection._kex),
        connection._kex.algorithm,
        connection._signer.key,
        connection._signer.algorithm,
        connection._enc_alg_cs,
        connection._enc_alg_sc,
        connection._mac_alg_cs,
        connection._mac_alg_sc,
        connection._cmp_alg_cs,
        connection._cmp_alg_sc,
        connection._ignore_first_kex,
        connection._can_send_ext_info,
        connection._strict_kex,
        connection._kexinit_sent,
        connection._kex_complete,
    )


@settings(max_examples=200, deadline=None)
@given(proposal=proposals(), seq=st.integers(0, 1))
def test_a_client_that_says_what_another_said_gets_what_that_one_got(
    loop: asyncio.AbstractEventLoop, prepared: Offer, proposal: bytes, seq: int
) -> None:
    offer = fresh(prepared)
    first = judged(connection(loop, offer), proposal, seq=seq)
    assert bool(offer.remembered.agreements) is isinstance(first, tuple)
    other = connection(loop, offer)
    assert judged(other, bytes(16) + proposal[16:], seq=seq) == first
    if isinstance(first, tuple):
        # Not as the first packet, and not twice.
        strict = b"kex-strict-c-v00" in proposal
        assert isinstance(judged(connection(loop, offer), proposal, seq=1), str) is strict
        assert judged(other, proposal) == "Key exchange already in progress"


def test_our_own_lists_are_the_same_for_all_and_the_cookie_is_not(
    loop: asyncio.AbstractEventLoop, prepared: Offer
) -> None:
    offer = fresh(prepared)
    sent = [connection(loop, offer)._server_kexinit for _ in range(3)]
    assert len({kexinit[17:] for kexinit in sent}) == 1
    assert len({kexinit[1:17] for kexinit in sent}) == 3
    assert {kexinit[0] for kexinit in sent} == {constants.MSG_KEXINIT}


def test_clients_cannot_have_much_remembered(
    loop: asyncio.AbstractEventLoop, prepared: Offer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(key_exchange, "_REMEMBERED", 3)
    offer = fresh(prepared)

    def proposal(language: bytes) -> bytes:
        chosen = [KEX[0], HOST_KEYS[0], CIPHERS[0], CIPHERS[0], MACS[0], MACS[0], "none", "none", ""]
        lists = b"".join(NameList([name.encode()] if name else []) for name in chosen)
        return COOKIE + lists + NameList([language]) + bytes(5)

    for number in range(10):
        assert isinstance(judged(connection(loop, offer), proposal(b"%d" % number)), tuple)
    assert len(offer.remembered.agreements) == 3
    assert isinstance(judged(connection(loop, offer), proposal(b"x" * 10_000)), tuple)
    assert all(len(lists) < 5_000 for lists in offer.remembered.agreements)
