"""What people see and type: codes in PuTTY, and a connection that is full."""

from __future__ import annotations

import asyncio
import json
import os
import time
from pathlib import Path
from typing import Any

import pexpect
import pytest

from containerssh.auth.totp import parse_totp
from tests.support import server as product
from tests.support.oci import image
from tests.support.openssh import OpenSSH, ssh_options
from tests.support.shared_folder import PASSWORD
from tests.support.tools import tool

pytestmark = pytest.mark.oci

SECRET = "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ"
OCI: dict[str, Any] = {"backend": "oci", "oci": {"image": str(image()), "network": "none"}}
SESSIONS = 10


async def test_a_code_is_asked_for_in_putty_after_the_password(tmp_path: Path) -> None:
    users = tmp_path / "users.json"
    users.write_text(json.dumps({"users": {"alice": {**PASSWORD, "totp": SECRET}}}))
    users.chmod(0o600)
    methods: dict[str, Any] = {method: {"method": "users"} for method in ("password", "keyboardInteractive")}
    async with product.serving({**OCI, "auth": {**methods, "users": {"file": str(users)}}}) as server:
        argv = ["-ssh", "-P", str(server.port), "alice@127.0.0.1", "echo in; exit 3"]
        env = {"HOME": str(tmp_path), "PATH": os.environ["PATH"], "LC_ALL": "C"}
        client: pexpect.spawn[bytes] = pexpect.spawn(tool("plink"), argv, env=env, timeout=30, encoding=None)
        await client.expect(rb"Store key in cache\?", async_=True)
        client.sendline("n")
        await client.expect(rb"password: ", async_=True)
        client.sendline("secret")
        await client.expect(rb"Verification code: ", async_=True)
        client.sendline(parse_totp(SECRET).code(int(time.time()) // 30))
        while await client.expect([rb"Press Return to begin session", rb"\nin\r?\n"], async_=True) == 0:
            client.sendline("")
        await client.expect(pexpect.EOF, async_=True)
        await asyncio.to_thread(client.wait)
        assert client.exitstatus == 3


async def test_the_eleventh_of_ten_sessions_is_refused_and_the_others_go_on(tmp_path: Path) -> None:
    openssh = OpenSSH(tmp_path)
    security = {"maxSessions": SESSIONS}
    shared = ssh_options(f"ControlPath={tmp_path}/control")
    async with product.serving({**OCI, "security": security}, {"alice": PASSWORD}) as server:
        master = await asyncio.create_subprocess_exec(
            *openssh.command(server, "-N", *shared, "-o", "ControlMaster=yes"), env=openssh.environment()
        )
        held: list[asyncio.subprocess.Process] = []
        try:
            await server.told("SSH_HANDSHAKE_SUCCESSFUL")
            await server.until((tmp_path / "control").exists, "others can use it")
            for number in range(SESSIONS):
                pipe = asyncio.subprocess.PIPE
                argv = [*openssh.command(server, *shared), f"echo {number}; cat"]
                client = await asyncio.create_subprocess_exec(*argv, env=openssh.environment(), stdin=pipe, stdout=pipe)
                held.append(client)
                assert client.stdout is not None
                async with asyncio.timeout(30):
                    assert await client.stdout.readline() == b"%d\n" % number
            # The client would go on with a connection of its own.
            alone = ("-o", "ProxyCommand=false")
            refused = await openssh.run(server, "echo never", *shared, *alone, "-o", "LogLevel=INFO")
            assert refused.status == 255
            assert b"open refused by peer" in refused.stderr
            assert b"never" not in refused.stdout
            assert len(await server.told("SSH_NEW_CHANNEL_REJECTED")) == 1
            for number, client in enumerate(held):
                out, _ = await asyncio.wait_for(client.communicate(b"%d still\n" % number), 30)
                assert (out, client.returncode) == (b"%d still\n" % number, 0)
            again = await openssh.run(server, "echo there is room again", *shared, *alone)
            assert again.check().stdout == b"there is room again\n"
        finally:
            for client in [*held, master]:
                if client.returncode is None:
                    client.kill()
                await client.wait()
