"""Forwarding through the agent that an image brings: its protocol to a stand-in for it, and to what is none."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from containerssh.agent.upstream_forwards import Patience, UpstreamForwards, upstream_forwards
from containerssh.agent.upstream_packets import NewConnection, Packet, PacketType
from containerssh.core.codes import SSHCode
from containerssh.core.errors import BackendError, Rejected
from containerssh.core.forwarding import ANY_ADDRESS, AddressRules
from containerssh.core.requests import Origin
from containerssh.core.streams import ByteStream
from tests.support.forwarding import digest, echo, listening, refused, talk, unused_port
from tests.support.upstream_agent import LocalHelpers
from tests.support.waiting import until

LIMIT = 20.0
USUAL = Patience()
HASTY = Patience(start=1.0, connect=2.0, dialling=0.2, settling=0.3, silence=0.4)


@asynccontextmanager
async def forwards(helpers: LocalHelpers, patience: Patience = USUAL) -> AsyncIterator[UpstreamForwards]:
    async with asyncio.timeout(LIMIT), upstream_forwards(helpers, "/agent", patience) as made:
        yield made
    for helper in helpers.started:
        assert helper.process.returncode is not None


async def whole(stream: ByteStream) -> bytes:
    pieces = []
    while piece := await stream.read():
        pieces.append(piece)
    return b"".join(pieces)


async def exchange(stream: ByteStream, data: bytes) -> bytes:
    """What of an echo comes back for *data*."""
    await stream.write(data)
    answer = b""
    while len(answer) < len(data):
        piece = await stream.read()
        assert piece, "the connection ended early"
        answer += piece
    return answer


class Client:
    """The client's side of reverse forwards: connections to a port of this machine."""

    def __init__(self, port: int = 0, *, refuses: bool = False) -> None:
        self.port = port
        self.refuses = refuses
        self.origins: list[Origin] = []

    async def __call__(self, origin: Origin) -> ByteStream:
        from containerssh.agent.streams import SocketStream

        self.origins.append(origin)
        if self.refuses:
            raise Rejected(SSHCode.CHANNEL_REQUEST_FAILED, "no")
        connection = socket.create_connection(("127.0.0.1", self.port))
        return SocketStream(connection)


# -- to the container --------------------------------------------------------------------------------------


async def test_connections_are_made_by_one_helper() -> None:
    helpers = LocalHelpers()
    async with listening(echo) as port, forwards(helpers) as made:
        for host in ("127.0.0.1", "localhost"):
            stream = await made.connect_tcp(host, port, ANY_ADDRESS)
            data = bytes(range(256)) * 400
            assert await exchange(stream, data) == data
            await stream.close()
            await stream.close()
    assert [tuple(program.argv) for program in helpers.programs] == [("/agent", "forward-server")]


async def test_a_socket_is_reached(tmp_path: Path) -> None:
    async with listening(echo, tmp_path / "s"), forwards(LocalHelpers()) as made:
        assert await exchange(await made.connect_unix(str(tmp_path / "s")), b"data") == b"data"


async def test_fifty_connections_work_at_once() -> None:
    async with listening(echo) as port, forwards(LocalHelpers()) as made:

        async def one(number: int) -> None:
            stream = await made.connect_tcp("127.0.0.1", port, ANY_ADDRESS)
            data = number.to_bytes(2, "big") * 5000
            assert await exchange(stream, data) == data
            await stream.close()

        await asyncio.gather(*(one(number) for number in range(50)))


async def test_a_port_where_nobody_listens_is_refused_and_the_next_one_works() -> None:
    async with listening(echo) as port, forwards(LocalHelpers()) as made:
        with pytest.raises(BackendError, match="failed in the container"):
            await made.connect_tcp("127.0.0.1", unused_port(), ANY_ADDRESS)
        with pytest.raises(BackendError, match="failed in the container"):
            await made.connect_unix("/no/such/socket")
        assert await exchange(await made.connect_tcp("127.0.0.1", port, ANY_ADDRESS), b"data") == b"data"


async def test_an_answer_that_follows_the_end_of_the_clients_input_arrives() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        # Longer than a silence altogether, and never silent for as long.
        for _ in range(6):
            await asyncio.sleep(0.1)
            writer.write(b"x" * 50_000)
            await writer.drain()

    async with listening(answer) as port, forwards(LocalHelpers(), HASTY) as made:
        stream = await made.connect_tcp("127.0.0.1", port, ANY_ADDRESS)
        await stream.write(b"question\n")
        await stream.write_eof()
        assert len(await whole(stream)) == 300_000
        assert stream.left is not None
        assert stream.left.is_set()


