"""Sessions as the real OpenSSH client sees them."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pexpect
import pytest

from containerssh.core.codes import AgentCode, DockerCode, SecurityCode, SSHCode
from containerssh.core.errors import BackendError, Rejected
from containerssh.core.handlers import Notices, SessionChannel
from containerssh.core.metadata import Login
from containerssh.ssh.options import Limits
from tests.support.local_backend import LocalBackend
from tests.support.openssh import Done, OpenSSH, ssh_options
from tests.support.ssh_front import Front, host_key, serving
from tests.support.waiting import until

MIB = 1024 * 1024


# -- streams and ends -----------------------------------------------------------------------------


async def test_streams_and_status_reach_the_client(openssh: OpenSSH) -> None:
    async with serving() as server:
        done = await openssh.run(server, "cat; echo oops >&2; exit 3", stdin=b"hello")
    assert (done.status, done.stdout, done.stderr) == (3, b"hello", b"oops\n")
    assert server.backend.open_scopes == 0
    assert not server.log.errors


async def test_every_byte_arrives_in_both_directions_at_once(openssh: OpenSSH) -> None:
    data = os.urandom(20 * MIB)
    async with serving() as server:
        done = await openssh.run(server, "cat", stdin=data)
    assert hashlib.sha256(done.stdout).digest() == hashlib.sha256(data).digest()


@pytest.mark.parametrize("options", [("RekeyLimit=1M",), ("RekeyLimit=1M", "Ciphers=aes128-ctr")])
async def test_rekeying_under_load_loses_nothing(openssh: OpenSSH, options: tuple[str, ...]) -> None:
    data = os.urandom(12 * MIB)
    async with serving(rekey_bytes=3 * MIB) as server:
        done = await openssh.run(server, "cat", *ssh_options(*options), stdin=data)
    assert done.stdout == data


async def test_the_shell_runs_without_a_command(openssh: OpenSSH) -> None:
    async with serving() as server:
        done = await openssh.run(server, None, "-T", stdin=b"echo from a shell; exit 4\n")
    assert (done.status, done.stdout) == (4, b"from a shell\n")


async def test_the_programs_end_of_output_does_not_end_its_input(openssh: OpenSSH, tmp_path: Path) -> None:
    target = tmp_path / "taken"
    async with serving() as server:
        done = await openssh.run(server, f"exec >&- 2>&-; sleep 0.5; cat >{target}; exit 5", stdin=b"late")
    assert done.status == 5
    assert target.read_bytes() == b"late"


async def test_the_status_arrives_long_after_both_ends_of_file(openssh: OpenSSH) -> None:
    async with serving() as server:
        done = await openssh.run(server, "exec <&- >&- 2>&-; sleep 1; exit 7")
    assert done.status == 7


async def test_death_by_signal_is_told_as_exit_signal(openssh: OpenSSH) -> None:
    async with serving() as server:
        done = await openssh.run(server, "kill -9 $$", "-v")
    assert done.status == 255
    assert SSHCode.EXIT_SIGNAL in server.log


async def test_a_client_that_vanishes_ends_the_program(openssh: OpenSSH, tmp_path: Path) -> None:
    async with serving() as server:
        client = await asyncio.create_subprocess_exec(
            *openssh.command(server), "echo up; exec sleep 1000", env=openssh.environment(), stdout=-1, stdin=-1
        )
        assert client.stdout is not None
        assert await client.stdout.readline() == b"up\n"
        assert server.backend.open_scopes == 3
        client.kill()
        await until(lambda: server.backend.open_scopes == 0)
        await client.communicate()


# -- several sessions -------------------------------------------------------------------------------


@asynccontextmanager
async def master(openssh: OpenSSH, server: Front) -> AsyncIterator[list[str]]:
    """A connection kept open by OpenSSH; the options that share it."""
    path = openssh.folder / "master"
    share = ssh_options(f"ControlPath={path}")
    (await openssh.run(server, None, "-fN", *ssh_options("ControlMaster=yes"), *share)).check()
    try:
        yield list(share)
    finally:
        await openssh.run(server, None, "-O", "exit", *share)


async def test_sessions_of_one_connection_run_side_by_side(openssh: OpenSSH) -> None:
    async with serving() as server, master(openssh, server) as share:
        results = await asyncio.gather(*(openssh.run(server, f"cat; exit {n}", *share, stdin=b"x") for n in range(8)))
        assert [(done.status, done.stdout) for done in results] == [(n, b"x") for n in range(8)]
        assert len(server.backend.logins) == 1


async def test_a_full_connection_refuses_one_session_and_frees_its_place(openssh: OpenSSH) -> None:
    async with serving(limits=Limits(sessions=2)) as server, master(openssh, server) as share:
        held = [
            await asyncio.create_subprocess_exec(
                *openssh.command(server, *share), "echo up; cat", env=openssh.environment(), stdout=-1, stdin=-1
            )
            for _ in range(2)
        ]
        for client in held:
            assert client.stdout is not None
            assert await client.stdout.readline() == b"up\n"
        # OpenSSH opens another connection then.
        refused = await openssh.run(server, "true", *share, *ssh_options("ControlMaster=no"))
        assert b"open refused by peer" in refused.stderr
        assert SSHCode.NEW_CHANNEL_REJECTED in server.log
        for client in held:
            await client.communicate(b"")
        assert (await openssh.run(server, "echo again", *share)).stdout == b"again\n"


# -- requests -----------------------------------------------------------------------------------------


async def test_environment_and_terminal_are_asked_for_before_the_start(openssh: OpenSSH) -> None:
    async with serving() as server:
        client = openssh.spawn(server, "echo $FOO; stty size", "-o", "SetEnv=FOO=bar", dimensions=(33, 101))
        await client.expect(pexpect.EOF, async_=True)
        client.close()
        assert client.before == b"bar\r\n33 101\r\n"
        assert server.backend.requests[-1] == "exec echo $FOO; stty size"


async def test_resizing_reaches_the_program(openssh: OpenSSH) -> None:
    async with serving() as server:
        client = openssh.spawn(server)
        await until(lambda: "shell" in server.backend.requests)
        client.setwinsize(41, 123)
        await until(lambda: "resize 123x41" in server.backend.requests)
        client.sendline(b"stty size; exit 9")
        await client.expect(b"41 123", async_=True)
        await client.expect(pexpect.EOF, async_=True)
        client.close()
        assert client.exitstatus == 9


async def test_commands_and_variables_keep_bytes_that_are_no_utf8(openssh: OpenSSH) -> None:
    async with serving() as server:
        argv = [os.fsencode(word) for word in openssh.command(server)]
        client = await asyncio.create_subprocess_exec(
            *argv, b"printf %s '\xff\xfe'", env=openssh.environment(), stdout=-1, stdin=-3
        )
        out, _ = await client.communicate()
    assert out == b"\xff\xfe"


async def test_a_subsystem_runs_and_an_unknown_one_is_refused(openssh: OpenSSH) -> None:
    backend = LocalBackend(subsystems={"greet": "read name; echo hello $name"})
    async with serving(backend) as server:
        assert (await openssh.run(server, "greet", "-s", stdin=b"you\n")).stdout == b"hello you\n"
        refused = await openssh.run(server, "nothing", "-s")
    assert refused.status == 255
    assert b"No such subsystem" in refused.stderr
    assert b"subsystem request failed" in refused.stderr


# -- what fails after the login ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [
        (
            Rejected(SecurityCode.EXEC_REJECTED, "secret detail", user_message="Commands are disabled."),
            255,
            b"disabled",
        ),
        (
            BackendError(DockerCode.EXEC_CREATE_FAILED, "secret detail", user_message="No such program."),
            127,
            b"No such",
        ),
        (RuntimeError("secret detail"), 255, b"The request failed."),
    ],
)
async def test_a_failed_start_tells_the_user_why(openssh: OpenSSH, error: Exception, status: int, text: bytes) -> None:
    async def fail(_: str) -> None:
        raise error

    async with serving(LocalBackend(on_start=fail)) as server:
        done = await openssh.run(server, "true")
    assert (done.status, done.stdout) == (status, b"")
    first = done.stderr.splitlines()[0]
    assert first.startswith(b"containerssh: ")
    assert text in first
    reference = server.log.of(SSHCode.CONNECTED)[0][1]["connectionId"]
    assert f"(reference {reference})".encode() in first
    assert b"secret detail" not in done.stderr


async def fail_to_log_in(_login: Login, notices: Notices) -> None:
    notices.notice("pulling the image")
    await asyncio.sleep(0.2)
    raise BackendError(DockerCode.CONFIG_ERROR, "secret detail", user_message="The image is missing.")


async def test_a_failed_login_is_told_on_standard_error(openssh: OpenSSH) -> None:
    async with serving(LocalBackend(on_login=fail_to_log_in)) as server:
        done = await openssh.run(server, "true", *ssh_options("SetEnv=A=b"))
    assert (done.status, done.stdout) == (255, b"")
    assert done.stderr.startswith(b"containerssh: The image is missing. (reference ")
    assert b"pulling" not in done.stderr
    assert SSHCode.BACKEND_REJECTED_HANDSHAKE in server.log
    assert len(server.backend.failures) == 1


async def test_a_failed_login_is_told_on_a_terminal(openssh: OpenSSH) -> None:
    async with serving(LocalBackend(on_login=fail_to_log_in)) as server:
        client = openssh.spawn(server)
        await client.expect(pexpect.EOF, async_=True)
        client.close()
    assert client.exitstatus == 255
    lines = (client.before or b"").split(b"\r\n")
    assert lines[0] == b"pulling the image"
    assert lines[1].startswith(b"containerssh: The image is missing.")


async def test_a_failed_login_is_told_to_a_client_without_a_session(openssh: OpenSSH) -> None:
    async with serving(LocalBackend(on_login=fail_to_log_in)) as server:
        done = await openssh.run(server, None, "-N")
    assert done.status == 255
    assert b"The image is missing." in done.stderr


async def test_progress_is_shown_on_interactive_logins_only(openssh: OpenSSH) -> None:
    async def slow(_login: Login, notices: Notices) -> None:
        await asyncio.sleep(0.3)
        notices.notice("40 %")
        await asyncio.sleep(0.1)

    async with serving(LocalBackend(on_login=slow)) as server:
        client = openssh.spawn(server, "echo ready")
        await client.expect(pexpect.EOF, async_=True)
        client.close()
        assert client.before == b"40 %\r\nready\r\n"
        done = await openssh.run(server, "echo ready")
        assert (done.stdout, done.stderr) == (b"ready\n", b"")


async def test_a_client_that_leaves_while_the_login_is_prepared_cancels_it(openssh: OpenSSH) -> None:
    cancelled = asyncio.Event()
    entered = asyncio.Event()

    async def forever(_login: Login, _: Notices) -> None:
        entered.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    async with serving(LocalBackend(on_login=forever)) as server:
        client = await asyncio.create_subprocess_exec(
            *openssh.command(server), "true", env=openssh.environment(), stdin=-3
        )
        await entered.wait()
        client.kill()
        async with asyncio.timeout(5):
            await cancelled.wait()
            await client.wait()
        await until(lambda: server.backend.open_scopes == 0)
    assert not server.log.errors


async def test_a_session_that_breaks_tells_the_user(openssh: OpenSSH) -> None:
    tasks = []

    async def break_later(channel: SessionChannel) -> None:
        async def later() -> None:
            await asyncio.sleep(0.2)  # until the program runs
            await channel.fail(BackendError(AgentCode.LINK_BROKEN, "detail", user_message="The container is gone."))

        tasks.append(asyncio.create_task(later()))

    async with serving(LocalBackend(on_session=break_later)) as server:
        done = await openssh.run(server, "sleep 100")
    assert done.status == 255
    assert done.stderr.startswith(b"containerssh: The container is gone. (reference ")


# -- the end of the server --------------------------------------------------------------------------------------


async def test_stopping_sends_term_and_lets_programs_finish(openssh: OpenSSH, tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    async with serving() as server:
        command = f"trap 'echo bye; exit 6' TERM; echo up; : >{ready}; while :; do sleep 0.05; done"
        task = asyncio.create_task(openssh.run(server, command))
        await until(ready.exists)
    done = await task
    assert (done.status, done.stdout) == (6, b"up\nbye\n")
    assert server.backend.open_scopes == 0


async def test_stopping_disconnects_who_does_not_leave(openssh: OpenSSH, tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    async with serving(shutdown_grace=timedelta(seconds=0.5)) as server:
        task = asyncio.create_task(openssh.run(server, f"trap '' TERM; : >{ready}; while :; do sleep 0.05; done"))
        silent = await asyncio.open_connection("127.0.0.1", server.port)
        await until(ready.exists)
    done = await task
    assert done.status == 255
    assert b"shutting down" in done.stderr
    assert server.backend.open_scopes == 0
    silent[1].close()


# -- host keys ------------------------------------------------------------------------------------------------------


async def test_openssh_learns_the_other_host_keys_with_proof(openssh: OpenSSH) -> None:
    kinds = ("ssh-ed25519", "ecdsa-sha2-nistp256", "ssh-rsa")
    async with serving(host_keys=[host_key(kind) for kind in kinds]) as server:
        for first in kinds:
            rest = "ssh-ed25519,ecdsa-sha2-nistp256,rsa-sha2-512,rsa-sha2-256"
            offered = "rsa-sha2-256" if first == "ssh-rsa" else first
            known = openssh.folder / f"known_{first}"
            options = ssh_options(f"UserKnownHostsFile={known}", f"HostKeyAlgorithms={offered},{rest}")
            (await openssh.run(server, "true", *options)).check()
            assert [line.split()[1] for line in known.read_text().splitlines()] == [first]
            # Only a host that is known already is asked for proofs; the session lives until they have come back.
            (await openssh.run(server, "sleep 0.3", "-o", "UpdateHostKeys=yes", *options)).check()
            assert {line.split()[1] for line in known.read_text().splitlines()} == set(kinds)


async def test_the_host_keys_algorithm_belongs_to_each_connection(openssh: OpenSSH) -> None:
    """Two connections at once that sign with one RSA key and different algorithms must not mix them up."""
    async with serving(host_keys=[host_key("ssh-rsa")]) as server:
        results: list[Done] = await asyncio.gather(
            *(
                openssh.run(
                    server, "true", *ssh_options(f"HostKeyAlgorithms=rsa-sha2-{bits}", "StrictHostKeyChecking=no")
                )
                for bits in (256, 512, 256, 512)
            )
        )
    assert [done.status for done in results] == [0] * 4


async def test_scp_of_old_and_sftp_like_sharing_end_with_status_0(openssh: OpenSSH) -> None:
    """Commands over a shared connection keep their status, also when input ends at once."""
    async with serving() as server, master(openssh, server) as share:
        statuses = [(await openssh.run(server, f"cat >/dev/null; exit {n % 3}", *share)).status for n in range(12)]
    assert statuses == [n % 3 for n in range(12)]


async def test_a_port_in_use_is_refused_with_its_address() -> None:
    async with serving() as server:
        with pytest.raises(BackendError, match="cannot listen on 127"):
            async with serving(port=server.port):
                pass


async def test_all_addresses_of_a_name_share_a_port() -> None:
    async with serving(host="localhost") as server:
        assert {address.port for address in server.addresses} == {server.port}
        for address in server.addresses:
            _, writer = await asyncio.open_connection(address.host, address.port)
            writer.close()
