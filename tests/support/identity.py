"""A scripted identity provider, for faults that a real one does not have, and for GitHub, which cannot be had."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from aiohttp import web
from joserfc import jwk, jws

from containerssh.auth.oauth2.authenticator import open_oauth2
from containerssh.config.oauth2 import OAuth2Config
from containerssh.core.handlers import Prompts
from containerssh.core.metadata import AuthAttempt, Login, SocketAddress

CLIENT = "containerssh"
SECRET = "client-secret-marker"
TOKEN = "access-token-marker"


@dataclass(frozen=True)
class Reply:
    """What an endpoint answers."""

    body: object = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    delay: float = 0


@dataclass(frozen=True)
class Call:
    """What an endpoint was asked."""

    method: str
    path: str
    headers: dict[str, str]
    raw: bytes
    at: float

    @property
    def form(self) -> dict[str, str]:
        return dict(parse_qsl(self.raw.decode(), keep_blank_values=True))


Route = Reply | Callable[[Call], Reply]


class Provider:
    """Answers by path; an OpenID Connect provider and a GitHub at once."""

    def __init__(self) -> None:
        self.url = ""
        self.key = jwk.RSAKey.generate_key(2048, {"kid": "one"})
        self.calls: list[Call] = []
        self.routes: dict[str, Route] = {}
        self.polled = asyncio.Event()
        """The token endpoint was asked."""

    def begin(self, url: str) -> None:
        self.url = url
        self.routes = {
            "/.well-known/openid-configuration": Reply(
                {
                    "issuer": url,
                    "authorization_endpoint": f"{url}/authorize",
                    "device_authorization_endpoint": f"{url}/device",
                    "token_endpoint": f"{url}/token",
                    "userinfo_endpoint": f"{url}/userinfo",
                    "revocation_endpoint": f"{url}/revoke",
                    "jwks_uri": f"{url}/jwks",
                }
            ),
            "/jwks": Reply({"keys": [self.key.as_dict(private=False)]}),
            "/device": Reply(self.device()),
            "/token": Reply(self.granted()),
            "/userinfo": Reply({"sub": "alice", "email": "alice@example.org", "age": 7}),
            "/revoke": Reply({}),
            "/login/device/code": Reply(self.device()),
            "/login/oauth/access_token": Reply({"access_token": TOKEN, "token_type": "bearer", "scope": "read:org"}),
            "/api/user": Reply({"login": "alice", "id": 42, "name": None, "two_factor_authentication": True}),
            "/api/user/memberships/orgs/acme": Reply({"state": "active", "organization": {"login": "Acme"}}),
            f"/api/applications/{CLIENT}/token": Reply(status=204),
        }

    def device(self, **more: object) -> dict[str, object]:
        return {
            "device_code": "device-code",
            "user_code": "WDJB-MJHT",
            "verification_uri": f"{self.url}/verify",
            "expires_in": 20,
            "interval": 1,
            **more,
        }

    def granted(self, **more: object) -> dict[str, object]:
        return {"access_token": TOKEN, "token_type": "Bearer", "scope": "openid email", **more}

    def claims(self, **more: object) -> dict[str, object]:
        """Those of a good ID token."""
        now = int(time.time())
        return {"iss": self.url, "aud": CLIENT, "sub": "alice", "iat": now, "exp": now + 300, **more}

    def signed(self, claims: dict[str, object], algorithm: str = "RS256", key: Any = None) -> str:
        header = {"alg": algorithm, "kid": "one"}
        return jws.serialize_compact(header, json.dumps(claims), key or self.key, [algorithm])

    def to(self, path: str) -> list[Call]:
        return [call for call in self.calls if call.path == path]

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        raw = await request.read()
        call = Call(request.method, request.path, dict(request.headers), raw, time.monotonic())
        self.calls.append(call)
        if request.path == "/token":
            self.polled.set()
        route = self.routes.get(request.path, Reply({"error": "not_found"}, 404))
        reply = route(call) if callable(route) else route
        await asyncio.sleep(reply.delay)
        return web.Response(
            body=b"" if reply.body is None else json.dumps(reply.body).encode(),
            status=reply.status,
            headers={"Content-Type": "application/json", **reply.headers},
        )


@asynccontextmanager
async def providing() -> AsyncIterator[Provider]:
    """A provider on a free port of this machine."""
    provider = Provider()
    runner = web.ServerRunner(
        web.Server(provider.handle, handler_cancellation=True, access_log=None), shutdown_timeout=0.1
    )
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        provider.begin(f"http://127.0.0.1:{runner.addresses[0][1]}")
        yield provider
    finally:
        await runner.cleanup()


class Person(Prompts):
    """A user at a terminal: records what is shown, and answers with *answer*."""

    def __init__(self, answer: Callable[[str], Sequence[str]] = lambda _: []) -> None:
        self._answer = answer
        self.shown: list[str] = []
        self.told: list[str] = []

    async def ask(self, instruction: str, questions: Sequence[tuple[str, bool]] = ()) -> Sequence[str]:
        self.shown.append(instruction)
        return self._answer(instruction)

    def tell(self, text: str) -> None:
        self.told.append(text)


def link_in(instruction: str) -> str:
    return next(word for word in instruction.split() if word.startswith("http"))


def parameters_of(instruction: str) -> dict[str, str]:
    """The query of the link that was shown."""
    return dict(parse_qsl(urlsplit(link_in(instruction)).query))


def pasting(code: str = "the-code") -> Callable[[str], Sequence[str]]:
    """Act like a user who follows the link and pastes the text of the page."""
    return lambda instruction: [f"{parameters_of(instruction)['state']}|{code}"]


def oidc(provider: Provider, **more: object) -> dict[str, object]:
    """The section ``oauth2``; *more* goes into ``oidc``."""
    block = {"url": f"{provider.url}/", "deviceFlow": True, **more}
    return {"provider": "oidc", "clientId": CLIENT, "clientSecret": SECRET, "oidc": block}


def code_only(provider: Provider, **more: object) -> dict[str, object]:
    flows = {"deviceFlow": False, "authorizationCodeFlow": True, "redirectURI": "http://127.0.0.1:9/"}
    return oidc(provider, **{**flows, **more})


def github(provider: Provider, **more: object) -> dict[str, object]:
    block = {"url": provider.url, "apiurl": f"{provider.url}/api", **more}
    return {"provider": "github", "clientId": CLIENT, "clientSecret": SECRET, "github": block}


ATTEMPT = AuthAttempt(
    SocketAddress("192.0.2.7", 4711), "0" * 32, client_version="SSH-2.0-OpenSSH_9.2p1", username="alice"
)


async def log_in(
    settings: Mapping[str, object], person: Prompts | None = None, attempt: AuthAttempt = ATTEMPT
) -> Login:
    """One login, whose token is given back at once."""
    config = OAuth2Config.model_validate(settings)
    assert not list(config.problems()), list(config.problems())
    async with open_oauth2(config) as authenticator, AsyncExitStack() as undo:
        return await authenticator.authenticate_interactive(attempt, person or Person(), undo)
