"""Attacks on authentication: another user while one is being judged, another's key, another's exchange."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import asyncssh
import pytest

from containerssh.auth.interview import open_interview
from containerssh.auth.kerberos.authenticator import KERBEROS, open_kerberos
from containerssh.auth.webhook import open_authorizer, open_webhook
from containerssh.config.auth import KerberosConfig, WebhookConfig
from containerssh.core.codes import SSHCode
from containerssh.layers.authentication import AuthenticationServer, Authenticators
from containerssh.ssh.options import Limits
from tests.support.kdc import KDC
from tests.support.local_backend import LocalBackend
from tests.support.packing import strings
from tests.support.raw_client import ANSWERS, ASKED, FAILURE, KEY_ACCEPTABLE, REQUEST, SUCCESS, RawClient, message
from tests.support.ssh_front import Front, serving
from tests.support.ticket_client import TicketClient, context
from tests.support.waiting import until
from tests.support.webhook import Reply, Request, Webhook, webhook

ROUNDS = 200
AT_ONCE = 8
PATIENT = Limits(auth_tries=10_000, auth_requests=10_000, auth_calls=10_000)
MIC = 66


def judged(asked: Request) -> Reply:
    """Alice is let in, nobody else; it takes a while, as with all webhooks."""
    question = asked.json
    if asked.path == "/interactive" and question["round"] == 0:
        return Reply({"prompt": {"questions": [{"text": "Word: "}]}}, delay=random.uniform(0, 0.005))
    yes = question["username"] == "alice"
    return Reply({"success": yes, "authenticatedUsername": question["username"]}, delay=random.uniform(0, 0.03))


@asynccontextmanager
async def asking(**found: Any) -> AsyncIterator[tuple[Front, Webhook]]:
    """A server that has everything judged by a webhook, unless *found* says otherwise."""
    async with webhook() as hook, AsyncExitStack() as stack:
        hook.answers = [judged]
        config = WebhookConfig.model_validate({"url": hook.url})
        asked = await stack.enter_async_context(open_webhook(config))
        interview = await stack.enter_async_context(open_interview(config))
        authorizer = await stack.enter_async_context(open_authorizer(config))
        who = {"password": asked, "public_key": asked, "interactive": interview, "authorizer": authorizer, **found}
        server = await stack.enter_async_context(
            serving(
                LocalBackend(),
                around=lambda inner: AuthenticationServer(inner, Authenticators(**who)),
                limits=PATIENT,
            )
        )
        yield server, hook


Attack = Callable[[Any], Awaitable[None]]
"""Sends two requests, the second one for root while the first one is judged."""


async def attacked(server: Front, attack: Attack, kind: type[RawClient] = RawClient, *, once: bool = False) -> int:
    """
    Attack 200 times over several connections, each used *once* or until it is in; how often the client was refused.
    What is left is alice's login, when the yes was on its way before the second request came.
    """
    left = list(range(ROUNDS))
    refused = 0

    async def client() -> None:
        nonlocal refused
        while left:
            async with kind.connected(server) as connection:
                while left:
                    left.pop()
                    try:
                        await attack(connection)
                        if await decided(connection):
                            break
                    except EOFError:
                        # Sent away, for a message that has no place there.
                        refused += 1
                        break
                    refused += 1
                    if once:
                        break

    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        for _ in range(AT_ONCE):
            group.create_task(client())
    await until(lambda: not server.backend.open_scopes)
    assert {login.username for login in server.backend.logins} <= {"alice"}
    assert {login.authenticated_username for login in server.backend.logins} <= {"alice"}
    let_in = [labels["username"] for _, labels in server.log.of(SSHCode.AUTH_SUCCESSFUL)]
    assert set(let_in) <= {"alice"}
    assert len(server.backend.logins) + refused >= ROUNDS - AT_ONCE
    return refused


async def decided(client: RawClient) -> bool:
    """The server's last word on what was asked: whether the client is in."""
    while True:
        kind, _ = await client.next()
        if kind in (FAILURE, SUCCESS):
            return kind == SUCCESS


async def a_while() -> None:
    await asyncio.sleep(random.choice([0, random.uniform(0, 0.03)]))


def password(user: str) -> tuple[bytes, ...]:
    return (user.encode(), b"ssh-connection", b"password")


async def test_a_password_of_one_user_never_lets_another_in() -> None:
    async def attack(client: RawClient) -> None:
        client.send(REQUEST, *password("alice"), raw=b"\0\0\0\0\6secret")
        await a_while()
        client.send(REQUEST, *password("root"), raw=b"\0\0\0\0\6secret")

    async with asking() as (server, _):
        assert await attacked(server, attack) > ROUNDS / 4


def shown(key: asyncssh.SSHKey, user: str) -> bytes:
    """A question about *key*."""
    fields = message(REQUEST, user.encode(), b"ssh-connection", b"publickey").asbytes()
    return fields + b"\0" + strings(b"ssh-ed25519", key.public_data)


def signed(key: asyncssh.SSHKey, user: str, session: bytes, by: asyncssh.SSHKey | None = None) -> bytes:
    """A request with *key*, and a signature by *by*."""
    fields = message(REQUEST, user.encode(), b"ssh-connection", b"publickey").asbytes()
    data = fields + b"\1" + strings(b"ssh-ed25519", key.public_data)
    return data + strings((by or key).sign(strings(session) + data, b"ssh-ed25519"))


def send_raw(client: RawClient, data: bytes) -> None:
    client.send(data[0], raw=data[1:])


