"""The whole server with Keycloak as the identity provider: OpenSSH and PuTTY log in, a person confirms in a browser."""

from __future__ import annotations

import html
import re
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pexpect
import pytest

from tests.support import server as product
from tests.support.browser import Browser, browsing
from tests.support.keycloak import CLIENT, PASSWORD, SECRET, Keycloak, running_keycloak, visit
from tests.support.openssh import OpenSSH
from tests.support.services import Engine
from tests.support.tools import tool

pytestmark = [pytest.mark.docker, pytest.mark.timeout(240)]

INTERACTIVE = ("-o", "PreferredAuthentications=keyboard-interactive", "-o", "LogLevel=INFO")
LINK = rb"link(?: to log in)?: (http\S+)"
CLAIM = 'echo "I am $OIDC_USERINFO_PREFERRED_USERNAME."; printf "token %s.\\n" "$OIDC_TOKEN"'


@pytest.fixture(scope="module")
def keycloak(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keycloak]:
    with running_keycloak(tmp_path_factory.mktemp("keycloak")) as running:
        yield running


@asynccontextmanager
async def serving(engine: Engine, keycloak: Keycloak, **oidc: Any) -> AsyncIterator[tuple[product.Server, str]]:
    """A server whose logins go to Keycloak, and the address of its page."""
    page = f"127.0.0.1:{product.free_port()}"
    block = {"url": keycloak.url, "usernameField": "preferred_username", "redirectURI": f"http://{page}/", **oidc}
    oauth2 = {
        "provider": "oidc",
        "clientId": CLIENT,
        "clientSecret": SECRET,
        "redirect": {"listen": page},
        "oidc": {**block, "extraScopes": ["email", "profile"], "enforceScopes": True},
    }
    docker = {
        "connection": {"host": f"unix://{engine.socket}"},
        "execution": {
            "container": {"image": "bb:latest"},
            "shellCommand": ["/bin/sh"],
            "imagePullPolicy": "Never",
            "exposeAuthMetadataAsEnv": True,
        },
    }
    config = {
        "auth": {"keyboardInteractive": {"method": "oauth2", "oauth2": oauth2}},
        "backend": "docker",
        "docker": docker,
    }
    async with product.serving(config) as server:
        yield server, f"http://{page}/"


async def link_of(client: pexpect.spawn[bytes]) -> str:
    await client.expect(LINK, async_=True)
    assert isinstance(client.match, re.Match)
    return str(client.match.group(1).decode())


async def ended(client: pexpect.spawn[bytes]) -> int | None:
    await client.expect(pexpect.EOF, async_=True)
    client.close()
    return client.exitstatus


async def accepted(keycloak: Keycloak, token: str) -> bool:
    """Whether Keycloak still takes the access token."""
    async with (
        aiohttp.ClientSession(headers={"Authorization": f"Bearer {token}"}) as session,
        session.get(f"{keycloak.url}protocol/openid-connect/userinfo") as answer,
    ):
        return answer.status == 200


async def test_openssh_logs_in_by_the_device_flow_and_the_token_ends_with_the_connection(
    engine: Engine, keycloak: Keycloak, tmp_path: Path
) -> None:
    async with serving(engine, keycloak, deviceFlow=True) as (server, _):
        client = OpenSSH(tmp_path).spawn(server, f"{CLAIM}; read line", *INTERACTIVE)
        await visit(await link_of(client), "alice")
        await client.expect(rb"I am alice\.\s+token ([\w.-]+)\.", async_=True)
        assert isinstance(client.match, re.Match)
        token = client.match.group(1).decode()
        assert await accepted(keycloak, token)
        client.sendline("")
        assert await ended(client) == 0
        await server.until(lambda: bool(server.logged("SSH_DISCONNECTED")), "the connection's end is logged")
        assert not await accepted(keycloak, token)
        log = server.log_file.read_text()
    assert token not in log
    assert SECRET not in log


async def agree(browser: Browser, person: str, *, consent: bool = True) -> None:
    """*person* logs in on the provider's page, and answers the question that follows."""
    await browser.until("document.querySelector('input[name=password], [name=accept]')")
    # The provider may know its visitor.
    if await browser.evaluate("Boolean(document.querySelector('input[name=password]'))"):
        if await browser.evaluate("Boolean(document.querySelector('input[name=username]'))"):
            await browser.fill("username", person)
        await browser.fill("password", PASSWORD)
        await browser.click("[type=submit]")
        await browser.until("document.querySelector('[name=accept]')")
    await browser.click(f"[name={'accept' if consent else 'cancel'}]")


async def test_a_browser_agrees_to_the_device_that_openssh_is(
    engine: Engine, keycloak: Keycloak, tmp_path: Path
) -> None:
    async with serving(engine, keycloak, deviceFlow=True) as (server, _), browsing(tmp_path) as browser:
        client = OpenSSH(tmp_path).spawn(server, CLAIM, *INTERACTIVE)
        await browser.open(await link_of(client))
        await agree(browser, "alice")
        await client.expect(rb"I am alice\.", async_=True)
        assert await ended(client) == 0
        # The provider's own words for it.
        await browser.until("document.body.innerText.includes('Device Login Successful')")


