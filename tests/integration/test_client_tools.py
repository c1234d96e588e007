"""What is built on SSH clients: rsync, git, and the ways in which editors work on a container."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from containerssh.auth.hashes import hash_password
from tests.support.clients import logged_in
from tests.support.images import zoo_image
from tests.support.openssh import Done, OpenSSH, run
from tests.support.server import Server, free_port, serving
from tests.support.services import Engine
from tests.support.tools import tool
from tests.support.waiting import until

pytestmark = pytest.mark.docker

LIMIT = 20.0


@asynccontextmanager
async def server_with(engine: Engine, data: Path, image: str, **sections: Any) -> AsyncIterator[Server]:
    """A server whose containers share the folder *data* as ``/data``."""
    execution = {
        "container": {"image": image},
        "host": {"NetworkMode": "none", "Binds": [f"{data}:/data"]},
        "shellCommand": ["/bin/sh"],
        "imagePullPolicy": "Never",
    }
    docker = {"connection": {"host": engine.address}, "execution": execution}
    users = {"alice": {"password": hash_password("secret", "bcrypt")}}
    async with serving({"backend": "docker", "docker": docker, **sections}, users) as server:
        yield server


def shell_of(openssh: OpenSSH, server: Server) -> str:
    """The command that rsync and git are to run, without the host's name."""
    return " ".join(openssh.command(server)[:-1])


