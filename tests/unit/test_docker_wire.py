"""The engine's HTTP: whole, cut anywhere, contradictory, endless."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from containerssh.backends.docker.wire import Request, Wire, body_length, read_all
from containerssh.core.errors import ProtocolError
from containerssh.web.head import HEAD_LIMIT, Head

BODY_LIMIT = 4096


class DeafWriter:
    """A fake writer: keeps what is sent."""

    def __init__(self) -> None:
        self.sent = b""

    def write(self, data: bytes) -> None:
        self.sent += data

    async def drain(self) -> None:
        pass

    def is_closing(self) -> bool:
        return False


def wire(*pieces: bytes) -> Wire:
    reader = asyncio.StreamReader(limit=HEAD_LIMIT)
    for piece in pieces:
        reader.feed_data(piece)
    reader.feed_eof()
    return Wire(reader, DeafWriter())  # type: ignore[arg-type]  # a fake


async def exchange(*pieces: bytes, method: str = "GET") -> tuple[Head, bytes]:
    connection = wire(*pieces)
    head = await connection.head()
    return head, await read_all(connection.body(head, method), BODY_LIMIT)


async def test_a_body_with_a_length() -> None:
    head, body = await exchange(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nX-A: 1\r\nx-a: 2\r\n\r\nabcmore")
    assert (head.status, head.headers["x-a"], head.keeps_alive, body) == (200, "1, 2", True, b"abc")


async def test_a_body_in_chunks_with_extensions_and_trailers() -> None:
    data = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\nA\r\n0123456789\r\n0\r\nT: 1\r\n\r\n"
    assert (await exchange(data))[1] == b"abc0123456789"


async def test_a_body_until_the_end_of_the_connection() -> None:
    head, body = await exchange(b"HTTP/1.0 200 OK\r\n\r\nall of it")
    assert (head.keeps_alive, body) == (False, b"all of it")


async def test_interim_answers_are_skipped() -> None:
    head, _ = await exchange(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n")
    assert head.status == 204


@pytest.mark.parametrize(
    "answer",
    [
        b"<html>Bad gateway</html>\r\n\r\n",
        b"HTTP/2 200 OK\r\n\r\n",
        b"HTTP/1.1 0200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n folded: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n" + b"T: 1\r\n" * 300 + b"\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"A: 1\r\n" * 300 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nA: " + b"x" * (2 * HEAD_LIMIT) + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n" + b"x" * 1_000_000,
    ],
)
async def test_what_is_no_proper_answer_is_refused(answer: bytes) -> None:
    with pytest.raises(ProtocolError):
        await exchange(answer)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 200",
        b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nabc",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
    ],
)
async def test_an_answer_that_ends_early_is_a_broken_connection(answer: bytes) -> None:
    with pytest.raises(ConnectionResetError):
        await exchange(answer)


def test_an_answer_to_head_has_no_body() -> None:
    head = Head(200, {"content-length": "10"}, keeps_alive=True)
    assert body_length(head, "HEAD") == 0
    assert body_length(head, "GET") == 10


async def test_a_value_cannot_break_out_of_its_line() -> None:
    connection = wire()
    with pytest.raises(ValueError, match="break out"):
        await connection.send(Request("GET", "/x", {"A": "b\r\nC: d"}))
    with pytest.raises(ValueError, match="break out"):
        await connection.send(Request("GET", "/x HTTP/1.1\r\n\r\nGET /y"))


@given(
    st.integers(100, 599),
    st.dictionaries(
        st.sampled_from(["content-length", "transfer-encoding"]), st.text(max_size=20) | st.just("chunked")
    ),
)
def test_any_headers_say_where_the_body_ends_or_are_refused(status: int, headers: dict[str, str]) -> None:
    try:
        length = body_length(Head(status, headers), "GET")
    except ProtocolError:
        return
    assert length is None or length >= -1


@given(
    st.lists(st.binary(min_size=1, max_size=100), max_size=5),
    st.integers(0, 400),
    st.sampled_from([b"\r\n\r\nHTTP/1.1 200 OK\r\n", b"\0", b"\r\n", b"fffffff\r\n"]),
)
def test_chunks_arrive_whole_and_damage_does_no_more_than_fail(chunks: list[bytes], at: int, damage: bytes) -> None:
    body = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"
    answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + body

    async def run() -> None:
        assert (await exchange(answer[:at], answer[at:]))[1] == b"".join(chunks)
        with suppress(ProtocolError, ConnectionResetError):
            await exchange(answer[:at], damage, answer[at:])

    asyncio.run(run())
