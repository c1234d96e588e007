"""A key that stands in for questions: real clients, a real store, and what must not get anybody in."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncssh
import paramiko
import pytest

from containerssh.auth.authenticator import PublicKeyAuthenticator
from containerssh.auth.chains import as_chain
from containerssh.auth.interview import WebhookInterview, open_interview
from containerssh.auth.remember import AnyKey, Memory
from containerssh.auth.remembered import Store
from containerssh.auth.webhook import WebhookAuthorizer, open_authorizer
from containerssh.config.auth import WebhookConfig
from containerssh.config.remember import RememberConfig
from containerssh.core.codes import AuthCode, SSHCode
from containerssh.core.handlers import AuthMethod
from containerssh.core.metadata import Value
from containerssh.layers.authentication import AuthenticationServer, Authenticators
from tests.support.local_backend import LocalBackend
from tests.support.openssh import OpenSSH, run, ssh_options
from tests.support.raw_client import paramiko_transport
from tests.support.ssh_front import Front, host_key, serving
from tests.support.tools import tool
from tests.support.webhook import Reply, Request, Webhook, webhook

WORD = "open sesame"


@dataclass
class World:
    """Servers with one store; their users answer the questions of one webhook."""

    store: Store
    hook: Webhook
    interview: WebhookInterview
    authorizer: WebhookAuthorizer
    now: float = 1_800_000_000.0
    earned: dict[str, Any] = field(default_factory=dict)
    """What the right answer earns."""
    authorized: bool = True

    def reply(self, request: Request) -> Reply:
        if request.path == "/authz":
            return Reply({"success": self.authorized})
        if not request.json["round"]:
            return Reply({"prompt": {"questions": [{"text": "Word: "}]}})
        return Reply({"success": request.json["answers"] == [WORD], **self.earned})

    def asked(self, path: str) -> list[dict[str, object]]:
        """What the webhook was asked, beginnings of interviews left out."""
        return [request.json for request in self.hook.requests if request.path == path and request.json.get("round", 1)]

    @property
    def questions(self) -> int:
        """How often somebody has answered."""
        return len(self.asked("/interactive"))

    @asynccontextmanager
    async def serving(
        self, *chains: str, keys: PublicKeyAuthenticator | None = None, context: str = "these questions", **config: Any
    ) -> AsyncIterator[Front]:
        section = RememberConfig.model_validate({"period": "1h", **config})
        found = Authenticators(
            public_key=keys or AnyKey(),
            interactive=self.interview,
            authorizer=self.authorizer,
            chains=frozenset(map(as_chain, chains)),
            worthless=frozenset() if keys else frozenset({AuthMethod.PUBLIC_KEY}),
            memory=Memory(section, self.store, context, clock=lambda: self.now),
        )
        async with serving(LocalBackend(), around=lambda inner: AuthenticationServer(inner, found)) as server:
            yield server


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    store = Store(tmp_path / "remembered")
    async with webhook() as hook:
        config = WebhookConfig.model_validate({"url": hook.url})
        async with open_interview(config) as interview, open_authorizer(config) as authorizer:
            made = World(store, hook, interview, authorizer)
            hook.answers = [made.reply]
            yield made


@pytest.fixture
async def key(openssh: OpenSSH) -> Path:
    return await openssh.make_key()


async def logs_in(world: World, server: Front, client: OpenSSH, *keys: Path) -> bool:
    """Whether *client* gets in with *keys*, and the right answer to every question."""
    identities = [word for key in keys for word in ("-i", str(key))]
    done = await replaced(client, WORD).run(server, "echo in", *identities)
    assert (done.stdout == b"in\n") is (done.status == 0)
    return done.status == 0


def replaced(client: OpenSSH, password: str, user: str = "") -> OpenSSH:
    return OpenSSH(client.folder, user or client.user, password)


async def test_a_key_stands_in_for_the_questions_until_its_time_is_over(
    world: World, openssh: OpenSSH, key: Path
) -> None:
    world.earned = {"authenticatedUsername": "ali", "metadata": {"team": {"value": "blue"}}}
    async with world.serving() as server:
        assert await logs_in(world, server, openssh, key)
        assert world.questions == 1
        world.now += 3599
        done = await replaced(openssh, "nobody types this").run(server, "echo in", "-i", str(key))
        assert done.check().stdout == b"in\n"
        assert world.questions == 1
        assert server.log.of(AuthCode.REMEMBERED)[0][1]["username"] == "alice"
        world.now += 1
        assert (await replaced(openssh, "wrong").run(server, "true", "-i", str(key))).status == 255
        assert await logs_in(world, server, openssh, key)
        assert world.questions == 3
    first, second, _ = server.backend.logins
    assert (first.authenticated_username, second.authenticated_username) == ("ali", "ali")
    assert first.metadata == {"team": Value("blue")}
    assert second.metadata == {"team": Value("blue"), "REMEMBERED_SINCE": Value("2027-01-15T08:00:00+00:00")}


async def test_no_key_gets_in_by_itself_and_no_key_is_needed(world: World, openssh: OpenSSH, key: Path) -> None:
    async with world.serving() as server:
        done = await openssh.run(server, "true", "-i", str(key), *ssh_options("PreferredAuthentications=publickey"))
        assert done.status == 255
        assert b"Permission denied (keyboard-interactive)" in done.stderr
        assert not server.backend.logins
        assert await logs_in(world, server, openssh)
        assert not world.store.entries(), "there was no key to remember"


async def test_a_wrong_answer_is_nothing_to_remember(world: World, openssh: OpenSSH, key: Path) -> None:
    async with world.serving() as server:
        assert (await replaced(openssh, "wrong").run(server, "true", "-i", str(key))).status == 255
        assert not world.store.entries()
        assert not server.backend.logins


async def test_another_users_key_another_key_and_another_user_are_asked(
    world: World, openssh: OpenSSH, key: Path
) -> None:
    other = await openssh.make_key("other")
    async with world.serving() as server:
        assert await logs_in(world, server, openssh, key)
        for user, shown in (("alice", other), ("bob", key), ("Alice", key), ("alice", None)):
            identity = ["-i", str(shown)] if shown else []
            done = await replaced(openssh, "wrong", user).run(server, "true", *identity)
            assert done.status == 255, (user, shown)
        # The public half alone proves nothing.
        stolen = openssh.folder / "stolen"
        stolen.write_bytes(other.read_bytes())
        stolen.chmod(0o600)
        stolen.with_suffix(".pub").write_bytes(key.with_suffix(".pub").read_bytes())
        assert (await replaced(openssh, "wrong").run(server, "true", "-i", str(stolen))).status == 255
    assert len(server.backend.logins) == 1


async def test_authorization_has_the_last_word_each_time_and_a_no_forgets(
    world: World, openssh: OpenSSH, key: Path
) -> None:
    world.authorized = False
    world.earned = {"authenticatedUsername": "ali", "metadata": {"team": {"value": "blue"}}}
    async with world.serving() as server:
        assert not await logs_in(world, server, openssh, key)
        assert not world.store.entries(), "only who gets in is remembered"
        world.authorized = True
        assert await logs_in(world, server, openssh, key)
        assert await logs_in(world, server, openssh, key)
        assert world.questions == 2
        remembered = world.asked("/authz")[-1]
        assert remembered["authenticatedUsername"] == "ali"
        assert remembered["metadata"]["team"] == {"value": "blue", "sensitive": False}  # type: ignore[index]  # JSON
        world.authorized = False
        assert not await logs_in(world, server, openssh, key)
        assert not world.store.entries()


async def test_what_is_sensitive_is_neither_kept_nor_brought_back(world: World, openssh: OpenSSH, key: Path) -> None:
    world.earned = {
        "metadata": {"token": {"value": "marker-1", "sensitive": True}},
        "environment": {"TOKEN": {"value": "marker-2", "sensitive": True}, "LANG": {"value": "C"}},
        "files": {"/token": {"value": "bWFya2VyLTM="}},
    }
    async with world.serving() as server:
        assert await logs_in(world, server, openssh, key)
        assert await logs_in(world, server, openssh, key)
    assert world.questions == 1
    assert "token" in server.backend.logins[0].metadata
    again = server.backend.logins[1]
    assert (dict(again.environment), dict(again.files)) == ({"LANG": Value("C")}, {})
    assert "token" not in again.metadata
    (entry,) = world.store.entries()
    assert "marker" not in str(entry)


async def test_revocation_and_removed_files_count_at_once(
    world: World, openssh: OpenSSH, key: Path, tmp_path: Path
) -> None:
    async with world.serving() as server:
        ways: tuple[Callable[[], object], ...] = (
            lambda: world.store.revoke("alice"),
            world.store.revoke_all,
            (tmp_path / "remembered" / "secret").unlink,
            (tmp_path / "remembered" / "remembered.sqlite").unlink,
        )
        for number, forget in enumerate(ways, 1):
            assert await logs_in(world, server, openssh, key)
            assert await logs_in(world, server, openssh, key)
            assert world.questions == number
            assert world.store.revoke("bob") == 0
            forget()
    assert not server.log.errors


async def test_it_is_bound_to_the_address_where_so_configured(world: World, openssh: OpenSSH, key: Path) -> None:
    async with world.serving(bindAddress=True) as server:
        assert await logs_in(world, server, openssh, key)
        assert await logs_in(world, server, openssh, key)
        done = await replaced(openssh, "wrong").run(server, "true", "-i", str(key), "-b", "127.0.0.9")
        assert done.status == 255
    async with world.serving() as server:
        assert (await replaced(openssh, "wrong").run(server, "true", "-i", str(key))).status == 255


async def test_other_questions_and_a_shorter_time_forget(world: World, openssh: OpenSSH, key: Path) -> None:
    async with world.serving() as server:
        assert await logs_in(world, server, openssh, key)
    async with world.serving(context="others") as server:
        assert (await replaced(openssh, "wrong").run(server, "true", "-i", str(key))).status == 255
    world.now += 60
    async with world.serving(period="1m") as server:
        assert (await replaced(openssh, "wrong").run(server, "true", "-i", str(key))).status == 255
    async with world.serving() as server:
        assert await logs_in(world, server, openssh, key)
        world.now -= 3600
        assert (await replaced(openssh, "wrong").run(server, "true", "-i", str(key))).status == 255, (
            "the clock is wrong"
        )


@pytest.mark.parametrize("what", ["another user", "another key", "prolonged", "a bit", "cut", "garbage"])
async def test_an_altered_store_lets_nobody_in(
    world: World, openssh: OpenSSH, key: Path, tmp_path: Path, what: str
) -> None:
    other = await openssh.make_key("other")
    victim = replaced(openssh, WORD, "victim")
    async with world.serving() as server:
        assert await logs_in(world, server, openssh, key)
        world.now += 1
        assert await logs_in(world, server, victim, other)
        with closing(sqlite3.connect(tmp_path / "remembered" / "remembered.sqlite", isolation_level=None)) as database:
            found = database.execute("SELECT name, user, content FROM entries ORDER BY since").fetchall()
            (mine, user, content), (theirs, victims, _) = found
            match what:
                case "another user" | "another key":
                    # What alice has earned, where the victim's was.
                    database.execute("UPDATE entries SET content = ? WHERE name = ?", (content, theirs))
                    database.execute("UPDATE entries SET user = ? WHERE name = ?", (victims, mine))
                case "prolonged":
                    database.execute("UPDATE entries SET expires = expires + 1e9, since = since + 1e9")
                    world.now += 3600
                case "a bit":
                    database.execute("UPDATE entries SET content = ?", (content[:-1] + bytes([content[-1] ^ 1]),))
                case "cut":
                    database.execute("UPDATE entries SET content = ?", (content[:5],))
                case "garbage":
                    database.execute("UPDATE entries SET content = 'text'")
                    database.execute("UPDATE entries SET name = 'text' WHERE name = ?", (mine,))
        questions = world.questions
        shown = key if what == "another key" else other
        assert (await replaced(victim, "wrong").run(server, "true", "-i", str(shown))).status == 255
        assert world.questions == questions + 1
        assert user != victims


async def test_a_store_that_cannot_be_used_asks_everybody(
    world: World, openssh: OpenSSH, key: Path, tmp_path: Path
) -> None:
    async with world.serving() as server:
        assert await logs_in(world, server, openssh, key)
        (tmp_path / "remembered" / "remembered.sqlite").write_bytes(b"no database" * 1000)
        assert await logs_in(world, server, openssh, key)
        assert world.questions == 2
        assert AuthCode.REMEMBER_FAILED in server.log
        (tmp_path / "remembered" / "secret").write_bytes(b"short")
        assert await logs_in(world, server, openssh, key)
        assert world.questions == 3


async def test_methods_that_follow_are_still_needed(world: World, openssh: OpenSSH, key: Path) -> None:
    async with world.serving("keyboard-interactive,publickey") as server:
        assert await logs_in(world, server, openssh, key)
        assert await logs_in(world, server, openssh, key)
        assert world.questions == 2, "the key came after the questions"
        assert SSHCode.AUTH_PARTIAL in server.log


async def test_a_server_with_keys_that_count_by_themselves_remembers_too(
    world: World, openssh: OpenSSH, key: Path
) -> None:
    class Listed(AnyKey):
        """Everybody's keys are listed."""

    async with world.serving("publickey,keyboard-interactive", keys=Listed()) as server:
        assert not await logs_in(world, server, openssh)
        assert await logs_in(world, server, openssh, key)
        assert await logs_in(world, server, openssh, key)
    assert world.questions == 1