async def test_a_program_that_waits_for_the_end_of_its_input_sees_the_connection_close_after_a_silence() -> None:
    ended = asyncio.Event()

    async def wait(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert await reader.read() == b"all of it"
        ended.set()

    async with listening(wait) as port, forwards(LocalHelpers(), HASTY) as made:
        stream = await made.connect_tcp("127.0.0.1", port, ANY_ADDRESS)
        await stream.write(b"all of it")
        await stream.write_eof()
        assert await whole(stream) == b""
        await ended.wait()


async def test_a_reader_who_is_slow_holds_back_what_comes() -> None:
    sent = 0

    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        for _ in range(500):
            writer.write(bytes(65536))
            await writer.drain()
            sent += 65536

    async with listening(flood) as port, forwards(LocalHelpers()) as made:
        stream = await made.connect_tcp("127.0.0.1", port, ANY_ADDRESS)
        await until(lambda: sent > 0)
        before = -1
        while before != sent:
            before = sent
            await asyncio.sleep(0.3)
        assert sent < 16 * 1024 * 1024
        assert len(await whole(stream)) == 500 * 65536


async def test_a_dial_that_hangs_costs_its_own_request_only() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        full_port = int(full.getsockname()[1])
        waiting = [socket.socket() for _ in range(3)]
        for one in waiting:
            one.setblocking(False)
            with suppress(BlockingIOError):
                one.connect(("127.0.0.1", full_port))
        helpers = LocalHelpers()
        async with listening(echo) as port, forwards(helpers, HASTY) as made:
            first = await made.connect_tcp("127.0.0.1", port, ANY_ADDRESS)
            hanging = asyncio.create_task(made.connect_tcp("127.0.0.1", full_port, ANY_ADDRESS))
            await asyncio.sleep(0)
            second = await made.connect_tcp("127.0.0.1", port, ANY_ADDRESS)
            assert await exchange(first, b"one") == b"one"
            assert await exchange(second, b"two") == b"two"
            with pytest.raises(BackendError, match="did not answer in time"):
                await hanging
        assert len(helpers.started) == 2
        for one in waiting:
            one.close()


async def test_requests_that_are_given_up_leave_no_connection() -> None:
    here: set[asyncio.StreamWriter] = set()
    empty = asyncio.Event()

    async def wait(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        here.add(writer)
        empty.clear()
        await reader.read()
        here.discard(writer)
        if not here:
            empty.set()

    async with listening(wait) as port, forwards(LocalHelpers()) as made:
        for turns in range(30):
            request = asyncio.create_task(made.connect_tcp("127.0.0.1", port, ANY_ADDRESS))
            for _ in range(turns):
                await asyncio.sleep(0)
            request.cancel()
            with suppress(asyncio.CancelledError):
                await (await request).close()
        await (await made.connect_tcp("127.0.0.1", port, ANY_ADDRESS)).close()
        await empty.wait()


LOOPBACK = (ipaddress.ip_network("127.0.0.0/8"),)


async def test_addresses_are_judged_and_names_are_refused_where_that_matters() -> None:
    async with listening(echo) as port, forwards(LocalHelpers()) as made:
        for rules in (AddressRules(denied=LOOPBACK), AddressRules(allowed=())):
            for host in ("127.0.0.1", "localhost"):
                with pytest.raises(Rejected):
                    await made.connect_tcp(host, port, AddressRules((*LOOPBACK,), LOOPBACK))
            with pytest.raises(Rejected, match="cannot be judged"):
                await made.connect_tcp("name.test", port, rules)
        stream = await made.connect_tcp("localhost", port, AddressRules(allowed=LOOPBACK))
        assert await exchange(stream, b"data") == b"data"


@pytest.mark.parametrize("host", ["", "a b", "[::1]", "a:1", "x" * 300, "a\0", "a\nb", "\udcff", "fe80::1%\n"])
async def test_what_is_no_host_is_not_asked_for(host: str) -> None:
    helpers = LocalHelpers()
    async with forwards(helpers) as made:
        with pytest.raises(BackendError, match="requested host is not valid"):
            await made.connect_tcp(host, 80, ANY_ADDRESS)
        for path in ("", "@abstract", "/a\0b", "/" + "x" * 200, "/\udcff"):
            with pytest.raises(BackendError, match="not a valid socket path"):
                await made.connect_unix(path)
    assert not helpers.started


# -- from the container ------------------------------------------------------------------------------------


async def test_a_listener_brings_connections_to_the_client() -> None:
    async with listening(digest) as outside, forwards(LocalHelpers()) as made:
        client = Client(outside)
        port = unused_port()
        listener = await made.listen_tcp("localhost", port, client)
        assert listener.port == port
        async with listening(echo) as echoing:
            client.port = echoing
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"data")
            assert await reader.readexactly(4) == b"data"
            await listener.close()
            assert await refused(port)
            writer.write(b"more")
            assert await reader.readexactly(4) == b"more"
            writer.close()
    assert client.origins[0].host == "127.0.0.1"
    assert client.origins[0].port > 0


async def test_port_zero_becomes_a_port_that_is_told() -> None:
    async with listening(echo) as outside, forwards(LocalHelpers()) as made:
        listener = await made.listen_tcp("127.0.0.1", 0, Client(outside))
        reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
        writer.write(b"data")
        assert await reader.readexactly(4) == b"data"
        writer.close()


async def test_a_port_that_is_taken_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    async with listening(echo) as taken, forwards(LocalHelpers()) as made:
        with caplog.at_level(logging.DEBUG), pytest.raises(BackendError, match="address already in use") as failed:
            await made.listen_tcp("127.0.0.1", taken, Client())
    assert failed.value.user_message == "Listening failed in the container."


async def test_a_socket_in_the_container_is_listened_on(tmp_path: Path) -> None:
    client = Client()
    async with listening(echo) as outside, forwards(LocalHelpers()) as made:
        client.port = outside
        await made.listen_unix(str(tmp_path / "s"), client)
        reader, writer = await asyncio.open_unix_connection(str(tmp_path / "s"))
        writer.write(b"data")
        assert await reader.readexactly(4) == b"data"
        writer.close()
    assert client.origins == [Origin()]


async def test_a_connection_that_the_client_refuses_is_closed_and_the_next_one_works() -> None:
    async with listening(echo) as outside, forwards(LocalHelpers()) as made:
        client = Client(outside, refuses=True)
        listener = await made.listen_tcp("127.0.0.1", unused_port(), client)
        assert await talk(listener.port, b"") == b""
        client.refuses = False
        reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
        writer.write(b"data")
        assert await reader.readexactly(4) == b"data"
        writer.close()


# -- what is no such helper, or a hostile one --------------------------------------------------------------

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
