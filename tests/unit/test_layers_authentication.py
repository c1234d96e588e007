"""Which authenticator judges what, and when what an attempt left with others is taken back."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from containerssh.auth.chains import Chain, as_chain, merged
from containerssh.auth.remember import AnyKey
from containerssh.auth.users import UsersFile
from containerssh.core import metrics
from containerssh.core.codes import AuthCode
from containerssh.core.counters import Counters
from containerssh.core.errors import AuthFailed
from containerssh.core.gssapi import GSSAPIExchange, IntegrityProof
from containerssh.core.handlers import AuthMethod, PartialSuccess, Prompts, PublicKey
from containerssh.core.metadata import AuthAttempt, ConnectionMetadata, Login, Restrictions, SocketAddress
from containerssh.core.tasks import finish
from containerssh.layers.authentication import AuthenticationServer, Authenticators
from containerssh.layers.metrics import MetricsServer
from tests.support.local_backend import LocalBackend

ADDRESS = SocketAddress("192.0.2.7", 4711)
ATTEMPT = AuthAttempt(ADDRESS, "0" * 32, username="alice")


class Nobody(Prompts):
    async def ask(self, instruction: str, questions: Sequence[tuple[str, bool]] = ()) -> Sequence[str]:
        return ["" for _ in questions]


class NoTokens(GSSAPIExchange):
    @property
    def mechanisms(self) -> Sequence[bytes]:
        return ()

    async def choose(self, mechanism: bytes) -> bytes:
        return b""

    async def answer(self, token: bytes) -> bytes:
        return b""

    async def finish(self, token: bytes = b"") -> IntegrityProof:
        return IntegrityProof(b"", b"")

    def tell_error(self, token: bytes) -> None: ...


@dataclass
class Tokens:
    """Leaves a token with every attempt; only the second is right."""

    valid: list[int] = field(default_factory=list)
    given: int = 0

    async def authenticate_password(self, attempt: AuthAttempt, password: bytes) -> Login:
        raise AuthFailed(AuthCode.FAILED, "wrong")

    async def authenticate_interactive(self, attempt: AuthAttempt, prompts: Prompts, undo: AsyncExitStack) -> Login:
        return await self._judge(attempt, undo)

    async def authenticate_gssapi(self, attempt: AuthAttempt, exchange: GSSAPIExchange, undo: AsyncExitStack) -> Login:
        return await self._judge(attempt, undo)

    async def _judge(self, attempt: AuthAttempt, undo: AsyncExitStack) -> Login:
        self.given += 1
        token = self.given
        self.valid.append(token)

        async def revoke() -> None:
            self.valid.remove(token)

        undo.push_async_callback(finish, revoke, within=timedelta(seconds=1))
        if token != 2:
            raise AuthFailed(AuthCode.FAILED, "not this time")
        return Login.of(attempt, "alice")


async def test_what_an_attempt_left_is_taken_back_before_the_next_and_at_the_end() -> None:
    tokens = Tokens()
    server = AuthenticationServer(LocalBackend(), Authenticators(interactive=tokens, gssapi=tokens, password=tokens))
    async with server.accept(ConnectionMetadata(ADDRESS, "0" * 32)) as network:
        with pytest.raises(AuthFailed):
            await network.authenticate_interactive(ATTEMPT, Nobody())
        assert tokens.valid == [1]
        await network.authenticate_gssapi(ATTEMPT, NoTokens())
        assert tokens.valid == [2]
        with pytest.raises(AuthFailed):
            await network.authenticate_interactive(ATTEMPT, Nobody())
        assert tokens.valid == [3]
        with pytest.raises(AuthFailed):
            await network.authenticate_password(ATTEMPT, b"")
        assert tokens.valid == []
        with pytest.raises(AuthFailed):
            await network.authenticate_gssapi(ATTEMPT, NoTokens())
        assert tokens.valid == [4]
    assert tokens.valid == []


async def test_only_methods_with_an_authenticator_are_offered() -> None:
    tokens = Tokens()
    server = AuthenticationServer(LocalBackend(), Authenticators(interactive=tokens))
    async with server.accept(ConnectionMetadata(ADDRESS, "0" * 32)) as network:
        assert network.auth_methods == {AuthMethod.KEYBOARD_INTERACTIVE}


@pytest.mark.parametrize(
    ("method", "kind"), [(AuthMethod.KEYBOARD_INTERACTIVE, "keyboard-interactive"), (AuthMethod.GSSAPI, "gssapi")]
)
async def test_browser_logins_and_tickets_are_counted_too(
    method: AuthMethod, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = Counters()
    monkeypatch.setattr("containerssh.layers.metrics.counters", counted)
    tokens = Tokens()
    inner = AuthenticationServer(LocalBackend(), Authenticators(interactive=tokens, gssapi=tokens))
    async with MetricsServer(inner, lambda _: "XX", False).accept(ConnectionMetadata(ADDRESS, "0" * 32)) as network:

        async def attempt() -> Login:
            if method is AuthMethod.GSSAPI:
                return await network.authenticate_gssapi(ATTEMPT, NoTokens())
            return await network.authenticate_interactive(ATTEMPT, Nobody())

        with pytest.raises(AuthFailed):
            await attempt()
        await network.authenticated(await attempt(), method, None)
    for name in (metrics.AUTH_FAILURES, metrics.AUTH_SUCCESS):
        assert counted.value(name, authtype=kind, country="XX") == 1


async def test_what_a_step_left_stays_while_others_follow_and_goes_with_another_name() -> None:
    tokens = Tokens(given=1)
    chain = (AuthMethod.KEYBOARD_INTERACTIVE, AuthMethod.PASSWORD)
    found = Authenticators(interactive=tokens, password=tokens, chains=frozenset({chain}))
    async with AuthenticationServer(LocalBackend(), found).accept(ConnectionMetadata(ADDRESS, "0" * 32)) as network:
        login = await network.authenticate_interactive(ATTEMPT, Nobody())
        step = await network.authenticated(login, AuthMethod.KEYBOARD_INTERACTIVE, None)
        assert isinstance(step, PartialSuccess)
        assert (step.succeeded, step.methods) == (chain[:1], frozenset({AuthMethod.PASSWORD}))
        with pytest.raises(AuthFailed):
            await network.authenticate_password(ATTEMPT, b"")
        assert tokens.valid == [2]
        with pytest.raises(AuthFailed):
            await network.authenticate_password(replace(ATTEMPT, username="bob"), b"")
        assert tokens.valid == []


def test_two_methods_leave_what_both_allow() -> None:
    one = Login.of(ATTEMPT, "", restrictions=Restrictions(pty=False, environment=frozenset({"A"})))
    other = Login.of(ATTEMPT, "alice", restrictions=Restrictions(force_command="ls", x11_forwarding=False))
    both = merged(one, other)
    assert both.authenticated_username == "alice"
    assert both.restrictions == Restrictions("ls", frozenset({"A"}), pty=False, x11_forwarding=False)
    with pytest.raises(AuthFailed):
        merged(both, Login.of(ATTEMPT, "", restrictions=Restrictions(force_command="id")))


class Chains:
    """A users file in which somebody may log in with a key alone."""

    chains = (as_chain("publickey"), as_chain("publickey,keyboard-interactive"))

    async def chains_of(self, username: str, others: frozenset[Chain]) -> Collection[Chain]:
        return self.chains if username == "alice" else others

    async def code_counts(self, given: str, name: str) -> bool:
        return given == name


async def test_a_key_that_proves_nothing_is_never_enough() -> None:
    found = Authenticators(
        public_key=AnyKey(), interactive=Tokens(), worthless=frozenset({AuthMethod.PUBLIC_KEY}), user_chains=Chains()
    )
    assert found.methods == {AuthMethod.PUBLIC_KEY, AuthMethod.KEYBOARD_INTERACTIVE}
    for name in ("alice", "bob"):
        assert as_chain("publickey") not in await found.chains_of(name)
    codes = replace(found, second_only=frozenset({AuthMethod.KEYBOARD_INTERACTIVE}))
    assert not codes.methods, "neither is one with a code"
    assert not await codes.chains_of("alice")


async def test_a_certificate_that_nobody_has_judged_is_no_key() -> None:
    with pytest.raises(AuthFailed):
        await AnyKey().authenticate_public_key(ATTEMPT, PublicKey("ssh-ed25519-cert-v01@openssh.com", b"x"))


SECRET, OTHER_SECRET = "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ", "KRSXG5CTMVRXEZLUKN2XAZLSKNSWG4TF"
TICKET, CODE, KEY, PASSWORD = (
    AuthMethod.GSSAPI,
    AuthMethod.KEYBOARD_INTERACTIVE,
    AuthMethod.PUBLIC_KEY,
    AuthMethod.PASSWORD,
)


def users_file(folder: Path, users: dict[str, Any]) -> UsersFile:
    path = folder / "users.json"
    path.write_text(json.dumps({"users": users}))
    path.chmod(0o600)
    return UsersFile(path, codes=True)


@dataclass
class Vouching:
    """Judges everything right; vouches for *name*."""

    name: str

    async def authenticate_password(self, attempt: AuthAttempt, password: bytes) -> Login:
        return Login.of(attempt, self.name)

    async def authenticate_interactive(self, attempt: AuthAttempt, prompts: Prompts, undo: AsyncExitStack) -> Login:
        return Login.of(attempt, "")

    async def authenticate_gssapi(self, attempt: AuthAttempt, exchange: GSSAPIExchange, undo: AsyncExitStack) -> Login:
        return Login.of(attempt, self.name)

    async def authorize(self, login: Login) -> Login:
        return replace(login, authenticated_username=self.name)


async def gets_in(found: Authenticators, given: str, *, code: bool = False) -> bool:
    """Whether a ticket lets the user *given* in, followed by a one-time code of that user's if so wished."""
    attempt = replace(ATTEMPT, username=given)
    async with AuthenticationServer(LocalBackend(), found).accept(ConnectionMetadata(ADDRESS, "0" * 32)) as network:
        try:
            result = await network.authenticated(await network.authenticate_gssapi(attempt, NoTokens()), TICKET, None)
            if isinstance(result, PartialSuccess) and code:
                login = await network.authenticate_interactive(attempt, Nobody())
                result = await network.authenticated(login, CODE, result)
        except AuthFailed:
            return False
        return isinstance(result, Login)


