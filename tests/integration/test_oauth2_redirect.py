"""The page that browsers come back to, asked over HTTP and opened in a browser."""

from __future__ import annotations

import asyncio
import html
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import quote

import aiohttp
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from containerssh.auth.oauth2.redirect import filled, redirect_page
from containerssh.config.oauth2 import RedirectConfig
from containerssh.core.errors import ConfigError
from tests.support.openssh import run
from tests.support.tools import tool
from tests.support.webhook import Authority

SCRIPT = "<script>alert(1)</script>\"'>{{ .Code }}</textarea>\r\nSet-Cookie: a=b"


@asynccontextmanager
async def page(**settings: object) -> AsyncIterator[str]:
    config = RedirectConfig.model_validate({"listen": "127.0.0.1:0", **settings})
    async with redirect_page(config) as ((_, port),):
        yield f"{'https' if config.has_tls else 'http'}://127.0.0.1:{port}"


async def get(url: str, **more: object) -> tuple[int, dict[str, str], str]:
    async with (
        aiohttp.ClientSession() as session,
        session.get(url, allow_redirects=False, **more) as answer,  # type: ignore[arg-type]  # aiohttp's own options
    ):
        return answer.status, {str(name): value for name, value in answer.headers.items()}, await answer.text()


async def raw(url: str, request: bytes) -> bytes:
    """What a client gets that does not tidy up its path."""
    host, port = url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(request + b"\r\nHost: x\r\nConnection: close\r\n\r\n")
    answer = await asyncio.wait_for(reader.read(), 10)
    writer.close()
    return answer


@pytest.fixture
def webroot(tmp_path: Path) -> Path:
    root = tmp_path / "web"
    (root / "img").mkdir(parents=True)
    (root / "index.html").write_text("<p title='{{.Code}}'>{{ .Code }}|{{- .Code -}}</p>")
    (root / "img" / "logo.svg").write_text("<svg/>")
    (root / ".hidden").write_text("hidden")
    (tmp_path / "secret").write_text("secret")
    (root / "out").symlink_to(tmp_path / "secret")
    (root / "in").symlink_to(root / "img" / "logo.svg")
    os.mkfifo(root / "pipe")
    return root


async def test_the_page_shows_state_and_code_under_a_strict_policy() -> None:
    async with page() as url:
        status, headers, text = await get(f"{url}/?state=s-1&code=c-2")
    assert status == 200
    assert "s-1|c-2" in html.unescape(text)
    assert headers["Content-Type"] == "text/html; charset=utf-8"
    policy = headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "script-src" not in policy
    assert "frame-ancestors 'none'" in policy
    expected = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store", "Referrer-Policy": "no-referrer"}
    assert expected.items() <= headers.items()


async def test_what_stands_in_the_query_stays_text() -> None:
    async with page() as url:
        _, headers, text = await get(f"{url}/?state={quote(SCRIPT)}&code={quote(SCRIPT)}")
    assert "<script" not in text
    assert "Set-Cookie" not in headers
    assert html.unescape(text).count("<script>") == 2


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.text(max_size=40))
def test_a_code_is_inert_in_text_and_in_any_attribute(code: str) -> None:
    found = filled("[{{ .Code }}]", code)[1:-1]
    assert not set(found) & set("<>\"'` \t\r\n=/{}")


async def test_a_denied_login_is_told_without_the_words_of_the_query() -> None:
    async with page() as url:
        status, _, text = await get(f"{url}/?error=access_denied&error_description=Send+money")
    assert status == 200
    assert "money" not in text
    assert "No login" in text


async def test_nothing_else_is_served() -> None:
    async with page() as url, aiohttp.ClientSession() as session:
        assert (await get(f"{url}/index.html"))[0] == 308
        assert (await get(f"{url}/etc/passwd"))[0] == 404
        assert (await get(f"{url}/?code={'x' * 7000}&state={'y' * 2000}"))[0] in (400, 414)
        async with session.post(f"{url}/") as answer:
            assert answer.status == 405


async def test_a_webroot_has_its_own_page_and_files(webroot: Path) -> None:
    async with page(webroot=str(webroot)) as url:
        _, headers, text = await get(f"{url}/?state=a b&code='c")
        assert text == "<p title='a&#32;b&#124;&#39;c'>a&#32;b&#124;&#39;c|a&#32;b&#124;&#39;c</p>"
        assert "script-src 'self'" in headers["Content-Security-Policy"]
        status, headers, text = await get(f"{url}/img/logo.svg")
        assert (status, text, headers["Content-Type"]) == (200, "<svg/>", "image/svg+xml")
        assert (await get(f"{url}/in"))[0] == 200
        (webroot / "index.html").write_text("changed {{ .Code }}")
        assert "changed" in (await get(f"{url}/"))[2]


@pytest.mark.parametrize(
    "path",
    [
        "/../secret",
        "/img/../../secret",
        "/%2e%2e/secret",
        "/..%2fsecret",
        "/%2e%2e%2fsecret",
        "/out",
        "/.hidden",
        "/img",
        "/img/",
        "/pipe",
        "/in%00",
        "//etc/passwd",
        "/%5c..%5csecret",
        "/img/..",
        "/./in",
    ],
)
async def test_nothing_outside_of_the_webroot_and_no_listing_is_served(webroot: Path, path: str) -> None:
    async with page(webroot=str(webroot)) as url:
        answer = await raw(url, f"GET {path} HTTP/1.1".encode())
    assert answer.split(b" ", 2)[1] in (b"404", b"400"), answer
    assert b"secret\n" not in answer
    assert b"logo" not in answer


async def test_a_template_that_is_not_understood_is_refused_at_start(webroot: Path) -> None:
    (webroot / "index.html").write_text("{{ if .Code }}{{ .Code }}{{ end }}")
    with pytest.raises(ConfigError, match="only"):
        async with page(webroot=str(webroot)):
            pass


async def test_the_page_is_served_over_tls_where_a_certificate_is_configured(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    files = authority.issue("page")
    async with page(cert=str(files.cert), key=str(files.key)) as url:
        import ssl

        trusting = ssl.create_default_context(cafile=str(authority.cert))
        assert (await get(f"{url}/?state=a&code=b", ssl=trusting))[0] == 200


async def test_a_browser_shows_the_code_and_runs_nothing() -> None:
    evil = quote("<img src=x onerror=document.title='pwned'>")
    async with page() as url:
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=2000", "--dump-dom"]
        shown = await run(tool("chromium"), *options, f"{url}/?state=abc&code={evil}", limit=60)
    assert b"abc|&lt;img" in shown.stdout
    assert b"<title>Log in" in shown.stdout
