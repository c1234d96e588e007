"""The health endpoint, for load balancers and orchestrators (``observability.md`` section 7)."""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

from aiohttp import web

from containerssh.config.services import HealthConfig
from containerssh.core.codes import HealthCode
from containerssh.core.messages import Event
from containerssh.web.client import WebhookError, open_http_client
from containerssh.web.server import serving

logger = logging.getLogger(__name__)

_TYPES = ("application/json", "text/plain", "text/html")
_RANGE = re.compile(r"(?P<type>[\w!#$&^.+*-]+)/(?P<subtype>[\w!#$&^.+*-]+)", re.ASCII)
_WEIGHT = re.compile(r"0(\.\d{0,3})?|1(\.0{0,3})?", re.ASCII)


@asynccontextmanager
async def health_endpoint(config: HealthConfig, healthy: Callable[[], bool]) -> AsyncIterator[list[tuple[str, int]]]:
    """
    Answer 200 "ok" while *healthy*, else 503 "not ok", on the yielded addresses inside the scope.

    Raises:
        ConfigError: a TLS setting cannot be used.
        BackendError: the server cannot listen on the address.
    """

    async def answer(request: web.BaseRequest) -> web.Response:
        headers = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
        try:
            kind = negotiate(",".join(request.headers.getall("Accept", [])))
        except ValueError:
            return web.Response(status=400, text="unusable Accept header\n", headers=headers)
        if kind is None:
            return web.Response(status=406, text="only JSON and plain text are served\n", headers=headers)
        is_healthy = healthy()
        text = "ok" if is_healthy else "not ok"
        if kind == "application/json":
            text = f'"{text}"'
        return web.Response(status=200 if is_healthy else 503, text=text, content_type=kind, headers=headers)

    async with serving(config, answer) as addresses:
        shown = ", ".join(f"{host}:{port}" for host, port in addresses)
        logger.info(Event(HealthCode.AVAILABLE, f"Health check endpoint available on {shown}", url=config.listen))
        yield addresses


async def check_health(config: HealthConfig) -> bool:
    """Ask the running server (``health.client``) whether it is healthy; raises ConfigError: TLS settings are bad."""
    try:
        async with open_http_client(config.client) as client:
            answer = await client.get()
            return answer.status == 200 and isinstance(answer.json(), str)
    except WebhookError as exc:
        logger.warning(Event(HealthCode.REQUEST_FAILED, f"Request to the health check endpoint failed ({exc})"))
        return False


def negotiate(accept: str) -> str | None:
    """
    The best supported media type for an ``Accept`` header (RFC 9110 section 12.5.1); JSON without one.

    Raises:
        ValueError: it is malformed, or has a parameter that no supported type has.
    """
    ranges = list(_ranges(accept))
    if not ranges:
        return _TYPES[0]
    best: tuple[float, int, str] | None = None
    for media in _TYPES:
        main = media.partition("/")[0]
        for pattern in (media, f"{main}/*", "*/*"):
            places = [place for place, (found, _) in enumerate(ranges) if found == pattern]
            if places:
                weight = ranges[places[0]][1]
                if weight > 0 and (best is None or (weight, -places[0]) > best[:2]):
                    best = (weight, -places[0], media)
                break
    return best[2] if best else None


def _ranges(accept: str) -> Iterator[tuple[str, float]]:
    for part in accept.split(","):
        if not part.strip():
            continue
        media, *parameters = (piece.strip() for piece in part.split(";"))
        if not _RANGE.fullmatch(media) or (media.startswith("*/") and media != "*/*"):
            raise ValueError("not a media range")
        weight = 1.0
        for parameter in parameters:
            name, _, value = parameter.partition("=")
            if name.lower() != "q" or not _WEIGHT.fullmatch(value):
                raise ValueError("a parameter other than q")
            weight = float(value)
        yield media.lower(), weight
