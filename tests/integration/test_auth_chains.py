"""Several methods that must succeed, and the authorization webhook after them, with real clients."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import paramiko
import pytest

from containerssh.auth.authenticator import Authorizer
from containerssh.auth.chains import as_chain
from containerssh.auth.codes import open_codes
from containerssh.auth.hashes import hash_password
from containerssh.auth.totp import parse_totp
from containerssh.auth.users import UsersFile
from containerssh.auth.webhook import open_authorizer, open_webhook
from containerssh.config.auth import WebhookConfig
from containerssh.config.codes import CodesConfig
from containerssh.core.codes import SSHCode
from containerssh.core.handlers import AuthMethod
from containerssh.core.metadata import Value
from containerssh.layers.authentication import AuthenticationServer, Authenticators
from tests.support.local_backend import LocalBackend, read_public_key
from tests.support.openssh import OpenSSH, ssh_options
from tests.support.raw_client import ERROR_TOKEN, FAILURE, REQUEST, TOKEN, RawClient, paramiko_transport
from tests.support.ssh_front import Front, serving
from tests.support.waiting import until
from tests.support.webhook import Reply, Request, Webhook, webhook

PASSWORD = hash_password("secret")

KERBEROS = bytes.fromhex("00000001 0000000b 06092a864886f712010202")
"""The list of mechanisms that a client with a ticket sends (RFC 4462 section 3.2)."""


@pytest.fixture
async def key(openssh: OpenSSH) -> Path:
    return await openssh.make_key()


def users_file(folder: Path, users: Mapping[str, Any], *, codes: bool = False) -> UsersFile:
    path = folder / "users.json"
    path.write_text(json.dumps({"users": users}))
    path.chmod(0o600)
    return UsersFile(path, codes=codes)


@asynccontextmanager
async def chained(users: UsersFile, *chains: str, authorizer: Authorizer | None = None) -> AsyncIterator[Front]:
    """A server whose users come from *users*."""
    found = Authenticators(
        users, users, authorizer=authorizer, chains=frozenset(map(as_chain, chains)), user_chains=users
    )
    async with serving(LocalBackend(), around=lambda inner: AuthenticationServer(inner, found)) as server:
        yield server


def alice(key: Path, **more: Any) -> dict[str, Any]:
    return {"alice": {"password": PASSWORD, "authorizedKeys": [read_public_key(key)], **more}}


async def offered(transport: paramiko.Transport, user: str) -> set[str]:
    try:
        await asyncio.to_thread(transport.auth_none, user)
    except paramiko.BadAuthenticationType as exc:
        return set(exc.allowed_types)
    raise AssertionError("none was accepted")


async def try_password(transport: paramiko.Transport, user: str, password: str = "secret") -> set[str] | None:
    """What must follow, or None after a refusal; an empty set is a login."""
    with suppress(paramiko.AuthenticationException):
        return set(await asyncio.to_thread(transport.auth_password, user, password))
    return None


async def try_key(transport: paramiko.Transport, user: str, key: Path) -> set[str] | None:
    loaded = paramiko.Ed25519Key.from_private_key_file(str(key))
    with suppress(paramiko.AuthenticationException):
        return set(await asyncio.to_thread(transport.auth_publickey, user, loaded))
    return None


async def try_answers(transport: paramiko.Transport, user: str, *answers: str) -> set[str] | None:
    left = list(answers)

    def answer(_title: str, _instruction: str, questions: list[tuple[str, bool]]) -> list[str]:
        return [left.pop(0) for _ in questions]

    with suppress(paramiko.AuthenticationException):
        return set(await asyncio.to_thread(transport.auth_interactive, user, answer))
    return None


async def test_openssh_goes_on_after_a_partial_success(openssh: OpenSSH, key: Path, tmp_path: Path) -> None:
    async with chained(users_file(tmp_path, alice(key)), "publickey,password") as server:
        done = await openssh.run(server, "echo in", "-i", str(key), *ssh_options("LogLevel=VERBOSE"))
        assert done.check().stdout == b"in\n"
        assert b'using "publickey" with partial success' in done.stderr or b"partial success" in done.stderr
        partial = server.log.of(SSHCode.AUTH_PARTIAL)
        assert [labels["method"] for _, labels in partial] == ["public key"]
        assert [labels["method"] for _, labels in server.log.of(SSHCode.AUTH_SUCCESSFUL)] == ["password"]
    assert len(server.backend.logins) == 1


async def test_one_of_two_methods_is_no_login(openssh: OpenSSH, key: Path, tmp_path: Path) -> None:
    users = users_file(tmp_path, alice(key))
    async with chained(users, "publickey,password") as server:
        wrong = OpenSSH(tmp_path, password="wrong")
        assert (await wrong.run(server, "true", "-i", str(key))).status == 255
        assert (await openssh.run(server, "true")).status == 255
        async with paramiko_transport(server) as transport:
            assert await try_key(transport, "alice", key) == {"password"}
            with pytest.raises(paramiko.SSHException):
                await asyncio.to_thread(transport.open_session, timeout=5)
    assert not server.backend.logins


async def test_only_what_can_come_next_is_offered_and_taken(key: Path, tmp_path: Path) -> None:
    users = users_file(tmp_path, alice(key))
    async with chained(users, "publickey,password") as server, paramiko_transport(server) as transport:
        assert await offered(transport, "alice") == {"publickey"}
        assert await try_password(transport, "alice") is None, "the password does not come first"
        assert await try_key(transport, "alice", key) == {"password"}
        assert await try_key(transport, "alice", key) is None, "the key was there already"
        assert await try_password(transport, "alice", "wrong") is None
        assert await try_password(transport, "alice") == set()
        await until(lambda: bool(server.backend.logins))


async def test_either_chain_is_enough(key: Path, tmp_path: Path) -> None:
    users = users_file(tmp_path, alice(key))
    async with chained(users, "publickey,password", "password,publickey") as server:
        async with paramiko_transport(server) as transport:
            assert await offered(transport, "alice") == {"publickey", "password"}
            assert await try_password(transport, "alice") == {"publickey"}
            assert await try_key(transport, "alice", key) == set()
        async with paramiko_transport(server) as transport:
            assert await try_key(transport, "alice", key) == {"password"}
            assert await try_password(transport, "alice") == set()


@pytest.mark.parametrize("again", [False, True])
async def test_another_name_forgets_what_has_succeeded(key: Path, tmp_path: Path, again: bool) -> None:
    users = users_file(tmp_path, {**alice(key), "mallory": {"password": PASSWORD}})
    async with chained(users, "publickey,password") as server, paramiko_transport(server) as transport:
        assert await try_key(transport, "alice", key) == {"password"}
        if again:
            assert await offered(transport, "mallory") == {"publickey"}
            assert await try_password(transport, "alice") is None
        else:
            assert await try_password(transport, "mallory") is None
            assert await try_password(transport, "alice") is None
    assert not server.backend.logins


async def test_a_user_may_have_chains_of_their_own_and_nobody_can_tell(key: Path, tmp_path: Path) -> None:
    users = users_file(
        tmp_path,
        {**alice(key, authenticationMethods=["publickey,password"]), "bob": {"password": PASSWORD}},
    )
    async with chained(users) as server:
        for name in ("alice", "bob", "nobody"):
            async with paramiko_transport(server) as transport:
                assert await offered(transport, name) == {"publickey", "password"}
                assert await try_password(transport, name, "wrong") is None
                assert await offered(transport, name) == {"publickey", "password"}
        async with paramiko_transport(server) as transport:
            assert await try_password(transport, "alice") is None
            assert await offered(transport, "alice") == {"publickey", "password"}
            assert await try_key(transport, "alice", key) == {"password"}
            assert await try_password(transport, "alice") == set()
        async with paramiko_transport(server) as transport:
            assert await try_password(transport, "bob") == set()


def config(hook: Webhook) -> WebhookConfig:
    return WebhookConfig.model_validate({"url": hook.url, "authTimeout": "5s"})


async def test_all_steps_bring_their_values_and_the_authorization_comes_last(key: Path, tmp_path: Path) -> None:
    def answer(asked: Request) -> Reply:
        step = asked.path[1:]
        values = {step: {"value": step}, "last": {"value": step}}
        secret = {f"secret-{step}": {"value": f"marker-{step}", "sensitive": True}}
        return Reply({"success": True, "metadata": {**values, **secret}, "environment": values})

    async with webhook() as hook, open_webhook(config(hook)) as asking, open_authorizer(config(hook)) as authorizer:
        hook.answers = [answer]
        found = Authenticators(
            asking, asking, authorizer=authorizer, chains=frozenset({as_chain("publickey,password")})
        )
        async with (
            serving(LocalBackend(), around=lambda inner: AuthenticationServer(inner, found)) as server,
            paramiko_transport(server) as transport,
        ):
            assert await try_key(transport, "alice", key) == {"password"}
            assert [request.path for request in hook.requests] == ["/pubkey"]
            assert await try_password(transport, "alice") == set()
            await until(lambda: bool(server.backend.logins))
    assert [request.path for request in hook.requests] == ["/pubkey", "/password", "/authz"]
    assert list(hook.requests[1].json["metadata"]) == ["pubkey", "last"]  # type: ignore[call-overload]  # JSON
    assert not any(b"marker" in request.raw for request in hook.requests)
    (login,) = server.backend.logins
    assert {name: value.value for name, value in login.environment.items()} == {
        "pubkey": "pubkey",
        "password": "password",
        "authz": "authz",
        "last": "authz",
    }
    assert login.metadata["secret-pubkey"] == Value("marker-pubkey", sensitive=True)


def send_password(client: RawClient, user: bytes) -> None:
    client.send(REQUEST, user, b"ssh-connection", b"password", raw=b"\0\0\0\0\6secret")


async def test_a_change_of_name_while_a_step_is_judged_is_never_a_login(key: Path) -> None:
    def answer(asked: Request) -> Reply:
        return Reply({"success": True}, delay=0.3 if asked.path == "/password" else 0)

    async with webhook() as hook, open_webhook(config(hook)) as asking:
        hook.answers = [answer]
        found = Authenticators(asking, asking, chains=frozenset({as_chain("publickey,password")}))
        async with serving(LocalBackend(), around=lambda inner: AuthenticationServer(inner, found)) as server:
            for times in range(1, 11):
                async with paramiko_transport(server) as transport:
                    assert await try_key(transport, "alice", key) == {"password"}
                    client = RawClient(transport)
                    send_password(client, b"alice")
                    if times % 2:
                        await until(lambda: hook.requests[-1].path == "/password")
                    for user in (b"root", b"alice"):
                        # What had succeeded is forgotten.
                        send_password(client, user)
                        assert (await client.answer(FAILURE)).get_text() == "publickey"
    assert not server.backend.logins


async def test_steps_that_vouch_for_different_names_are_refused(key: Path, tmp_path: Path) -> None:
    async with webhook() as hook, open_webhook(config(hook)) as asking:
        hook.answers = [lambda asked: Reply({"success": True, "authenticatedUsername": asked.path})]
        found = Authenticators(asking, asking, chains=frozenset({as_chain("publickey,password")}))
        async with (
            serving(LocalBackend(), around=lambda inner: AuthenticationServer(inner, found)) as server,
            paramiko_transport(server) as transport,
        ):
            assert await try_key(transport, "alice", key) == {"password"}
            assert await try_password(transport, "alice") is None
    assert not server.backend.logins


async def test_a_key_is_authorized_only_once_it_is_proven(openssh: OpenSSH, key: Path, tmp_path: Path) -> None:
    stolen = await openssh.make_key("stolen")
    users = users_file(tmp_path, {"alice": {"authorizedKeys": [read_public_key(stolen), read_public_key(key)]}})
    stolen.unlink()
    async with (
        webhook() as hook,
        open_authorizer(config(hook)) as authorizer,
        chained(users, authorizer=authorizer) as server,
    ):
        (await openssh.run(server, "true", "-i", str(stolen), "-i", str(key))).check()
    assert [request.path for request in hook.requests] == ["/authz"]


async def test_who_is_not_authorized_is_not_let_in(openssh: OpenSSH, key: Path, tmp_path: Path) -> None:
    async with webhook() as hook, open_authorizer(config(hook)) as authorizer:
        hook.answers = [Reply({"success": False, "environment": {"LEAK": {"value": "x"}}})]
        async with chained(users_file(tmp_path, alice(key)), authorizer=authorizer) as server:
            done = await openssh.run(server, "true", "-i", str(key))
            assert (done.status, b"Permission denied" in done.stderr) == (255, True)
            assert len(server.log.of(SSHCode.AUTH_FAILED)) == 2
    assert not server.backend.logins


@pytest.mark.parametrize("kind", [TOKEN, 63, ERROR_TOKEN, 66])
async def test_a_ticket_is_refused_where_none_is_asked_for(
    openssh: OpenSSH, key: Path, tmp_path: Path, kind: int
) -> None:
    """GSSAPI without its configuration, beside an authorization webhook: it ends upstream's server."""
    async with (
        webhook() as hook,
        open_authorizer(config(hook)) as authorizer,
        chained(users_file(tmp_path, alice(key)), authorizer=authorizer) as server,
    ):
        for method in (b"gssapi-with-mic", b"gssapi-keyex"):
            async with RawClient.connected(server) as client:
                client.send(REQUEST, b"alice", b"ssh-connection", method, raw=KERBEROS)
                assert set((await client.answer(FAILURE)).get_text().split(",")) == {"password", "publickey"}
                client.send(kind, b"token")
                client.send(REQUEST, b"alice", b"ssh-connection", b"none")
                with suppress(EOFError):
                    await client.answer(FAILURE)
        assert not hook.requests
        (await openssh.run(server, "true", "-i", str(key))).check()


