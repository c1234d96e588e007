"""Password and public key webhooks, asked over real sockets."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import logging
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from containerssh.auth.webhook import open_webhook
from containerssh.config.auth import WebhookConfig
from containerssh.core.codes import AuthCode, HTTPCode
from containerssh.core.errors import AuthFailed, AuthUnavailable
from containerssh.core.handlers import PublicKey
from containerssh.core.messages import Event
from containerssh.core.metadata import AuthAttempt, Login, SocketAddress, Value
from tests.support.webhook import Reply, Request, webhook

YES = {"success": True, "authenticatedUsername": "real"}
KEY = PublicKey("ssh-ed25519", b"\0\0\0\x0bssh-ed25519\0\0\0 " + bytes(32))
ATTEMPT = AuthAttempt(
    SocketAddress("192.0.2.7", 4711), "0123456789abcdef" * 2, client_version="SSH-2.0-OpenSSH_9.2p1", username="alice"
)


def config(url: str, **more: Any) -> WebhookConfig:
    return WebhookConfig.model_validate({"url": url, "authTimeout": "20s", **more})


class Logged(logging.Handler):
    """The events of a test."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[tuple[str, Event]] = []

    def emit(self, record: logging.LogRecord) -> None:
        if isinstance(record.msg, Event):
            self.events.append((record.levelname, record.msg))

    def codes(self) -> list[str]:
        return [event.code for _, event in self.events]


@pytest.fixture
def logged() -> Iterator[Logged]:
    handler = Logged()
    root = logging.getLogger("containerssh")
    before = root.level
    root.setLevel(logging.DEBUG)
    root.addHandler(handler)
    yield handler
    root.removeHandler(handler)
    root.setLevel(before)


async def password(config: WebhookConfig, text: bytes = b"secret", attempt: AuthAttempt = ATTEMPT) -> Login:
    async with open_webhook(config) as authenticator:
        return await authenticator.authenticate_password(attempt, text)


async def test_a_password_is_asked_about_with_every_field_in_upstreams_order() -> None:
    async with webhook() as hook:
        await password(config(hook.url), b"p\xe4ss\0word")
    (request,) = hook.requests
    assert (request.method, request.path) == ("POST", "/password")
    assert request.headers["Content-Type"] == "application/json"
    assert request.headers["Accept"] == "application/json"
    assert request.raw.endswith(b"}\n")
    assert list(request.json.items()) == [
        ("remoteAddress", "192.0.2.7:4711"),
        ("connectionId", "0123456789abcdef" * 2),
        ("clientVersion", "SSH-2.0-OpenSSH_9.2p1"),
        ("username", "alice"),
        ("passwordBase64", base64.b64encode(b"p\xe4ss\0word").decode()),
    ]


async def test_a_key_is_asked_about_in_authorized_keys_form() -> None:
    async with webhook() as hook, open_webhook(config(hook.url)) as authenticator:
        login = await authenticator.authenticate_public_key(ATTEMPT, KEY)
    assert hook.requests[0].path == "/pubkey"
    assert hook.requests[0].json["publicKey"] == KEY.authorized_key
    assert "passwordBase64" not in hook.requests[0].json
    assert (login.username, login.authenticated_username) == ("alice", "foo")


async def test_entries_known_before_the_attempt_are_sent_and_kept() -> None:
    attempt = ATTEMPT.with_values(
        {"m": Value("1"), "s": Value("secret", sensitive=True)}, {"E": Value("2")}, {"/f": Value(b"\xff")}
    )
    async with webhook() as hook:
        hook.answers = [Reply({"success": True, "environment": {"E": {"value": "3"}, "G": {"value": "4"}}})]
        login = await password(config(hook.url), attempt=attempt)
    assert list(hook.requests[0].json)[2:5] == ["metadata", "environment", "files"]
    assert hook.requests[0].json["metadata"] == {"m": {"value": "1", "sensitive": False}}
    assert hook.requests[0].json["files"] == {"/f": {"value": "/w==", "sensitive": False}}
    assert login.environment == {"E": Value("3"), "G": Value("4")}
    assert login.metadata == attempt.metadata


