"""An application of aiohttp that answers the gateway's questions."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from aiohttp import web

from containerssh.webhook.messages import (
    Answer,
    AuthorizationRequest,
    ConfigAnswer,
    ConfigRequest,
    InteractiveAnswer,
    InteractiveRequest,
    PasswordRequest,
    PublicKeyRequest,
    Request,
)
from containerssh.webhook.wire import LARGEST_REQUEST, InvalidRequest, read_request, write_answer

logger = logging.getLogger(__name__)

R = TypeVar("R", bound=Request)
A = TypeVar("A", Answer, ConfigAnswer, InteractiveAnswer)
Handler = Callable[[web.Request], Awaitable[web.Response]]

_PATIENCE = 30.0
"""Seconds for a request's body: the gateway gives up long before."""


def app(
    *,
    password: Callable[[PasswordRequest], Awaitable[Answer]] | None = None,
    public_key: Callable[[PublicKeyRequest], Awaitable[Answer]] | None = None,
    authorization: Callable[[AuthorizationRequest], Awaitable[Answer]] | None = None,
    config: Callable[[ConfigRequest], Awaitable[ConfigAnswer]] | None = None,
    interactive: Callable[[InteractiveRequest], Awaitable[InteractiveAnswer]] | None = None,
) -> web.Application:
    """
    An application with ``/password``, ``/pubkey``, ``/authz``, ``/config`` and ``/interactive``, each where there is a
    function for it.

    Run it with ``aiohttp.web.run_app``, or make it a part of another application (``add_subapp``). Who may ask is
    settled in front of it: by TLS with client certificates, a private network, or a middleware.

    A function that fails, or returns something else than its answer, is logged with its traceback; the gateway gets
    status 500 without the reason, and asks again.
    """
    application = web.Application(client_max_size=LARGEST_REQUEST)
    if password is not None:
        application.router.add_post("/password", _handler(PasswordRequest, Answer, password))
    if public_key is not None:
        application.router.add_post("/pubkey", _handler(PublicKeyRequest, Answer, public_key))
    if authorization is not None:
        application.router.add_post("/authz", _handler(AuthorizationRequest, Answer, authorization))
    if config is not None:
        application.router.add_post("/config", _handler(ConfigRequest, ConfigAnswer, config))
    if interactive is not None:
        application.router.add_post("/interactive", _handler(InteractiveRequest, InteractiveAnswer, interactive))
    return application


def _handler(kind: type[R], returned: type[A], judge: Callable[[R], Awaitable[A]]) -> Handler:
    async def handle(request: web.Request) -> web.Response:
        # A form of a foreign web page cannot send this type without asking first.
        if request.content_type != "application/json":
            return _error(415, "the request is not application/json")
        try:
            async with asyncio.timeout(_PATIENCE):
                body = await request.read()
            asked = read_request(kind, body)
        except TimeoutError:
            return _error(408, "the request did not arrive in time")
        except web.HTTPRequestEntityTooLarge:
            return _error(413, f"the request has more than {LARGEST_REQUEST} bytes")
        except InvalidRequest as exc:
            return _error(400, str(exc))
        try:
            said = write_answer(_checked(await judge(asked), returned))
        except Exception:
            # Also those of the administrator's own functions, whatever they are: the next request is served.
            logger.exception("the webhook %s failed", request.path)
            return _error(500, "the webhook failed")
        return web.Response(body=said, content_type="application/json")

    return handle


def _checked(answer: object, kind: type[A]) -> A:
    """What an untyped function returned may be anything; True alone must not become a yes."""
    if not isinstance(answer, kind):
        raise TypeError(f"{type(answer).__name__} was returned, not {kind.__name__}")
    return answer


def _error(status: int, text: str) -> web.Response:
    return web.Response(status=status, body=json.dumps({"error": text}).encode(), content_type="application/json")
