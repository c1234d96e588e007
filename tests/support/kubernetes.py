"""The client for the Kubernetes API in tests."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta

from containerssh.backends.kubernetes.client import KubernetesClient
from containerssh.config.kubernetes_connection import KubernetesConnectionConfig


@asynccontextmanager
async def connected(
    connection: Mapping[str, object], limit: timedelta = timedelta(seconds=20)
) -> AsyncIterator[KubernetesClient]:
    """A client for what ``kubernetes.connection`` says, closed afterwards."""
    client = KubernetesClient(KubernetesConnectionConfig.model_validate(connection), limit)
    try:
        yield client
    finally:
        await client.close()
