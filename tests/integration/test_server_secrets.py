"""What must never be written down: every secret that passes through a server with webhooks, at the level debug."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest

from tests.support import server as product
from tests.support.openssh import OpenSSH
from tests.support.services import Engine
from tests.support.webhook import Reply, Request, webhook

pytestmark = pytest.mark.docker

MARK = "s3cr3t-m4rk"


def _yes() -> dict[str, Any]:
    def sensitive(value: str) -> dict[str, Any]:
        return {"value": value, "sensitive": True}

    return {
        "success": True,
        "authenticatedUsername": "alice",
        "metadata": {"M": sensitive(f"{MARK}-metadata")},
        "environment": {"E": sensitive(f"{MARK}-environment"), "A=B": sensitive(f"{MARK}-odd")},
        "files": {"/proc/nowhere": sensitive(base64.b64encode(f"{MARK}-file".encode()).decode())},
    }


async def test_no_secret_reaches_the_log_or_the_servers_output(
    engine: Engine, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Good answers, faults and refusals; also a name and a password in a webhook's URL, and a registry's."""
    client = OpenSSH(tmp_path, password=f"{MARK}-password")
    configs = iter(
        [
            {},
            {"docker": {"execution": {"auth": {"password": f"{MARK}-registry", "username": {"not": "text"}}}}},
            {"docker": {"execution": {"container": {"Env": [f"X={MARK}-config"], "Image": "no.such:1"}}}},
            {"docker": {"connection": {"key": f"{MARK}-key", "host": "https://127.0.0.1:9"}}},
            {"ssh": {"hostkeys": [f"{MARK}-hostkey"]}},
        ]
    )

    def answer(asked: Request) -> Reply:
        if asked.path == "/config":
            return Reply({"config": next(configs)})
        return Reply(_yes() | {"environment": {"E": _yes()["environment"]["E"]}})

    async with webhook() as hook:
        address = hook.url.replace("http://", f"http://gateway:{MARK}-basic@")
        method = {"method": "webhook", "webhook": {"url": address, "authTimeout": "2s"}}
        docker = {
            "connection": {"host": f"unix://{engine.socket}"},
            "execution": {
                "container": {"image": "bb:latest"},
                "shellCommand": ["/bin/sh"],
                "imagePullPolicy": "Never",
                "auth": {"username": "puller", "password": f"{MARK}-puller"},
            },
        }
        config = {
            "auth": {"password": method},
            "configserver": {"url": f"{address}/config"},
            "backend": "docker",
            "docker": docker,
        }
        async with product.serving(config) as server:
            hook.answers = [answer]
            done = await client.run(server, "echo $E", "-o", f"SetEnv=SENT={MARK}-sent")
            assert done.stdout.decode().strip() == f"{MARK}-environment"
            said = [(await client.run(server, "true")).stderr for _ in range(4)]
            assert all(b"containerssh: " in line for line in said[:3]), said
            for fault in (
                Reply(_yes()),
                Reply(status=500, raw=MARK.encode()),
                Reply(raw=f'{{"{MARK}'.encode()),
                Reply(status=307, headers={"Location": f"http://x:{MARK}@127.0.0.1:9/"}),
            ):
                hook.answers = [fault]
                said.append((await client.run(server, "true")).stderr)
                assert b"Permission denied" in said[-1]
            await server.stop()
            log = (server.folder / "server.log").read_text()
    output = capfd.readouterr()
    assert log.count("\n") > 100, "there was something to look at"
    for text in (log, output.out, output.err, *(line.decode() for line in said)):
        at = text.find(MARK)
        assert at < 0, text[max(0, at - 300) : at + 100]
    encoded = base64.b64encode(f"{MARK}-password".encode()).decode()
    assert encoded not in log