async def test_html_characters_are_escaped_as_go_does() -> None:
    async with webhook() as hook:
        await password(config(hook.url), attempt=AuthAttempt(ATTEMPT.remote_address, "0" * 32, username="<&>\u2028ö"))
    assert b'"\\u003c\\u0026\\u003e\\u2028\xc3\xb6"' in hook.requests[0].raw
    assert hook.requests[0].json["username"] == "<&>\u2028ö"


async def test_everything_that_comes_with_a_yes_is_in_the_login() -> None:
    async with webhook() as hook:
        hook.answers = [
            Reply(
                {
                    **YES,
                    "metadata": {"team": {"value": "blue", "sensitive": True}},
                    "environment": {"A": {"value": "b=c"}, "EMPTY": {}},
                    "files": {"/etc/x": {"value": base64.b64encode(bytes(range(256))).decode(), "sensitive": False}},
                    "remoteAddress": "<nil>:0",
                    "connectionId": 17,
                    "username": None,
                    "clientVersion": [],
                    "newInALaterVersion": {"a": 1},
                }
            )
        ]
        login = await password(config(hook.url))
    assert login.authenticated_username == "real"
    assert login.metadata == {"team": Value("blue", sensitive=True)}
    assert login.environment == {"A": Value("b=c"), "EMPTY": Value("")}
    assert login.files == {"/etc/x": Value(bytes(range(256)))}
    assert login.remote_address == ATTEMPT.remote_address


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"success": False},
        {"success": "true"},
        {"success": 1},
        {"success": None},
        {"success": [True]},
        {"SUCCESS ": True},
        {"success": False, "environment": 5},
    ],
    ids=repr,
)
async def test_only_a_boolean_true_is_a_yes(answer: object) -> None:
    async with webhook() as hook:
        hook.answers = [Reply(answer), Reply(YES)]
        with pytest.raises(AuthFailed):
            await password(config(hook.url))
    assert len(hook.requests) == 1


@pytest.mark.parametrize(
    "raw",
    [
        b'{"success": false, "success": true}',
        b'{"success": true, "success": true}',
        b'{"success": false, "Success": true}',
        b"[]",
        b'"true"',
        b"null",
        b'{"success": true, "environment": []}',
        b'{"success": true, "environment": {"A": "b"}}',
        b'{"success": true, "environment": {"A": {"value": 1}}}',
        b'{"success": true, "environment": {"A": {"value": "b", "sensitive": "yes"}}}',
        b'{"success": true, "environment": {"A=B": {"value": "b"}}}',
        b'{"success": true, "environment": {"": {"value": "b"}}}',
        b'{"success": true, "environment": {"A": {"value": "b\\u0000"}}}',
        b'{"success": true, "files": {"relative": {"value": ""}}}',
        b'{"success": true, "files": {"/f": {"value": "not base64!"}}}',
        b'{"success": true, "authenticatedUsername": 5}',
    ],
    ids=repr,
)
async def test_a_yes_that_makes_no_sense_is_no_login_and_not_asked_for_again(raw: bytes, logged: Logged) -> None:
    async with webhook() as hook:
        hook.answers = [Reply(raw=raw), Reply(YES)]
        with pytest.raises(AuthUnavailable):
            await password(config(hook.url))
    assert len(hook.requests) == 1
    assert [(level, event.code) for level, event in logged.events][-1] == ("ERROR", AuthCode.BACKEND_ERROR)


@pytest.mark.parametrize("status", [201, 204, 301, 400, 401, 403, 404])
async def test_a_definite_refusal_to_answer_is_not_asked_again(status: int) -> None:
    async with webhook() as hook:
        hook.answers = [Reply(YES, status=status)]
        with pytest.raises(AuthUnavailable):
            await password(config(hook.url))
    assert len(hook.requests) == 1