async def test_nobody_elses_code_stands_in_for_ones_own(tmp_path: Path) -> None:
    """A ticket of alice's, shown under the name of somebody else who has a secret for codes as well."""
    users = users_file(tmp_path, {"alice": {"totp": SECRET}, "mallory": {"totp": OTHER_SECRET}, "al": {"totp": SECRET}})
    judge = Vouching("alice")
    found = Authenticators(gssapi=judge, interactive=judge, user_chains=users, second_only=frozenset({CODE}))
    assert await gets_in(found, "alice", code=True)
    assert await gets_in(found, "al", code=True), "it is the same secret"
    assert not await gets_in(found, "mallory", code=True)
    assert not await gets_in(found, "alice")
    assert not await gets_in(found, "nobody", code=True)
    bob = Vouching("bob")
    others = replace(found, gssapi=bob, interactive=bob)
    assert await gets_in(others, "nobody"), "bob has nothing of his own"
    users.close()


@pytest.mark.parametrize(
    "given", ["Alice", "ALICE", " alice", "alice ", "\uff41lice", "ali\u2009ce", "\u212balice", "al\u200dice"]
)
async def test_what_a_lax_judge_may_take_for_a_users_name_needs_that_users_methods(tmp_path: Path, given: str) -> None:
    """As a KDC that does not look at the case, and vouches for the name in whatever spelling it was asked."""
    users = users_file(
        tmp_path, {"alice": {"totp": SECRET}, "ali ce": {"totp": SECRET}, "\u00e5alice": {"totp": SECRET}}
    )
    judge = Vouching(given)
    found = Authenticators(gssapi=judge, interactive=judge, user_chains=users, second_only=frozenset({CODE}))
    assert not await gets_in(found, given)
    assert await gets_in(replace(found, gssapi=Vouching("alice2")), "alice2")
    users.close()


