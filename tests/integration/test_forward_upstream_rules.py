"""Helpers of upstream's agent that break the rules, or die."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from containerssh.agent.upstream_packets import NewConnection, Packet, PacketType
from containerssh.core.errors import BackendError
from containerssh.core.forwarding import ANY_ADDRESS
from containerssh.core.requests import Origin
from containerssh.core.streams import ByteStream
from tests.support.forwarding import echo, listening
from tests.support.upstream_agent import LocalHelpers
from tests.support.upstream_forwards import HASTY, Client, exchange, forwards, whole

OCTAL = "\\%03o"

SUCCESS = Packet(PacketType.SUCCESS).encode()


def saying(data: bytes, then: str = "exec sleep 60") -> LocalHelpers:
    """A helper that says *data* whatever it is told."""
    return LocalHelpers("/bin/sh", "-c", f"printf '{''.join(OCTAL % byte for byte in data)}'; {then}")


@pytest.mark.parametrize(
    ("helpers", "words"),
    [
        (LocalHelpers("/bin/sleep", "60"), "did not answer in time"),
        (LocalHelpers("/bin/false"), "does not forward"),
        (saying(b"Usage: agent\n", "exit 1"), "sent something that is not a packet"),
        (saying(b"\xa1\x67Payload\x5b" + b"\xff" * 8), "too long"),
        (saying(Packet(PacketType.ERROR).encode()), "did not agree"),
        (saying(SUCCESS, "exit 0"), "ended|failed in the container"),
        (saying(SUCCESS), "did not answer in time"),
        (saying(SUCCESS + Packet(PacketType.ERROR, 1).encode() * 3), "did not answer in time|failed in the container"),
        (saying(SUCCESS + b"\xff"), "ended|failed in the container"),
        (LocalHelpers("/bin/cat", "/dev/zero"), "sent something that is not a packet"),
    ],
    ids=["silence", "the end", "words", "a length", "no", "success and the end", "success and silence", "early answers",
         "success and rubbish", "endless zeros"],
)  # fmt: skip
async def test_a_helper_that_does_not_keep_to_the_protocol_costs_the_request(helpers: LocalHelpers, words: str) -> None:
    helpers.started.clear()
    async with forwards(helpers, HASTY) as made:
        with pytest.raises(BackendError, match=words):
            await made.connect_tcp("127.0.0.1", 9, ANY_ADDRESS)


async def test_what_a_helper_says_on_standard_error_is_one_printable_line() -> None:
    helpers = LocalHelpers("/bin/sh", "-c", 'printf \'x\\n{"level":"alert"}\\n\\033[31m\' >&2; sleep 0.2; exit 1')
    async with forwards(helpers) as made:
        with pytest.raises(BackendError) as failed:
            await made.listen_tcp("127.0.0.1", 7001, Client())
    assert failed.value.explanation.isprintable()
    assert '{"level":"alert"}' in failed.value.explanation


ANNOUNCED = NewConnection("tcp", "x", 1, "127.0.0.1", 2).encode()


@pytest.mark.parametrize(
    "packets",
    [
        [Packet(PacketType.NEW_CONNECTION, 0, ANNOUNCED)],
        [Packet(PacketType.NEW_CONNECTION, 5, ANNOUNCED)] * 2,
        [Packet(PacketType.NEW_CONNECTION, 1, NewConnection("tcp", "x", 1, "evil\nhost", 2).encode())],
        [Packet(PacketType.NEW_CONNECTION, 1, NewConnection("tcp", "x", 1, "fe80::1%\x1b[2J", 2).encode())],
        [Packet(PacketType.NEW_CONNECTION, 1, b"\xa0\xa0")],
    ],
    ids=["no number", "twice", "no address", "no zone", "rubbish"],
)
async def test_a_listening_helper_that_breaks_the_rules_is_ended(packets: list[Packet]) -> None:
    helpers = saying(SUCCESS + b"".join(packet.encode() for packet in packets))
    async with listening(echo) as outside, forwards(helpers) as made:
        with pytest.raises(BackendError, match="failed in the container"):
            await made.listen_tcp("127.0.0.1", 7001, Client(outside))
        await helpers.started[0].process.wait()


async def test_announcements_without_end_never_reach_the_client_all_at_once(tmp_path: Path) -> None:
    many = b"".join(Packet(PacketType.NEW_CONNECTION, number, ANNOUNCED).encode() for number in range(1, 301))
    asked: list[Origin] = []

    async def never(origin: Origin) -> ByteStream:
        asked.append(origin)
        await asyncio.sleep(60)
        raise AssertionError

    said = tmp_path / "said"
    said.write_bytes(SUCCESS + many)
    async with forwards(LocalHelpers("/bin/sh", "-c", f"cat {said}; exec sleep 60"), HASTY) as made:
        await made.listen_tcp("127.0.0.1", 7001, never)
        assert len(asked) == 64


async def test_a_connection_that_was_never_taken_gets_no_data() -> None:
    """Nor does one that was closed, or never was; and what is unknown is passed over."""
    packets = [
        Packet(PacketType.DATA, 1, b"early"),
        Packet(PacketType.CLOSE_CONNECTION, 77),
        Packet(99, 3, b"x"),
        Packet(PacketType.SUCCESS, 1),
        Packet(PacketType.DATA, 2, b"other"),
        Packet(PacketType.DATA, 1, b"proper"),
        Packet(PacketType.CLOSE_CONNECTION, 1),
        Packet(PacketType.DATA, 1, b"late"),
    ]
    after = "".join(OCTAL % byte for packet in packets for byte in packet.encode())
    helpers = LocalHelpers(
        "/bin/sh", "-c", f"printf '{''.join(OCTAL % byte for byte in SUCCESS)}'; sleep 0.5; printf '{after}'; exec cat"
    )
    async with forwards(helpers) as made:
        stream = await made.connect_tcp("127.0.0.1", 9, ANY_ADDRESS)
        assert await whole(stream) == b"proper"
        with pytest.raises(ConnectionError):
            await stream.write(b"x")


async def test_the_death_of_a_helper_breaks_its_connections_and_another_one_is_started() -> None:
    helpers = LocalHelpers()
    async with listening(echo) as port, forwards(helpers) as made:
        stream = await made.connect_tcp("127.0.0.1", port, ANY_ADDRESS)
        helpers.started[0].process.kill()
        with pytest.raises(ConnectionError):
            await stream.read()
        assert await exchange(await made.connect_tcp("127.0.0.1", port, ANY_ADDRESS), b"data") == b"data"
    assert len(helpers.started) == 2
