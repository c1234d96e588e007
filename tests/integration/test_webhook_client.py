"""The HTTP client against real servers: addresses and redirects."""

from __future__ import annotations

import base64
import logging
from pathlib import Path

import pytest

from containerssh.core.codes import HTTPCode
from containerssh.web.client import open_http_client
from tests.support.webhook import Authority, Reply, webhook
from tests.support.webhook_client import config, failed, post

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
