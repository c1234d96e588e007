"""The real agent, started as a process of this machine, by both transports."""

from __future__ import annotations

import asyncio
import hashlib
import os
import struct
from pathlib import Path

import pytest

from containerssh.agent.binaries import agent_binary
from containerssh.agent.link import FRAMED_ARGUMENTS, AgentLink, Program, framed_link
from containerssh.core.errors import BackendError, Rejected
from containerssh.core.requests import ExitSignal, PtyRequest, WindowSize
from tests.support.agent import (
    LIMIT,
    PipeReader,
    PipeWriter,
    agent_link,
    alive,
    linked_process,
    read_all,
    read_until,
    run_to_end,
    until,
)

transports = pytest.mark.parametrize("transport", ["socket", "framed"])

TERMINAL = PtyRequest("xterm", WindowSize(100, 50))
NO_ECHO = PtyRequest("xterm", WindowSize(80, 24), struct.pack(">BIB", 53, 0, 0))


async def shell(link: AgentLink, script: str, stdin: bytes = b"", **env: str) -> tuple[bytes, int | ExitSignal]:
    return await run_to_end(await link.start(Program(["/bin/sh", "-c", script], env)), stdin)


@transports
async def test_streams_and_status_of_a_program_arrive(transport: str) -> None:
    async with agent_link(transport) as link:
        process = await link.start(Program(["sh", "-c", "cat; echo oops >&2; exit 3"]))
        await process.stdin.write(b"hello")
        await process.stdin.write_eof()
        assert await read_all(process.stdout) == b"hello"
        assert await read_all(process.stderr) == b"oops\n"
        assert await process.wait() == 3
        await process.kill()
        await process.kill()


@transports
async def test_bytes_by_the_megabyte_pass_both_ways_at_once(transport: str) -> None:
    sent = os.urandom(1024 * 1024) * 24
    async with agent_link(transport) as link:
        received, status = await run_to_end(await link.start(Program(["cat"])), sent)
    assert status == 0
    assert hashlib.sha256(received).digest() == hashlib.sha256(sent).digest()


@transports
async def test_a_program_goes_on_after_the_end_of_its_input(transport: str) -> None:
    async with agent_link(transport) as link:
        assert await shell(link, "cat >/dev/null; sleep 0.1; echo late; exit 5", b"x") == (b"late\n", 5)


@transports
async def test_input_goes_on_after_the_end_of_output(transport: str, tmp_path: Path) -> None:
    async with agent_link(transport) as link:
        process = await link.start(Program(["sh", "-c", f"exec >&- 2>&-; cat > {tmp_path}/got; exit 4"]))
        assert await read_all(process.stdout) == b""
        await process.stdin.write(b"after")
        await process.stdin.write_eof()
        assert await process.wait() == 4
        assert (tmp_path / "got").read_bytes() == b"after"
        await process.kill()


@transports
async def test_a_slow_reader_holds_up_neither_the_link_nor_its_neighbours(transport: str) -> None:
    async with agent_link(transport) as link:
        stuck = await link.start(Program(["cat", "/dev/zero"]))
        unread = await link.start(Program(["sleep", "60"]))
        writing = asyncio.create_task(unread.stdin.write(bytes(8 * 1024 * 1024)))
        assert await shell(link, "echo alive") == (b"alive\n", 0)
        assert not writing.done()
        writing.cancel()
        await stuck.kill()
        await unread.kill()


@transports
async def test_fifty_programs_run_at_the_same_time(transport: str) -> None:
    async with agent_link(transport) as link:
        results = await asyncio.gather(*(shell(link, f"echo {number}; exit {number}") for number in range(50)))
    assert results == [(b"%d\n" % number, number) for number in range(50)]


@transports
async def test_a_signal_reaches_the_whole_process_group(transport: str) -> None:
    async with agent_link(transport) as link:
        script = (
            "trap 'echo got' TERM; (trap 'echo child; exit' TERM; echo up; while :; do sleep 0.1; done) & wait; wait"
        )
        process = await link.start(Program(["sh", "-c", script]))
        out = await read_until(process.stdout, b"up")
        await process.signal("TERM")
        out += await read_all(process.stdout)
        assert b"got" in out
        assert b"child" in out
        with pytest.raises(BackendError):
            await process.signal("NOSUCH")
        await process.kill()


