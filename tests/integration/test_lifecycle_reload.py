"""SIGHUP: the configuration is read again, and nobody who is there notices."""

from __future__ import annotations

import asyncio
import json
import signal
import ssl
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pexpect
import pytest

from containerssh.auth.hashes import hash_password
from tests.support import server as product
from tests.support.lifecycle import programs, refuses, write, written
from tests.support.oci import image
from tests.support.openssh import OpenSSH
from tests.support.webhook import Authority, Reply, webhook

pytestmark = pytest.mark.oci

OCI: dict[str, Any] = {"backend": "oci", "oci": {"image": str(image())}}
USERS = {"alice": {"password": hash_password("secret")}}


async def reload(server: product.Server, code: str = "CORE_CONFIG_RELOADED") -> list[dict[str, Any]]:
    """SIGHUP; the new lines with *code*, of which there is at least one."""
    before = len(server.logged(code))
    server.process.send_signal(signal.SIGHUP)
    await server.until(lambda: len(server.logged(code)) > before, f"{code} is logged")
    return server.logged(code)[before:]


@asynccontextmanager
async def changed(server: product.Server) -> AsyncIterator[dict[str, Any]]:
    """The configuration to be changed inside the scope; it is written and read by the server after it."""
    config = written(server)
    yield config
    write(server, config)
    await reload(server)


async def test_new_logins_get_the_new_configuration_and_sessions_go_on(openssh: OpenSSH) -> None:
    async with product.serving(OCI, USERS) as server:
        terminal = openssh.spawn(server, "hostname; read line; hostname; echo got $line")
        await terminal.expect(b"\r\n", async_=True)
        async with changed(server) as config:
            config["oci"]["hostname"] = "later"
            config["security"] = {"command": {"mode": "filter", "allow": ["hostname"]}}
            config["ssh"]["banner"] = "A new banner\n"
        done = await openssh.run(server, "hostname", "-o", "LogLevel=INFO")
        assert done.stdout == b"later\n"
        assert b"A new banner" in done.stderr
        assert (await openssh.run(server, "id")).status != 0, "the new policy holds"
        terminal.sendline(b"on")
        await terminal.expect(b"got on", async_=True)
        await terminal.expect(pexpect.EOF, async_=True)
        terminal.close()
        assert terminal.exitstatus == 0
        assert b"later" not in (terminal.before or b"")


async def test_authentication_changes_from_users_file_to_webhook_and_back(openssh: OpenSSH) -> None:
    async with product.serving(OCI, USERS) as server, webhook() as hook:
        hook.answers = [Reply({"success": True})]
        stranger = OpenSSH(openssh.folder, user="stranger")
        assert (await stranger.run(server, "true")).status == 255
        users = written(server)["auth"]
        async with changed(server) as config:
            config["auth"] = {"password": {"method": "webhook", "webhook": {"url": hook.url}}}
        assert (await stranger.run(server, "true")).status == 0
        async with changed(server) as config:
            config["auth"] = users
        assert (await stranger.run(server, "true")).status == 255
        assert (await openssh.run(server, "true")).status == 0
        assert len(hook.requests) == 1


async def test_a_login_under_way_ends_with_the_webhook_that_it_began_with(openssh: OpenSSH) -> None:
    async with webhook() as hook:
        hook.answers = [Reply({"success": True}, delay=2)]
        auth = {"password": {"method": "webhook", "webhook": {"url": hook.url, "timeout": "20s"}}}
        async with product.serving({**OCI, "auth": auth}) as server:
            login = asyncio.create_task(openssh.run(server, "echo in"))
            await asyncio.wait_for(hook.asked.wait(), 20)
            async with changed(server) as config:
                config["auth"] = {"password": {"method": "users"}, "users": {"file": str(server.folder / "users.yaml")}}
                product.write_users(server, USERS)
            assert (await login).stdout == b"in\n"
            assert (await openssh.run(server, "echo in")).stdout == b"in\n"
            assert len(hook.requests) == 1


async def test_a_file_with_mistakes_changes_nothing_and_all_of_them_are_logged(openssh: OpenSSH) -> None:
    async with product.serving(OCI, USERS) as server:
        good = written(server)
        bad = {**good, "nosuch": 1, "log": {**good["log"], "level": "loud"}, "docker": {"nosuch": 2}}
        write(server, bad)
        await reload(server, "CORE_CONFIG_RELOAD_FAILED")
        keys = [line["details"].get("key") for line in server.logged("CORE_CONFIG_RELOAD_FAILED")]
        assert {"nosuch", "log.level", "docker.nosuch"} <= set(keys)
        for broken in ("{", "", json.dumps({**good, "auth": {**good["auth"], "users": {"file": "/nonexistent"}}})):
            write(server, broken)
            await reload(server, "CORE_CONFIG_RELOAD_FAILED")
        (server.folder / "config.yaml").unlink()
        await reload(server, "CORE_CONFIG_RELOAD_FAILED")
        assert (await openssh.run(server, "echo still")).stdout == b"still\n"
        write(server, good)
        await reload(server)


async def test_an_address_to_listen_on_needs_a_restart_and_the_rest_is_applied(openssh: OpenSSH) -> None:
    async with product.serving(OCI, USERS) as server:
        config = written(server)
        config["ssh"]["listen"] = f"127.0.0.1:{product.free_port()}"
        config["oci"]["hostname"] = "rest"
        write(server, config)
        told = await reload(server, "CORE_CONFIG_NEEDS_RESTART")
        assert [line["details"]["key"] for line in told] == ["ssh.listen"]
        assert (await openssh.run(server, "hostname")).stdout == b"rest\n"


