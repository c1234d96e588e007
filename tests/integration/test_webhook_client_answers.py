"""Answers of webhooks: broken, late, large, and on connections that close."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from containerssh.core.codes import HTTPCode
from containerssh.web.client import WebhookError, open_http_client
from tests.support.webhook import Reply, Request, webhook
from tests.support.webhook_client import config, failed, post

MIB = 1024 * 1024


# -- connections --------------------------------------------------------------------------------


@asynccontextmanager
async def raw_server(*conversations: list[bytes | None]) -> AsyncIterator[tuple[str, list[int]]]:
    """
    A server that answers the requests of each connection with these bytes, and closes it at None, right when the next
    request came: a fault that proper servers show too seldom to test. Yields its URL and the number of requests of
    each connection.
    """
    counts: list[int] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = len(counts)
        counts.append(0)
        try:
            for answer in conversations[min(number, len(conversations) - 1)]:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next((int(x[16:]) for x in head.split(b"\r\n") if x.startswith(b"Content-Length: ")), 0)
                await reader.readexactly(length)
                counts[number] += 1
                if answer is None:
                    break
                writer.write(answer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", counts


GOOD = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


async def test_a_connection_that_closes_as_it_is_used_again_is_replaced_once() -> None:
    async with raw_server([GOOD, None], [GOOD]) as (url, counts), open_http_client(config(url)) as client:
        assert (await client.post("", {})).status == 200
        assert (await client.post("", {})).status == 200
        assert counts == [2, 1]


async def test_a_new_connection_that_closes_is_an_error() -> None:
    async with raw_server([None]) as (url, counts):
        error = await failed(url)
        assert counts == [1]
    assert (error.code, error.passing) == (HTTPCode.CLIENT_CONNECTION_FAILED, True)
    assert "the server closed the connection" in str(error)


async def test_a_question_is_repeated_only_once() -> None:
    async with raw_server([GOOD, None], [None]) as (url, counts), open_http_client(config(url)) as client:
        await client.post("", {})
        with pytest.raises(WebhookError):
            await client.post("", {})
        assert counts == [2, 1]


async def test_an_answer_that_broke_off_is_not_asked_for_again() -> None:
    half = b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{"
    async with raw_server([GOOD, half]) as (url, counts), open_http_client(config(url)) as client:
        await client.post("", {})
        with pytest.raises(WebhookError) as caught:
            await client.post("", {})
        assert counts == [2]
    assert caught.value.passing


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * 100_000 + b"\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: br\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        bytes(range(256)),
    ],
    ids=["ssh", "status", "length", "chunks", "header", "brotli", "switch", "bytes"],
)
async def test_what_is_no_http_answer_is_an_error_of_ours(answer: bytes) -> None:
    async with raw_server([answer, None]) as (url, _):
        with pytest.raises(WebhookError):
            found = await post(url, timeout="500ms")
            assert found.status == 101
            found.json()


async def test_an_interim_response_is_passed_over() -> None:
    async with raw_server([b"HTTP/1.1 100 Continue\r\n\r\n" + GOOD]) as (url, _):
        assert (await post(url)).json() == {}


async def test_every_answer_is_one_to_its_own_question() -> None:
    def answer(request: Request) -> Reply:
        return Reply(request.json, delay=0.05 if request.json["number"] == 0 else 0)

    async with webhook() as hook, open_http_client(config(hook.url)) as client:
        hook.answers = [answer]
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await client.post("", {"number": 0})
        answers = await asyncio.gather(*(client.post("", {"number": number}) for number in range(1, 30)))
    assert [found.json() for found in answers] == [{"number": number} for number in range(1, 30)]


# -- sizes --------------------------------------------------------------------------------------


def _answer(size: int, *, packed: bool) -> Reply:
    text = b'"' + b"x" * (size - 2) + b'"'
    return Reply(raw=gzip.compress(text), headers={"Content-Encoding": "gzip"}) if packed else Reply(raw=text)


@pytest.mark.parametrize("packed", [False, True])
async def test_an_answer_may_be_as_large_as_is_configured_and_no_larger(packed: bool) -> None:
    async with webhook() as hook:
        hook.answers = [_answer(size, packed=packed) for size in (70_000, 70_001, 4 * MIB, 4 * MIB + 1)]
        assert len((await post(hook.url, maxAnswerBytes=70_000)).body) == 70_000
        error = await failed(hook.url, maxAnswerBytes=70_000)
        assert "more than 70000 bytes" in str(error)
        assert not error.passing
        assert len((await post(hook.url)).body) == 4 * MIB
        assert "more than 4194304 bytes" in str(await failed(hook.url))


async def test_large_answers_wait_for_one_another_and_all_arrive() -> None:
    async with webhook() as hook, open_http_client(config(hook.url)) as client:
        hook.answers = [_answer(300_000, packed=False)]
        answers = await asyncio.gather(*(client.post("/password", {}) for _ in range(12)))
        assert {len(answer.body) for answer in answers} == {300_000}