async def test_of_two_users_that_are_spelt_alike_both_lists_hold_for_a_third_spelling(tmp_path: Path) -> None:
    one, other = {"authenticationMethods": ["publickey", "password"]}, {"authenticationMethods": ["password"]}
    users = users_file(tmp_path, {"bob": one, "Bob": other, "carol": {"totp": SECRET}})
    default = frozenset({(KEY,), (PASSWORD,)})
    assert set(await users.chains_of("BOB", default)) == {(PASSWORD,)}
    assert set(await users.chains_of("bob", default)) == {(KEY,), (PASSWORD,)}
    assert set(await users.chains_of("Carol", default)) == {(KEY, CODE), (PASSWORD, CODE)}
    assert await users.chains_of("dave", default) == default
    users.close()


async def test_a_name_that_the_authorization_gives_needs_its_own_methods(tmp_path: Path) -> None:
    users = users_file(tmp_path, {"alice": {"totp": SECRET}})
    judge = Vouching("a.smith")
    found = Authenticators(
        gssapi=judge,
        interactive=judge,
        authorizer=Vouching("alice"),
        user_chains=users,
        second_only=frozenset({CODE}),
    )
    assert not await gets_in(found, "a.smith")
    assert await gets_in(replace(found, authorizer=Vouching("bob")), "a.smith")
    users.close()


async def test_a_key_that_proves_nothing_is_told_nothing_about_who_there_is(tmp_path: Path) -> None:
    """Not even which users have lists of their own, or that one has none with a key in it."""
    lists = {"alice": ["publickey,password"], "bob": ["password"], "carol": ["publickey,keyboard-interactive"]}
    users = users_file(tmp_path, {name: {"authenticationMethods": own} for name, own in lists.items()})
    judge = Vouching("")
    found = Authenticators(judge, AnyKey(), judge, user_chains=users, worthless=frozenset({KEY}))
    key = PublicKey("ssh-ed25519", b"any")
    told = {}
    for name in (*lists, "nobody"):
        attempt = replace(ATTEMPT, username=name)
        async with AuthenticationServer(LocalBackend(), found).accept(ConnectionMetadata(ADDRESS, "0" * 32)) as network:
            login = await network.authenticate_public_key(attempt, key)
            step = await network.authenticated(login, KEY, None, key)
            assert isinstance(step, PartialSuccess)
            told[name] = step.methods
            ends: list[bool] = []
            for method, proof in ((PASSWORD, judge.authenticate_password(attempt, b"")), (CODE, None)):
                login = await (proof or network.authenticate_interactive(attempt, Nobody()))
                try:
                    ends.append(isinstance(await network.authenticated(login, method, step), Login))
                except AuthFailed:
                    ends.append(False)
            assert ends == {"alice": [True, False], "bob": [False, False]}.get(name, [False, True])
    assert set(told.values()) == {frozenset({PASSWORD, CODE})}
    users.close()
