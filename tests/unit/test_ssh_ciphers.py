import os

import pytest
from asyncssh.encryption import Encryption, get_encryption, get_encryption_params
from hypothesis import given
from hypothesis import strategies as st

from containerssh.ssh.ciphers import PacketCipher, keep_state

CIPHERS = (b"aes128-gcm@openssh.com", b"aes256-gcm@openssh.com", b"chacha20-poly1305@openssh.com")


def pair(name: bytes) -> tuple[PacketCipher, Encryption]:
    key_size, iv_size, *_ = get_encryption_params(name)
    key, iv = os.urandom(key_size), os.urandom(iv_size)
    ours = keep_state(get_encryption(name, key, iv, b"", b"", True))
    assert isinstance(ours, PacketCipher)
    return ours, get_encryption(name, key, iv, b"", b"", True)


@pytest.mark.parametrize("name", CIPHERS)
def test_packets_are_what_the_library_would_send(name: bytes) -> None:
    ours, library = pair(name)
    for number in range(5):
        packet = os.urandom(16 * number + 12)
        header = len(packet).to_bytes(4, "big")
        assert b"".join(ours.seal(number, header, packet)) == b"".join(library.encrypt_packet(number, header, packet))


@pytest.mark.parametrize("name", CIPHERS)
@given(packets=st.lists(st.binary(min_size=12, max_size=200), min_size=1, max_size=5))
def test_packets_of_the_library_are_opened(name: bytes, packets: list[bytes]) -> None:
    ours, library = pair(name)
    for number, packet in enumerate(packets):
        header = len(packet).to_bytes(4, "big")
        sent = b"".join(library.encrypt_packet(number, header, packet))
        assert ours.length(number, sent[:4]) == len(packet)
        assert ours.open(number, sent[:4], memoryview(sent)[4:]) == packet


@pytest.mark.parametrize("name", CIPHERS)
@pytest.mark.parametrize("place", [0, 3, 4, 20, -16, -1])
def test_a_packet_with_one_bit_changed_is_not_opened(name: bytes, place: int) -> None:
    ours, library = pair(name)
    sent = bytearray(b"".join(library.encrypt_packet(7, (32).to_bytes(4, "big"), bytes(32))))
    sent[place] ^= 1
    assert ours.open(7, bytes(sent[:4]), memoryview(bytes(sent))[4:]) is None


@pytest.mark.parametrize("name", CIPHERS)
def test_the_library_can_go_on_with_a_cipher_that_was_kept(name: bytes) -> None:
    ours, library = pair(name)
    header = (32).to_bytes(4, "big")
    first = b"".join(library.encrypt_packet(0, header, bytes(32)))
    sent, mac = library.encrypt_packet(1, header, bytes(range(32)))
    assert ours.open(0, first[:4], memoryview(first)[4:]) == bytes(32)
    start, length = ours.decrypt_header(1, sent[:16], 4)
    assert int.from_bytes(length, "big") == 32
    assert ours.decrypt_packet(1, start, sent[16:], 4, mac) == bytes(range(32))