@pytest.mark.parametrize(
    "fault",
    [
        Reply(YES, status=500),
        Reply(YES, status=503),
        Reply(YES, status=429),
        Reply(YES, status=408),
        Reply(raw=b'{"success": true'),
        Reply(raw=b""),
        Reply(raw=b"<html>"),
        Reply(raw=b"\xff\xfe\x00"),
        Reply(hang_up=True),
        Reply(YES, delay=5),
    ],
    ids=repr,
)
async def test_a_passing_fault_costs_nobody_a_login(fault: Reply, logged: Logged) -> None:
    async with webhook() as hook:
        hook.answers = [fault, Reply(YES)]
        login = await password(config(hook.url, timeout="200ms"))
    assert login.authenticated_username == "real"
    assert len(hook.requests) == 2
    assert [code for code in logged.codes() if code.startswith("AUTH")] == [
        AuthCode.REQUEST,
        AuthCode.BACKEND_ERROR,
        AuthCode.REQUEST,
        AuthCode.SUCCESSFUL,
    ]
    assert {level for level, _ in logged.events} == {"DEBUG"}


async def test_a_no_is_final_even_after_a_fault() -> None:
    async with webhook() as hook:
        hook.answers = [Reply(status=500), Reply({"success": False}), Reply(YES)]
        with pytest.raises(AuthFailed):
            await password(config(hook.url))
    assert len(hook.requests) == 2


async def test_the_webhook_is_given_up_after_its_time(logged: Logged) -> None:
    async with webhook() as hook:
        hook.answers = [Reply(status=500)]
        start = time.monotonic()
        with pytest.raises(AuthUnavailable):
            await password(config(hook.url, authTimeout="1500ms"))
    assert time.monotonic() - start < 3
    assert len(hook.requests) == 2
    level, event = logged.events[-1]
    assert (level, event.code) == ("ERROR", AuthCode.BACKEND_ERROR)
    assert event.labels["reason"] == AuthCode.INVALID_STATUS
    assert event.labels["authtype"] == "password"
    assert event.labels["username"] == "alice"
    assert event.labels["connectionId"] == ATTEMPT.connection_id


async def test_an_attempt_in_progress_ends_with_the_whole_time() -> None:
    async with webhook() as hook:
        hook.answers = [Reply(YES, delay=30)]
        start = time.monotonic()
        with pytest.raises(AuthUnavailable):
            await password(config(hook.url, timeout="20s", authTimeout="300ms"))
    assert time.monotonic() - start < 3


async def test_nobody_listening_is_unavailable() -> None:
    async with webhook() as hook:
        url = hook.url
    with pytest.raises(AuthUnavailable):
        await password(config(url, authTimeout="200ms"))


async def test_a_client_that_leaves_ends_the_question() -> None:
    async with webhook() as hook:
        hook.answers = [Reply(YES, delay=30)]
        async with open_webhook(config(hook.url, timeout="20s")) as authenticator:
            task = asyncio.create_task(authenticator.authenticate_password(ATTEMPT, b"x"))
            await asyncio.wait_for(hook.asked.wait(), 10)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await asyncio.wait_for(hook.gone.wait(), 10)


async def test_questions_one_after_another_share_a_connection() -> None:
    async with webhook() as hook, open_webhook(config(hook.url)) as authenticator:
        for _ in range(3):
            await authenticator.authenticate_password(ATTEMPT, b"x")
    assert len({request.peer for request in hook.requests}) == 1