async def test_new_host_keys_are_shown_to_new_connections(openssh: OpenSSH) -> None:
    async with product.serving(OCI, USERS) as server:
        assert (await openssh.run(server, "true")).status == 0
        key = await openssh.make_key("host")
        async with changed(server) as config:
            config["ssh"]["hostkeys"] = [str(key)]
        assert (await openssh.run(server, "true")).status == 255, "the client knows another key"
        (openssh.folder / "known_hosts").unlink()
        assert (await openssh.run(server, "true")).status == 0
        assert key.with_suffix(".pub").read_text().split()[1] in (openssh.folder / "known_hosts").read_text()


async def test_limits_apply_to_connections_that_come_later(openssh: OpenSSH) -> None:
    async with product.serving(OCI, USERS) as server:
        first = asyncio.create_task(openssh.run(server, "sleep 60"))
        await server.until(lambda: programs(server) > 0, "the first runs")
        async with changed(server) as config:
            config["ssh"]["limits"] = {"connections": 1}
        refused = await openssh.run(server, "true")
        assert refused.status == 255
        assert b"Too many connections" in refused.stderr
        async with changed(server) as config:
            del config["ssh"]["limits"]
        assert (await openssh.run(server, "true")).status == 0
        first.cancel()


async def test_the_log_changes_its_level_its_format_and_its_place(openssh: OpenSSH) -> None:
    async with product.serving(OCI, USERS) as server:
        former, new = server.folder / "server.log", server.folder / "new.log"
        config = written(server)
        config["log"] = {"level": "info", "format": "text", "destination": "file", "file": str(new)}
        write(server, config)
        server.process.send_signal(signal.SIGHUP)
        await server.until(lambda: "CORE_CONFIG_RELOADED" in former.read_text(), "it was read")
        size = former.stat().st_size
        await server.until(new.exists, "the new log is there")
        assert (await openssh.run(server, "true")).status == 0
        config["log"]["file"] = "/nonexistent/folder/log"
        write(server, config)
        server.process.send_signal(signal.SIGHUP)
        await server.until(lambda: "configuration is unchanged" in new.read_text(), "it is refused")
        assert (await openssh.run(server, "true")).status == 0
        assert "Client connected" not in new.read_text(), "that is of level debug"
        assert former.stat().st_size == size


async def test_the_health_endpoint_reads_its_certificate_again(openssh: OpenSSH, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    first, second = authority.issue("first"), authority.issue("second")
    port = product.free_port()
    cert, key = tmp_path / "now.pem", tmp_path / "now.key"

    def install(files: Any) -> None:
        cert.write_bytes(files.cert.read_bytes())
        key.write_bytes(files.key.read_bytes())

    def shown() -> bytes:
        return ssl.PEM_cert_to_DER_cert(ssl.get_server_certificate(("127.0.0.1", port)))

    install(first)
    health = {"enable": True, "listen": f"127.0.0.1:{port}", "cert": str(cert), "key": str(key)}
    async with product.serving({**OCI, "health": health}, USERS) as server:
        assert await asyncio.to_thread(shown) == ssl.PEM_cert_to_DER_cert(first.cert.read_text())
        install(second)
        await reload(server)
        await server.until(lambda: _reads(shown, second.cert), "the new certificate is shown")
        cert.write_text("broken")
        await reload(server, "CORE_CONFIG_RELOAD_FAILED")
        assert await asyncio.to_thread(_reads, shown, second.cert), "the old one stays in force"
        install(first)
        async with changed(server) as config:
            config["health"] = {"enable": True, "listen": f"127.0.0.1:{port}"}
        await server.until(lambda: _answers(port), "the endpoint is there without TLS")


async def test_the_health_endpoint_comes_and_goes(openssh: OpenSSH) -> None:
    port = product.free_port()
    health = {"listen": f"127.0.0.1:{port}"}
    async with product.serving({**OCI, "health": {**health, "enable": False}}, USERS) as server:
        session = openssh.spawn(server, "echo up; read line; echo got $line")
        await session.expect(b"up", async_=True)
        for enable in (True, False, True):
            assert refuses(port) is enable
            async with changed(server) as config:
                config["health"] = {**health, "enable": enable}
            if enable:
                await server.until(lambda: _answers(port), "the endpoint is there")
            else:
                await server.until(lambda: refuses(port), "nobody listens")
        session.sendline(b"on")
        await session.expect(b"got on", async_=True)
        await session.expect(pexpect.EOF, async_=True)
        session.close()


async def test_reloads_keep_no_descriptors_and_no_threads(openssh: OpenSSH) -> None:
    async with product.serving(OCI, USERS) as server, webhook() as hook:
        hook.answers = [Reply({"success": True})]
        config = written(server)
        config["auth"]["password"] = {"method": "webhook", "webhook": {"url": hook.url}}
        config["auth"]["publicKey"] = {"method": "users"}
        write(server, config)
        await reload(server)
        assert (await openssh.run(server, "true")).status == 0
        before = _resources(server)
        for _ in range(20):
            await reload(server)
        assert (await openssh.run(server, "true")).status == 0
        after = _resources(server)
        assert after[0] <= before[0] + 3
        assert after[1] <= before[1] + 3


def _resources(server: product.Server) -> tuple[int, int]:
    process = Path(f"/proc/{server.process.pid}")
    return len(list((process / "fd").iterdir())), len(list((process / "task").iterdir()))


def _reads(shown: Any, cert: Path) -> bool:
    try:
        return bool(shown() == ssl.PEM_cert_to_DER_cert(cert.read_text()))
    except OSError:
        return False


def _answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False