CODES = parse_totp("GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ")
TEXT = "otpauth://totp/alice?secret=GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ"


def code(steps: int = 0) -> str:
    return CODES.code(int(time.time()) // 30 + steps)


@asynccontextmanager
async def with_codes(folder: Path, users: Mapping[str, Any], *chains: str) -> AsyncIterator[Front]:
    """A server that asks for codes."""
    known = users_file(folder, users, codes=True)
    async with open_codes(known, folder, CodesConfig()) as codes:
        found = Authenticators(
            known,
            known,
            codes,
            chains=frozenset(map(as_chain, chains)),
            user_chains=known,
            second_only=frozenset({AuthMethod.KEYBOARD_INTERACTIVE}),
        )
        async with serving(LocalBackend(), around=lambda inner: AuthenticationServer(inner, found)) as server:
            yield server


async def test_who_has_a_secret_needs_a_code_and_a_code_is_never_enough(key: Path, tmp_path: Path) -> None:
    users = {**alice(key, totp=TEXT), "bob": {"password": PASSWORD}}
    async with with_codes(tmp_path, users) as server:
        async with paramiko_transport(server) as transport:
            assert await offered(transport, "alice") == {"publickey", "password"}
            assert await try_answers(transport, "alice", code()) is None
            assert await try_key(transport, "alice", key) == {"keyboard-interactive"}
            assert await try_answers(transport, "alice", "000000") is None
            assert await try_answers(transport, "alice", code()) == set()
        async with paramiko_transport(server) as transport:
            assert await try_password(transport, "alice") == {"keyboard-interactive"}
            assert await try_answers(transport, "alice", code()) is None, "it was used"
            assert await try_answers(transport, "alice", code(1)) == set()
        async with paramiko_transport(server) as transport:
            assert await try_password(transport, "bob") == set()
    assert [login.authenticated_username for login in server.backend.logins] == ["alice", "alice", "bob"]


async def test_who_has_no_secret_fails_where_a_code_is_asked_of_all(key: Path, tmp_path: Path) -> None:
    async with (
        with_codes(tmp_path, alice(key), "publickey,keyboard-interactive") as server,
        paramiko_transport(server) as transport,
    ):
        assert await try_key(transport, "alice", key) == {"keyboard-interactive"}
        assert await try_answers(transport, "alice", code()) is None
    assert not server.backend.logins


async def test_a_code_of_one_user_is_nothing_to_another(key: Path, tmp_path: Path) -> None:
    other = "otpauth://totp/bob?secret=KRSXG5CTMVRXEZLUKN2XAZLSKNSWG4TF"
    users = {**alice(key, totp=TEXT), "bob": {"password": PASSWORD, "totp": other}}
    async with with_codes(tmp_path, users) as server, paramiko_transport(server) as transport:
        assert await try_password(transport, "bob") == {"keyboard-interactive"}
        assert await try_answers(transport, "bob", code()) is None
        assert await try_answers(transport, "alice", code()) is None
    assert not server.backend.logins


async def test_openssh_asks_its_user_for_the_code(key: Path, tmp_path: Path) -> None:
    client = OpenSSH(tmp_path, password=code())
    async with with_codes(tmp_path, alice(key, totp=TEXT)) as server:
        (await client.run(server, "true", "-i", str(key))).check()
        again = await client.run(server, "true", "-i", str(key))
    assert (again.status, b"Permission denied (keyboard-interactive)" in again.stderr) == (255, True)


async def test_another_spelling_of_a_name_evades_none_of_its_methods(key: Path, tmp_path: Path) -> None:
    """Who judges the password vouches for alice, whatever was typed; alice needs a key before it."""
    everyone = alice(key, authenticationMethods=["publickey,password"])
    users = users_file(tmp_path, everyone)
    async with webhook() as hook, open_webhook(config(hook)) as asking:
        hook.answers = [lambda asked: Reply({"success": True, "authenticatedUsername": "alice"})]
        found = Authenticators(asking, users, user_chains=users)
        async with (
            serving(LocalBackend(), around=lambda inner: AuthenticationServer(inner, found)) as server,
            paramiko_transport(server) as transport,
        ):
            assert await try_password(transport, "Alice") is None
            assert await try_password(transport, "other") is None
    assert not server.backend.logins
