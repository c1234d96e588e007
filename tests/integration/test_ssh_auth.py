"""Authentication with real clients: who is let in, as whom, and what is asked how often."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import asyncssh
import paramiko
import pytest

from containerssh.core.codes import AuthCode, SSHCode
from containerssh.core.errors import AuthUnavailable
from containerssh.core.handlers import AuthMethod, Prompts, PublicKey
from containerssh.core.metadata import AuthAttempt, Login
from tests.support.local_backend import LocalBackend, read_public_key
from tests.support.openssh import OpenSSH, ssh_options
from tests.support.raw_client import paramiko_transport
from tests.support.ssh_front import serving
from tests.support.waiting import until


@pytest.fixture
def openssh(tmp_path: Path) -> OpenSSH:
    return OpenSSH(tmp_path, password=None)


@pytest.mark.parametrize("kind", [("ed25519",), ("ecdsa",), ("ecdsa", "-b", "521"), ("rsa", "-b", "2048")])
async def test_a_key_of_every_kind_logs_in_and_is_judged_once(openssh: OpenSSH, kind: tuple[str, ...]) -> None:
    key = await openssh.make_key("id", *kind)
    backend = LocalBackend(keys={read_public_key(key)})
    async with serving(backend) as server:
        (await openssh.run(server, "true", "-i", str(key))).check()
    assert [question for name, question in backend.asked] == [
        PublicKey(backend.keys.copy().pop().split()[0], asyncssh.read_public_key(f"{key}.pub").public_data)
    ]
    (event, labels) = server.log.of(SSHCode.AUTH_SUCCESSFUL)[0]
    assert (event.text, labels["method"]) == ("Public key authentication successful", "public key")
    assert "alice" not in event.text


async def test_a_certificate_is_handed_on_whole(openssh: OpenSSH) -> None:
    authority = await openssh.make_key("ca")
    key = await openssh.make_key("id")
    await openssh.keygen("-q", "-s", str(authority), "-I", "someone", "-n", "alice", f"{key}.pub")
    certificate = read_public_key(Path(f"{key}-cert"))
    backend = LocalBackend(keys={certificate})
    async with serving(backend) as server:
        (await openssh.run(server, "true", "-i", str(key))).check()
    accepted = backend.asked[-1][1]
    assert isinstance(accepted, PublicKey)
    assert accepted.algorithm == "ssh-ed25519-cert-v01@openssh.com"


async def test_an_unknown_key_is_refused_and_the_password_counts(openssh: OpenSSH) -> None:
    key = await openssh.make_key()
    openssh.password = "secret"
    async with serving() as server:
        (await openssh.run(server, "true", "-i", str(key))).check()
    assert SSHCode.AUTH_FAILED in server.log
    assert len(server.backend.asked) == 2


async def test_the_signer_counts_not_an_offered_key(openssh: OpenSSH) -> None:
    offered = await openssh.make_key("offered")
    mine = await openssh.make_key("mine")
    backend = LocalBackend(keys={read_public_key(offered), read_public_key(mine)})
    # The client cannot sign with the first one: it only has the public half.
    offered.unlink()
    async with serving(backend) as server:
        (await openssh.run(server, "true", "-i", str(offered), "-i", str(mine))).check()
    fingerprint = asyncssh.read_public_key(f"{mine}.pub").get_fingerprint()
    assert [login.authenticated_username for login in backend.logins] == [fingerprint]


async def test_only_methods_that_could_succeed_are_offered(openssh: OpenSSH) -> None:
    backend = LocalBackend(methods=frozenset({AuthMethod.PUBLIC_KEY}))
    openssh.password = "secret"
    async with serving(backend) as server:
        done = await openssh.run(server, "true")
    assert b"Permission denied (publickey)" in done.stderr
    assert backend.asked == []


async def test_the_sixth_failure_ends_the_connection(openssh: OpenSSH) -> None:
    keys = [await openssh.make_key(f"id{number}") for number in range(8)]
    async with serving() as server:
        done = await openssh.run(server, "true", *(word for key in keys for word in ("-i", str(key))))
    assert b"Too many authentication failures" in done.stderr
    assert len(server.backend.asked) == 6
    assert len(server.backend.failures) == 1


async def test_an_unavailable_authenticator_refuses_and_is_logged_as_such(openssh: OpenSSH) -> None:
    async def nobody(_attempt: AuthAttempt, _: object) -> None:
        raise AuthUnavailable(AuthCode.BACKEND_ERROR, "the webhook is away")

    openssh.password = "secret"
    async with serving(LocalBackend(on_auth=nobody)) as server:
        done = await openssh.run(server, "true")
    assert done.status == 255
    assert SSHCode.AUTH_UNAVAILABLE in server.log
    assert SSHCode.AUTH_SUCCESSFUL not in server.log


async def test_questions_and_answers_log_in() -> None:
    async def judge(attempt: AuthAttempt, prompts: Prompts) -> Login:
        assert await prompts.ask("Look at your phone.") == []
        answers = await prompts.ask("Now:", [("Code: ", False), ("Colour: ", True)])
        assert list(answers) == ["123456", "bl\u00fc"]
        return Login.of(attempt, "asked")

    class Client(asyncssh.SSHClient):
        def kbdint_auth_requested(self) -> str:
            return ""

        def kbdint_challenge_received(
            self, name: str, instructions: str, lang: str, prompts: Sequence[tuple[str, bool]]
        ) -> list[str]:
            return ["123456", "bl\u00fc"][: len(prompts)]

    backend = LocalBackend(methods=frozenset({AuthMethod.KEYBOARD_INTERACTIVE}), on_interactive=judge)
    async with (
        serving(backend) as server,
        asyncssh.connect(
            "127.0.0.1", server.port, username="alice", known_hosts=None, client_factory=Client, client_keys=None
        ) as client,
    ):
        assert (await client.run("echo ok")).stdout == "ok\n"
    assert backend.logins[0].authenticated_username == "asked"


# -- requests that no honest client sends ------------------------------------------------------------------


def password_request(user: bytes, password: bytes, change: bool = False) -> paramiko.Message:
    message = paramiko.Message()
    message.add_byte(bytes([50]))
    for text in (user, b"ssh-connection", b"password"):
        message.add_string(text)
    message.add_boolean(change)
    message.add_string(password)
    if change:
        message.add_string(b"new")
    return message


async def none(transport: paramiko.Transport, user: str = "alice") -> None:
    """Start the authentication service, which the library does with a first request only."""
    with suppress(paramiko.SSHException):
        await asyncio.to_thread(transport.auth_none, user)


def send(transport: paramiko.Transport, message: paramiko.Message) -> None:
    """Send a message that the library would not."""
    transport._send_message(message)  # type: ignore[attr-defined]  # a private part that its stubs leave out


@pytest.mark.parametrize("password", [b"\xff\xfe", "\u00aa \u200b\t".encode(), b"a\0b"])
async def test_password_bytes_arrive_as_sent(password: bytes) -> None:
    backend = LocalBackend(password=password)
    async with serving(backend) as server, paramiko_transport(server) as transport:
        await none(transport)
        send(transport, password_request(b"alice", b"\xff"))
        send(transport, password_request(b"alice", password))
        await until(transport.is_authenticated)
    assert backend.asked[-1] == ("alice", password)


@pytest.mark.parametrize("name", [b"", b"a\nb", b"\xff", b"a\x1b[31m", "a\u202eb".encode(), b"x" * 2000])
async def test_odd_user_names_are_refused_and_the_connection_lives(name: bytes) -> None:
    async with serving() as server, paramiko_transport(server) as transport:
        await none(transport)
        send(transport, password_request(name, b"secret"))
        send(transport, password_request(b"alice", b"secret", change=True))
        send(transport, password_request(b"alice", b"secret"))
        await until(transport.is_authenticated)
    assert server.backend.asked == [("alice", b"secret")]


async def test_names_are_handed_on_without_normalisation() -> None:
    name = "\ufb01n\uff41"
    async with serving() as server, paramiko_transport(server) as transport:
        await none(transport)
        send(transport, password_request(name.encode(), b"secret"))
        await until(transport.is_authenticated)
        await until(lambda: bool(server.backend.logins))
    assert server.backend.logins[0].username == name


async def test_a_yes_for_one_name_is_never_a_login_for_the_next() -> None:
    cancelled = []

    async def undecided_about_alice(attempt: AuthAttempt, _: object) -> None:
        try:
            if attempt.username == "alice":
                await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(attempt.username)
            raise

    backend = LocalBackend(on_auth=undecided_about_alice)
    async with serving(backend) as server, paramiko_transport(server) as transport:
        await none(transport)
        send(transport, password_request(b"alice", b"secret"))
        await until(lambda: bool(backend.asked))
        send(transport, password_request(b"root", b"wrong"))
        await until(lambda: SSHCode.AUTH_FAILED in server.log)
        assert not transport.is_authenticated()
    assert cancelled == ["alice"]
    assert backend.logins == []
    assert SSHCode.AUTH_SUCCESSFUL not in server.log


async def test_leaving_cancels_the_question() -> None:
    cancelled = asyncio.Event()

    async def forever(_attempt: AuthAttempt, _: object) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    async with serving(LocalBackend(on_auth=forever)) as server:
        async with paramiko_transport(server) as transport:
            await none(transport)
            send(transport, password_request(b"alice", b"secret"))
            await until(lambda: bool(server.backend.asked))
        async with asyncio.timeout(5):
            await cancelled.wait()
    assert server.backend.open_scopes == 0


async def test_requests_in_a_heap_count_as_tries() -> None:
    async def slow(_attempt: AuthAttempt, _: object) -> None:
        await asyncio.sleep(1)

    async with serving(LocalBackend(on_auth=slow)) as server, paramiko_transport(server) as transport:
        await none(transport)
        for _ in range(20):
            send(transport, password_request(b"alice", b"secret"))
        await until(lambda: not transport.is_active())
    assert len(server.backend.asked) <= 6


async def test_the_time_to_log_in_is_limited() -> None:
    async with serving(login_grace=timedelta(seconds=0.3)) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        async with asyncio.timeout(5):
            everything = await reader.read()
        assert everything.startswith(b"SSH-2.0-ContainerSSH\r\n")
        assert b"Timeout before authentication" in everything
        writer.close()
        await until(lambda: not server.backend.open_scopes)
    assert len(server.backend.failures) == 1


async def test_a_signature_by_another_key_is_refused() -> None:
    """The known key is shown, and another one signs."""
    known = asyncssh.generate_private_key("ssh-ed25519")
    forged = asyncssh.generate_private_key("ssh-ed25519")
    backend = LocalBackend(keys={known.export_public_key().decode().strip()})

    async with serving(backend) as server, paramiko_transport(server) as transport:
        await none(transport)
        message = paramiko.Message()
        message.add_byte(bytes([50]))
        for text in (b"alice", b"ssh-connection", b"publickey"):
            message.add_string(text)
        message.add_boolean(True)
        message.add_string(b"ssh-ed25519")
        message.add_string(known.public_data)
        signed = paramiko.Message()
        signed.add_string(transport.session_id)  # type: ignore[arg-type]  # bytes since the first key exchange
        data = signed.asbytes() + message.asbytes()
        message.add_string(forged.sign(data, b"ssh-ed25519"))
        send(transport, message)
        await until(lambda: SSHCode.AUTH_FAILED in server.log)
        assert not transport.is_authenticated()
    assert backend.asked == []


async def test_two_connections_never_share_a_reference(openssh: OpenSSH) -> None:
    openssh.password = "secret"
    async with serving() as server:
        await asyncio.gather(*(openssh.run(server, "true", *ssh_options("ConnectTimeout=9")) for _ in range(3)))
    assert len({login.connection_id for login in server.backend.logins}) == 3