async def test_a_key_of_one_user_never_lets_another_in() -> None:
    """Offered or signed for alice, and signed or offered for root, in every combination."""
    key = asyncssh.generate_private_key("ssh-ed25519")

    async def attack(client: RawClient) -> None:
        first, second = random.choice([(0, 1), (1, 0), (1, 1)])
        for user, proves in (("alice", first), ("root", second)):
            send_raw(client, signed(key, user, client.session) if proves else shown(key, user))
            await a_while() if user == "alice" else None

    async with asking() as (server, _):
        assert await attacked(server, attack) > ROUNDS / 4


async def test_answers_of_one_user_never_let_another_in() -> None:
    def ask(client: RawClient, user: str) -> None:
        client.send(REQUEST, user.encode(), b"ssh-connection", b"keyboard-interactive", b"", b"")

    async def attack(client: RawClient) -> None:
        ask(client, "alice")
        await client.answer(ASKED)
        early = random.random() < 0.5
        if not early:
            client.send(ANSWERS, raw=b"\0\0\0\1" + strings(b"word"))
            await a_while()
        ask(client, "root")
        if early:
            # Answers to alice's question, which nobody asks any more.
            client.send(ANSWERS, raw=b"\0\0\0\1" + strings(b"word"))
        kind, _ = await client.next()
        if kind == ASKED:
            client.send(ANSWERS, raw=b"\0\0\0\1" + strings(b"word"))
        else:
            client.put_back(kind)

    async with asking() as (server, _):
        assert await attacked(server, attack) > ROUNDS / 4


async def test_a_ticket_of_one_user_never_lets_another_in(kdc: KDC, monkeypatch: pytest.MonkeyPatch) -> None:
    """In mid-exchange, and while the authorization webhook is asked about alice, whose code was right."""
    for name, value in (await kdc.ticket()).items():
        monkeypatch.setenv(name, value)

    async def attack(client: TicketClient) -> None:
        mine = context()
        await client.exchange("alice", mine)
        if random.random() < 0.5:
            client.send(MIC, client.signed(mine, random.choice(["alice", "root"])))
            await a_while()
        client.request("root")
        client.send(MIC, client.signed(mine, "root"))

    section = {"keytab": str(kdc.keytab), "configPath": str(kdc.config)}
    async with (
        open_kerberos(KerberosConfig.model_validate(section)) as tickets,
        asking(gssapi=tickets) as (server, _),
    ):
        assert await attacked(server, attack, TicketClient, once=True) > ROUNDS / 4


# -- another's key -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("user", ["alice", "root"])
async def test_a_key_that_was_only_offered_opens_nothing(user: str) -> None:
    """The victim's key is offered and found good; then the attacker's own signs, under its name or the victim's."""
    victim, own = (asyncssh.generate_private_key("ssh-ed25519") for _ in range(2))
    known = " ".join(victim.export_public_key().decode().split()[:2])

    def judge(asked: Request) -> Reply:
        return Reply({"success": asked.json.get("publicKey", known) == known})

    async with asking() as (server, hook), RawClient.connected(server) as client:
        hook.answers = [judge]
        send_raw(client, shown(victim, user))
        await client.answer(KEY_ACCEPTABLE)
        send_raw(client, signed(own, user, client.session))
        await client.answer(FAILURE)
        send_raw(client, signed(victim, user, client.session, by=own))
        await client.answer(FAILURE)
        send_raw(client, signed(victim, user, b"\0" * len(client.session)))
        await client.answer(FAILURE)
    assert server.backend.logins == []
    assert SSHCode.AUTH_SUCCESSFUL not in server.log


async def test_a_key_found_good_for_one_user_is_asked_about_again_for_another() -> None:
    key = asyncssh.generate_private_key("ssh-ed25519")
    async with asking() as (server, hook), RawClient.connected(server) as client:
        send_raw(client, shown(key, "alice"))
        await client.answer(KEY_ACCEPTABLE)
        send_raw(client, signed(key, "root", client.session))
        await client.answer(FAILURE)
        assert [asked.json["username"] for asked in hook.requests] == ["alice", "root"]
    assert server.backend.logins == []


# -- another's exchange ------------------------------------------------------------------------------------------------


async def test_a_recorded_exchange_opens_no_other_connection(kdc: KDC, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything that alice's client has sent, sent again: on the next connection, and to a server started anew."""
    for name, value in (await kdc.ticket()).items():
        monkeypatch.setenv(name, value)
    section = KerberosConfig.model_validate({"keytab": str(kdc.keytab), "configPath": str(kdc.config)})
    mine = context()
    token = mine.step() or b""
    async with open_kerberos(section) as tickets, asking(gssapi=tickets) as (server, _):
        async with TicketClient.connected(server) as client:
            client.request("alice")
            assert (await client.answer(ASKED)).get_binary() == KERBEROS
            client.send(ANSWERS, token)
            mine.step((await client.answer(ANSWERS)).get_binary())
            code = client.signed(mine, "alice")
            client.send(MIC, code)
            await client.answer(SUCCESS)
        await until(lambda: len(server.backend.logins) == 1)
        await replayed(server, token, code)
        assert len(server.backend.logins) == 1
    async with open_kerberos(section) as tickets, asking(gssapi=tickets) as (server, _):
        await replayed(server, token, code)
        assert server.backend.logins == []


async def replayed(server: Front, token: bytes, code: bytes) -> None:
    async with TicketClient.connected(server) as client:
        client.request("alice")
        await client.answer(ASKED)
        client.send(ANSWERS, token)
        client.send(MIC, code)
        assert not await decided(client)
