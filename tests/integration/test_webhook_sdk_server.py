"""Webhooks written in Python: the manual's example, all of them, and the test server, asked by a whole server."""

from __future__ import annotations

import asyncio
import io
import json
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from containerssh.cli.testauthconfigserver import application
from containerssh.config.app import AppConfig
from containerssh.webhook import (
    Answer,
    AuthorizationRequest,
    ConfigAnswer,
    ConfigRequest,
    InteractiveAnswer,
    InteractiveRequest,
    PasswordRequest,
    Prompt,
    PublicKeyRequest,
    Question,
    Value,
    app,
)
from containerssh.webhook.openapi import document
from tests.support import server as product
from tests.support.oci import image
from tests.support.openapi import body_schema, problems
from tests.support.openssh import OpenSSH

ROOT = Path(__file__).parents[2]
OCI: dict[str, Any] = {"backend": "oci", "oci": {"image": str(image())}}
ASKED = {
    "remoteAddress": "127.0.0.1:1",
    "connectionId": "0" * 32,
    "clientVersion": "SSH-2.0-x",
    "username": "foo",
    "passwordBase64": "YmFy",
    "publicKey": "ssh-ed25519 AAAA",
}


@asynccontextmanager
async def listening(application: web.Application) -> AsyncIterator[str]:
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def program(*argv: str, port: int, **environment: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A program of ours that listens on *port*, until the end of the scope."""
    env = {**os.environ, **environment, "PYTHONPATH": str(ROOT / "src")}
    process = await asyncio.create_subprocess_exec(sys.executable, *argv, env=env, stderr=asyncio.subprocess.PIPE)
    try:
        async with asyncio.timeout(20):
            while True:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                    break
                except OSError:
                    assert process.returncode is None
                    await asyncio.sleep(0.05)
        writer.close()
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


def hooks(url: str) -> dict[str, Any]:
    method = {"method": "webhook", "webhook": {"url": url}}
    return {
        **OCI,
        "auth": {"password": method, "publicKey": method, "keyboardInteractive": method, "authz": method},
        "configserver": {"url": f"{url}/config"},
    }


def recording(document: dict[str, Any], seen: list[tuple[str, int, list[str]]]) -> Any:
    """A middleware that holds each request and each answer against the document."""

    @web.middleware
    async def record(
        request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        wrong = problems(document, body_schema(document, request.path), json.loads(await request.read()))
        response = await handler(request)
        assert isinstance(response, web.Response)
        assert isinstance(response.body, bytes)
        schema = body_schema(document, request.path, response.status)
        wrong += problems(document, schema, json.loads(response.body))
        seen.append((request.path, response.status, wrong))
        return response

    return record


@pytest.mark.oci
async def test_the_manuals_example_lets_alice_in_and_nobody_else(tmp_path: Path) -> None:
    page = (ROOT / "docs/auth/sdk.md").read_text()
    example = re.search(r"```python\n(.*?)```", page, re.DOTALL)
    assert example
    port = product.free_port()
    script = tmp_path / "example.py"
    script.write_text(example[1].replace("8080", str(port)))
    url = f"http://127.0.0.1:{port}"
    config = {
        **OCI,
        "auth": {"password": {"method": "webhook", "webhook": {"url": url}}},
        "configserver": {"url": f"{url}/config"},
    }
    async with program(str(script), port=port), product.serving(config) as server:
        done = await OpenSSH(tmp_path, password="open sesame").run(server, "echo $TEAM")
        assert done.check().stdout == b"blue\n"
        assert (await OpenSSH(tmp_path, password="guess").run(server, "true")).status == 255
        assert (await OpenSSH(tmp_path, "bob", "open sesame").run(server, "true")).status == 255


@pytest.mark.oci
async def test_all_are_asked_and_all_that_is_said_is_as_documented(tmp_path: Path) -> None:
    client = OpenSSH(tmp_path)
    key = await client.make_key()
    public = " ".join(key.with_suffix(".pub").read_text().split()[:2])
    secret = {"TOKEN": Value("t0ken", sensitive=True)}

    async def password(asked: PasswordRequest) -> Answer:
        return Answer(
            success=asked.password == b"secret", authenticated_username="Alice", metadata={"by": Value("password")}
        )

    async def public_key(asked: PublicKeyRequest) -> Answer:
        return Answer(success=asked.public_key == public, metadata={"by": Value("key")}, environment=secret)

    async def authorization(asked: AuthorizationRequest) -> Answer:
        assert "TOKEN" not in asked.environment
        return Answer(success=asked.username == "alice", files={"/etc/motto": Value(b"per aspera")})

    async def config(asked: ConfigRequest) -> ConfigAnswer:
        return ConfigAnswer(
            config={"oci": {"shellCommand": ["/bin/sh"]}},
            overlay=True,
            environment={"HOW": Value(f"{asked.metadata['by'].value} {asked.authenticated_username}")},
        )

    async def interactive(asked: InteractiveRequest) -> InteractiveAnswer:
        if asked.round < 2:
            prompt = Prompt(instruction=f"Round {asked.round}.", questions=[Question("Word: "), Question("Next: ")])
            return InteractiveAnswer(success=False, prompt=prompt, state=f"{asked.state}{asked.round}")
        right = (asked.state, list(asked.answers)) == ("01", ["secret", "secret"])
        return InteractiveAnswer(success=right, authenticated_username="Alice", metadata={"by": Value("answers")})

    seen: list[tuple[str, int, list[str]]] = []
    served = app(
        password=password, public_key=public_key, authorization=authorization, config=config, interactive=interactive
    )
    served.middlewares.append(recording(document(), seen))
    async with listening(served) as url, product.serving(hooks(url)) as server:
        command = "echo $HOW $TOKEN; cat /etc/motto"
        done = await client.run(server, command, "-i", str(key))
        assert done.check().stdout.split(b"\n") == [b"key t0ken", b"per aspera"]
        done = await client.run(server, command, "-o", "PreferredAuthentications=password")
        assert done.check().stdout.split(b"\n") == [b"password Alice", b"per aspera"]
        done = await client.run(server, command, "-o", "PreferredAuthentications=keyboard-interactive")
        assert done.check().stdout.split(b"\n") == [b"answers Alice", b"per aspera"]
        refused = await OpenSSH(tmp_path, "bob").run(server, "true", "-o", "PreferredAuthentications=password")
        assert refused.status == 255
    assert {path for path, _, _ in seen} == {"/password", "/pubkey", "/authz", "/config", "/interactive"}
    assert [entry for entry in seen if entry[1] != 200 or entry[2]] == []


@pytest.mark.oci
async def test_the_test_server_lets_its_users_in(tmp_path: Path) -> None:
    port = product.free_port()
    script = ("-m", "containerssh.cli.testauthconfigserver", "--listen", f"127.0.0.1:{port}")
    async with (
        program(*script, port=port) as process,
        product.serving(hooks(f"http://127.0.0.1:{port}")) as server,
    ):
        (await OpenSSH(tmp_path, "foo", "anything").run(server, "true")).check()
        assert (await OpenSSH(tmp_path, "bar", "anything").run(server, "true")).status == 255
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(20):
            _, said = await process.communicate()
        assert process.returncode == 0
    assert said.decode().splitlines() == [
        "Test Auth-Config Server is now running...",
        "Stopping Test Auth-Config Server...",
    ]


@pytest.mark.parametrize("allow_all", [False, True])
async def test_whom_the_test_server_lets_in(allow_all: bool) -> None:
    async with listening(application(allow_all=allow_all)) as url, aiohttp.ClientSession(url) as client:

        async def said(path: str, user: str) -> dict[str, Any]:
            async with client.post(path, json=ASKED | {"username": user}) as response:
                found = await response.json()
                assert isinstance(found, dict)
                return found

        for path, bob in (("/password", allow_all), ("/pubkey", False), ("/authz", allow_all)):
            assert [(await said(path, user))["success"] for user in ("foo", "busybox", "bob")] == [True, True, bob]
        for user in ("foo", "bob"):
            asked = {"username": user, "round": 0}
            async with client.post("/interactive", json=ASKED | asked) as response:
                prompt = (await response.json())["prompt"]
            assert [question["echo"] for question in prompt["questions"]] == [True]
            answered = {"username": user, "round": 1, "state": "asked", "answers": ["blue"]}
            async with client.post("/interactive", json=ASKED | answered) as response:
                assert (await response.json())["success"] is (allow_all or user == "foo")
        assert await said("/config", "foo") == {}
        config = AppConfig.model_validate((await said("/config", "busybox"))["config"]).docker
        assert config.execution.container["Image"] == "busybox"
        assert config.execution.disable_agent


async def test_a_fault_gets_its_status_and_tells_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async def password(asked: PasswordRequest) -> Answer:
        if asked.username == "foo":
            raise RuntimeError("s3cret")
        return True  # type: ignore[return-value]  # what an untyped function may do

    spec = document()
    body = json.dumps(ASKED)
    kind = {"Content-Type": "application/json"}
    async with listening(app(password=password)) as url, aiohttp.ClientSession(url) as client:
        for data, headers, status in (
            (body, kind, 500),
            (body.replace("foo", "bar"), kind, 500),
            ("{", kind, 400),
            (body, {"Content-Type": "text/plain"}, 415),
            (io.BytesIO(b" " * (9 << 20)), kind, 413),
        ):
            async with client.post("/password", data=data, headers=headers) as response:
                assert (response.status, response.content_type) == (status, "application/json")
                text = await response.text()
                assert problems(spec, body_schema(spec, "/password", status), json.loads(text)) == []
                assert "s3cret" not in text
        async with client.get("/password") as response:
            assert response.status == 405
        async with client.post("/pubkey", data=body, headers=kind) as response:
            assert response.status == 404
    assert [record.message for record in caplog.records] == ["the webhook /password failed"] * 2