@transports
@pytest.mark.parametrize("name", ["TERM", "KILL", "SEGV", "USR1", "BUS"])
async def test_death_by_a_signal_is_told_apart_from_a_status(transport: str, name: str) -> None:
    async with agent_link(transport) as link:
        _, outcome = await shell(link, f"ulimit -c 0; kill -{name} $$")
        assert outcome == ExitSignal(name)
        _, outcome = await shell(link, "exit 143")
        assert outcome == 143


@transports
async def test_a_program_that_has_ended_takes_no_signals(transport: str) -> None:
    async with agent_link(transport) as link:
        process = await link.start(Program(["true"]))
        assert await process.wait() == 0
        with pytest.raises(BackendError, match="no such process"):
            await process.signal("TERM")
        await process.kill()


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        (Program(["/no/such/shell"]), "/no/such/shell: no such file or directory"),
        (Program(["no-such-command"]), "no-such-command: no such file or directory"),
        (Program(["/etc/passwd"]), "/etc/passwd: permission denied"),
        (Program(["/etc"]), "/etc: permission denied"),
        (Program(["true"], cwd="/no/such/folder"), "true: /no/such/folder: no such file or directory"),
        (Program(["true"], {"A": "b\0c"}), "true: a command or a variable cannot hold a NUL"),
        (Program(["true"], {"A=B": "c"}), "true: a variable's name cannot be empty or hold an equals sign"),
        (Program([]), ": no command"),
        (Program(["true", "x" * 200_000]), "true: argument list too long"),
        (Program(["true", *["x" * 100_000] * 30]), "true: argument list too long"),
    ],
)
@transports
async def test_a_program_that_cannot_be_started_gives_the_reason(transport: str, program: Program, reason: str) -> None:
    async with agent_link(transport) as link:
        with pytest.raises(BackendError) as caught:
            await link.start(program)
        assert caught.value.user_message == reason
        assert await shell(link, "exit 9") == (b"", 9)


@transports
async def test_the_agent_itself_can_be_the_program(transport: str) -> None:
    async with agent_link(transport) as link:
        process = await link.start(Program(["any-name", "version"], {"PATH": "/no/such"}, agent=True))
        output, outcome = await run_to_end(process)
        assert (output.decode().strip(), outcome) == (link.version, 0)