async def test_a_browser_brings_the_code_to_our_page_and_a_refusal_too(
    engine: Engine, keycloak: Keycloak, tmp_path: Path
) -> None:
    async with serving(engine, keycloak, authorizationCodeFlow=True) as (server, page), browsing(tmp_path) as browser:
        denied = OpenSSH(tmp_path, password=None).spawn(server, CLAIM, *INTERACTIVE)
        await browser.open(await link_of(denied))
        await agree(browser, "bob", consent=False)
        await browser.until(f"location.href.startsWith({page!r})")
        assert "No login" in await browser.text()
        assert await browser.evaluate("document.querySelector('code') === null")
        denied.sendintr()
        await ended(denied)
        client = OpenSSH(tmp_path, password=None).spawn(server, CLAIM, *INTERACTIVE)
        await browser.open(await link_of(client))
        await agree(browser, "bob")
        await browser.until(f"location.href.startsWith({page!r})")
        code = str(await browser.evaluate("document.querySelector('code').innerText"))
        await client.expect(rb"Please paste the received code: ", async_=True)
        client.sendline(code)
        await client.expect(rb"I am bob\.", async_=True)
        assert await ended(client) == 0


async def test_openssh_shows_that_the_login_was_denied(engine: Engine, keycloak: Keycloak, tmp_path: Path) -> None:
    async with serving(engine, keycloak, deviceFlow=True) as (server, _):
        client = OpenSSH(tmp_path).spawn(server, "true", *INTERACTIVE)
        await visit(await link_of(client), "alice", consent=False)
        await client.expect(rb"The login was denied in the browser\.", async_=True)
        assert await ended(client) == 255


async def test_openssh_logs_in_with_the_code_that_the_page_shows(
    engine: Engine, keycloak: Keycloak, tmp_path: Path
) -> None:
    async with serving(engine, keycloak, authorizationCodeFlow=True) as (server, _):
        client = OpenSSH(tmp_path, password=None).spawn(server, CLAIM, *INTERACTIVE)
        page = await visit(await link_of(client), "bob")
        shown = re.search(r"<code>(.*?)</code>", page)
        assert shown is not None, page
        await client.expect(rb"Please paste the received code: ", async_=True)
        client.sendline(html.unescape(shown[1]))
        await client.expect(rb"I am bob\.", async_=True)
        assert await ended(client) == 0


async def test_a_code_of_another_login_does_not_open_this_one(
    engine: Engine, keycloak: Keycloak, tmp_path: Path
) -> None:
    async with serving(engine, keycloak, authorizationCodeFlow=True) as (server, _):
        victim = OpenSSH(tmp_path, password=None).spawn(server, CLAIM, *INTERACTIVE)
        stolen = re.search(r"<code>(.*?)</code>", await visit(await link_of(victim), "bob"))
        assert stolen is not None
        attacker = OpenSSH(tmp_path, password=None).spawn(server, CLAIM, *INTERACTIVE)
        await link_of(attacker)
        await attacker.expect(rb"received code: ", async_=True)
        attacker.sendline(html.unescape(stolen[1]))
        await attacker.expect(rb"This code belongs to another login\.", async_=True)
        assert await ended(attacker) == 255
        victim.sendintr()
        await ended(victim)
        await server.told("SSH_AUTH_FAILED")
        assert not server.logged("SSH_AUTH_SUCCESSFUL")


async def test_putty_logs_in_by_the_device_flow(engine: Engine, keycloak: Keycloak, tmp_path: Path) -> None:
    async with serving(engine, keycloak, deviceFlow=True) as (server, _):
        command = ["-ssh", "-P", str(server.port), "alice@127.0.0.1", CLAIM]
        env = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin", "LC_ALL": "C"}
        client: pexpect.spawn[bytes] = pexpect.spawn(tool("plink"), command, env=env, timeout=15, encoding=None)
        await client.expect(rb"Store key in cache\?", async_=True)
        client.sendline("n")
        await client.expect(rb"link: (http.*?)\r\n\| \r\n", async_=True)
        assert isinstance(client.match, re.Match)
        # It marks lines that are the server's, and breaks long ones.
        await visit(re.sub(rb"\s+> ", b"", client.match.group(1)).decode(), "alice")
        await client.expect(rb"Press Return to begin session", async_=True)
        client.sendline("")
        await client.expect(rb"I am alice\.", async_=True)
        assert await ended(client) == 0


async def test_the_page_follows_the_configuration_when_it_is_read_again(engine: Engine, keycloak: Keycloak) -> None:
    async with serving(engine, keycloak, deviceFlow=True) as (server, page):
        other = f"127.0.0.1:{product.free_port()}"
        path = server.folder / "config.yaml"
        path.write_text(path.read_text().replace(page.removeprefix("http://").rstrip("/"), other))
        server.process.send_signal(signal.SIGHUP)
        await server.until(lambda: len(server.logged("AUTH_OAUTH2_AVAILABLE")) == 2, "the page is served again")
        async with aiohttp.ClientSession() as session:
            async with session.get(f"http://{other}/?state=a&code=b") as answer:
                assert answer.status == 200
            with pytest.raises(aiohttp.ClientConnectionError):
                await session.get(page)