async def test_rsync_copies_a_tree_and_then_only_what_changed(engine: Engine, openssh: OpenSSH, tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    for number in range(300):
        path = here / f"d{number % 7}" / f"a file {number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.urandom(number * 100))
    there.mkdir()

    async def rsync(*words: str | Path) -> Done:
        options = ["-az", "--delete", "--itemize-changes", "-e", shell_of(openssh, server)]
        return (await run(tool("rsync"), *options, *words, env=openssh.environment(), limit=60)).check()

    async with server_with(engine, there, zoo_image(engine, "tools")) as server:
        assert len((await rsync(f"{here}/", "alice@127.0.0.1:/data/")).stdout.splitlines()) >= 307
        assert (await rsync(f"{here}/", "alice@127.0.0.1:/data/")).stdout == b""
        (here / "d1" / "a file 1").write_bytes(b"another")
        changed = (await rsync(f"{here}/", "alice@127.0.0.1:/data/")).stdout.splitlines()
        assert [line.split(b" ", 1)[1] for line in changed] == [b"d1/a file 1"]
        await rsync("alice@127.0.0.1:/data/", f"{tmp_path}/back/")
    assert (await run(tool("diff"), "-r", here, tmp_path / "back")).status == 0


async def test_rsync_goes_on_where_it_was_cut(engine: Engine, openssh: OpenSSH, tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    (here / "large").write_bytes(os.urandom(8_000_000))
    async with server_with(engine, there, zoo_image(engine, "tools")) as server:
        words = [tool("rsync"), "-a", "--partial", "--stats", "-e", shell_of(openssh, server)]
        words += [f"{here}/", "alice@127.0.0.1:/data/"]
        first = await asyncio.create_subprocess_exec(*words, "--bwlimit=4000", env=openssh.environment())
        try:
            await until(lambda: sum(path.stat().st_size for path in there.iterdir()) > 1_000_000, LIMIT)
        finally:
            first.kill()
            await first.wait()
        # The program in the container has time to keep what it has got.
        await until((there / "large").exists, LIMIT)
        kept = (there / "large").stat().st_size
        done = (await run(*words, env=openssh.environment(), limit=60)).check()
    assert 0 < kept < 8_000_000
    matched = next(line for line in done.stdout.splitlines() if line.startswith(b"Matched data: "))
    assert int(matched.split()[2].replace(b",", b"")) > kept // 2
    assert (there / "large").read_bytes() == (here / "large").read_bytes()


async def test_git_pushes_and_clones(engine: Engine, openssh: OpenSSH, tmp_path: Path) -> None:
    data, work = tmp_path / "data", tmp_path / "work"
    data.mkdir()
    work.mkdir()
    (work / "large").write_bytes(os.urandom(3_000_000))
    (work / "small").write_text("words\n")

    async def git(*words: str | Path) -> Done:
        who = {f"GIT_{role}_{what}": "a@b" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
        env = {**openssh.environment(), **who, "GIT_CONFIG_NOSYSTEM": "1"}
        return (await run(tool("git"), *words, env=env, limit=60)).check()

    await git("init", "-q", "--bare", data / "it.git")
    await git("-C", work, "init", "-q")
    await git("-C", work, "add", ".")
    await git("-C", work, "commit", "-q", "-m", "one")
    async with server_with(engine, data, zoo_image(engine, "tools")) as server:
        ssh = ("-c", f"core.sshCommand={shell_of(openssh, server)}")
        address = "ssh://alice@127.0.0.1/data/it.git"
        await git("-C", work, *ssh, "push", "-q", address, "HEAD:refs/heads/main")
        await git(*ssh, "clone", "-q", "-b", "main", address, tmp_path / "clone")
    heads = [(await git("-C", folder, "rev-parse", "HEAD")).stdout for folder in (work, tmp_path / "clone")]
    assert heads[0] == heads[1]
    assert (tmp_path / "clone/large").read_bytes() == (work / "large").read_bytes()


def complaints(server: Server) -> list[dict[str, Any]]:
    """What its administrator was told."""
    told = [line for line in server.log if line["level"] in ("error", "warning")]
    return [line for line in told if line["code"] != "CORE_NO_HOST_KEYS"]


async def page_through_socks(port: int, target: int) -> bytes:
    """What the web server at *target* of the container answers through a SOCKS proxy."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"\5\1\0")
    assert await reader.readexactly(2) == b"\5\0"
    writer.write(b"\5\1\0\3\x09localhost" + target.to_bytes(2, "big"))
    assert (await reader.readexactly(10))[:2] == b"\5\0"
    return await page(reader, writer)


async def page(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    writer.write(b"GET /index.html HTTP/1.0\r\n\r\n")
    answer = await reader.read()
    writer.close()
    return answer.partition(b"\r\n\r\n")[2]


async def test_an_editor_that_feeds_a_shell_and_works_through_a_proxy(
    engine: Engine, openssh: OpenSSH, tmp_path: Path
) -> None:
    """As VS Code's Remote-SSH does: ``ssh -T -D PORT host sh``, a script on standard input that starts a server."""
    data = tmp_path / "data"
    data.mkdir()
    port, local = free_port(), free_port()
    forwards = {"forwarding": {"forwardingMode": "enable", "socketForwardingMode": "enable"}}
    script = """
        mkdir -p /data/web && echo 'the page' >/data/web/index.html
        httpd -f -p 127.0.0.1:8080 -h /data/web >/dev/null 2>&1 </dev/null &
        for i in 1 2 3 4 5 6 7 8 9; do wget -q -O /dev/null http://127.0.0.1:8080/index.html && break; sleep 0.2; done
        echo "listening on 8080 $SSH_CONNECTION"
    """
    async with server_with(engine, data, "bb:latest", security=forwards) as server:
        options = ("-T", "-D", f"127.0.0.1:{port}", "-L", f"{local}:127.0.0.1:8080", "-o", "ExitOnForwardFailure=yes")
        editor = await asyncio.create_subprocess_exec(
            *openssh.command(server, *options),
            "sh",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=openssh.environment(),
        )
        try:
            assert editor.stdin is not None
            assert editor.stdout is not None
            async with asyncio.timeout(LIMIT):
                editor.stdin.write(script.encode())
                assert (await editor.stdout.readline()).startswith(b"listening on 8080")
                pages = await asyncio.gather(*(page_through_socks(port, 8080) for _ in range(10)))
                assert pages == [b"the page\n"] * 10
                assert await page(*await asyncio.open_connection("127.0.0.1", local)) == b"the page\n"
                editor.stdin.write(b"echo still here; exit 5\n")
                assert await editor.stdout.readline() == b"still here\n"
                # Its forwards have ended, so the client does as well.
                assert await editor.wait() == 5
        finally:
            if editor.returncode is None:
                editor.send_signal(signal.SIGKILL)
                await editor.wait()
        assert not complaints(server)


async def test_an_editor_that_does_all_on_one_connection(engine: Engine, tmp_path: Path) -> None:
    """As JetBrains' tools do: programs, SFTP and a forward beside one another, with requests to see that we live."""
    data = tmp_path / "data"
    data.mkdir()
    forwards = {"forwarding": {"forwardingMode": "enable"}}
    content = os.urandom(500_000)
    async with server_with(engine, data, "bb:latest", security=forwards) as server:
        async with (
            asyncio.timeout(LIMIT),
            logged_in(server, keepalive_interval=0.2) as client,
            client.start_sftp_client() as files,
        ):
            assert (await client.run("uname -s; echo $0")).exit_status == 0
            async with files.open("/data/worker", "wb") as worker:
                await worker.write(content)
            await files.makedirs("/data/web")
            async with files.open("/data/web/index.html", "w") as index:
                await index.write("the page\n")
            process = await client.create_process("echo up; exec httpd -f -p 127.0.0.1:8080 -h /data/web")
            assert await process.stdout.readline() == "up\n"
            listener = await client.forward_local_port("127.0.0.1", 0, "127.0.0.1", 8080)
            for _ in range(50):
                if await page(*await asyncio.open_connection("127.0.0.1", listener.get_port())) == b"the page\n":
                    break
                await asyncio.sleep(0.1)
            else:
                pytest.fail("the forward never answered")
            done = await client.run("md5sum </data/worker; wc -c </data/worker")
            assert str(done.stdout).endswith("500000\n")
            process.terminate()
            await process.wait()
        assert (data / "worker").read_bytes() == content
        assert [line["code"] for line in complaints(server) if line["code"] != "SSH_NEW_CHANNEL_REJECTED"] == []
