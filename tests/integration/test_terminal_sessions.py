"""Signals, terminals and jobs as real clients use them, in real containers."""

from __future__ import annotations

import asyncio
import termios
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pexpect
import pytest

from containerssh.auth.hashes import hash_password
from containerssh.core.requests import SIGNALS
from tests.support import server as product
from tests.support.clients import logged_in
from tests.support.oci import image
from tests.support.openssh import OpenSSH, ssh_options
from tests.support.services import Engine

pytestmark = pytest.mark.oci

OCI: dict[str, Any] = {"backend": "oci", "oci": {"image": str(image())}}
USERS = {"alice": {"password": hash_password("secret")}}
LIMIT = 20.0


@asynccontextmanager
async def connected(config: Mapping[str, Any] = OCI) -> AsyncIterator[Any]:
    """A server, and a login there."""
    async with (
        product.serving(config, USERS) as server,
        logged_in(server) as connection,
    ):
        yield connection


async def line_of(process: Any) -> str:
    async with asyncio.timeout(LIMIT):
        return str(await process.stdout.readline()).strip()


# -- signals ---------------------------------------------------------------------------------------------


async def test_every_signal_of_the_protocol_reaches_the_program_and_its_children() -> None:
    names = sorted(SIGNALS - {"KILL"})
    traps = "\n".join(f"trap 'echo {name}' {name}" for name in names)
    others = " ".join(name for name in names if name != "USR2")
    child = f"trap '' {others}; trap 'echo child; exit' USR2; echo up; while :; do sleep 0.05; done"
    script = f"{traps}\n({child}) &\nwhile :; do wait; done"
    async with connected() as connection:
        process = await connection.create_process(script)
        assert await line_of(process) == "up"
        for name in names:
            process.send_signal(name)
            heard = {await line_of(process)}
            if name == "USR2":
                heard.add(await line_of(process))
            assert heard == ({name, "child"} if name == "USR2" else {name})
        process.send_signal("KILL")
        async with asyncio.timeout(LIMIT):
            await process.wait_closed()
        assert process.exit_signal[0] == "KILL"


@pytest.mark.skipif(
    Path("/proc/sys/kernel/core_pattern").read_text().startswith("|"),
    reason="a program of this machine's decides what becomes of core dumps",
)
@pytest.mark.docker
async def test_the_client_hears_whether_a_program_dumped_its_memory(engine: Engine) -> None:
    execution = {"container": {"image": "bb:latest"}, "host": {"networkmode": engine.network}}
    docker = {"connection": {"host": engine.address}, "execution": execution}
    async with connected({"backend": "docker", "docker": docker}) as connection:
        for limit, dumped in (("unlimited", True), ("0", False)):
            done = await connection.run(f"cd /tmp; ulimit -c {limit}; kill -ABRT $$")
            assert done.exit_signal[:2] == ("ABRT", dumped)


async def test_a_program_that_becomes_a_daemon_lets_its_session_end(openssh: OpenSSH) -> None:
    async with product.serving(OCI, USERS) as server:
        for options in ((), ("-tt",)):
            began = time.monotonic()
            done = await openssh.run(server, "setsid sleep 300 & echo started; exit 7", *options)
            assert (done.status, done.stdout.strip()) == (7, b"started")
            assert time.monotonic() - began < 10


# -- terminal modes --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Settings:
    """A terminal's, as ``stty -g`` prints them."""

    iflag: int
    oflag: int
    cflag: int
    lflag: int
    cc: tuple[int, ...]

    @classmethod
    def parse(cls, text: str) -> Settings:
        iflag, oflag, cflag, lflag, *cc = (int(word, 16) for word in text.strip().split(":"))
        return cls(iflag, oflag, cflag, lflag, tuple(cc))


CHARACTERS = {
    1: termios.VINTR, 2: termios.VQUIT, 3: termios.VERASE, 4: termios.VKILL, 5: termios.VEOF, 6: termios.VEOL,
    7: termios.VEOL2, 8: termios.VSTART, 9: termios.VSTOP, 10: termios.VSUSP, 12: termios.VREPRINT,
    13: termios.VWERASE, 14: termios.VLNEXT, 16: termios.VSWTC, 18: termios.VDISCARD,
}  # fmt: skip
# IUCLC, IUTF8 and OLCUC as in Linux's termbits.h; Python knows them from 3.13 on, or not at all.
FLAGS = {
    "iflag": {
        30: termios.IGNPAR, 31: termios.PARMRK, 32: termios.INPCK, 33: termios.ISTRIP, 34: termios.INLCR,
        35: termios.IGNCR, 36: termios.ICRNL, 37: 0o1000, 38: termios.IXON, 39: termios.IXANY, 40: termios.IXOFF,
        41: termios.IMAXBEL, 42: 0o40000,
    },
    "lflag": {
        50: termios.ISIG, 51: termios.ICANON, 52: 0o4, 53: termios.ECHO, 54: termios.ECHOE, 55: termios.ECHOK,
        56: termios.ECHONL, 57: termios.NOFLSH, 58: termios.TOSTOP, 59: termios.IEXTEN, 60: 0o1000, 61: 0o4000,
        62: 0o40000,
    },
    "oflag": {
        70: termios.OPOST, 71: 0o2, 72: termios.ONLCR, 73: termios.OCRNL, 74: termios.ONOCR, 75: termios.ONLRET,
    },
    "cflag": {93: termios.PARODD},
}  # fmt: skip
# Linux's pseudo-terminals have 8 bits and no parity, whatever they are told.
WITHOUT_EFFECT = (90, 91, 92)
# Linux has no such character; RFC 4254 knows it.
UNKNOWN = (11, 15, 17)


