"""
The agent of ContainerSSH 0.5 and 0.6 as a shell script, and its forwarding part as a program in ``upstream_forwarder``:
what ``agent.md`` says of it, and no more.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import tarfile
from collections.abc import Sequence
from contextlib import suppress
from io import BytesIO
from pathlib import Path

from containerssh.agent.process import Program
from containerssh.core.streams import CHUNK, ByteReader, ByteWriter
from tests.support.docker import build_image
from tests.support.images import go_program
from tests.support.services import Engine
from tests.support.waiting import until

PATH = "/usr/bin/containerssh-agent"

SCRIPT = """#!/bin/sh
byte() { printf "\\\\$(printf %03o $(($$ >> $1 & 255)))"; }
mode=$1
shift
case $mode in
console)
    while [ $# -gt 0 ]; do
        case $1 in
        --pid) pid=yes ;;
        --env) export "$2"; shift ;;
        --wait) head -c 1 >/dev/null ;;
        --) break ;;
        *) echo "Error: invalid parameter: $1" >&2; exit 1 ;;
        esac
        shift
    done
    shift
    [ -z "$pid" ] || { byte 0; byte 8; byte 16; byte 24; }
    case $1 in */*) ;; *) printf 'no such file or directory' >&2; exit 127 ;; esac
    [ -x "$1" ] || { printf 'no such file or directory' >&2; exit 127; }
    exec "$@"
    ;;
signal)
    [ "$1 $3" = "--pid --signal" ] || exit 1
    kill -"$4" "$2" 2>/dev/null || { printf 'failed to send signal' >&2; exit 3; }
    ;;
write-file) umask 077; cat >"$1" || exit 1 ;;
forward-server) exec /usr/bin/forwarder ;;
wait-signal) trap 'exit 0' INT TERM; while :; do sleep 1 & wait; done ;;
*) echo "Error: invalid mode: $mode" >&2; exit 1 ;;
esac
"""
IMAGE = f"containerssh-test/upstream-agent:{hashlib.sha256(SCRIPT.encode()).hexdigest()[:12]}"


def agent_image(
    engine: Engine, name: str = IMAGE, script: str = SCRIPT, *, base: str = "bb:latest", extra: str = ""
) -> str:
    """An image that is *base* with *script* as its agent, after the Dockerfile's line *extra*; its name."""
    if engine.has_image(name) and name == IMAGE:
        return name
    encoded = base64.b64encode(script.encode()).decode()
    change = f"RUN echo {encoded} | base64 -d >{PATH} && chmod 755 {PATH}"
    return build_image(engine, name, base, *([extra] if extra else []), change)


def forwarder() -> Path:
    """The built forwarding part."""
    return go_program(Path(__file__).parent / "upstream_forwarder", "-ldflags", "-s -w")


def forwarding_image(engine: Engine, base: str = "") -> str:
    """An image that is *base*, or busybox, with the whole agent; its name."""
    name = "containerssh-test/upstream-forwarder" + (f"-{base.partition('/')[2].partition(':')[0]}" if base else "")
    base = agent_image(engine, f"{name}-script", base=base) if base else agent_image(engine)
    content = forwarder().read_bytes()
    context = BytesIO()
    with tarfile.open(fileobj=context, mode="w") as archive:
        files = {"Dockerfile": f"FROM {base}\nCOPY forwarder /usr/bin/forwarder\n".encode(), "forwarder": content}
        for path, data in files.items():
            entry = tarfile.TarInfo(path)
            entry.size, entry.mode = len(data), 0o755
            archive.addfile(entry, BytesIO(data))
    engine.docker("build", "--quiet", "--label", "containerssh-test", "--tag", name, "-", stdin=context.getvalue())
    return name


class _Input(ByteWriter):
    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer

    async def write(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def write_eof(self) -> None:
        self._writer.write_eof()


class _Output(ByteReader):
    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._reader = reader

    async def read(self) -> bytes:
        # A reader that has something gives it at once, and no other task its turn.
        await asyncio.sleep(0)
        return await self._reader.read(CHUNK)


class LocalHelper:
    """A helper that runs on this machine."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        self.process = process
        self.stdin: ByteWriter = _Input(process.stdin)
        self.stdout: ByteReader = _Output(process.stdout)
        self.stderr: ByteReader | None = _Output(process.stderr)

    async def kill(self) -> None:
        with suppress(ProcessLookupError):
            self.process.kill()
        # The process's own wait() is for the end of its pipes as well, which one that is full never reaches.
        await until(lambda: self.process.returncode is not None)

    async def release(self) -> None:
        await self.kill()
        for output in (self.stdout, self.stderr):
            while output is not None and await output.read():
                pass


class LocalHelpers:
    """Starts *argv* where a program is to be started."""

    def __init__(self, *argv: str | Path) -> None:
        self.argv: Sequence[str | Path] = argv or (forwarder(),)
        self.started: list[LocalHelper] = []
        self.programs: list[Program] = []

    async def __call__(self, program: Program) -> LocalHelper:
        self.programs.append(program)
        pipe = asyncio.subprocess.PIPE
        helper = LocalHelper(await asyncio.create_subprocess_exec(*self.argv, stdin=pipe, stdout=pipe, stderr=pipe))
        self.started.append(helper)
        return helper
