import asyncio
import os

import asyncssh
import pytest
from asyncssh.encryption import Encryption, get_encryption, get_encryption_params
from asyncssh.misc import MACError, ProtocolError
from asyncssh.packet import Byte, PacketDecodeError, String, UInt32
from hypothesis import given, settings
from hypothesis import strategies as st

from containerssh.ssh.channel_adapter import AdapterChannel
from containerssh.ssh.ciphers import keep_state
from containerssh.ssh.packets import PacketConnection

CIPHERS = (b"aes128-gcm@openssh.com", b"chacha20-poly1305@openssh.com")
CHANNEL_DATA, WINDOW_ADJUST, IGNORE, PING = 94, 93, 2, 192
PADDING = 8


class RecordingChannel(AdapterChannel):
    """A fake: takes data, knows no connection."""

    def __init__(self) -> None:
        self.taken: list[bytes] = []
        self.window = 0
        self.left: list[int] = []

    def take(self, data: bytes) -> None:
        self.taken.append(data)

    def grow(self, count: int) -> None:
        self.window += count

    def process_packet(self, pkttype: int, pktid: int, packet: object) -> bool:
        self.left.append(pktid)
        return True


class Receiver(PacketConnection):
    """The receiving half of a connection after its login, with what the library was left to handle."""

    def __init__(self, name: bytes) -> None:
        library = asyncssh.SSHServerConnectionOptions(server_host_keys=[asyncssh.generate_private_key("ssh-ed25519")])
        super().__init__(asyncio.new_event_loop(), library)
        self._loop.close()
        key_size, iv_size, block_size, *_ = get_encryption_params(name)
        key, iv = os.urandom(key_size), os.urandom(iv_size)
        self.sender: Encryption = get_encryption(name, key, iv, b"", b"", True)
        self._recv_encryption = keep_state(get_encryption(name, key, iv, b"", b"", True))
        self._recv_blocksize, self._recv_macsize = max(8, block_size), 16
        self._recv_handler = self._recv_pkthdr
        self._auth_complete = True
        self._transport = asyncio.Transport()
        self.channel = RecordingChannel()
        self._channels[0] = self.channel
        self.left: list[int] = []

    def process_packet(self, pkttype: int, pktid: int, packet: object) -> bool:
        self.left.append(pktid)
        return True

    def receive(self, data: bytes) -> None:
        """As the library's own loop, but errors come out."""
        self._inpbuf += data
        while self._inpbuf and self._recv_handler():
            pass

    def sealed(self, number: int, payload: bytes) -> bytes:
        packet = bytes((PADDING,)) + payload + bytes(PADDING)
        return b"".join(self.sender.encrypt_packet(number, UInt32(len(packet)), packet))


def data_packet(data: bytes, *, channel: int = 0) -> bytes:
    return Byte(CHANNEL_DATA) + UInt32(channel) + String(data)


@pytest.mark.parametrize("name", CIPHERS)
@settings(max_examples=30, deadline=None)
@given(
    sent=st.lists(st.one_of(st.none(), st.binary(max_size=100)), max_size=8),
    cuts=st.lists(st.integers(1, 200), min_size=1, max_size=20),
)
def test_data_arrives_in_order_however_the_bytes_are_cut(
    name: bytes, sent: list[bytes | None], cuts: list[int]
) -> None:
    receiver = Receiver(name)
    stream = b"".join(
        receiver.sealed(number, Byte(IGNORE) + String(b"x") if data is None else data_packet(data))
        for number, data in enumerate(sent)
    )
    turn = 0
    while stream:
        size = cuts[turn % len(cuts)]
        receiver.receive(stream[:size])
        stream = stream[size:]
        turn += 1
    assert receiver.channel.taken == [data for data in sent if data is not None]
    assert receiver.left == [number for number, data in enumerate(sent) if data is None]


@pytest.mark.parametrize("name", CIPHERS)
@given(payload=st.binary(max_size=60))
@settings(max_examples=50, deadline=None)
def test_whatever_an_authentic_packet_holds_is_judged_by_the_library(name: bytes, payload: bytes) -> None:
    receiver = Receiver(name)
    try:
        receiver.receive(receiver.sealed(0, payload))
    except (ProtocolError, PacketDecodeError):
        return
    assert receiver._inpbuf == b""


@pytest.mark.parametrize("name", CIPHERS)
def test_many_small_packets_are_taken_in_several_turns(name: bytes) -> None:
    receiver = Receiver(name)
    receiver.turn_over = lambda: len(receiver.channel.taken) % 10 == 0  # type: ignore[method-assign]  # the clock's part
    stream = b"".join(receiver.sealed(number, data_packet(b"x")) for number in range(25))
    receiver.receive(stream)
    assert len(receiver.channel.taken) == 10
    receiver.receive(b"")
    receiver.receive(b"")
    assert len(receiver.channel.taken) == 25


@pytest.mark.parametrize("name", CIPHERS)
def test_data_of_a_wrong_length_is_left_to_the_library(name: bytes) -> None:
    receiver = Receiver(name)
    receiver.receive(receiver.sealed(0, data_packet(b"abc") + b"more"))
    assert (receiver.channel.taken, receiver.channel.left) == ([], [0])


