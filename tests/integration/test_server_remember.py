"""The whole server: a key stands in for codes and for a webhook's questions, and the command line ends that."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import pytest

from containerssh.auth.totp import parse_totp
from tests.support import server as product
from tests.support.oci import image
from tests.support.openssh import Done, OpenSSH, run, ssh_options
from tests.support.webhook import Reply, Request, webhook

pytestmark = pytest.mark.oci

SECRET = "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ"
CONFIG: dict[str, Any] = {"backend": "oci", "oci": {"image": str(image())}}


def code() -> str:
    return parse_totp(SECRET).code(int(time.time()) // 30)


async def remembered(server: product.Server, *arguments: str) -> Done:
    """Run the command beside *server*."""
    command = [sys.executable, "-m", "containerssh", "remembered", *arguments]
    return (await run(*command, env={**server.environment})).check()


async def test_all_processes_know_who_has_shown_a_code_and_who_was_revoked(openssh: OpenSSH) -> None:
    key, other = await openssh.make_key(), await openssh.make_key("other")
    lines = [path.with_suffix(".pub").read_text() for path in (key, other)]
    users = openssh.folder / "users.json"
    users.write_text(json.dumps({"users": {"alice": {"authorizedKeys": lines, "totp": SECRET}}}))
    users.chmod(0o600)
    auth = {
        "users": {"file": str(users)},
        "publicKey": {"method": "users"},
        "keyboardInteractive": {"method": "users"},
        "remember": {"period": "1h"},
    }
    async with product.serving({**CONFIG, "auth": auth}, arguments=("serve", "--processes", "2")) as server:
        first = OpenSSH(openssh.folder, password=code())
        (await first.run(server, "true", "-i", str(key))).check()
        for _ in range(4):
            (await OpenSSH(openssh.folder, password=None).run(server, "true", "-i", str(key))).check()
        assert (await OpenSSH(openssh.folder, password="0").run(server, "true", "-i", str(other))).status == 255
        (entry,) = json.loads((await remembered(server, "list", "--format", "json")).stdout)
        assert (entry["username"], entry["fingerprint"][:7]) == ("alice", "SHA256:")
        assert b"alice (" not in (await remembered(server, "list")).stdout, "a code vouches for no name"
        assert (await remembered(server, "revoke", "bob")).stdout == b"0 keys forgotten\n"
        assert (await remembered(server, "revoke", "alice")).stdout == b"1 key forgotten\n"
        assert (await OpenSSH(openssh.folder, password="0").run(server, "true", "-i", str(key))).status == 255
        assert (await remembered(server, "list")).stdout == b""
        store = b"".join(path.read_bytes() for path in (server.folder / "state" / "remembered").iterdir())
    assert b"alice" not in store


async def test_any_key_is_a_first_step_and_stands_in_for_a_webhooks_questions(openssh: OpenSSH) -> None:
    key = await openssh.make_key()
    only_key = ssh_options("PreferredAuthentications=publickey")
    async with webhook() as hook:

        def answer(asked: Request) -> Reply:
            if not asked.json["round"]:
                return Reply({"prompt": {"questions": [{"text": "Word: "}]}})
            return Reply({"success": asked.json["answers"] == ["open sesame"], "authenticatedUsername": "ali"})

        hook.answers = [answer]
        auth = {
            "publicKey": {"method": "remember"},
            "keyboardInteractive": {"method": "webhook", "webhook": {"url": hook.url}},
            "remember": {"period": "1h"},
        }
        async with product.serving({**CONFIG, "auth": auth}) as server:
            done = await openssh.run(server, "true", "-v", "-i", str(key), *only_key)
            assert b"Permission denied (keyboard-interactive)" in done.stderr
            knows = OpenSSH(openssh.folder, password="open sesame")
            (await knows.run(server, "true", "-i", str(key))).check()
            (await openssh.run(server, "true", "-i", str(key), *only_key)).check()
            assert b"alice (ali)" in (await remembered(server, "list")).stdout
            await server.stop()
            await server.start()
            await server.until(lambda: len(server.logged("SSH_AVAILABLE")) == 2, "it listens again")
            (await openssh.run(server, "true", "-i", str(key), *only_key)).check()
            assert (await remembered(server, "revoke", "--all")).stdout == b"1 key forgotten\n"
            assert (await openssh.run(server, "true", "-i", str(key), *only_key)).status == 255
    assert len([request for request in hook.requests if request.json["round"]]) == 1
