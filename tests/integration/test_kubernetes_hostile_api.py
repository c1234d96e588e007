"""An API server that does what none should: nothing of it may last, grow without end, or pass for success."""

from __future__ import annotations

import asyncio
import json
import re

import pytest

from containerssh.backends.kubernetes.client import PODS
from containerssh.backends.kubernetes.errors import APIError
from containerssh.core.errors import ProtocolError
from tests.support.hostile_api import POD, Answer, Hostile, hostile, reply, saying
from tests.support.hostile_stream import CLOSE, accepted, message


async def silent(_: Hostile, __: str, reader: asyncio.StreamReader, ___: asyncio.StreamWriter) -> None:
    await reader.read()


async def endless(_: Hostile, __: str, ___: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        writer.write(b" " * (1 << 20))
        await writer.drain()


async def endless_head(_: Hostile, __: str, ___: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n")
    while True:
        writer.write(b"X-More: " + b"x" * 1000 + b"\r\n")
        await writer.drain()


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (silent, "no answer within 0.5 s"),
        (saying(b"SSH-2.0-what\r\n", close=True), "not available"),
        (saying(b"", close=True), "not available"),
        (saying(reply(b"[" * 100_000)), "cannot be understood"),
        (saying(reply({"metadata": {}})), "without its uid"),
        (saying(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{", close=True), "not available"),
        (endless_head, "not available"),
    ],
)
async def test_a_broken_answer_is_an_error_soon(answer: Answer, words: str) -> None:
    async with hostile(answer, 0.5) as (_, client):
        with pytest.raises((APIError, ProtocolError), match=words):
            await client.get(PODS, "default", "one")
        with pytest.raises((APIError, ProtocolError)):
            async with client.exec("default", "one", "main", ["true"]):
                pass


async def test_a_refusal_that_comes_in_pieces_is_read_whole() -> None:
    async def answer(_: Hostile, __: str, ___: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        told = reply({"kind": "Status", "reason": "AlreadyExists", "message": "it is there"}, "409 Conflict")
        for piece in (told[:-20], told[-20:]):
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.1)

    async with hostile(answer) as (_, client):
        with pytest.raises(APIError, match="it is there") as refused:
            await client.get(PODS, "default", "one")
    assert refused.value.reason == "AlreadyExists"


def chunk(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


REFUSED = b'{"kind": "Status", "reason": "Invalid", "message": "no such field"}'


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(chunk(REFUSED), id="cut after a chunk"),
        pytest.param(chunk(REFUSED[:30]) + chunk(REFUSED[30:]) + b"40\r\n  ", id="cut in a chunk"),
        pytest.param(b"50\r\n" + REFUSED, id="cut in the first chunk"),
        pytest.param(chunk(REFUSED) + b"nonsense\r\n", id="not a chunk"),
        pytest.param(chunk(REFUSED) + b" " * 100_000, id="a chunk's head without end"),
        pytest.param(b"".join(chunk(REFUSED[at : at + 1]) for at in range(len(REFUSED))), id="tiny chunks"),
    ],
)
async def test_what_was_read_of_a_refusal_is_told_though_the_rest_does_not_come(body: bytes) -> None:
    head = b"HTTP/1.1 422 Unprocessable Entity\r\nTransfer-Encoding: chunked\r\n\r\n"
    async with hostile(saying(head + body, close=True)) as (_, client):
        with pytest.raises(APIError, match="no such field") as refused:
            async with client.exec("default", "one", "main", ["true"]):
                pass
    assert (refused.value.status, refused.value.reason) == (422, "Invalid")


@pytest.mark.parametrize("headers", [b"Content-Length: 90\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n50\r\n"])
async def test_a_refusal_that_stalls_is_a_refusal_still(headers: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("exchange", "upgrade"):
        monkeypatch.setattr(f"containerssh.backends.kubernetes.{module}.REFUSAL_SECONDS", 0.2)

    async def answer(_: Hostile, __: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 403 Forbidden\r\n" + headers + REFUSED)
        await reader.read()

    async with hostile(answer) as (_, client):
        with pytest.raises(APIError, match="no such field") as refused:
            await client.get(PODS, "default", "one")
        assert refused.value.status == 403
        with pytest.raises(APIError, match="no such field") as refused:
            async with client.exec("default", "one", "main", ["true"]):
                pass
        assert refused.value.status == 403


async def test_an_answer_without_end_is_cut_off() -> None:
    async with hostile(endless) as (_, client):
        with pytest.raises(ProtocolError, match="longer than 16 MiB"):
            await client.get(PODS, "default", "one")


async def test_a_list_without_end_is_cut_off() -> None:
    page = {"metadata": {"resourceVersion": "1", "continue": "more"}, "items": []}
    async with hostile(saying(reply(page)), 20) as (server, client):
        with pytest.raises(ProtocolError, match="has no end"):
            await client.list(PODS, "default")
        assert len(server.requests) == 1000


async def test_a_list_that_would_fill_our_memory_is_cut_off() -> None:
    page = json.dumps({"metadata": {"continue": "more"}, "items": []}).encode()
    async with hostile(saying(reply(page + b" " * (40 << 20))), 20) as (server, client):
        with pytest.raises(ProtocolError, match="longer than 256 MiB"):
            await client.list(PODS, "default")
        assert len(server.requests) == 7


async def test_a_list_whose_rest_is_not_there_any_more_begins_anew() -> None:
    first = reply({"metadata": {"continue": "more"}, "items": [POD]})
    expired = reply({"kind": "Status", "code": 410, "reason": "Expired"}, "410 Gone")
    rest = reply({"metadata": {"resourceVersion": "9"}, "items": [{"metadata": {"uid": "2"}}]})

    def answering(*texts: bytes) -> Answer:
        left = iter(texts)

        async def answer(_: Hostile, __: str, ___: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(next(left))

        return answer

    async with hostile(answering(first, expired, first, rest)) as (_, client):
        items, version = await client.list(PODS, "default", keep=lambda item: {"uid": item["metadata"]["uid"]})
        assert (items, version) == ([{"uid": "1"}, {"uid": "2"}], "9")
    async with hostile(saying(expired)) as (server, client):
        with pytest.raises(APIError):
            await client.list(PODS, "default")
        assert len(server.requests) == 3


async def test_redirects_do_not_get_our_token() -> None:
    async with hostile(saying(reply({}))) as (elsewhere, other):
        with pytest.raises(ProtocolError):
            await other.get(PODS, "default", "one")
        port = int(re.findall(r"Host: 127.0.0.1:(\d+)", elsewhere.requests.pop())[0])
        headers = f"Location: http://127.0.0.1:{port}/\r\n"
        async with hostile(saying(reply(b"", "301 Moved", headers))) as (_, client):
            with pytest.raises(APIError) as refused:
                await client.get(PODS, "default", "one")
        assert refused.value.status == 301
        assert not elsewhere.requests


async def test_a_busy_server_is_asked_again_when_it_says() -> None:
    async def busy(server: Hostile, _: str, __: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        good = len(server.requests) > 2
        writer.write(reply(POD) if good else reply({}, "429 Too Many Requests", "Retry-After: 0\r\n"))

    async with hostile(busy) as (server, client):
        assert await client.get(PODS, "default", "one") == POD
        assert len(server.requests) == 3
    async with hostile(saying(reply({}, "429 Too Many Requests", "Retry-After: 0\r\n")), 0.5) as (_, client):
        with pytest.raises(APIError) as refused:
            await client.get(PODS, "default", "one")
        assert refused.value.passing


async def test_a_busy_server_is_asked_for_a_program_again_when_it_says() -> None:
    async def busy(server: Hostile, head: str, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(server.requests) < 3:
            writer.write(reply({}, "429 Too Many Requests", "Retry-After: 0\r\n"))
        else:
            writer.write(accepted(head) + message(b'\x03{"status": "Success"}') + CLOSE)
            await writer.drain()
        raise EOFError

    async with hostile(busy) as (server, client), client.exec("default", "one", "main", ["true"]) as stream:
        assert await stream.wait() == 0
        assert len(server.requests) == 3


@pytest.mark.parametrize("told", ["9" * 5000, "soon", "-1", "1e3"])
async def test_a_time_to_come_back_that_is_none_is_not_believed(told: str) -> None:
    busy = reply({}, "503 Service Unavailable", f"Retry-After: {told}\r\n")
    async with hostile(saying(busy)) as (_, client):
        with pytest.raises(APIError) as refused:
            await client.get(PODS, "default", "one")
        assert refused.value.retry_after is None