def expected(plain: Settings, opcode: int, value: int) -> Settings:
    if opcode in CHARACTERS:
        index = CHARACTERS[opcode]
        changed = list(plain.cc)
        changed[index] = 0 if value == 255 else value
        return replace(plain, cc=tuple(changed))
    for word, bits in FLAGS.items():
        if bit := bits.get(opcode):
            before = getattr(plain, word)
            return replace(plain, **{word: before | bit if value else before & ~bit})
    return plain


async def test_every_terminal_mode_of_the_protocol_reaches_the_terminal_and_changes_nothing_else() -> None:
    values = {
        **dict.fromkeys(CHARACTERS, (7, 255)),
        **{opcode: (1, 0) for bits in FLAGS.values() for opcode in bits},
        **dict.fromkeys(WITHOUT_EFFECT, (1, 0)),
        **dict.fromkeys(UNKNOWN, (7,)),
    }
    async with connected() as connection:

        async def settings(modes: dict[int, int]) -> Settings:
            # The modes go out as they are: the client's library keeps to those that it knows by name.
            done = await connection.run("stty -g", term_type="xterm", term_modes=modes)
            return Settings.parse(str(done.stdout))

        plain = await settings({})
        assert plain.lflag & termios.ECHO
        wrong = [
            (opcode, value, found)
            for opcode, choices in values.items()
            for value in choices
            if (found := await settings({opcode: value})) != expected(plain, opcode, value)
        ]
        assert not wrong, (plain, wrong)
        together = {opcode: choices[0] for opcode, choices in values.items()}
        all_of_them = plain
        for opcode, value in together.items():
            all_of_them = expected(all_of_them, opcode, value)
        assert await settings(together) == all_of_them
        fast = await settings({128: 115200, 129: 9600})
        assert fast.cflag & 0o10017 == termios.B9600


async def test_the_users_own_terminal_settings_come_along(openssh: OpenSSH) -> None:
    """OpenSSH sends all modes of the terminal that it runs on."""
    async with product.serving(OCI, USERS) as server:
        script = 'stty intr ^B erase ^H -ixon istrip noflsh; exec "$0" "$@"'
        words = ["-c", script, *openssh.command(server, "-tt"), "stty -a"]
        changed = pexpect.spawn("/bin/sh", words, env=openssh.environment(), timeout=LIMIT, encoding=None)
        await changed.expect(pexpect.EOF, async_=True)
        shown = changed.before or b""
        changed.close()
    for setting in (b"intr = ^B", b"erase = ^H", b"-ixon", b" istrip", b" noflsh"):
        assert setting in shown


# -- at a terminal ------------------------------------------------------------------------------------------


async def quiet(terminal: pexpect.spawn[bytes], seconds: float) -> bool:
    """Whether nothing comes for a while, once what is under way has arrived."""
    loop = asyncio.get_running_loop()
    end = loop.time() + LIMIT
    while loop.time() < end:
        try:
            await terminal.expect(rb".+", timeout=seconds, async_=True)
        except pexpect.TIMEOUT:
            return True
    return False


async def test_output_stops_and_goes_on_as_the_flow_control_characters_say(openssh: OpenSSH) -> None:
    async with product.serving(OCI, USERS) as server:
        terminal = openssh.spawn(server, "i=0; while :; do i=$((i+1)); echo n$i; sleep 0.01; done")
        await terminal.expect(b"n5\r\n", async_=True)
        terminal.send(b"\x13")
        assert await quiet(terminal, 0.5)
        terminal.send(b"\x11")
        await terminal.expect(rb"n\d+\r\n", async_=True)
        terminal.send(b"\x03")
        await terminal.expect(pexpect.EOF, async_=True)
        terminal.close()