@pytest.mark.parametrize("name", CIPHERS)
def test_window_goes_to_its_channel(name: bytes) -> None:
    receiver = Receiver(name)
    receiver.receive(receiver.sealed(0, Byte(WINDOW_ADJUST) + UInt32(0) + UInt32(5)))
    receiver.receive(receiver.sealed(1, Byte(WINDOW_ADJUST) + UInt32(0) + UInt32(7) + b"more"))
    assert (receiver.channel.window, receiver.channel.left) == (5, [1])


@pytest.mark.parametrize("name", CIPHERS)
def test_a_ping_is_for_those_who_are_logged_in(name: bytes) -> None:
    receiver = Receiver(name)
    ping = Byte(PING) + String(b"?")
    receiver.receive(receiver.sealed(0, ping))
    assert receiver.left == [0]
    receiver._auth_complete = False
    with pytest.raises(ProtocolError):
        receiver.receive(receiver.sealed(1, ping))
    assert receiver.left == [0]


@pytest.mark.parametrize("name", CIPHERS)
def test_a_changed_packet_ends_the_connection(name: bytes) -> None:
    receiver = Receiver(name)
    sealed = bytearray(receiver.sealed(0, data_packet(bytes(100))))
    sealed[40] ^= 1
    with pytest.raises(MACError):
        receiver.receive(bytes(sealed))
    assert receiver.channel.taken == []


@pytest.mark.parametrize("name", CIPHERS)
def test_a_length_beyond_the_limit_ends_the_connection(name: bytes) -> None:
    receiver = Receiver(name)
    with pytest.raises(ProtocolError, match="size"):
        receiver.receive(b"".join(receiver.sender.encrypt_packet(0, UInt32(2**31), bytes(64))))


class Sender(PacketConnection):
    """The sending half of a connection after a key exchange."""

    def __init__(self, name: bytes, *, kex_complete: bool, auth_in_progress: bool, auth_complete: bool) -> None:
        library = asyncssh.SSHServerConnectionOptions(server_host_keys=[HOST_KEY])
        super().__init__(asyncio.new_event_loop(), library)
        self._loop.close()
        key_size, iv_size, block_size, *_ = get_encryption_params(name)
        key, iv = os.urandom(key_size), os.urandom(iv_size)
        self._send_encryption = keep_state(get_encryption(name, key, iv, b"", b"", True))
        self.receiver: Encryption = get_encryption(name, key, iv, b"", b"", True)
        self._send_blocksize, self._send_enchdrlen = max(8, block_size), 1
        self._kex_complete = kex_complete
        self._auth_in_progress, self._auth_complete = auth_in_progress, auth_complete
        self._rekey_time = float("inf")
        self.sent = b""

    def _send(self, data: bytes) -> None:
        self.sent += data

    def log_sent_packet(self, *_: object, **__: object) -> None:
        """Nobody reads it."""


HOST_KEY = asyncssh.generate_private_key("ssh-ed25519")


@pytest.mark.parametrize("name", CIPHERS)
@pytest.mark.parametrize("kex_complete", [True, False])
@pytest.mark.parametrize("auth", ["before", "in progress", "complete"])
def test_what_the_library_would_hold_back_is_not_sent(name: bytes, kex_complete: bool, auth: str) -> None:
    # After the login both are set, or the second alone.
    state = {"auth_in_progress": auth == "in progress", "auth_complete": auth == "complete"}
    sent = set()
    for kind in range(1, 256):
        library = Sender(name, kex_complete=kex_complete, **state)
        library.send_packet(kind, b"12345")
        held_back = bool(library._deferred_packets)
        direct = Sender(name, kex_complete=kex_complete, **state)
        if direct.send_directly(kind, (b"123", b"45")):
            sent.add(kind)
            assert not held_back
            opened = direct.receiver.decrypt_packet(0, direct.sent[:4], direct.sent[4:-16], 4, direct.sent[-16:])
            assert opened is not None
            assert opened[1 : -opened[0]] == Byte(kind) + b"12345"
            assert opened[0] >= 4
            assert direct._send_seq == 1
        else:
            assert direct.sent == b""
    assert bool(sent) is kex_complete


@pytest.mark.parametrize("name", CIPHERS)
def test_a_packet_behind_the_limit_of_a_key_is_left_to_the_library(name: bytes) -> None:
    sender = Sender(name, kex_complete=True, auth_in_progress=False, auth_complete=True)
    sender._rekey_bytes_sent = sender._rekey_bytes
    assert not sender.send_directly(CHANNEL_DATA, (b"data",))


@pytest.mark.parametrize("name", CIPHERS)
@pytest.mark.parametrize("kind", [5, 50])
def test_a_request_of_a_login_is_handled_in_its_turn(name: bytes, kind: int) -> None:
    receiver = Receiver(name)
    receiver._auth_complete = False
    packets = [Byte(kind) + String(b"x"), Byte(IGNORE) + String(b""), Byte(kind), Byte(kind) + bytes(100)]
    receiver.receive(b"".join(receiver.sealed(number, payload) for number, payload in enumerate(packets)))
    assert receiver.left == [0, 1, 2, 3]
    assert receiver._recv_seq == 4


@pytest.mark.parametrize("name", CIPHERS)
def test_a_request_that_is_cut_short_ends_the_connection(name: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    receiver = Receiver(name)

    def too_short(*_: object) -> bool:
        raise PacketDecodeError("Incomplete packet")

    monkeypatch.setattr(receiver, "process_packet", too_short)
    with pytest.raises(ProtocolError, match="Incomplete"):
        receiver.receive(receiver.sealed(0, Byte(50)))
