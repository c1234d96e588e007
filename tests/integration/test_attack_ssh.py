"""Attacks on the SSH front: messages that a client should not send, sent, and work that it should not cause."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import asyncssh
import pytest
from asyncssh.packet import Boolean, String, UInt32

from tests.support.ssh_front import Front, host_key, serving

KINDS = ("ssh-ed25519", "ssh-rsa", "ecdsa-sha2-nistp256")

KEXINIT, NEWKEYS, EXT_INFO = 20, 21, 7
SERVICE_REQUEST, USERAUTH_REQUEST, USERAUTH_SUCCESS, INFO_RESPONSE = 5, 50, 52, 61
GLOBAL_REQUEST, CHANNEL_OPEN, CHANNEL_REQUEST = 80, 90, 98

OPEN = (String("session"), UInt32(0), UInt32(2**20), UInt32(32768))
EXEC = (UInt32(0), String("exec"), Boolean(True), String("touch /tmp/pwned"))


async def says_before_login(server: Front, say: Callable[[Any], None]) -> tuple[bool, str]:
    """Connect, *say* something where a password is asked for, give none; whether it got in, and the server's words."""

    class Stranger(asyncssh.SSHClient):
        def connection_made(self, conn: asyncssh.SSHClientConnection) -> None:
            self.connection: Any = conn

        async def password_auth_requested(self) -> str | None:
            say(self.connection)
            await asyncio.sleep(0.1)
            return None

    try:
        async with asyncssh.connect(
            *("127.0.0.1", server.port),
            username="alice",
            known_hosts=None,
            client_keys=None,
            config=None,
            client_factory=Stranger,
        ):
            return True, ""
    except (asyncssh.Error, OSError) as exc:
        return False, str(exc)


@pytest.mark.parametrize(
    ("kind", "payload"),
    [
        pytest.param(USERAUTH_SUCCESS, (), id="the client says that it is in"),
        pytest.param(CHANNEL_OPEN, OPEN, id="a channel"),
        pytest.param(CHANNEL_REQUEST, EXEC, id="a program"),
        pytest.param(GLOBAL_REQUEST, (String("hostkeys-prove-00@openssh.com"), Boolean(True)), id="a global request"),
        pytest.param(INFO_RESPONSE, (UInt32(2**32 - 1),), id="answers to no question"),
        pytest.param(NEWKEYS, (), id="keys that were not agreed"),
        pytest.param(EXT_INFO, (UInt32(2**32 - 1),), id="extensions at a wrong place"),
        pytest.param(SERVICE_REQUEST, (String("ssh-connection"),), id="the service behind the login"),
        pytest.param(USERAUTH_REQUEST, (String("alice"), String("ssh-other"), String("none")), id="another service"),
        pytest.param(KEXINIT, (b"x",), id="half a key exchange"),
        pytest.param(0, (), id="type 0"),
        pytest.param(255, (b"\0" * 1000,), id="type 255"),
    ],
)
async def test_no_message_before_the_login_opens_the_door(kind: int, payload: tuple[bytes, ...]) -> None:
    async with serving() as server:
        let_in, _ = await says_before_login(server, lambda connection: connection.send_packet(kind, *payload))
        assert not let_in
        assert (server.backend.logins, server.backend.requests, server.log.errors) == ([], [], [])


@pytest.mark.parametrize(
    ("kind", "payload"),
    [(2, (String("x"),)), (4, (Boolean(True), String("x"), String(""))), (3, (UInt32(0),)), (200, ())],
)
async def test_nothing_is_slipped_into_a_strict_key_exchange(kind: int, payload: tuple[bytes, ...]) -> None:
    """Against Terrapin (OpenSSH's PROTOCOL, section 1.10): no message but those of the exchange until it is done."""
    names = (b"curve25519-sha256,kex-strict-c-v00@openssh.com", b"ssh-ed25519", *2 * (b"aes256-ctr",))
    lists = (*names, *2 * (b"hmac-sha2-256",), *2 * (b"none",), b"", b"")
    exchange = bytes(16) + b"".join(map(String, lists)) + Boolean(False) + UInt32(0)
    async with serving() as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"SSH-2.0-test\r\n" + packet(KEXINIT, exchange) + packet(kind, *payload))
        async with asyncio.timeout(5):
            said = await reader.read()
        writer.close()
        # Its last packet is a DISCONNECT for a violation of the protocol, or for a failed key exchange.
        assert any(bytes([1]) + UInt32(code) in said for code in (2, 3))
        assert server.log.errors == []


def packet(kind: int, *payload: bytes) -> bytes:
    """A packet before there are keys (RFC 4253 section 6)."""
    body = bytes([kind]) + b"".join(payload)
    padding = 16 - (5 + len(body)) % 8
    return UInt32(1 + len(body) + padding) + bytes([padding]) + body + bytes(padding)


async def test_a_stranger_cannot_exchange_keys_again_and_again() -> None:
    async with serving() as server:
        let_in, said = await says_before_login(server, lambda connection: connection._send_kexinit())
        assert (let_in, said) == (False, "Another key exchange before the login")


async def test_a_proof_of_host_keys_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async with (
        serving(host_keys=[host_key(kind) for kind in KINDS]) as server,
        asyncssh.connect(
            *("127.0.0.1", server.port),
            username="alice",
            password="secret",
            known_hosts=None,
            client_keys=None,
            config=None,
        ) as client,
    ):
        connection: Any = client
        blobs = [String(asyncssh.import_private_key(host_key(kind)).public_data) for kind in KINDS]
        answers = {
            bytes(answer.get_remaining_payload())
            for _, answer in [
                await connection._make_global_request(b"hostkeys-prove-00@openssh.com", *blobs) for _ in range(3)
            ]
        }
        # An ECDSA signature is another one each time that it is made.
        assert len(answers) == 1
        assert all(answers)


@pytest.mark.parametrize("name", ["", "a\nb", "a\x1b[2Jb", "a\u2028b", "a\u202eb", "a\0b", "a" * 1024, "a\ud800"])
async def test_a_name_that_could_mean_another_is_refused(name: str) -> None:
    async with serving() as server:
        raw = name.encode("utf-8", "surrogatepass")

        def say(connection: Any) -> None:
            payload = (String(raw), String("ssh-connection"), String("password"), Boolean(False), String("secret"))
            connection.send_packet(USERAUTH_REQUEST, *payload)

        let_in, _ = await says_before_login(server, say)
        assert not let_in
        assert (server.backend.asked, server.backend.logins) == ([], [])


@pytest.mark.parametrize(
    "name", ["root; id", "../../etc/passwd", "-oProxyCommand=x", "--privileged", "$(id)", "%s%n", "a:b", "caf\u00e9"]
)
async def test_an_odd_name_is_passed_on_to_the_letter(name: str) -> None:
    async with serving() as server:
        with suppress(asyncssh.Error):
            async with asyncssh.connect(
                *("127.0.0.1", server.port),
                username=name,
                password="secret",
                known_hosts=None,
                client_keys=None,
                config=None,
            ):
                pass
        assert [login.username for login in server.backend.logins] == [name]
