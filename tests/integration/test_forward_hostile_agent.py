"""Agents that lie about what they connect to, listen on and accept."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest

from containerssh.agent.codec import MAX_PENDING, Frame, FrameType, pack_bytes, pack_word
from containerssh.agent.forwards import AgentListener
from containerssh.agent.link import AgentLink
from containerssh.core.codes import SSHCode
from containerssh.core.errors import BackendError, ProtocolError, Rejected
from containerssh.core.forwarding import ANY_ADDRESS
from containerssh.core.requests import Origin
from containerssh.core.streams import ByteStream
from tests.support.agent import FakeAgent, fake_agent

LIMIT = timedelta(seconds=5)


class Client:
    """What is called for each connection: it waits, until a test lets it refuse."""

    def __init__(self) -> None:
        self.origins: list[Origin] = []
        self.refuse = asyncio.Event()

    async def __call__(self, origin: Origin) -> ByteStream:
        self.origins.append(origin)
        await self.refuse.wait()
        raise Rejected(SSHCode.NEW_CHANNEL_REJECTED, "the client does not want it")


def good(listener: int, port: int = 4000, *variables: bytes) -> Frame:
    payload = port.to_bytes(2, "big") + pack_word(len(variables)) + b"".join(map(pack_bytes, variables))
    return Frame(FrameType.LISTENING, listener, payload)


def accepted(listener: int, number: int, host: bytes = b"127.0.0.1", port: int = 5) -> Frame:
    return Frame(FrameType.ACCEPTED, listener, pack_word(number) + pack_bytes(host) + port.to_bytes(2, "big"))


@asynccontextmanager
async def listening() -> AsyncIterator[tuple[AgentLink, FakeAgent, AgentListener, Client]]:
    async with fake_agent() as (enter, fake):
        link = await enter()
        client = Client()
        asking = asyncio.create_task(link.forwards.listen_tcp("localhost", 0, client))
        identity, _ = await fake.hear_of(FrameType.LISTEN_TCP)
        await fake.say(good(identity))
        yield link, fake, await asking, client


async def ended(link: AgentLink, why: str) -> None:
    async with asyncio.timeout(5):
        await link.wait_closed()
    with pytest.raises(ProtocolError, match=why):
        link.check()


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ((good(77),), "unknown request"),
        ((good(1), good(1)), "unknown request"),
        ((Frame(FrameType.OK, 1),), "without a port"),
        ((good(1, 1, b"LD_PRELOAD=/tmp/x.so"),), "not asked for"),
        ((good(1, 1, b"DISPLAY=a\nb"),), "not asked for"),
        ((good(1, 1, *[b"DISPLAY=:1"] * 4),), "too many variables"),
        ((Frame(FrameType.LISTENING, 1, b"\0\1"),), "too short"),
        ((Frame(FrameType.LISTENING, 1, bytes(6) + b"x"),), "too long"),
        ((accepted(1, 1),), "unknown listener"),
        ((good(1), accepted(2, 1)), "unknown listener"),
        ((good(1), accepted(1, 1), accepted(1, 1)), "twice"),
        ((good(1), *(accepted(1, number) for number in range(MAX_PENDING + 1))), "too many"),
        ((good(1), accepted(1, 1, b"\x1b[2Jhost")), "not an address"),
        ((good(1), accepted(1, 1, b"fe80::1%\x1b[2J")), "not an address"),
        ((good(1), accepted(1, 1, b"fe80::1%eth 0")), "not an address"),
        ((good(1), accepted(1, 1, b"1" * 65)), "65 bytes"),
        ((Frame(FrameType.EXITED, 1, bytes(10)),), "does not run"),
    ],
)
async def test_what_cannot_be_ends_the_link(said: tuple[Frame, ...], why: str) -> None:
    async with fake_agent() as (enter, fake):
        link = await enter()
        client = Client()
        asking = asyncio.create_task(link.forwards.listen_tcp("", 0, client))
        await fake.hear_of(FrameType.LISTEN_TCP)
        await fake.say(*said)
        await ended(link, why)
        await asyncio.gather(asking, return_exceptions=True)
        assert len(client.origins) <= MAX_PENDING


async def test_as_many_as_may_be_pending_are_and_a_refused_one_is_declined() -> None:
    async with listening() as (_, fake, listener, client):
        await fake.say(*(accepted(listener.identity, number) for number in range(MAX_PENDING)))
        client.refuse.set()
        declined = {(await fake.hear_of(FrameType.DECLINE))[1] for _ in range(MAX_PENDING)}
        assert len(declined) == MAX_PENDING
        assert client.origins[0] == Origin("127.0.0.1", 5)
        await fake.say(accepted(listener.identity, 0))
        assert (await fake.hear_of(FrameType.DECLINE))[1] == pack_word(listener.identity) + pack_word(0)


async def test_connections_that_cross_the_end_of_their_listener_are_no_offence() -> None:
    async with listening() as (link, fake, listener, client):
        await fake.say(*(accepted(listener.identity, number) for number in range(MAX_PENDING)))
        other = asyncio.create_task(link.forwards.listen_tcp("localhost", 0, client))
        identity, _ = await fake.hear_of(FrameType.LISTEN_TCP)
        await fake.say(good(identity))
        await other
        closing = asyncio.create_task(listener.close())
        unlisten, _ = await fake.hear_of(FrameType.UNLISTEN)
        # On its way when the agent was asked; and those of the other one have all the room.
        await fake.say(accepted(listener.identity, 900), Frame(FrameType.OK, unlisten))
        await fake.say(*(accepted(identity, number) for number in range(MAX_PENDING)))
        await closing
        client.refuse.set()
        await fake.hear_of(FrameType.DECLINE)
        link.check()
        await fake.say(accepted(listener.identity, 901))
        await ended(link, "unknown listener")


async def test_a_reason_is_shown_to_the_user_without_control_characters() -> None:
    async with fake_agent() as (enter, fake):
        link = await enter()
        for number, error in ((111, BackendError), (1, Rejected)):
            asking = asyncio.create_task(link.forwards.connect_tcp("host", 1, ANY_ADDRESS, LIMIT))
            identity, _ = await fake.hear_of(FrameType.CONNECT_TCP)
            await fake.say(
                Frame(FrameType.ERROR, identity, number.to_bytes(2, "big") + pack_bytes(b"\x1b[31mred\n" * 50))
            )
            with pytest.raises(error) as caught:
                await asking
            assert caught.value.user_message.startswith("?[31mred?")
            assert len(caught.value.user_message) <= 200
            assert caught.value.user_message.isprintable()


async def test_a_request_that_is_given_up_leaves_no_listener() -> None:
    async with fake_agent() as (enter, fake):
        link = await enter()
        asking = asyncio.create_task(link.forwards.listen_unix("/x", Client()))
        identity, _ = await fake.hear_of(FrameType.LISTEN_UNIX)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        _, named = await fake.hear_of(FrameType.UNLISTEN)
        assert named == pack_word(identity)
        await fake.say(good(identity), accepted(identity, 1), Frame(FrameType.OK, identity + 1))
        again = asyncio.create_task(link.forwards.listen_unix("/x", Client()))
        identity, _ = await fake.hear_of(FrameType.LISTEN_UNIX)
        await fake.say(good(identity))
        await again
        link.check()


async def test_the_end_of_the_link_ends_what_waits() -> None:
    async with listening() as (link, fake, listener, client):
        await fake.say(accepted(listener.identity, 1))
        forwards = link.forwards
        connecting = asyncio.create_task(forwards.connect_unix("/x", LIMIT))
        await fake.hear_of(FrameType.CONNECT_UNIX)
        await fake.stream.close()
        with pytest.raises(BackendError):
            await connecting
        with pytest.raises(BackendError):
            await forwards.listen_tcp("", 1, client)
        await listener.close()
    assert not forwards._tasks
