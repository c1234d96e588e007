"""What is counted about webhooks, with the labels of 0.6."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import pytest

from containerssh.auth.config_server import ConfigServer
from containerssh.auth.webhook import open_webhook
from containerssh.config.auth import WebhookConfig
from containerssh.config.services import ConfigServerConfig
from containerssh.core import metrics
from containerssh.core.counters import counters
from containerssh.core.errors import AuthUnavailable, BackendError
from containerssh.core.metadata import AuthAttempt, Login, SocketAddress
from containerssh.core.metrics import Labels
from containerssh.web.client import open_http_client
from tests.support.webhook import Reply, webhook

ATTEMPT = AuthAttempt(SocketAddress("192.0.2.7", 4711), "0" * 32, username="alice")
YES = Reply({"success": True})


@contextmanager
def counting(prefix: str) -> Iterator[dict[tuple[str, Labels], int]]:
    """At its end the dictionary has what was counted meanwhile, of metrics that begin with *prefix*."""
    before = counters.snapshot()
    found: dict[tuple[str, Labels], int] = {}
    yield found
    for key, value in counters.snapshot().items():
        if key[0].startswith(prefix) and value != before.get(key, 0):
            found[key] = value - before.get(key, 0)


def labels(**values: str) -> Labels:
    return tuple(sorted(values.items()))


async def test_a_request_that_is_repeated_is_a_soft_failure_and_a_retry() -> None:
    async with webhook() as hook:
        hook.answers = [Reply(status=503), YES]
        config = WebhookConfig.model_validate({"url": hook.url, "authTimeout": "20s"})
        with counting("containerssh_auth_server_") as found:
            async with open_webhook(config) as authenticator:
                await authenticator.authenticate_password(ATTEMPT, b"secret")
    first, second = {"authtype": "password", "retry": "0"}, {"authtype": "password", "retry": "1"}
    assert found == {
        (metrics.AUTH_SERVER_REQUESTS, labels(**first)): 1,
        (metrics.AUTH_SERVER_REQUESTS, labels(**second)): 1,
        (metrics.AUTH_SERVER_FAILURES, labels(**first, type="soft", reason="AUTH_INVALID_STATUS")): 1,
    }


async def test_a_request_that_is_given_up_is_a_hard_failure_with_its_reason() -> None:
    async with webhook() as hook:
        hook.answers = [Reply(status=404)]
        config = WebhookConfig.model_validate({"url": hook.url})
        with counting("containerssh_auth_server_") as found, pytest.raises(AuthUnavailable):
            async with open_webhook(config) as authenticator:
                await authenticator.authenticate_password(ATTEMPT, b"secret")
    kind = {"authtype": "password", "retry": "0"}
    reason = {**kind, "reason": "AUTH_INVALID_STATUS"}
    assert found == {
        (metrics.AUTH_SERVER_REQUESTS, labels(**kind)): 1,
        (metrics.AUTH_SERVER_FAILURES, labels(**reason, type="soft")): 1,
        (metrics.AUTH_SERVER_FAILURES, labels(**reason, type="hard")): 1,
    }


async def test_requests_to_the_configuration_server_have_metrics_of_their_own() -> None:
    login = Login(SocketAddress("192.0.2.7", 4711), "0" * 32, username="alice", authenticated_username="alice")
    async with webhook() as hook:
        hook.answers = [Reply(status=404)]
        config = ConfigServerConfig.model_validate({"url": hook.url})
        with counting("containerssh_") as found, pytest.raises(BackendError):
            async with open_http_client(config) as client:
                await ConfigServer(config, client, patience=timedelta(seconds=20)).ask(login)
    reason = {"retry": "0", "reason": "CONFIG_INVALID_STATUS_CODE"}
    assert found == {
        (metrics.CONFIG_SERVER_REQUESTS, labels(retry="0")): 1,
        (metrics.CONFIG_SERVER_FAILURES, labels(**reason, type="soft")): 1,
        (metrics.CONFIG_SERVER_FAILURES, labels(**reason, type="hard")): 1,
    }
