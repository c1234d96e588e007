"""What clients do together with programs of the image: Debian's ``scp`` and ``ssh-add``, and whatever may be there."""

from __future__ import annotations

import asyncio
import hashlib
import os
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncssh
import pytest

from tests.support.desktop import ssh_agent
from tests.support.openssh import OpenSSH, run
from tests.support.server import Server
from tests.support.services import Engine
from tests.support.shared_folder import complaints, same_trees, sharing
from tests.support.ssh_programs import CLIENTS, FORWARDS_AGENTS, Ask
from tests.support.tools import tool

pytestmark = pytest.mark.docker

CONTENT = os.urandom(1_000_000)
NAMES = ("a b", "ü", "$(touch no) 'q' \\", "deep/.hidden", "deep/empty")


def plant(root: Path) -> Path:
    (root / "deep" / "no files").mkdir(parents=True)
    for number, name in enumerate(NAMES):
        (root / name).write_bytes(CONTENT[: 250_000 * (len(NAMES) - 1 - number)])
        (root / name).chmod(0o600 + number)
        os.utime(root / name, (1_000_000_000, 1_000_000_000 + number))
    return root


def split(openssh: OpenSSH, server: Server) -> tuple[list[str], str]:
    """The options of ``scp``, and ``user@host``."""
    words = openssh.command(server)[1:]
    at = words.index("-p")
    return [*words[:at], "-P", words[at + 1]], words[-1]


async def test_the_old_scp_copies_folders_where_the_image_has_it(engine: Engine, openssh: OpenSSH) -> None:
    here, there, back = plant(openssh.folder / "here"), openssh.folder / "there", openssh.folder / "back"
    async with sharing(engine, there, "debian") as server:
        options, host = split(openssh, server)
        scp = [tool("scp"), "-O", "-r", "-p", *options]
        (await run(*scp, here, f"{host}:/data/", env=openssh.environment())).check()
        (await run(*scp, f"{host}:/data/here", back, env=openssh.environment())).check()
        missing = await run(*scp, f"{host}:/data/none", back, env=openssh.environment())
        assert (missing.status, missing.stderr) == (1, b"scp: /data/none: No such file or directory\n")
        assert complaints(server) == []
    await same_trees(here, there / "here", back)


async def test_putty_and_curl_speak_both_protocols(engine: Engine, openssh: OpenSSH) -> None:
    here, there = openssh.folder / "here", openssh.folder / "there"
    here.write_bytes(CONTENT)
    async with sharing(engine, there, "debian") as server:
        keys = await run(tool("ssh-keyscan"), "-p", str(server.port), "-t", "ed25519", "127.0.0.1")
        key = asyncssh.import_public_key(keys.stdout.split(b" ", 1)[1]).get_fingerprint()
        pscp = [tool("pscp"), "-batch", "-hostkey", key, "-pw", "secret", "-P", str(server.port)]
        curl = [tool("curl"), "-sS", "--insecure", "-u", "alice:secret", "--create-file-mode", "0640"]
        env = {"HOME": str(openssh.folder)}

        async def both_ways(name: str, send: list[str | Path], fetch: list[str | Path]) -> None:
            back = openssh.folder / f"back-{name}"
            (await run(*send, env=env)).check()
            (await run(*fetch, back, env=env)).check()
            assert ((there / name).read_bytes(), back.read_bytes()) == (CONTENT, CONTENT), name

        jobs = []
        for way in ("sftp", "scp"):
            remote, url = f"alice@127.0.0.1:/data/putty-{way}", f"{way}://127.0.0.1:{server.port}/data/curl-{way}"
            jobs.append(both_ways(f"putty-{way}", [*pscp, f"-{way}", here, remote], [*pscp, f"-{way}", remote]))
            jobs.append(both_ways(f"curl-{way}", [*curl, "-T", here, url], [*curl, url, "-o"]))
        await asyncio.gather(*jobs)
        listed = await run(*curl, "--list-only", f"sftp://127.0.0.1:{server.port}/data/", env=env)
        part = await run(*curl, "-r", "1000-1999", f"sftp://127.0.0.1:{server.port}/data/curl-sftp", env=env)
        assert complaints(server) == []
    assert {"curl-sftp", "putty-scp"} < set(listed.check().stdout.decode().split())
    assert part.check().stdout == CONTENT[1000:2000]
    assert stat.S_IMODE((there / "curl-sftp").stat().st_mode) == 0o640


@asynccontextmanager
async def with_keys(engine: Engine, openssh: OpenSSH) -> AsyncIterator[tuple[Server, Path]]:
    async with sharing(engine, openssh.folder / "there", "debian") as server, ssh_agent(openssh) as (socket, _):
        yield server, socket


async def test_every_client_brings_its_keys_along(
    engine: Engine, openssh: OpenSSH, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with with_keys(engine, openssh) as (server, socket):
        # For the clients that are libraries of Python's.
        monkeypatch.setenv("SSH_AUTH_SOCK", str(socket))
        public = socket.with_name("id.pub").read_bytes().split()[:2]

        async def listed(name: str) -> tuple[int, list[bytes]]:
            home = openssh.folder / name
            home.mkdir()
            done = await CLIENTS[name](Ask(server, home, "ssh-add -L", agent=socket))
            return done.status, done.stdout.split()[:2]

        names = sorted(FORWARDS_AGENTS)
        answers = await asyncio.gather(*(listed(name) for name in names))
        assert dict(zip(names, answers, strict=True)) == dict.fromkeys(names, (0, public))
        assert complaints(server) == []


async def test_signed_with_a_key_that_never_left_the_client(engine: Engine, openssh: OpenSSH) -> None:
    """As git signs commits with an SSH key; by a program in the background of a session that is over."""
    digest = hashlib.sha256(CONTENT).hexdigest()
    async with with_keys(engine, openssh) as (server, socket):
        control = ("-S", str(openssh.folder / "control"))
        env = {**openssh.environment(), "SSH_AUTH_SOCK": str(socket)}
        later = (
            "cd /data; ssh-add -L >key.pub; echo $SSH_AUTH_SOCK >socket; "
            "setsid sh -c 'until [ -e go ]; do sleep 0.05; done; "
            f"printf {digest} | ssh-keygen -Y sign -f key.pub -n git >signed.new && mv signed.new signed' "
            "</dev/null >log 2>&1 &"
        )
        master = openssh.command(server, "-A", "-M", "-o", "ControlPersist=60", *control)
        try:
            (await run(*master, later, env=env)).check()
            argv = openssh.command(server, *control)
            wait = "touch /data/go; for n in $(seq 200); do [ -e /data/signed ] && exit 0; sleep 0.05; done; exit 1"
            (await run(*argv, wait, env=env)).check()
        finally:
            await run(*openssh.command(server, *control, "-O", "exit"), env=env)
        there = openssh.folder / "there"
        allowed = openssh.folder / "allowed"
        allowed.write_bytes(b"alice " + (there / "key.pub").read_bytes())
        words = ("-Y", "verify", "-f", allowed, "-I", "alice", "-n", "git", "-s", there / "signed")
        verified = await run(tool("ssh-keygen"), *words, stdin=digest.encode())
        assert verified.check().stdout.startswith(b'Good "git" signature for alice')
