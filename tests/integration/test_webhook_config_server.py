"""The config server's client, against a real HTTP server."""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta
from typing import Any

import pytest

from containerssh.auth.config_server import ConfigAnswer, ConfigServer, open_config_server
from containerssh.config.services import ConfigServerConfig
from containerssh.core.codes import ConfigCode
from containerssh.core.errors import BackendError, ConfigError
from containerssh.core.metadata import Login, SocketAddress, Value
from containerssh.web.client import open_http_client
from tests.support.webhook import Reply, webhook

LOGIN = Login(
    SocketAddress("2001:db8::1", 4711),
    "0123456789abcdef" * 2,
    metadata={"team": Value("blue"), "token": Value("marker", sensitive=True)},
    environment={"A": Value("1"), "S": Value("marker", sensitive=True)},
    files={"/f": Value(b"x"), "/s": Value(b"marker", sensitive=True)},
    client_version="SSH-2.0-x",
    username="alias",
    authenticated_username="real",
)


def config(url: str, **more: Any) -> ConfigServerConfig:
    return ConfigServerConfig.model_validate({"url": url, **more})


async def ask(url: str, login: Login = LOGIN, **more: Any) -> ConfigAnswer:
    async with open_config_server(config(url, **more)) as server:
        return await server.ask(login)


async def test_the_request_has_every_field_in_upstreams_order_and_no_secret() -> None:
    async with webhook() as hook:
        hook.answers = [Reply({})]
        await ask(f"{hook.url}/config")
    assert list(hook.requests[0].json.items()) == [
        ("remoteAddress", "[2001:db8::1]:4711"),
        ("connectionId", "0123456789abcdef" * 2),
        ("metadata", {"team": {"value": "blue", "sensitive": False}}),
        ("environment", {"A": {"value": "1", "sensitive": False}}),
        ("files", {"/f": {"value": "eA==", "sensitive": False}}),
        ("clientVersion", "SSH-2.0-x"),
        ("username", "alias"),
        ("authenticatedUsername", "real"),
    ]
    assert hook.requests[0].path == "/config"


async def test_secrets_are_sent_where_the_configuration_says_so() -> None:
    async with webhook() as hook:
        hook.answers = [Reply({})]
        await ask(hook.url, transmitSensitiveMetadata=True)
    assert hook.requests[0].json["metadata"] == {
        "team": {"value": "blue", "sensitive": False},
        "token": {"value": "marker", "sensitive": True},
    }


async def test_empty_fields_are_left_out() -> None:
    async with webhook() as hook:
        hook.answers = [Reply({})]
        await ask(hook.url, Login(LOGIN.remote_address, "0" * 32, username="u"))
    assert list(hook.requests[0].json) == ["remoteAddress", "connectionId", "clientVersion", "username"]


@pytest.mark.parametrize("answer", [{}, {"config": None}, {"config": {}}, {"metadata": None, "configMode": ""}])
async def test_an_empty_answer_changes_nothing(answer: object) -> None:
    async with webhook() as hook:
        hook.answers = [Reply(answer)]
        told = await ask(hook.url)
    assert told.login == LOGIN
    assert not told.config
    assert not told.overlay


async def test_what_the_answer_says_is_merged_and_secrets_that_were_not_sent_stay() -> None:
    async with webhook() as hook:
        hook.answers = [
            Reply(
                {
                    "CONFIG": {"docker": {"x": 1}},
                    "configmode": "overlay",
                    "Environment": {"A": {"value": "2"}, "B": {"Value": "3", "SENSITIVE": True}},
                    "authenticatedUsername": "other",
                    "remoteAddress": ":22",
                    "unknown": 5,
                }
            )
        ]
        told = await ask(hook.url)
    assert told.config == {"docker": {"x": 1}}
    assert told.overlay
    assert told.login.environment == {
        "A": Value("2"),
        "S": Value("marker", sensitive=True),
        "B": Value("3", sensitive=True),
    }
    assert told.login.metadata == LOGIN.metadata
    assert told.login.authenticated_username == "other"
    assert told.login.username == "alias"


@pytest.mark.parametrize(
    "answer",
    [
        {"config": []},
        {"config": "x"},
        {"configMode": "replace"},
        {"configMode": True},
        {"environment": {"A": 1}},
        {"files": {"x": {"value": ""}}},
        {"authenticatedUsername": {}},
    ],
    ids=repr,
)
async def test_an_answer_of_another_form_is_a_configuration_error(answer: object) -> None:
    async with webhook() as hook:
        hook.answers = [Reply(answer)]
        with pytest.raises(ConfigError) as caught:
            await ask(hook.url)
    assert caught.value.code == ConfigCode.BACKEND_ERROR
    assert len(hook.requests) == 1


async def test_a_passing_fault_is_asked_again_and_a_lasting_one_is_given_up() -> None:
    async with webhook() as hook:
        hook.answers = [Reply(status=502), Reply({"config": {"a": 1}})]
        assert (await ask(hook.url)).config == {"a": 1}
        hook.answers = [Reply(status=500)]
        start = time.monotonic()
        async with open_http_client(config(hook.url)) as client:
            server = ConfigServer(config(hook.url), client, patience=timedelta(milliseconds=300))
            with pytest.raises(BackendError) as caught:
                await server.ask(LOGIN)
    assert time.monotonic() - start < 5
    assert caught.value.code == ConfigCode.BACKEND_ERROR
    assert caught.value.labels["reason"] == ConfigCode.INVALID_STATUS_CODE


async def test_a_client_that_leaves_ends_the_retries() -> None:
    async with webhook() as hook, open_config_server(config(hook.url)) as server:
        hook.answers = [Reply(status=500)]
        task = asyncio.create_task(server.ask(LOGIN))
        await asyncio.wait_for(hook.asked.wait(), 10)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert len(hook.requests) == 1
