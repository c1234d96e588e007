"""The page that Prometheus reads (``observability.md`` section 6.1)."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager

from aiohttp import web

from containerssh.config.services import MetricsConfig
from containerssh.core.codes import MetricsCode
from containerssh.core.messages import Event
from containerssh.core.metrics import Sample, page
from containerssh.web.server import serving

logger = logging.getLogger(__name__)

_TYPE = "application/openmetrics-text; version=1.0.0; charset=utf-8"


@asynccontextmanager
async def metrics_page(
    config: MetricsConfig, samples: Callable[[], Iterable[Sample]]
) -> AsyncIterator[list[tuple[str, int]]]:
    """
    Serve *samples* on the yielded addresses inside the scope, at the configured path and nowhere else.

    Raises:
        ConfigError: a TLS setting cannot be used.
        BackendError: the server cannot listen on the address.
    """

    async def answer(request: web.BaseRequest) -> web.Response:
        headers = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
        if request.rel_url.raw_path != config.path:
            return web.Response(status=404, headers=headers)
        return web.Response(body=page(samples()).encode(), headers={**headers, "Content-Type": _TYPE})

    async with serving(config, answer) as addresses:
        shown = ", ".join(f"{host}:{port}" for host, port in addresses)
        logger.info(
            Event(MetricsCode.AVAILABLE, f"Metrics server available on {shown}{config.path}", url=config.listen)
        )
        yield addresses
