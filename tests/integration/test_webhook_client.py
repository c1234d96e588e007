"""The HTTP client against real servers: redirects, TLS, connections that break."""

from __future__ import annotations

import asyncio
import base64
import gzip
import logging
import re
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from containerssh.config.http import HTTPClientConfig
from containerssh.core.codes import HTTPCode
from containerssh.core.errors import ConfigError, describe
from containerssh.web.client import Answer, WebhookError, open_http_client
from tests.support.webhook import Authority, Reply, Request, webhook

MIB = 1024 * 1024


def config(url: str, **more: Any) -> HTTPClientConfig:
    return HTTPClientConfig.model_validate({"url": url, **more})


async def post(url: str, path: str = "/password", **more: Any) -> Answer:
    async with open_http_client(config(url, **more)) as client:
        return await client.post(path, {"question": "marker"})


async def failed(url: str, **more: Any) -> WebhookError:
    with pytest.raises(WebhookError) as caught:
        await post(url, **more)
    return caught.value


# -- addresses ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("base", "path", "asked"),
    [
        ("", "/password", "/password"),
        ("/", "/password", "/password"),
        ("/hook", "/password", "/hook/password"),
        ("/hook/", "/password", "/hook/password"),
        ("/hook?key=a%20b", "/password", "/hook/password?key=a%20b"),
        ("/config?x=1", "", "/config?x=1"),
        ("/config/", "", "/config/"),
    ],
)
async def test_the_path_is_appended_before_a_query(base: str, path: str, asked: str) -> None:
    async with webhook() as hook:
        await post(hook.url + base, path)
    assert hook.requests[0].path == asked


async def test_a_user_in_the_url_is_sent_as_basic_authentication_and_not_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    async with webhook() as hook:
        url = hook.url.replace("http://", "http://us%40er:pass-marker@")
        await post(url)
        async with open_http_client(config(url)) as client:
            assert client.url == hook.url
    assert base64.b64decode(hook.requests[0].headers["Authorization"].split()[1]) == b"us@er:pass-marker"
    error = await failed(url.replace("http://", "https://"))
    assert HTTPCode.CLIENT_REQUEST in {getattr(record.msg, "code", None) for record in caplog.records}
    labels = [str(getattr(record.msg, "labels", "")) for record in caplog.records]
    assert "pass-marker" not in caplog.text + str(error) + "".join(labels)


async def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1/")
    async with webhook() as hook:
        assert (await post(hook.url)).status == 200


async def test_cookies_are_not_kept() -> None:
    async with webhook() as hook:
        hook.answers = [Reply({}, headers={"Set-Cookie": "session=1"})]
        async with open_http_client(config(hook.url.replace("127.0.0.1", "localhost"))) as client:
            await client.post("", {})
            await client.post("", {})
    assert "Cookie" not in hook.requests[1].headers


# -- redirects ----------------------------------------------------------------------------------


def redirect(status: int, location: str) -> Reply:
    return Reply({}, status=status, headers={"Location": location})


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_refused_unless_allowed(status: int) -> None:
    async with webhook() as hook, webhook() as other:
        hook.answers = [redirect(status, f"{other.url}/yes")]
        error = await failed(hook.url)
        assert error.code == HTTPCode.CLIENT_REDIRECTS_DISABLED
        assert not error.passing
        assert not other.requests


@pytest.mark.parametrize("status", [307, 308])
async def test_an_allowed_redirect_repeats_the_question(status: int) -> None:
    async with webhook() as hook, webhook() as other:
        hook.answers = [redirect(status, f"{other.url}/yes")]
        assert (await post(hook.url, allowRedirects=True)).status == 200
    assert (other.requests[0].method, other.requests[0].path) == ("POST", "/yes")
    assert other.requests[0].json == {"question": "marker"}


@pytest.mark.parametrize("status", [301, 302, 303])
async def test_the_older_redirects_ask_without_the_question(status: int) -> None:
    async with webhook() as hook:
        hook.answers = [redirect(status, "../elsewhere?x=1"), Reply({})]
        assert (await post(f"{hook.url}/deep", allowRedirects=True)).status == 200
    assert (hook.requests[1].method, hook.requests[1].path, hook.requests[1].raw) == ("GET", "/elsewhere?x=1", b"")
    assert "Content-Type" not in hook.requests[1].headers


async def test_a_redirect_does_not_take_the_password_elsewhere() -> None:
    async with webhook() as hook, webhook() as other:
        hook.answers = [redirect(307, "/again"), redirect(307, other.url.replace("://", "://them:theirs@"))]
        await post(hook.url.replace("://", "://user:password@"), allowRedirects=True)
    assert ["Authorization" in request.headers for request in hook.requests] == [True, True]
    assert "Authorization" not in other.requests[0].headers


async def test_a_loop_of_redirects_ends() -> None:
    async with webhook() as hook:
        hook.answers = [redirect(307, "/password")]
        error = await failed(hook.url, allowRedirects=True)
    assert not error.passing
    assert len(hook.requests) == 11


