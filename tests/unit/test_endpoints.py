"""HTTP servers that change while the server runs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from containerssh.config.services import HealthConfig
from containerssh.core.codes import HTTPCode
from containerssh.core.errors import BackendError
from containerssh.endpoints import Endpoint


async def test_one_that_could_not_be_opened_is_tried_again_with_the_same_settings() -> None:
    failures = [BackendError(HTTPCode.LISTEN_FAILED, "in use")]
    opened = []

    @asynccontextmanager
    async def serving(config: HealthConfig) -> AsyncIterator[None]:
        if failures:
            raise failures.pop()
        opened.append(config)
        yield

    endpoint = Endpoint("Health check endpoint", serving)
    config = HealthConfig.model_validate({"enable": True})
    with pytest.raises(BackendError, match="in use"):
        await endpoint.use(config)
    for _ in range(2):
        await endpoint.use(config)
    assert opened == [config]
    await endpoint.close()
