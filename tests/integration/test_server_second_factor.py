"""The whole server: a second factor, questions by a webhook, and the authorization webhook."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from containerssh.auth.totp import parse_totp
from tests.support import server as product
from tests.support.oci import image
from tests.support.openssh import OpenSSH
from tests.support.webhook import Reply, webhook

pytestmark = pytest.mark.oci

OCI: dict[str, Any] = {"backend": "oci", "oci": {"image": str(image())}}
SECRET = "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ"


async def test_key_code_and_authorization_open_a_session_once(tmp_path: Path) -> None:
    code = parse_totp(SECRET).code(int(time.time()) // 30)
    client = OpenSSH(tmp_path, password=code)
    key = await client.make_key()
    user = {"authorizedKeys": [key.with_suffix(".pub").read_text()], "totp": SECRET, "metadata": {"team": "blue"}}
    async with webhook() as hook:
        hook.answers = [Reply({"success": True, "environment": {"FROM": {"value": "authz", "sensitive": True}}})]
        auth = {
            "publicKey": {"method": "users"},
            "keyboardInteractive": {"method": "users"},
            "authz": {"method": "webhook", "webhook": {"url": hook.url}},
            "users": {"file": str(tmp_path / "users.json")},
        }
        (tmp_path / "users.json").write_text(json.dumps({"users": {"alice": user}}))
        (tmp_path / "users.json").chmod(0o600)
        async with product.serving({**OCI, "auth": auth}) as server:
            done = await client.run(server, "echo $FROM", "-i", str(key))
            assert done.check().stdout == b"authz\n"
            assert (await client.run(server, "true", "-i", str(key))).status == 255, "the code was used"
            log = (server.folder / "server.log").read_text()
    assert [(request.path, request.json["authenticatedUsername"]) for request in hook.requests] == [("/authz", "alice")]
    assert hook.requests[0].json["metadata"] == {"team": {"value": "blue", "sensitive": False}}
    assert code not in log
    assert SECRET not in log


async def test_a_webhook_may_ask_what_it_likes(tmp_path: Path) -> None:
    async with webhook() as hook:
        hook.answers = [
            Reply({"prompt": {"questions": [{"text": "Word: "}]}}),
            Reply({"success": True, "authenticatedUsername": "ali"}),
        ]
        auth = {"keyboardInteractive": {"method": "webhook", "webhook": {"url": hook.url}}}
        async with product.serving({**OCI, "auth": auth}) as server:
            (await OpenSSH(tmp_path, password="open sesame").run(server, "true")).check()
            log = (server.folder / "server.log").read_text()
    assert hook.requests[1].json["answers"] == ["open sesame"]
    assert "sesame" not in log
