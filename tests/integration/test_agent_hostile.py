"""Agents that lie, flood or stay silent: fakes, since the real one does not do that."""

from __future__ import annotations

import asyncio
import fcntl
import socket
import struct
import termios
import time
from contextlib import ExitStack

import pytest

from containerssh.agent import dialback
from containerssh.agent.codec import PREAMBLE, WINDOW, Frame, FrameType, pack_bytes
from containerssh.agent.dialback import DialBack
from containerssh.agent.link import AgentLink, AgentProcess, Program
from containerssh.core.errors import BackendError, ContainerSSHError, ProtocolError
from tests.support.agent import (
    HELLO,
    LIMIT,
    Dial,
    FakeAgent,
    fake_agent,
    fake_dial_back,
    read_all,
    stream_opening,
    until,
)

DEATH = struct.pack(">BIB", 1, 0, 0) + pack_bytes(b"TERM")
STATUS = struct.pack(">BIB", 0, 3, 0) + pack_bytes(b"")


def hello(newest: int, oldest: int, build: bytes = b"x") -> bytes:
    return PREAMBLE + Frame(FrameType.HELLO, 0, struct.pack(">HH", newest, oldest) + pack_bytes(build)).encode()


@pytest.mark.parametrize(
    "first",
    [
        hello(9, 3),
        hello(0, 0),
        hello(1, 2),
        hello(1, 1, b"x" * 65),
        hello(1, 1)[:-1],
        PREAMBLE,
        PREAMBLE + Frame(FrameType.OK, 1).encode(),
        PREAMBLE + HELLO + HELLO,
        PREAMBLE + HELLO + Frame(FrameType.DATA, 1, b"x").encode(),
        PREAMBLE + bytes(100),
        PREAMBLE + b"\x01\xff\xff\xff" + bytes(8),
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"x" * 200_000,
        b"",
    ],
)
async def test_a_handshake_that_is_none_ends_the_link(first: bytes) -> None:
    async with fake_agent(handshake=False) as (enter, fake):
        entering = asyncio.create_task(enter())
        try:
            await fake.say(first)
            await fake.stream.close()
        except ConnectionError:
            pass
        with pytest.raises((ProtocolError, BackendError)):
            await entering


async def test_a_newer_agent_that_can_still_speak_ours_is_taken() -> None:
    async with fake_agent(handshake=False) as (enter, fake):
        await fake.say(hello(7, 1, b"from the future"))
        link = await enter()
        assert link.version == "from the future"
        assert await fake.hear() == (FrameType.WELCOME, 0, b"\0\2")


@pytest.mark.parametrize("said", [b"", PREAMBLE, PREAMBLE + HELLO[:9]])
async def test_silence_during_the_handshake_is_the_callers_to_limit(said: bytes) -> None:
    async with fake_agent(handshake=False) as (enter, fake):
        await fake.say(said)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(enter(), 0.05)


async def test_silence_after_any_request_can_be_given_up_and_the_link_goes_on() -> None:
    async with fake_agent() as (enter, fake):
        link = await enter()
        for request in (lambda: link.start(Program(["x"])), lambda: link.write_file("/x", b"y")):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(request(), 0.02)
        starting = asyncio.create_task(link.start(Program(["y"])))
        identity = await start_of(fake, b"y")
        await fake.say(Frame(FrameType.OK, identity))
        process = await starting
        for call in (lambda: process.signal("TERM"), process.wait, process.stdout.read):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(call(), 0.02)
        await fake.say(Frame(FrameType.EXITED, identity, STATUS))
        assert await process.wait() == 3
        await process.kill()


async def start_of(fake: FakeAgent, word: bytes) -> int:
    while True:
        identity, payload = await fake.hear_of(FrameType.START)
        if pack_bytes(word) in payload:
            return identity


