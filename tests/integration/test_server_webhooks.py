"""The whole server with webhooks and a config server on a real Docker engine, and the real OpenSSH client."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pexpect
import pytest

from tests.support import server as product
from tests.support.docker import build_image, scratch_image
from tests.support.openssh import OpenSSH
from tests.support.registry import running_registry
from tests.support.services import Engine
from tests.support.webhook import Reply, Webhook, webhook

pytestmark = pytest.mark.docker

YES: dict[str, Any] = {"success": True, "authenticatedUsername": "alice"}


def hooked(hook: Webhook, **more: Any) -> dict[str, Any]:
    method = {"method": "webhook", "webhook": {"url": hook.url}}
    return {"auth": {"password": method, "publicKey": method}, **more}


@asynccontextmanager
async def serving(engine: Engine, **more: Any) -> AsyncIterator[tuple[product.Server, Webhook]]:
    """A server whose logins land in busybox, and the webhook that it asks for everything."""
    docker = {
        "connection": {"host": f"unix://{engine.socket}"},
        "execution": {
            "container": {"image": "bb:latest"},
            "shellCommand": ["/bin/sh"],
            "imagePullPolicy": "Never",
            **more,
        },
    }
    async with (
        webhook() as hook,
        product.serving(
            hooked(hook, backend="docker", docker=docker, configserver={"url": f"{hook.url}/config"})
        ) as server,
    ):
        yield server, hook


def answering(hook: Webhook, *, password: dict[str, Any], config: dict[str, Any]) -> None:
    hook.answers = [lambda asked: Reply(config if asked.path == "/config" else password)]


async def test_what_the_webhooks_return_arrives_in_the_container(engine: Engine, openssh: OpenSSH) -> None:
    async with serving(engine, exposeAuthMetadataAsEnv=True) as (server, hook):
        answering(
            hook,
            password={
                **YES,
                "metadata": {"TEAM": {"value": "blue"}},
                "environment": {"TOKEN": {"value": "t0ken", "sensitive": True}},
                "files": {"/etc/motto": {"value": base64.b64encode(b"per aspera").decode()}},
            },
            config={"config": {"docker": {"execution": {"container": {"Env": ["FROM=config"]}}}}},
        )
        done = await openssh.run(server, "echo $TEAM $TOKEN $FROM; cat /etc/motto; stat -c %a /etc/motto")
        assert done.stdout == b"blue t0ken config\nper aspera600\n"
        asked = next(r for r in hook.requests if r.path == "/config").json
        assert "environment" not in asked, "a sensitive value stays away from the next webhook"
        assert asked["metadata"] == {"TEAM": {"value": "blue", "sensitive": False}}
        assert "t0ken" not in (server.folder / "server.log").read_text()


async def test_the_config_server_gives_each_user_another_image(engine: Engine, openssh: OpenSSH) -> None:
    bare = scratch_image(engine)
    async with serving(engine) as (server, hook):
        config = {
            "config": {"docker": {"execution": {"container": {"Image": bare}, "shellCommand": ["/busybox", "sh"]}}}
        }
        answering(hook, password=YES, config=config)
        done = await openssh.run(server, "/busybox echo from scratch")
        assert (done.status, done.stdout) == (0, b"from scratch\n")
        assert (await openssh.run(server, None, stdin=b"echo $((6*7))\n")).stdout == b"42\n"


async def test_a_wrong_answer_ends_one_login_and_names_a_reference(engine: Engine, openssh: OpenSSH) -> None:
    async with serving(engine) as (server, hook):
        answering(hook, password=YES, config={"config": {"docker": {"execution": {"nosuch": 1}}}})
        done = await openssh.run(server, "echo never")
        assert (done.status, done.stdout) == (255, b"")
        reference = done.stderr.decode().split("reference ")[1].rstrip(")\n")
        assert any(reference == line["details"].get("connectionId") for line in server.log if line["level"] == "error")
        answering(hook, password=YES, config={"config": {}})
        assert (await openssh.run(server, "echo next")).stdout == b"next\n"


async def test_a_killed_servers_containers_are_removed_by_the_next_start(engine: Engine, openssh: OpenSSH) -> None:
    async with serving(engine) as (server, hook):
        answering(hook, password=YES, config={})
        session = asyncio.create_task(openssh.run(server, "sleep 600"))
        await server.until(lambda: bool(server.logged("SSH_CHANNEL_REQUEST_SUCCESSFUL")), "the program runs")
        connection = server.logged("SSH_HANDSHAKE_SUCCESSFUL")[0]["details"]["connectionId"]
        look = ("ps", "-aq", "--filter", f"label=containerssh_connection_id={connection}")
        await server.kill()
        await session
        assert engine.docker(*look).split()
        (server.folder / "server.log").unlink()
        await server.start()
        await server.until(lambda: not engine.docker(*look).split(), "the container is removed")


async def test_a_client_that_vanishes_takes_its_container_along(engine: Engine, openssh: OpenSSH) -> None:
    async with serving(engine) as (server, hook):
        answering(hook, password=YES, config={})
        session = asyncio.create_task(openssh.run(server, "trap '' HUP TERM INT; while :; do :; done"))
        await server.until(lambda: bool(server.logged("SSH_CHANNEL_REQUEST_SUCCESSFUL")), "the program runs")
        connection = server.logged("SSH_HANDSHAKE_SUCCESSFUL")[0]["details"]["connectionId"]
        session.cancel()
        look = ("ps", "-aq", "--filter", f"label=containerssh_connection_id={connection}")
        await server.until(lambda: not engine.docker(*look).split(), "the container is removed")


async def test_a_pull_is_shown_on_terminals_and_nowhere_else(engine: Engine, openssh: OpenSSH, tmp_path: Path) -> None:
    with running_registry(tmp_path, password="") as registry:
        name = f"{registry.address}/lab/pulled:1"

        def put() -> None:
            build_image(engine, name, "bb:latest", "RUN echo pulled >/marker")
            engine.docker("push", "--quiet", name)
            engine.docker("image", "rm", "--force", name)

        async with serving(engine, container={"image": name}, imagePullPolicy="IfNotPresent") as (server, hook):
            answering(hook, password=YES, config={})
            await asyncio.to_thread(put)
            terminal = openssh.spawn(server, "cat /marker")
            await terminal.expect(pexpect.EOF, async_=True)
            terminal.close()
            assert (terminal.before or b"").startswith(f"Pulling image {name}".encode())
            assert (terminal.before or b"").endswith(b"pulled\r\n")
            engine.docker("image", "rm", "--force", name)
            done = await openssh.run(server, "cat /marker")
            assert (done.status, done.stdout, done.stderr) == (0, b"pulled\n", b"")
            engine.docker("image", "rm", "--force", name)
        async with serving(engine, container={"image": f"{name}-not"}, imagePullPolicy="Always") as (server, hook):
            answering(hook, password=YES, config={})
            done = await openssh.run(server, "echo never", limit=15)
            assert (done.status, done.stdout) == (255, b"")
            assert b"reference " in done.stderr
            await server.until(lambda: "manifest unknown" in str(server.log), "the engine's words are in the log")