async def test_jobs_are_stopped_and_go_on_in_the_background_and_the_foreground(openssh: OpenSSH) -> None:
    async with product.serving(OCI, USERS) as server:
        terminal = openssh.spawn(server)
        terminal.sendline(b"PS1='ready> '; trap : INT")
        await terminal.expect(b"\nready> ", async_=True)
        terminal.sendline(b"sleep 250")
        await terminal.expect(b"sleep 250\r\n", async_=True)
        # It has to be the terminal's foreground job before the key means it.
        await until_foreground(server, b"sleep 250")
        terminal.send(b"\x1a")
        await terminal.expect(rb"Stopped[^\r\n]*sleep 250[^>]*ready> ", async_=True)
        terminal.sendline(b"bg; jobs")
        await terminal.expect(rb"Running[^\r\n]*sleep 250[^>]*ready> ", async_=True)
        terminal.sendline(b"fg")
        await terminal.expect(rb"fg\r\nsleep 250\r\n", async_=True)
        await until_foreground(server, b"sleep 250")
        terminal.send(b"\x03")
        await terminal.expect(b"ready> ", async_=True)
        terminal.sendline(b"jobs; echo none; exit 9")
        await terminal.expect(rb"exit 9\r\nnone\r\n", async_=True)
        await terminal.expect(pexpect.EOF, async_=True)
        terminal.close()
        assert terminal.exitstatus == 9


async def until_foreground(server: product.Server, command: bytes) -> None:
    await server.until(lambda: _is_foreground(command), f"{command!r} is the foreground job")


def _is_foreground(command: bytes) -> bool:
    for folder in Path("/proc").iterdir():
        with suppress(OSError, ValueError, IndexError):
            if int(folder.name) and (folder / "cmdline").read_bytes().replace(b"\0", b" ").strip() == command:
                fields = (folder / "stat").read_text().rsplit(")", 1)[1].split()
                # State, parent, group, session, terminal, foreground group.
                return fields[0] == "S" and fields[2] == fields[5]
    return False


async def test_a_running_program_hears_of_each_new_size(openssh: OpenSSH) -> None:
    async with product.serving(OCI, USERS) as server:
        terminal = openssh.spawn(server, "trap 'stty size' WINCH; echo up; while :; do sleep 0.05; done")
        await terminal.expect(b"up", async_=True)
        for rows, columns in ((40, 100), (11, 222), (5, 9)):
            terminal.setwinsize(rows, columns)
            await terminal.expect(f"{rows} {columns}\r\n".encode(), async_=True)
        terminal.send(b"\x03")
        await terminal.expect(pexpect.EOF, async_=True)
        terminal.close()


async def test_a_break_typed_at_openssh_interrupts_where_the_terminal_says_so(openssh: OpenSSH) -> None:
    async with product.serving(OCI, USERS) as server:
        script = "stty brkint -ignbrk; trap 'echo interrupted; exit 3' INT; echo up; while :; do sleep 0.05; done"
        terminal = openssh.spawn(server, script, "-e", "~")
        await terminal.expect(b"up", async_=True)
        terminal.send(b"\r~B")
        await terminal.expect(b"interrupted", async_=True)
        await terminal.expect(pexpect.EOF, async_=True)
        terminal.close()
        assert terminal.exitstatus == 3


# -- what is left behind ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "lives"), [("hangUp", {"nohup", "setsid"}), ("end", set()), ("keep", {"plain", "nohup", "setsid"})]
)
async def test_one_of_two_sessions_logs_out_and_takes_its_own_along(
    openssh: OpenSSH, mode: str, lives: set[str]
) -> None:
    oci = {**OCI["oci"], "backgroundProcesses": mode}
    async with product.serving({**OCI, "oci": oci}, USERS) as server:
        shared = ssh_options(f"ControlPath={openssh.folder}/mux", "ControlMaster=auto", "ControlPersist=60")
        first = asyncio.create_task(openssh.run(server, "setsid sleep 299 & exec sleep 298", *shared))
        try:
            await server.until((openssh.folder / "mux").exists, "the connection is shared")
            started = "until ps | grep -q '[s]leep 298' && ps | grep -q '[s]leep 299'; do sleep 0.05; done"
            (await openssh.run(server, started, *shared)).check()
            # It leaves once each of them is what it is to be.
            leaving = (
                "exec >/dev/null 2>&1 </dev/null; mkfifo /tmp/up; exec 4<>/tmp/up;"
                "stay='echo up >&4; exec sleep $0 4>&-'; sh -c \"$stay\" 301 &"
                '(trap \'\' HUP; exec sh -c "$stay" 302) & setsid sh -c "$stay" 303 &'
                "read up <&4; read up <&4; read up <&4"
            )
            (await openssh.run(server, leaving, *shared)).check()
            wanted = {"plain": 301, "nohup": 302, "setsid": 303}

            async def living() -> set[str]:
                done = await openssh.run(server, "ps", *shared)
                assert b"sleep 298" in done.stdout
                assert b"sleep 299" in done.stdout
                return {name for name, number in wanted.items() if f"sleep {number}".encode() in done.stdout}

            end = time.monotonic() + LIMIT
            while (found := await living()) != lives and time.monotonic() < end:
                pass
            assert found == lives
        finally:
            await openssh.run(server, None, *shared, "-O", "exit")
            first.cancel()
            await asyncio.gather(first, return_exceptions=True)