async def test_an_agent_that_never_answers_is_given_up_in_the_end() -> None:
    async with fake_agent() as (enter, fake):
        link = await enter()
        hearing = asyncio.create_task(deaf_to(fake))
        with pytest.raises(ContainerSSHError):
            async with asyncio.timeout(LIMIT):
                while True:
                    starting = asyncio.create_task(link.start(Program(["x"])))
                    await asyncio.sleep(0)
                    starting.cancel()
                    for result in await asyncio.gather(starting, return_exceptions=True):
                        if isinstance(result, ContainerSSHError):
                            raise result
        hearing.cancel()


async def deaf_to(fake: FakeAgent) -> None:
    while await fake.stream.read():
        pass


async def test_an_agent_that_does_not_read_cannot_make_the_gateway_hold_much() -> None:
    async with fake_agent() as (enter, _):
        link = await enter()
        program = Program(["x" * 100_000] * 10)
        starting = [asyncio.create_task(link.start(program)) for _ in range(20)]
        async with asyncio.timeout(LIMIT):
            await link.wait_closed()
        for result in await asyncio.gather(*starting, return_exceptions=True):
            assert isinstance(result, ProtocolError)


@pytest.mark.parametrize(
    "lie",
    [
        Frame(FrameType.OK, 4711),
        Frame(FrameType.ERROR, 4711, struct.pack(">H", 2) + pack_bytes(b"no")),
        Frame(FrameType.EXITED, 4711, STATUS),
        Frame(FrameType.HELLO, 0, b"\0\1\0\1\0\0\0\0"),
        Frame(FrameType.DATA, 4711, b"x"),
        Frame(FrameType.DATA, 1, b""),
        Frame(FrameType.DATA, 0, b"x"),
        Frame(FrameType.CREDIT, 1, b"\xff\xff\xff\xff"),
        Frame(FrameType.CREDIT, 1, b"\0\0\0\1"),
        Frame(FrameType.CREDIT, 1, b"\0"),
        Frame(FrameType.EOF, 4711),
        b"\x05\xff\xff\xff\0\0\0\1",
        b"\x63\0\0\0\0\0\0\1",
        Frame(FrameType.EXITED, 1, b""),
        Frame(FrameType.EXITED, 1, b"\2" + STATUS[1:]),
        Frame(FrameType.EXITED, 1, STATUS + b"x"),
        Frame(FrameType.EXITED, 1, struct.pack(">BIB", 1, 0, 0) + pack_bytes(b"")),
        Frame(FrameType.EXITED, 1, struct.pack(">BIB", 1, 0, 0) + pack_bytes(b"\x1b[2J")),
        Frame(FrameType.EXITED, 1, struct.pack(">BIB", 1, 0, 0) + pack_bytes(b"A" * 17)),
        Frame(FrameType.OK, 1),
        Frame(FrameType.CLOSE, 1).encode() + Frame(FrameType.CLOSE, 1).encode(),
        Frame(FrameType.EOF, 1).encode() + Frame(FrameType.EOF, 1).encode(),
        Frame(FrameType.EOF, 1).encode() + Frame(FrameType.DATA, 1, b"x").encode(),
        Frame(FrameType.CLOSE, 1).encode() + Frame(FrameType.DATA, 1, b"x").encode(),
        Frame(FrameType.EXITED, 1, STATUS).encode() + Frame(FrameType.EXITED, 1, STATUS).encode(),
        Frame(FrameType.DATA, 1, b"x" * 60_000).encode() * (WINDOW // 60_000 + 1),
    ],
)
async def test_a_lie_ends_the_link_and_everything_on_it(lie: Frame | bytes) -> None:
    async with fake_agent() as (enter, fake):
        link = await enter()
        process, other = await started(link, fake), await started(link, fake)
        await fake.say(lie)
        async with asyncio.timeout(LIMIT):
            await link.wait_closed()
            with pytest.raises(ProtocolError):
                await other.wait()
            with pytest.raises(ConnectionError):
                await other.stdout.read()
            with pytest.raises(ConnectionError):
                await other.stdin.write(b"x")
            with pytest.raises(ProtocolError):
                await link.start(Program(["x"]))
            await process.kill()
            await other.kill()


async def started(link: AgentLink, fake: FakeAgent) -> AgentProcess:
    starting = asyncio.create_task(link.start(Program(["x"])))
    identity, _ = await fake.hear_of(FrameType.START)
    await fake.say(Frame(FrameType.OK, identity))
    return await starting


@pytest.mark.parametrize("after", [b"", b"\x05\0\0"])
async def test_an_agent_that_goes_away_is_an_error_and_never_a_status(after: bytes) -> None:
    async with fake_agent() as (enter, fake):
        link = await enter()
        process = await started(link, fake)
        starting = asyncio.create_task(link.start(Program(["y"])))
        await fake.hear_of(FrameType.START)
        await fake.say(after)
        await fake.stream.close()
        async with asyncio.timeout(LIMIT):
            with pytest.raises(BackendError):
                await process.wait()
            with pytest.raises(BackendError):
                await starting
            with pytest.raises(ConnectionError):
                await process.stdout.read()


async def test_a_death_told_before_the_agent_went_away_still_counts() -> None:
    async with fake_agent() as (enter, fake):
        link = await enter()
        process = await started(link, fake)
        await fake.say(Frame(FrameType.EXITED, 1, STATUS))
        await fake.stream.close()
        async with asyncio.timeout(LIMIT):
            await link.wait_closed()
            assert await process.wait() == 3


async def test_the_text_of_an_error_cannot_write_to_the_users_terminal() -> None:
    async with fake_agent() as (enter, fake):
        link = await enter()
        starting = asyncio.create_task(link.start(Program(["x"])))
        identity, _ = await fake.hear_of(FrameType.START)
        text = b"\x1b]0;owned\x07\r\nforged \xff line"
        await fake.say(Frame(FrameType.ERROR, identity, struct.pack(">H", 2) + pack_bytes(text)))
        with pytest.raises(BackendError) as caught:
            await starting
        assert caught.value.user_message.isprintable()
        assert str(caught.value).isprintable()


async def test_many_bytes_of_one_each_hold_no_more_than_the_window() -> None:
    async with fake_agent() as (enter, fake):
        link = await enter()
        process = await started(link, fake)
        one = Frame(FrameType.DATA, 1, b"x").encode()
        await fake.say(one * 10_000, Frame(FrameType.EOF, 1))
        assert await read_all(process.stdout) == b"x" * 10_000


# -- the dial-back folder, open to every program in the container ---------------------------------------------


def openings(start: bytes) -> tuple[bytes, bytes]:
    """What an agent says first on the streams of a program without a terminal, by the payload of its START."""
    return stream_opening(start[5:21]), stream_opening(start[25:41])


def unread(connection: socket.socket) -> int:
    """How much of what was sent the other side has not read yet."""
    return int(struct.unpack("i", fcntl.ioctl(connection, termios.TIOCOUTQ, bytes(4)))[0])


def hold_up(seconds: float) -> None:
    """Keep the event loop from going on, as a busy machine does."""
    time.sleep(seconds)


async def dialled_link(dialled: DialBack, dial: Dial) -> tuple[AgentLink, FakeAgent]:
    control = await dial(PREAMBLE + HELLO)
    async with asyncio.timeout(LIMIT):
        link = await dialled.accept()
    return link, FakeAgent(control)


async def test_a_stream_goes_only_to_who_knows_its_token() -> None:
    async with fake_dial_back() as (dialled, dial):
        link, fake = await dialled_link(dialled, dial)
        starting = asyncio.create_task(link.start(Program(["x"])))
        identity, payload = await fake.hear_of(FrameType.START)
        tokens = payload[5:21], payload[25:41]
        for wrong in (
            b"",
            stream_opening(bytes(16)),
            tokens[0],
            stream_opening(tokens[0][:-1] + b"\0")[:20],
            b"x" * 500,
        ):
            await (await dial(wrong)).write_eof()
        first = await dial(stream_opening(tokens[0]))
        again = await dial(stream_opening(tokens[0]))
        await dial(stream_opening(tokens[1]))
        await fake.say(Frame(FrameType.OK, identity))
        async with asyncio.timeout(LIMIT):
            process = await starting
            await process.stdin.write(b"secret")
            assert await first.read() == b"secret"
            # Nobody waits for a connection now, so none is taken.
            next_start = asyncio.create_task(link.start(Program(["y"])))
            assert await again.read() == b""
        next_start.cancel()


async def test_a_stream_that_spoke_while_the_event_loop_stood_still_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dialback, "_IDENTIFY_LIMIT", 0.7)
    async with fake_dial_back() as (dialled, dial):
        link, fake = await dialled_link(dialled, dial)
        starting = asyncio.create_task(link.start(Program(["x"])))
        identity, payload = await fake.hear_of(FrameType.START)
        with ExitStack() as scope:
            begun = []
            for opening in openings(payload):
                connection = scope.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
                connection.connect(str(dialled.folder / "socket"))
                connection.sendall(opening[:7])
                begun.append((connection, opening[7:]))
            await until(lambda: not any(unread(connection) for connection, _ in begun), "the beginnings are read")
            for connection, rest in begun:
                # In one piece with what the program prints at once.
                connection.sendall(rest + b"first words")
            hold_up(0.8)
            await fake.say(Frame(FrameType.OK, identity))
            async with asyncio.timeout(LIMIT):
                process = await starting
                assert await process.stdout.read() == b"first words"


