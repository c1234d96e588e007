"""The health endpoint, asked over real sockets."""

from __future__ import annotations

import asyncio
import logging
import time
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from containerssh.config.services import HealthConfig
from containerssh.core.codes import HTTPCode
from containerssh.core.errors import BackendError
from containerssh.web import server
from containerssh.web.health import check_health, health_endpoint, negotiate
from tests.support.webhook import Authority, Reply, webhook


def config(**more: Any) -> HealthConfig:
    return HealthConfig.model_validate({"enable": True, "listen": "127.0.0.1:0", **more})


async def fetch(port: int, accept: str | None = None) -> tuple[int, str, str]:
    headers = {} if accept is None else {"Accept": accept}
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://127.0.0.1:{port}/any/path", headers=headers, skip_auto_headers=["Accept"]) as answer,
    ):
        return answer.status, await answer.text(), answer.content_type


@pytest.mark.parametrize(
    ("accept", "status", "text", "kind"),
    [
        (None, 200, '"ok"', "application/json"),
        ("application/json", 200, '"ok"', "application/json"),
        ("application/*", 200, '"ok"', "application/json"),
        ("*/*", 200, '"ok"', "application/json"),
        ("text/plain", 200, "ok", "text/plain"),
        ("text/*", 200, "ok", "text/plain"),
        ("text/html,application/xhtml+xml,*/*;q=0.8", 200, "ok", "text/html"),
        ("application/json;q=0.5, text/plain", 200, "ok", "text/plain"),
        ("application/json;q=0, */*", 200, "ok", "text/plain"),
        ("image/png", 406, "only JSON and plain text are served\n", "text/plain"),
        ("*/*;q=0", 406, "only JSON and plain text are served\n", "text/plain"),
        ("application/json; version=2", 400, "unusable Accept header\n", "text/plain"),
        ("nonsense", 400, "unusable Accept header\n", "text/plain"),
    ],
)
async def test_the_answer_has_the_form_that_was_asked_for(
    accept: str | None, status: int, text: str, kind: str
) -> None:
    async with health_endpoint(config(), lambda: True) as ((_, port),):
        assert await fetch(port, accept) == (status, text, kind)


async def test_an_unhealthy_server_says_so_in_both_forms() -> None:
    async with health_endpoint(config(), lambda: False) as ((_, port),):
        assert await fetch(port) == (503, '"not ok"', "application/json")
        assert await fetch(port, "text/plain") == (503, "not ok", "text/plain")


@given(st.text(st.characters(codec="latin-1"), max_size=60))
def test_any_accept_header_is_understood_or_refused(accept: str) -> None:
    try:
        assert negotiate(accept) in {"application/json", "text/plain", "text/html", None}
    except ValueError:
        assert accept.strip()


@pytest.mark.parametrize("healthy", [True, False])
async def test_the_check_tells_what_the_endpoint_says(healthy: bool) -> None:
    async with health_endpoint(config(), lambda: healthy) as ((_, port),):
        assert await check_health(config(client={"url": f"http://127.0.0.1:{port}/"})) is healthy


async def test_the_check_fails_when_nobody_listens() -> None:
    async with webhook() as hook:
        url = hook.url
    assert await check_health(config(client={"url": url})) is False


@pytest.mark.parametrize(
    "reply", [Reply("ok", status=500), Reply(raw=b"ok"), Reply({"ok": True}), Reply("ok", delay=5)]
)
async def test_another_answer_is_not_healthy(reply: Reply) -> None:
    async with webhook() as hook:
        hook.answers = [reply]
        assert await check_health(config(client={"url": hook.url, "timeout": "300ms"})) is False


async def test_over_tls_only_clients_with_a_certificate_are_answered(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    own, client = authority.issue("server"), authority.issue("client")
    tls = {"cert": str(own.cert), "key": str(own.key), "clientcacert": str(authority.cert)}
    async with health_endpoint(config(**tls), lambda: True) as ((_, port),):
        ask = {"url": f"https://127.0.0.1:{port}/", "cacert": str(authority.cert)}
        assert await check_health(config(client=ask)) is False
        assert await check_health(config(client={**ask, "cert": str(client.cert), "key": str(client.key)})) is True


async def test_an_address_in_use_is_told() -> None:
    async with health_endpoint(config(), lambda: True) as ((_, port),):
        with pytest.raises(BackendError) as caught:
            async with health_endpoint(config(listen=f"127.0.0.1:{port}"), lambda: True):
                pass
    assert caught.value.code == HTTPCode.LISTEN_FAILED


async def test_a_client_that_never_finishes_its_request_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "LONGEST_CONNECTION", 0.2)
    async with health_endpoint(config(), lambda: True) as ((host, port),):
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n")
        start = time.monotonic()
        assert await asyncio.wait_for(reader.read(), 10) == b""
        assert time.monotonic() - start < 5
        writer.close()


async def test_the_oldest_connection_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "MOST_CONNECTIONS", 4)
    async with health_endpoint(config(), lambda: True) as ((host, port),):
        first, writer = await asyncio.open_connection(host, port)
        others = []
        for _ in range(4):
            others.append(await asyncio.open_connection(host, port))
            assert (await fetch(port))[0] == 200
        assert await asyncio.wait_for(first.read(), 10) == b""
        for _, other in [(first, writer), *others]:
            other.close()


@pytest.mark.parametrize(
    "request_bytes",
    [b"\0" * 100, b"GET / HTTP/9.9\r\n\r\n", b"GET " + b"/" * 20_000 + b" HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00"],
    ids=["zeros", "version", "long path", "TLS"],
)
async def test_nonsense_harms_nobody_and_fills_no_log(request_bytes: bytes, caplog: pytest.LogCaptureFixture) -> None:
    async with health_endpoint(config(), lambda: True) as ((host, port),):
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(request_bytes)
        writer.write_eof()
        await asyncio.wait_for(reader.read(), 10)
        assert (await fetch(port))[0] == 200
        writer.close()
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_a_fault_of_ours_is_logged_and_answered(caplog: pytest.LogCaptureFixture) -> None:
    def broken() -> bool:
        raise RuntimeError("broken")

    async with health_endpoint(config(), broken) as ((_, port),):
        assert (await fetch(port))[0] == 500
    assert [record.levelname for record in caplog.records if record.exc_info] == ["ERROR"]


async def test_the_scope_ends_with_a_connection_open() -> None:
    async with asyncio.timeout(10):
        async with health_endpoint(config(), lambda: True) as ((host, port),):
            _, writer = await asyncio.open_connection(host, port)
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(host, port)
        writer.close()


async def test_no_answer_tells_the_version_of_the_server() -> None:
    async with (
        health_endpoint(config(), lambda: True) as ((_, port),),
        aiohttp.ClientSession() as session,
        session.get(f"http://127.0.0.1:{port}/") as answer,
    ):
        assert answer.headers["Server"] == "ContainerSSH"