async def test_other_clients_are_asked_once_too(world: World, openssh: OpenSSH, key: Path, tmp_path: Path) -> None:
    ppk, settings = tmp_path / "id.ppk", ["-batch", "-ssh", "-T", "-hostkey"]
    (await run(tool("puttygen"), str(key), "-o", str(ppk), env={"HOME": str(tmp_path)})).check()
    async with world.serving() as server:
        host = asyncssh.import_private_key(host_key("ssh-ed25519")).get_fingerprint()
        command = [tool("plink"), *settings, host, "-P", str(server.port), "-i", str(ppk), "alice@127.0.0.1", "echo in"]
        assert (await run(*command, env={"HOME": str(tmp_path)})).status != 0, "nobody is there to answer"
        assert await logs_in(world, server, openssh, key)
        assert (await run(*command, env={"HOME": str(tmp_path)})).check().stdout == b"in\n"
        async with paramiko_transport(server) as transport:
            loaded = paramiko.Ed25519Key.from_private_key_file(str(key))
            assert await asyncio.to_thread(transport.auth_publickey, "alice", loaded) == []
        async with paramiko_transport(server) as transport:
            assert await asyncio.to_thread(transport.auth_publickey, "bob", loaded) == ["keyboard-interactive"]
    assert world.questions == 1