async def test_twenty_streams_at_once_come_in_any_order_with_their_first_bytes() -> None:
    async with fake_dial_back() as (dialled, dial):
        link, fake = await dialled_link(dialled, dial)
        starts = [asyncio.create_task(link.start(Program([str(number)]))) for number in range(20)]
        asked = [await fake.hear_of(FrameType.START) for _ in starts]
        # More than are listened to at once; the last ones say who they are first.
        dialling = [
            (await dial(b""), number, token) for number, (_, said) in enumerate(asked) for token in openings(said)
        ]
        for stream, number, token in reversed(dialling[:15]):
            await stream.write(token + b"%d" % number)
        for stream, number, token in reversed(dialling[15:]):
            await stream.write(token + b"%d" % number)
        for identity, _ in asked:
            await fake.say(Frame(FrameType.OK, identity))
        async with asyncio.timeout(LIMIT):
            for number, process in enumerate(await asyncio.gather(*starts)):
                assert await process.stdout.read() == b"%d" % number


async def test_a_container_that_keeps_knocking_ends_its_own_link() -> None:
    async with fake_dial_back() as (dialled, dial):
        link, fake = await dialled_link(dialled, dial)
        starting = asyncio.create_task(link.start(Program(["x"])))
        await fake.hear_of(FrameType.START)
        for _ in range(70):
            await (await dial(stream_opening(bytes(16)))).close()
        async with asyncio.timeout(LIMIT):
            with pytest.raises(ProtocolError):
                await starting
            await link.wait_closed()


async def test_stream_messages_on_a_control_connection_end_the_link() -> None:
    async with fake_dial_back() as (dialled, dial):
        link, fake = await dialled_link(dialled, dial)
        await fake.say(Frame(FrameType.DATA, 1, b"x"))
        async with asyncio.timeout(LIMIT):
            await link.wait_closed()
        with pytest.raises(ProtocolError):
            await link.start(Program(["x"]))


async def test_nothing_may_come_before_the_preamble_on_a_socket() -> None:
    async with fake_dial_back() as (dialled, dial):
        await dial(b"noise" + PREAMBLE + HELLO)
        async with asyncio.timeout(LIMIT):
            with pytest.raises(ProtocolError):
                await dialled.accept()


async def test_the_folder_is_for_the_container_and_goes_with_the_scope() -> None:
    async with fake_dial_back() as (dialled, _):
        modes = {entry.name: entry.stat().st_mode & 0o777 for entry in dialled.folder.iterdir()}
        assert modes == {"agent": 0o755, "socket": 0o666}
        assert dialled.folder.stat().st_mode & 0o777 == 0o755
    await until(lambda: not dialled.folder.exists(), "the folder is gone")