@pytest.mark.parametrize(
    "location",
    [
        "file:///etc/passwd",
        "ftp://127.0.0.1/",
        "unix:/run/x.sock",
        "gopher://x",
        "http://",
        "http://[::1",
        "http://:99999/",
    ],
)
async def test_a_redirect_goes_to_http_servers_only(location: str) -> None:
    async with webhook() as hook:
        hook.answers = [redirect(307, location)]
        assert not (await failed(hook.url, allowRedirects=True)).passing


async def test_a_redirect_never_leaves_tls(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    async with webhook(authority.server_tls("hook")) as hook, webhook() as plain:
        hook.answers = [redirect(307, plain.url)]
        error = await failed(hook.url, allowRedirects=True, cacert=str(authority.cert))
        assert "clear text" in str(error)
        assert not plain.requests


async def test_a_redirect_status_without_an_address_is_an_answer_like_others() -> None:
    async with webhook() as hook:
        hook.answers = [Reply({}, status=302)]
        assert (await post(hook.url, allowRedirects=True)).status == 302


# -- TLS ----------------------------------------------------------------------------------------


async def test_https_with_an_authority_of_ones_own(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    async with webhook(authority.server_tls("hook")) as hook:
        assert (await post(hook.url, cacert=str(authority.cert))).status == 200
        assert (await post(hook.url, cacert=authority.cert.read_text())).status == 200


async def test_a_client_certificate_is_shown(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    own = authority.issue("client")
    async with webhook(authority.server_tls("hook", ask_clients=True)) as hook:
        trusting = {"cacert": str(authority.cert)}
        assert (await post(hook.url, **trusting, cert=str(own.cert), key=str(own.key))).status == 200
        assert (await failed(hook.url, **trusting)).code == HTTPCode.CLIENT_CONNECTION_FAILED


@pytest.mark.parametrize("fault", ["other authority", "system's authorities", "wrong name", "expired"])
async def test_a_server_that_cannot_prove_itself_is_not_asked_and_not_again(tmp_path: Path, fault: str) -> None:
    authority, other = Authority(tmp_path), Authority(tmp_path, "other")
    days = -1 if fault == "expired" else 1
    async with webhook(authority.server_tls("hook", days=days)) as hook:
        url = hook.url.replace("127.0.0.1", "localhost") if fault == "wrong name" else hook.url
        trusted = {"other authority": str(other.cert), "system's authorities": ""}.get(fault, str(authority.cert))
        error = await failed(url, cacert=trusted)
        assert not error.passing
        assert not hook.requests


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://127.0.0.1:1", "POST http://127.0.0.1:1/password failed: Connection refused"),
        ("http://user:secret@127.0.0.1:1", "POST http://127.0.0.1:1/password failed: Connection refused"),
        (
            "http://nowhere.invalid",
            "POST http://nowhere.invalid/password failed: no address of nowhere.invalid is known",
        ),
    ],
)
async def test_a_server_that_is_not_there_is_told_in_plain_words(url: str, words: str) -> None:
    assert describe(await failed(url)).startswith(words)


async def test_a_certificate_that_is_not_trusted_is_told_with_the_reason(tmp_path: Path) -> None:
    async with webhook(Authority(tmp_path).server_tls("hook")) as hook:
        words = describe(await failed(hook.url))
    assert re.fullmatch(
        r"POST https://127.0.0.1:\d+/password failed: the server's certificate is not trusted: [a-z -]+", words
    )


async def test_a_server_without_tls_is_told_as_such() -> None:
    async with webhook() as hook:
        words = describe(await failed(hook.url.replace("http:", "https:")))
    assert "/password failed: no TLS: " in words


async def test_a_time_limit_is_told_once() -> None:
    async with webhook() as hook:
        hook.answers = [Reply(delay=5)]
        words = describe(await failed(hook.url, timeout="100ms"))
    assert words == f"POST {hook.url}/password: no complete answer within 0.1 s"


async def test_an_older_tls_version_must_be_asked_for(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    context = authority.server_tls("hook")
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    async with webhook(context) as hook:
        await failed(hook.url, cacert=str(authority.cert))
        assert (await post(hook.url, cacert=str(authority.cert), tlsVersion="1.2")).status == 200


async def test_a_renewed_certificate_needs_no_restart(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    context = authority.server_tls("hook")
    async with webhook(context) as hook, open_http_client(config(hook.url, cacert=str(authority.cert))) as client:
        await client.post("", {})
        renewed = authority.issue("renewed")
        context.load_cert_chain(renewed.cert, renewed.key)
        hook.answers = [Reply({}, headers={"Connection": "close"})]
        for _ in range(3):
            assert (await client.post("", {})).status == 200


async def test_unusable_tls_settings_are_told_before_anything_is_asked(tmp_path: Path) -> None:
    bad = tmp_path / "bad.pem"
    bad.write_text("-----BEGIN CERTIFICATE-----\nnonsense\n-----END CERTIFICATE-----\n")
    with pytest.raises(ConfigError, match="cacert"):
        async with open_http_client(config("https://127.0.0.1:1", cacert=str(bad))):
            pass


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
