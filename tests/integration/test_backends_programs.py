"""Programs of a login, in a container of each backend."""

from __future__ import annotations

import pytest

from containerssh.core.errors import BackendError
from containerssh.core.requests import ExitSignal
from tests.support.container_backends import Place, User, logged_in
from tests.support.docker import Channel, a_login

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_input_output_errors_and_status_are_the_programs(user: User) -> None:
    done = await user.run("cat; echo oops >&2; exit 7", b"input\n")
    assert (done.out, done.err, done.end) == (b"input\n", b"oops\n", 7)


@pytest.mark.parametrize("status", [0, 1, 127, 143, 255])
async def test_a_status_arrives_as_it_is(user: User, status: int) -> None:
    assert (await user.run(f"exit {status}")).end == status


@pytest.mark.parametrize("name", ["KILL", "TERM", "SEGV", "USR1"])
async def test_death_by_a_signal_is_told_apart_from_a_status(user: User, name: str) -> None:
    assert (await user.run(f"ulimit -c 0; kill -{name} $$")).end == ExitSignal(name)


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/no/such/program", "no such file or directory"),
        ("/etc/passwd", "permission denied"),
        ("/etc", "permission denied"),
    ],
)
async def test_a_program_that_cannot_be_started_is_refused_with_the_reason(user: User, path: str, reason: str) -> None:
    async with user.handler.session(Channel()) as session:
        with pytest.raises(BackendError) as refused:
            await session.run_command(path)
    assert refused.value.user_message == f"{path}: {reason}"


@pytest.mark.parametrize("command", ["no-such-program", "exec /no/such/program"])
async def test_a_program_that_a_shell_does_not_find_is_a_status(user: User, command: str) -> None:
    done = await user.run(command)
    assert (done.out, done.end) == (b"", 127)
    assert b"not found" in done.err


async def test_a_shell_reads_its_input(user: User) -> None:
    channel = Channel(b"echo one\nexit 4\n")
    async with user.handler.session(channel) as session:
        await session.run_shell()
        assert await channel.ended() == 4
    assert channel.out.data == b"one\n"


async def test_a_program_starts_with_the_containers_mask_for_new_files_and_as_a_first_shell(user: User) -> None:
    assert (await user.run("umask; echo $SHLVL")).out == b"0022\n1\n"


async def test_variables_reach_the_program_and_no_other_session(user: User) -> None:
    odd = "a $(b) 'c' \"d\"\n=\udcff"
    done = await user.run('printf %s "$ODD"', ODD=odd)
    assert done.out == odd.encode("utf-8", "surrogateescape")
    assert (await user.run("echo $ODD")).out == b"\n"


async def test_programs_of_a_login_share_its_container(user: User) -> None:
    await user.run("echo kept >/tmp/kept")
    assert (await user.run("cat /tmp/kept")).out == b"kept\n"


async def test_environment_and_files_of_webhooks_are_there_before_the_first_program(place: Place) -> None:
    meta = a_login(
        environment={"GREETING": "hello $(there)"}, files={"/etc/app/token": "s3cret", "/tmp/other": "x" * 100_000}
    )
    async with logged_in(place, meta) as user:
        done = await user.run(
            'echo "$GREETING"; cat /etc/app/token; stat -c " %a %U" /etc/app/token /etc/app; wc -c </tmp/other'
        )
        assert done.out == b"hello $(there)\ns3cret 600 root\n 755 root\n100000\n"
        assert (await user.run('echo "$GREETING"', GREETING="mine")).out == b"mine\n", "the channel's own wins"