@transports
async def test_the_environment_is_the_containers_and_the_programs_each_name_once(
    transport: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FROM_CONTAINER", "kept")
    monkeypatch.setenv("BOTH", "container")
    odd = "\udcff\udc80 \n=$x"
    async with agent_link(transport) as link:
        process = await link.start(Program(["env", "-0"], {"BOTH": "program", "ODD": odd}, cwd="/usr"))
        output, _ = await run_to_end(process)
    entries = output.split(b"\0")
    assert entries.count(b"BOTH=program") == 1
    assert b"FROM_CONTAINER=kept" in entries
    assert b"BOTH=container" not in entries
    assert b"ODD=" + odd.encode("utf-8", "surrogateescape") in entries


@transports
async def test_a_command_is_looked_for_in_the_programs_own_path(transport: str, tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.write_text("#!/bin/sh\npwd\n")
    own.chmod(0o755)
    async with agent_link(transport) as link:
        process = await link.start(Program(["own"], {"PATH": f"/nowhere:{tmp_path}"}, cwd="/"))
        assert await run_to_end(process) == (b"/\n", 0)


# -- terminals --------------------------------------------------------------------------------------------


@transports
async def test_a_terminal_has_its_size_and_type_from_the_start(transport: str) -> None:
    async with agent_link(transport) as link:
        script = "stty size; echo $TERM; [ -t 0 ] && [ -t 1 ] && [ -t 2 ] && : </dev/tty && echo controlling"
        process = await link.start(Program(["sh", "-c", script], {"TERM": "xterm"}, pty=TERMINAL))
        assert process.stderr is None
        assert await read_all(process.stdout) == b"50 100\r\nxterm\r\ncontrolling\r\n"
        assert await process.wait() == 0
        await process.kill()


@transports
async def test_a_terminal_is_resized_and_the_program_is_told(transport: str) -> None:
    async with agent_link(transport) as link:
        script = "trap 'stty size; exit' WINCH; echo up; while :; do sleep 0.05; done"
        process = await link.start(Program(["sh", "-c", script], pty=TERMINAL))
        await read_until(process.stdout, b"up")
        await process.resize(WindowSize(132, 43, 1000, 70_000))
        assert b"43 132" in await read_all(process.stdout)
        await process.kill()


@transports
async def test_a_program_without_a_terminal_cannot_be_resized_and_gets_no_break(transport: str) -> None:
    async with agent_link(transport) as link:
        process = await link.start(Program(["cat"]))
        with pytest.raises(BackendError):
            await process.resize(WindowSize(1, 1))
        with pytest.raises(Rejected):
            await process.send_break(500)
        await process.kill()


@pytest.mark.parametrize(
    ("opcode", "value", "shown"),
    [
        (1, 2, "intr = ^B"),
        (3, 8, "erase = ^H"),
        (5, 255, "eof = <undef>"),
        (18, 24, "discard = ^X"),
        (30, 1, " ignpar"),
        (36, 0, "-icrnl"),
        (38, 0, "-ixon"),
        (41, 1, " imaxbel"),
        (42, 1, " iutf8"),
        (50, 0, "-isig"),
        (51, 0, "-icanon"),
        (53, 0, "-echo "),
        (59, 0, "-iexten"),
        (60, 0, "-echoctl"),
        (70, 0, "-opost"),
        (72, 0, "-onlcr"),
        (91, 1, "cs8"),
        (93, 1, " parodd"),
        (129, 19200, "speed 19200 baud"),
    ],
)
async def test_terminal_modes_are_applied(opcode: int, value: int, shown: str) -> None:
    request = PtyRequest("vt100", WindowSize(500, 24), struct.pack(">BIB", opcode, value, 0))
    async with agent_link("socket") as link:
        process = await link.start(Program(["stty", "-a"], pty=request))
        output = await read_all(process.stdout)
        await process.kill()
    assert shown in output.decode()


async def test_terminal_modes_that_make_no_sense_do_no_harm() -> None:
    modes = struct.pack(">BIBIBI", 53, 0, 129, 77777, 11, 1) + b"\x00\x35\0\0\0\1\xc8"
    async with agent_link("socket") as link:
        process = await link.start(Program(["stty"], pty=PtyRequest("", WindowSize(0, 0), modes)))
        assert b"-echo" in await read_all(process.stdout)
        await process.kill()


@transports
async def test_the_end_of_input_ends_a_program_that_reads_lines_and_the_terminal_stays(transport: str) -> None:
    async with agent_link(transport) as link:
        script = "cat; echo after; stty size; exit 6"
        for typed, shown in (
            (b"line\n", b"line\r\nafter\r\n50 100\r\n"),
            (b"part", b"partafter\r\n50 100\r\n"),
            (b"", b"after\r\n50 100\r\n"),
        ):
            request = PtyRequest("xterm", TERMINAL.size, NO_ECHO.modes)
            assert await run_to_end(await link.start(Program(["sh", "-c", script], pty=request)), typed) == (shown, 6)


@transports
async def test_the_end_of_input_types_nothing_where_single_keys_are_read(transport: str) -> None:
    async with agent_link(transport) as link:
        script = "stty raw; echo up; dd bs=1 count=2 2>/dev/null | od -An -c; echo not reached"
        process = await link.start(Program(["sh", "-c", script], pty=NO_ECHO))
        await read_until(process.stdout, b"up")
        await process.stdin.write(b"k")
        await process.stdin.write_eof()
        await process.resize(WindowSize(90, 30))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(process.wait(), 0.3)
        await process.kill()


@transports
async def test_a_terminals_output_is_complete_and_ends_with_its_program(transport: str) -> None:
    async with agent_link(transport) as link:
        script = "stty -opost; head -c 3000000 /dev/zero | tr '\\0' x; setsid sleep 30 & echo end"
        process = await link.start(Program(["sh", "-c", script], pty=TERMINAL))
        output = await read_all(process.stdout)
        assert output == b"x" * 3_000_000 + b"end\n"
        assert await process.wait() == 0
        await process.kill()


@transports
async def test_a_break_interrupts_where_the_terminal_says_so(transport: str) -> None:
    async with agent_link(transport) as link:
        script = "stty -ignbrk brkint; trap 'echo interrupted; exit 8' INT; echo up; while :; do sleep 0.05; done"
        process = await link.start(Program(["sh", "-c", script], pty=TERMINAL))
        await read_until(process.stdout, b"up")
        await process.send_break(500)
        assert b"interrupted" in await read_all(process.stdout)
        assert await process.wait() == 8
        await process.kill()


# -- what is left at the end -------------------------------------------------------------------------------


@transports
async def test_output_is_complete_before_the_status_even_if_others_hold_the_pipe(transport: str) -> None:
    async with agent_link(transport) as link:
        process = await link.start(Program(["sh", "-c", "sleep 30 & head -c 60000 /dev/zero; exit 2"]))
        async with asyncio.timeout(LIMIT):
            assert await process.wait() == 2
        received = 0
        async with asyncio.timeout(0.5):
            while received < 60000:
                received += len(await process.stdout.read())
        await process.kill()


@transports
async def test_kill_ends_a_running_program_with_all_its_children(transport: str, tmp_path: Path) -> None:
    async with agent_link(transport) as link:
        script = (
            "trap '' HUP TERM; echo $$; setsid sh -c 'trap \"\" HUP; echo $$; sleep 60; sleep 60' & "
            "sh -c 'trap \"\" HUP; echo $$; sleep 60; sleep 60' & wait"
        )
        process = await link.start(Program(["sh", "-c", script]))
        text = b""
        while text.count(b"\n") < 3:
            text += await process.stdout.read()
        pids = [int(word) for word in text.split()]
        assert all(alive(pid) for pid in pids)
        await process.kill()
        assert await process.wait() == ExitSignal("KILL")
        await until(lambda: not any(alive(pid) for pid in pids), "all have ended")


@transports
async def test_what_a_program_leaves_in_the_background_lives_until_the_link_ends(transport: str) -> None:
    async with agent_link(transport) as link:
        script = "setsid sh -c 'sh -c \"trap : HUP; echo \\$\\$; exec sleep 300\" &' & wait"
        process = await link.start(Program(["sh", "-c", script]))
        pid = int(await read_until(process.stdout, b"\n"))
        assert await process.wait() == 0
        await process.kill()
        assert await shell(link, "true") == (b"", 0)
        assert alive(pid)
    await until(lambda: not alive(pid), "the background program has ended")


@transports
async def test_orphans_are_reaped(transport: str) -> None:
    async with linked_process(transport) as (link, agent):
        await shell(link, "for i in 1 2 3 4 5; do (sh -c 'sleep 0.05' &) ; done")
        await until(lambda: not _children(agent.pid), "the agent has no child left, dead or alive")


@transports
async def test_when_the_gateway_vanishes_the_agent_ends_everything_and_itself(transport: str) -> None:
    async with linked_process(transport) as (link, agent):
        process = await link.start(Program(["sh", "-c", "echo $$; exec sleep 300"]))
        pid = int(await read_until(process.stdout, b"\n"))
        await link.close()
        await link.close()
        with pytest.raises(BackendError):
            await process.wait()
        with pytest.raises(ConnectionError):
            await process.stdout.read()
        with pytest.raises(ConnectionError):
            await process.stdin.write(b"x")
        with pytest.raises(BackendError):
            await link.start(Program(["true"]))
        await process.kill()
        if transport == "framed":
            assert agent.stdin is not None
            agent.stdin.close()
        await asyncio.wait_for(agent.wait(), LIMIT)
        assert not alive(pid)


@transports
async def test_when_the_agent_is_killed_nothing_pretends_to_have_succeeded(transport: str) -> None:
    async with linked_process(transport) as (link, agent):
        process = await link.start(Program(["sh", "-c", "echo $$; exec sleep 300"]))
        pid = int(await read_until(process.stdout, b"\n"))
        agent.kill()
        async with asyncio.timeout(LIMIT):
            await link.wait_closed()
            with pytest.raises(BackendError):
                await process.wait()
        # Nobody is left inside who could; in a container the first process takes all others along.
        os.kill(pid, 9)


@transports
async def test_a_cancelled_start_leaves_no_program_behind(transport: str, tmp_path: Path) -> None:
    async with agent_link(transport) as link:
        for delay in (0, 0, 0.001, 0.002, 0.004):
            starting = asyncio.create_task(link.start(Program(["sleep", "301.5"])))
            await asyncio.sleep(delay)
            starting.cancel()
            done = await asyncio.gather(starting, return_exceptions=True)
            if not isinstance(done[0], BaseException):
                await done[0].kill()
        assert await shell(link, "exit 1") == (b"", 1)
        await until(lambda: not _running(b"301.5"), "no sleep runs")


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def _children(pid: int) -> list[str]:
    return [word for task in Path(f"/proc/{pid}/task").iterdir() for word in (task / "children").read_text().split()]


def _running(argument: bytes) -> bool:
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if argument in entry.read_bytes().split(b"\0"):
                return True
        except (FileNotFoundError, ProcessLookupError):
            continue
    return False


# -- files ------------------------------------------------------------------------------------------------


@transports
async def test_a_file_is_written_with_its_mode_and_missing_folders(transport: str, tmp_path: Path) -> None:
    content = os.urandom(700_000)
    target = tmp_path / "new" / "folder" / "file"
    async with agent_link(transport) as link:
        await link.write_file(str(target), content, mode=0o640)
        await link.write_file(str(tmp_path / "empty"), b"")
    assert target.read_bytes() == content
    assert target.stat().st_mode & 0o7777 == 0o640
    assert target.parent.stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "empty").stat().st_mode & 0o7777 == 0o600
    assert names(tmp_path) == ["empty", "new"]


@transports
async def test_a_link_in_a_files_place_is_replaced_and_not_followed(transport: str, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    (tmp_path / "file").symlink_to(victim)
    async with agent_link(transport) as link:
        await link.write_file(str(tmp_path / "file"), b"new")
    assert victim.read_text() == "untouched"
    assert (tmp_path / "file").read_text() == "new"
    assert not (tmp_path / "file").is_symlink()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
@transports
async def test_a_file_can_be_given_to_a_user(transport: str, tmp_path: Path) -> None:
    async with agent_link(transport) as link:
        await link.write_file(str(tmp_path / "theirs"), b"x", mode=0o400, owner=(1234, 2345))
    found = (tmp_path / "theirs").stat()
    assert (found.st_uid, found.st_gid, found.st_mode & 0o7777) == (1234, 2345, 0o400)


@transports
async def test_a_file_that_cannot_be_written_is_an_error_and_leaves_nothing(transport: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    async with agent_link(transport) as link:
        for path in (
            str(tmp_path / "folder"),
            "relative",
            str(tmp_path / "x\0y"),
            "/proc/nothing/here",
            f"{tmp_path}/",
        ):
            with pytest.raises(BackendError) as caught:
                await link.write_file(path, b"x" * 600_000)
            assert caught.value.user_message == "A file could not be written."
        assert await shell(link, "exit 1") == (b"", 1)
    assert names(tmp_path) == ["folder"]


async def test_what_an_entrypoint_prints_before_the_agent_is_skipped() -> None:
    noise = b"Welcome!\n" * 500 + b"\x00\x89container"
    async with agent_link("framed", noise) as link:
        assert await shell(link, "echo fine") == (b"fine\n", 0)


async def test_a_program_inherits_no_descriptor_that_the_agent_was_started_with() -> None:
    reader, writer = os.pipe()
    pipe = asyncio.subprocess.PIPE
    try:
        agent = await asyncio.create_subprocess_exec(
            agent_binary(), *FRAMED_ARGUMENTS, stdin=pipe, stdout=pipe, pass_fds=(reader, writer)
        )
        assert agent.stdin is not None
        assert agent.stdout is not None
        async with framed_link(PipeReader(agent.stdout), PipeWriter(agent.stdin)) as link:
            # The fourth is the folder that ls reads.
            assert await shell(link, "exec ls /proc/self/fd") == (b"0\n1\n2\n3\n", 0)
        agent.stdin.close()
        await asyncio.wait_for(agent.wait(), LIMIT)
    finally:
        os.close(reader)
        os.close(writer)
