"""Questions to a webhook."""

from __future__ import annotations

from typing import Any

import pytest

from containerssh.config.http import HTTPClientConfig
from containerssh.web.client import Answer, WebhookError, open_http_client


def config(url: str, **more: Any) -> HTTPClientConfig:
    return HTTPClientConfig.model_validate({"url": url, **more})


async def post(url: str, path: str = "/password", **more: Any) -> Answer:
    async with open_http_client(config(url, **more)) as client:
        return await client.post(path, {"question": "marker"})


async def failed(url: str, **more: Any) -> WebhookError:
    with pytest.raises(WebhookError) as caught:
        await post(url, **more)
    return caught.value
