"""The packets of upstream's forwarding protocol: byte for byte what its server sends, and whatever a guest may send."""

from __future__ import annotations

from contextlib import suppress
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from containerssh.agent.upstream_packets import (
    MAX_PAYLOAD,
    NewConnection,
    Packet,
    PacketReader,
    PacketType,
    Purpose,
    Setup,
)
from containerssh.core.errors import ProtocolError

IDS = st.integers(0, (1 << 64) - 1)
PACKETS = st.builds(Packet, st.integers(0, 300), IDS, st.none() | st.binary(max_size=80))
TEXTS = st.text(max_size=60).filter(lambda text: len(text.encode()) <= 200)
PORTS = st.integers(0, 0xFFFF)


def test_the_setup_of_a_dialling_helper_is_upstreams_to_the_byte() -> None:
    wanted = (
        "a36454797065006c436f6e6e656374696f6e496400675061796c6f61645863a86e436f6e6e656374696f6e54797065026842696e64486f"
        "7374606842696e64506f7274006850726f746f636f6c606653637265656e607053696e676c65436f6e6e656374696f6ef46c4175746850"
        "726f746f636f6c606a41757468436f6f6b696560"
    )
    assert Packet(PacketType.SETUP, 0, Setup(Purpose.DIAL).encode()).encode().hex() == wanted


def test_other_packets_are_upstreams_to_the_byte() -> None:
    success = Packet(PacketType.SUCCESS).encode()
    assert success.hex() == "a36454797065016c436f6e6e656374696f6e496400675061796c6f6164f6"
    data = Packet(PacketType.DATA, 1, b"hi").encode()
    assert data.hex() == "a36454797065036c436f6e6e656374696f6e496401675061796c6f6164426869"
    assert Packet(PacketType.DATA, 1, b"").encode().endswith(b"\x40")
    new = NewConnection("tcp", "example", 80, "127.0.0.1", 40000).encode()
    assert new.hex() == (
        "a56850726f746f636f6c6374637070436f6e6e65637465644164647265737367"
        "6578616d706c656d436f6e6e6563746564506f72741850714f726967696e61746f7241646472657373"
        "693132372e302e302e316e4f726967696e61746f72506f7274199c40"
    )


@given(st.lists(PACKETS, max_size=6), st.lists(st.integers(0, 400), max_size=8))
def test_packets_come_out_as_they_went_in_however_the_stream_is_cut(packets: list[Packet], cuts: list[int]) -> None:
    data = b"".join(packet.encode() for packet in packets)
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    reader = PacketReader()
    assert [packet for start, end in pairwise(places) for packet in reader.feed(data[start:end])] == packets


@given(st.builds(NewConnection, TEXTS, TEXTS, PORTS, TEXTS, PORTS))
def test_an_announcement_comes_out_as_it_went_in(made: NewConnection) -> None:
    assert NewConnection.decode(made.encode()) == made


@given(st.lists(st.binary(max_size=40), max_size=6))
def test_any_bytes_are_packets_or_an_error(chunks: list[bytes]) -> None:
    reader = PacketReader()
    with suppress(ProtocolError):
        for chunk in chunks:
            for packet in reader.feed(chunk):
                assert 0 <= packet.connection < 1 << 64


@given(PACKETS, st.data())
def test_a_packet_with_a_byte_changed_is_a_packet_or_an_error_or_waits_for_more(
    packet: Packet, data: st.DataObject
) -> None:
    encoded = bytearray(packet.encode())
    encoded[data.draw(st.integers(0, len(encoded) - 1))] = data.draw(st.integers(0, 255))
    with suppress(ProtocolError):
        for found in PacketReader().feed(bytes(encoded)):
            assert found.payload is None or len(found.payload) <= len(encoded)


@given(st.binary(max_size=80))
def test_any_payload_is_an_announcement_or_an_error(payload: bytes) -> None:
    with suppress(ProtocolError):
        assert NewConnection.decode(payload).port <= 0xFFFF


def test_keys_may_come_in_any_order_be_missing_or_unknown() -> None:
    data = bytes.fromhex("a2") + b"\x65Extra\xf5" + b"\x64Type\x18\x06"
    assert list(PacketReader().feed(data)) == [Packet(6)]
    assert list(PacketReader().feed(b"\xa1\x67Payload\xf6")) == [Packet(0)]


NAMED = b"\xa1\x67Payload"


@pytest.mark.parametrize(
    "data",
    [
        b"\x80",
        b"\xbf",
        b"\xb8\x20",
        b"\xbb" + b"\xff" * 8,
        b"\xa1\x01",
        b"\xa1\x78\xff",
        b"\xa1\x7f",
        NAMED + b"\x5f",
        NAMED + b"\x5a" + (MAX_PAYLOAD + 1).to_bytes(4, "big"),
        NAMED + b"\x5b" + b"\xff" * 8,
        NAMED + b"\x79\x04\x01",
        NAMED + b"\x81",
        NAMED + b"\xa1",
        NAMED + b"\xc2",
        NAMED + b"\xfb" + bytes(8),
        NAMED + b"\x20",
        NAMED + b"\x61x",
        NAMED + b"\x61\xff",
        b"\xa1\x64Type\x41x",
        b"\xa1\x64Type\xf5",
        b"\xa2\x64Type\x01\x64Type\x01",
    ],
    ids=lambda data: data[:12].hex(),
)
def test_what_no_agent_sends_is_refused_before_it_is_kept(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        list(PacketReader().feed(data))


def test_a_payload_in_small_pieces_costs_no_more_than_its_size() -> None:
    packet = Packet(PacketType.DATA, 7, bytes(MAX_PAYLOAD))
    data, reader = packet.encode(), PacketReader()
    found = [one for start in range(0, len(data), 1000) for one in reader.feed(data[start : start + 1000])]
    assert found == [packet]


def test_a_packet_is_no_longer_than_its_payload_may_be() -> None:
    """What has come is read again with each piece that follows: its length is the price of a byte."""
    fields = [bytes([0x62]) + b"%02d" % number + b"\x5a" + MAX_PAYLOAD.to_bytes(4, "big") for number in range(16)]
    reader = PacketReader()
    with pytest.raises(ProtocolError, match="too long"):
        for piece in (b"\xb0", *(field + bytes(MAX_PAYLOAD) for field in fields[:2])):
            list(reader.feed(piece))
    texts = b"".join(bytes([0x62]) + b"%02d" % number + b"\x79\x04\x00" + bytes(1024) for number in range(15))
    largest = b"\xb0" + texts + b"\x67Payload\x5a" + MAX_PAYLOAD.to_bytes(4, "big") + bytes(MAX_PAYLOAD)
    assert list(PacketReader().feed(largest)) == [Packet(0, 0, bytes(MAX_PAYLOAD))]


@pytest.mark.parametrize("payload", [b"", NewConnection("tcp", "x").encode() + b"\0", b"\xa1\x68Protocol\x01"])
def test_what_is_no_whole_announcement_is_refused(payload: bytes) -> None:
    with pytest.raises(ProtocolError):
        NewConnection.decode(payload)


def test_a_port_beyond_the_last_is_refused() -> None:
    with pytest.raises(ProtocolError, match="ConnectedPort"):
        NewConnection.decode(NewConnection("tcp", "x", 0x10000).encode())