async def test_a_slow_answer_holds_up_nobody_else() -> None:
    def answer(request: Request) -> Reply:
        return Reply(YES, delay=20 if request.json["username"] == "slow" else 0)

    slow = AuthAttempt(ATTEMPT.remote_address, "0" * 32, username="slow")
    async with webhook() as hook, open_webhook(config(hook.url, timeout="20s")) as authenticator:
        hook.answers = [answer]
        async with asyncio.TaskGroup() as group:
            waiting = [group.create_task(authenticator.authenticate_password(slow, b"x")) for _ in range(60)]
            start = time.monotonic()
            await authenticator.authenticate_password(ATTEMPT, b"x")
            assert time.monotonic() - start < 5
            for task in waiting:
                task.cancel()


async def test_a_huge_answer_is_not_taken_in() -> None:
    async with webhook() as hook:
        hook.answers = [Reply(raw=b'{"success": true, "a": "' + b"a" * (17 << 20) + b'"}')]
        with pytest.raises(AuthUnavailable):
            await password(config(hook.url, timeout="10s"))
    assert len(hook.requests) == 1


async def test_a_small_answer_cannot_become_a_huge_one() -> None:
    packed = gzip.compress(b'{"success": true, "a": "' + b"a" * (200 << 20) + b'"}', 1)
    async with webhook() as hook:
        hook.answers = [Reply(raw=packed, headers={"Content-Encoding": "gzip"})]
        with pytest.raises(AuthUnavailable):
            await password(config(hook.url, timeout="10s"))
    assert len(hook.requests) == 1


async def test_a_compressed_answer_is_understood() -> None:
    packed = gzip.compress(json.dumps(YES).encode()[:10]) + gzip.compress(json.dumps(YES).encode()[10:])
    async with webhook() as hook:
        hook.answers = [Reply(raw=packed, headers={"Content-Encoding": "gzip"})]
        assert (await password(config(hook.url))).authenticated_username == "real"


@pytest.mark.parametrize("damage", [lambda p: p[:-6], lambda p: p[:12] + b"\xff" * 20, lambda _: b"{}"])
async def test_a_damaged_compressed_answer_is_no_yes(damage: Any) -> None:
    packed = damage(gzip.compress(json.dumps({**YES, "filler": list(range(100))}).encode()))
    async with webhook() as hook:
        hook.answers = [Reply(raw=packed, headers={"Content-Encoding": "gzip"})]
        with pytest.raises(AuthUnavailable):
            await password(config(hook.url, authTimeout="500ms"))


async def test_a_name_that_is_no_text_is_refused_without_a_question() -> None:
    async with webhook() as hook:
        with pytest.raises(AuthFailed):
            await password(config(hook.url), attempt=AuthAttempt(ATTEMPT.remote_address, "0" * 32, username="b\udcffb"))
    assert not hook.requests


async def test_a_password_is_in_no_log_line(logged: Logged, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with webhook() as hook:
        for reply in (Reply(YES), Reply({"success": False}), Reply(status=500), Reply(raw=b"pw-marker")):
            hook.answers = [reply]
            try:
                await password(config(hook.url, authTimeout="100ms"), b"pw-marker")
            except (AuthFailed, AuthUnavailable) as exc:
                caplog.records.append(logging.LogRecord("x", 10, "", 0, repr(exc.event().text), None, None))
    text = caplog.text + "".join(f"{event.text} {event.labels}" for _, event in logged.events)
    assert HTTPCode.CLIENT_REQUEST in logged.codes()
    for marker in ("pw-marker", base64.b64encode(b"pw-marker").decode()):
        assert marker not in text


async def test_the_configured_time_covers_a_body_that_trickles() -> None:
    async def trickle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        try:
            while True:
                writer.write(b" ")
                await writer.drain()
                await asyncio.sleep(0.02)
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(trickle, "127.0.0.1", 0)
    async with server:
        host, port = server.sockets[0].getsockname()
        start = time.monotonic()
        with pytest.raises(AuthUnavailable):
            await password(config(f"http://{host}:{port}", timeout="300ms", authTimeout="400ms"))
        assert time.monotonic() - start < 3
    assert timedelta(milliseconds=300) == config("http://x", timeout="300ms").timeout
