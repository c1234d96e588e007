"""The page for Prometheus of a whole server, with OpenSSH as the client."""

from __future__ import annotations

import asyncio
import re
import signal
from asyncio.subprocess import PIPE, STDOUT
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from containerssh.auth.hashes import hash_password
from tests.support import server as product
from tests.support.lifecycle import refuses, write, written
from tests.support.oci import image
from tests.support.openssh import OpenSSH
from tests.support.tools import tool

pytestmark = pytest.mark.oci

USERS = {"alice": {"password": hash_password("secret", "bcrypt")}}


def configured(port: int, **more: Any) -> dict[str, Any]:
    metrics = {"enable": True, "listen": f"127.0.0.1:{port}", **more}
    return {"backend": "oci", "oci": {"image": str(image())}, "metrics": metrics}


async def page(port: int, path: str = "/metrics") -> tuple[int, dict[str, float]]:
    """The status, and the value for each name with its labels."""
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}{path}") as answer:
        lines = (await answer.text()).splitlines()
        found = [re.fullmatch(r"(\S+) ([0-9.]+)", line) for line in lines if not line.startswith("#")]
        return answer.status, {match[1]: float(match[2]) for match in found if match}


async def until(port: int, name: str, value: float) -> dict[str, float]:
    """The page that says so."""
    async with asyncio.timeout(10):
        while True:
            _, found = await page(port)
            if found.get(name) == value:
                return found
            await asyncio.sleep(0.05)


CURRENT = 'containerssh_ssh_current_connections{country="XX"}'


async def test_logins_and_refusals_are_counted(tmp_path: Path) -> None:
    port = product.free_port()
    async with product.serving(configured(port), USERS) as server:
        (await OpenSSH(tmp_path).run(server, "true")).check()
        assert (await OpenSSH(tmp_path, password="wrong").run(server, "true")).status == 255
        found = await until(port, CURRENT, 0)
        assert found['containerssh_ssh_connections_total{country="XX"}'] == 2
        assert found['containerssh_ssh_successful_handshakes_total{country="XX"}'] == 1
        assert found['containerssh_ssh_failed_handshakes_total{country="XX"}'] == 1
        assert found['containerssh_auth_success_total{authtype="password",country="XX"}'] == 1
        assert found['containerssh_auth_failures_total{authtype="password",country="XX"}'] >= 1
        assert found['containerssh_backend_requests_total{backend="oci"}'] >= 1
        assert (await page(port, "/"))[0] == 404


async def test_prometheus_own_checker_finds_no_fault_with_the_page(tmp_path: Path) -> None:
    port = product.free_port()
    async with product.serving(configured(port), USERS) as server:
        (await OpenSSH(tmp_path).run(server, "true")).check()
        await until(port, CURRENT, 0)
        async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/metrics") as answer:
            assert answer.headers["Content-Type"] == "application/openmetrics-text; version=1.0.0; charset=utf-8"
            text = await answer.read()
    assert text.count(b"\n# TYPE ") > 5
    checker = await asyncio.create_subprocess_exec(
        tool("promtool"), "check", "metrics", stdin=PIPE, stdout=PIPE, stderr=STDOUT
    )
    said, _ = await checker.communicate(text)
    assert checker.returncode == 0, said.decode()


async def test_a_reload_moves_the_page_and_takes_it_away() -> None:
    port = product.free_port()
    async with product.serving(configured(port), USERS) as server:
        for metrics, wanted in (({"path": "/numbers"}, [404, 200]), ({"enable": False}, [])):
            config = written(server)
            config["metrics"].update(metrics)
            write(server, config)
            # The page changes after logins have the new configuration, and after the log says so.
            moved = "SERVICE_RUNNING" if wanted else "SERVICE_STOPPED"
            before = len(server.logged(moved))
            server.process.send_signal(signal.SIGHUP)
            await server.told(moved, before + 1)
            if wanted:
                assert [(await page(port, path))[0] for path in ("/metrics", "/numbers")] == wanted
            else:
                assert refuses(port)


async def test_one_page_has_the_counts_of_all_processes(tmp_path: Path) -> None:
    port = product.free_port()
    async with product.serving(configured(port), USERS, arguments=("serve", "--processes", "2")) as server:
        await server.until(lambda: len(server.logged("SERVICE_POOL_RUNNING")) == 2, "both run")
        client = OpenSSH(tmp_path)
        for done in await asyncio.gather(*(client.run(server, "true") for _ in range(8))):
            done.check()
        # The other process's counts are up to a second old.
        found = await until(port, 'containerssh_ssh_successful_handshakes_total{country="XX"}', 8)
        assert found['containerssh_ssh_connections_total{country="XX"}'] == 8


async def test_the_country_is_the_databases(tmp_path: Path) -> None:
    """A file of the real format, written by hand: nobody gives one away."""
    database = tmp_path / "countries.mmdb"
    database.write_bytes(country_database("HU"))
    port = product.free_port()
    geoip = {"provider": "maxmind", "maxmind-geoip2-file": str(database)}
    async with product.serving({**configured(port), "geoip": geoip}, USERS) as server:
        (await OpenSSH(tmp_path).run(server, "true")).check()
        await until(port, 'containerssh_ssh_connections_total{country="HU"}', 1)


def country_database(code: str) -> bytes:
    """All of IPv4 and IPv6 in one country, in MaxMind's format 2.0: one node whose both ways lead to the record."""
    record = b"\xe1" + _text("country") + b"\xe1" + _text("iso_code") + _text(code)
    # A pointer into the data is the number of nodes, 16, and the offset.
    pointer = (1 + 16).to_bytes(3, "big")
    described = {
        "binary_format_major_version": b"\xa1\x02",
        "binary_format_minor_version": b"\xa0",
        "build_epoch": b"\x00\x02",
        "database_type": _text("Test-Country"),
        "description": b"\xe0",
        "ip_version": b"\xa1\x06",
        "languages": b"\x00\x04",
        "node_count": b"\xc1\x01",
        "record_size": b"\xa1\x18",
    }
    fields = b"".join(_text(name) + value for name, value in described.items())
    return pointer * 2 + bytes(16) + record + b"\xab\xcd\xefMaxMind.com" + bytes((0xE0 | len(described),)) + fields


def _text(text: str) -> bytes:
    """Of up to 28 bytes."""
    return bytes((0x40 | len(text),)) + text.encode()
