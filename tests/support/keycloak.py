"""Keycloak, a real OpenID Connect provider, and a browser user who logs in there."""

from __future__ import annotations

import html.parser
import json
import os
import shutil
import signal
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import aiohttp
import pytest
from yarl import URL

from tests.support.server import free_port
from tests.support.services import wait_until

CLIENT = "containerssh"
SECRET = "testbed-client-secret"
PASSWORD = "browser-password"
PEOPLE = ("alice", "bob")
_HOME = Path(__file__).parents[2] / ".cache" / "keycloak-26.4.0"


@dataclass(frozen=True)
class Keycloak:
    """A started server with one realm."""

    url: str
    """The issuer, with a slash at its end."""


def _realm() -> dict[str, object]:
    users = [
        {
            "username": name,
            "enabled": True,
            "email": f"{name}@example.org",
            "emailVerified": True,
            "firstName": name.title(),
            "lastName": "Example",
            "credentials": [{"type": "password", "value": PASSWORD, "temporary": False}],
        }
        for name in PEOPLE
    ]
    client = {
        "clientId": CLIENT,
        "secret": SECRET,
        "publicClient": False,
        "consentRequired": True,
        "standardFlowEnabled": True,
        "redirectUris": ["http://127.0.0.1:*"],
        # Our code flow has to keep to it.
        "attributes": {"oauth2.device.authorization.grant.enabled": "true", "post.logout.redirect.uris": "+"},
    }
    return {
        "realm": "tests",
        "enabled": True,
        "sslRequired": "none",
        "oauth2DeviceCodeLifespan": 60,
        "oauth2DevicePollingInterval": 1,
        "users": users,
        "clients": [client],
    }


@contextmanager
def running_keycloak(folder: Path) -> Iterator[Keycloak]:
    """A server on a free port; *folder* gets its files. It takes half a minute to start."""
    built = Path(os.environ.get("KEYCLOAK_HOME", _HOME))
    if not (built / ".built").exists():
        pytest.fail("Keycloak is missing: run scripts/setup test")
    home = folder / "home"
    (home / "data" / "import").mkdir(parents=True)
    (home / "data" / "import" / "tests.json").write_text(json.dumps(_realm()))
    # It takes its home from where the script lies, links resolved.
    shutil.copytree(built / "bin", home / "bin")
    for name in ("conf", "lib", "providers", "themes", "version.txt"):
        (home / name).symlink_to(built / name)
    port = free_port()
    options = ["--optimized", "--import-realm", "--http-enabled=true", "--hostname-strict=false", "--cache=local"]
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [home / "bin" / "kc.sh", "start", *options, "--http-host=127.0.0.1", f"--http-port={port}"],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={
                **os.environ,
                "JAVA_OPTS_KC_HEAP": "-Xms64m -Xmx384m",
                "JAVA_OPTS_APPEND": "-XX:TieredStopAtLevel=1 -Djava.net.preferIPv4Stack=true",
            },
        )
    issuer = f"http://127.0.0.1:{port}/realms/tests"

    def answers() -> bool:
        assert process.poll() is None, log.read_text()[-2000:]
        try:
            urllib.request.urlopen(f"{issuer}/.well-known/openid-configuration", timeout=5).close()
        except (OSError, urllib.error.URLError):
            return False
        return True

    try:
        wait_until(answers, within=200, what="Keycloak answers")
        yield Keycloak(f"{issuer}/")
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@dataclass
class _Form:
    action: str
    fields: dict[str, str] = field(default_factory=dict)
    buttons: dict[str, str] = field(default_factory=dict)


class _Forms(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[_Form] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag == "form":
            self.found.append(_Form(given.get("action", "")))
        elif tag in ("input", "button") and self.found and given.get("name"):
            is_button = tag == "button" or given.get("type") == "submit"
            place = self.found[-1].buttons if is_button else self.found[-1].fields
            place[given["name"]] = given.get("value", "")


async def visit(link: str, person: str, *, consent: bool = True) -> str:
    """*person* opens *link*, logs in, and agrees or not; the text of the last page."""
    origin = urlsplit(link)
    jar = aiohttp.CookieJar(unsafe=True, treat_as_secure_origin=URL(f"{origin.scheme}://{origin.netloc}"))
    async with aiohttp.ClientSession(cookie_jar=jar, timeout=aiohttp.ClientTimeout(total=30)) as browser:
        async with browser.get(link) as page:
            where, text = str(page.url), await page.text()
        for _ in range(6):
            forms = _Forms()
            forms.feed(text)
            form = next((form for form in forms.found if form.action), None)
            if form is None:
                break
            if "password" in form.fields:
                answers = {**form.fields, "username": person, "password": PASSWORD}
            elif "accept" in form.buttons:
                chosen = "accept" if consent else "cancel"
                answers = {**form.fields, chosen: form.buttons[chosen]}
            else:
                break
            async with browser.post(urljoin(where, form.action), data=answers) as page:
                where, text = str(page.url), await page.text()
    return text
