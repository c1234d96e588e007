"""Attacks on remembered keys: keys that were not proved, names that change, two processes at once."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncssh
import pytest

from containerssh.auth.interview import open_interview
from containerssh.auth.remember import AnyKey, Memory
from containerssh.auth.remembered import Store
from containerssh.auth.webhook import open_authorizer
from containerssh.config.auth import WebhookConfig
from containerssh.config.remember import RememberConfig
from containerssh.core.handlers import AuthMethod
from containerssh.layers.authentication import AuthenticationServer, Authenticators
from containerssh.ssh.options import Limits
from tests.support.local_backend import LocalBackend
from tests.support.packing import strings
from tests.support.raw_client import ANSWERS, ASKED, FAILURE, KEY_ACCEPTABLE, REQUEST, SUCCESS, RawClient, message
from tests.support.ssh_front import Front, serving
from tests.support.waiting import until
from tests.support.webhook import Reply, Request, webhook

PATIENT = Limits(auth_tries=10_000, auth_requests=10_000, auth_calls=10_000)
ROUNDS = 60


def judged(asked: Request) -> Reply:
    """Everybody but root is let in, after a while."""
    question = asked.json
    if asked.path == "/interactive" and question["round"] == 0:
        return Reply({"prompt": {"questions": [{"text": "Word: "}]}}, delay=random.uniform(0, 0.005))
    return Reply({"success": question["username"] != "root"}, delay=random.uniform(0, 0.02))


@asynccontextmanager
async def remembering(store: Store) -> AsyncIterator[Front]:
    async with webhook() as hook:
        hook.answers = [judged]
        config = WebhookConfig.model_validate({"url": hook.url})
        async with open_interview(config) as interview, open_authorizer(config) as authorizer:
            found = Authenticators(
                public_key=AnyKey(),
                interactive=interview,
                authorizer=authorizer,
                worthless=frozenset({AuthMethod.PUBLIC_KEY}),
                memory=Memory(RememberConfig.model_validate({"period": "1h"}), store, "context"),
            )
            async with serving(
                LocalBackend(), around=lambda inner: AuthenticationServer(inner, found), limits=PATIENT
            ) as server:
                yield server


def offer(client: RawClient, user: str, key: asyncssh.SSHKey) -> None:
    """Show *key* without a proof."""
    client.send(REQUEST, user.encode(), b"ssh-connection", b"publickey", raw=b"\0" + _public(key))


def prove(client: RawClient, user: str, key: asyncssh.SSHKey, by: asyncssh.SSHKey | None = None) -> None:
    """Show *key*, with a signature by *by*."""
    head = message(REQUEST, user.encode(), b"ssh-connection", b"publickey").asbytes()
    data = head + b"\1" + _public(key)
    signature = (by or key).sign(strings(client.session) + data, b"ssh-ed25519")
    client.send(REQUEST, raw=data[1:] + strings(signature))


def _public(key: asyncssh.SSHKey) -> bytes:
    return strings(b"ssh-ed25519", key.public_data)


def ask(client: RawClient, user: str) -> None:
    client.send(REQUEST, user.encode(), b"ssh-connection", b"keyboard-interactive", b"", b"")


def answer(client: RawClient) -> None:
    client.send(ANSWERS, raw=b"\0\0\0\1" + strings(b"word"))


async def answered(client: RawClient, user: str) -> int:
    """The server's word on this user's answer."""
    ask(client, user)
    await client.answer(ASKED)
    answer(client)
    return (await client.next())[0]


def new_key() -> asyncssh.SSHKey:
    return asyncssh.generate_private_key("ssh-ed25519")


@pytest.mark.parametrize("how", ["only offered", "signed by another", "for another name"])
async def test_only_a_key_that_was_proved_for_this_user_is_remembered(tmp_path: Path, how: str) -> None:
    victims, own = new_key(), new_key()
    store = Store(tmp_path / "remembered")
    async with remembering(store) as server, RawClient.connected(server) as client:
        match how:
            case "only offered":
                offer(client, "mallory", victims)
                await client.answer(KEY_ACCEPTABLE)
            case "signed by another":
                prove(client, "mallory", victims, own)
                await client.answer(FAILURE)
            case "for another name":
                prove(client, "victim", own)
                await client.answer(FAILURE)
        assert await answered(client, "mallory") == SUCCESS
        await until(lambda: bool(server.backend.logins))
    assert store.entries() == []


async def test_of_two_keys_the_one_that_was_proved_last_is_remembered(tmp_path: Path) -> None:
    first, second = new_key(), new_key()
    store = Store(tmp_path / "remembered")
    async with remembering(store) as server, RawClient.connected(server) as client:
        prove(client, "alice", first)
        await client.answer(FAILURE)
        # Another name makes the server forget what has succeeded.
        ask(client, "nobody")
        await client.answer(ASKED)
        prove(client, "alice", second)
        await client.answer(FAILURE)
        assert await answered(client, "alice") == SUCCESS
        await until(lambda: bool(store.entries()))
    (entry,) = store.entries()
    assert entry.fingerprint == second.get_fingerprint()


async def test_a_name_that_changes_while_somebody_is_recalled_or_kept_is_never_a_login(tmp_path: Path) -> None:
    key = new_key()
    store = Store(tmp_path / "remembered")
    async with remembering(store) as server:
        async with RawClient.connected(server) as client:
            prove(client, "alice", key)
            await client.answer(FAILURE)
            assert await answered(client, "alice") == SUCCESS
        async with asyncio.timeout(60):
            for number in range(ROUNDS):
                async with RawClient.connected(server) as client:
                    user = "alice" if number % 2 else "bob"
                    prove(client, user, key)
                    await asyncio.sleep(random.choice([0, random.uniform(0, 0.02)]))
                    prove(client, "root", key)
                    while True:
                        kind, _ = await client.next()
                        if kind == SUCCESS:
                            break
                        ask(client, "root")
                        if (await client.next())[0] == ASKED:
                            answer(client)
                            assert (await client.next())[0] == FAILURE
                            break
        await until(lambda: not server.backend.open_scopes)
    assert {login.username for login in server.backend.logins} == {"alice"}
    assert {entry.username for entry in store.entries()} == {"alice"}
