"""SFTP by the agent's own server, in an image that has none, with the clients that people use."""

from __future__ import annotations

import asyncio
import hashlib
import os
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import paramiko
import pytest

from tests.support import server as product
from tests.support.oci import image
from tests.support.openssh import Done, OpenSSH, run, ssh_options
from tests.support.tools import tool

pytestmark = pytest.mark.oci

CONTENT = os.urandom(3_000_000)


@pytest.fixture
def openssh(tmp_path: Path) -> OpenSSH:
    (tmp_path / "up").write_bytes(CONTENT)
    return OpenSSH(tmp_path)


@asynccontextmanager
async def serving(openssh: OpenSSH, **sections: Any) -> AsyncIterator[product.Server]:
    """A server whose user has the client's key; the containers of all sessions share the folder ``shared``."""
    if not (openssh.folder / "id").exists():
        await openssh.make_key()
        (openssh.folder / "shared").mkdir(mode=0o777)
        (openssh.folder / "shared").chmod(0o777)
    key = (openssh.folder / "id.pub").read_text().strip()
    oci = {"image": str(image()), "binds": [f"{openssh.folder}/shared:/shared"], **sections.pop("oci", {})}
    config = {"backend": "oci", "oci": oci, **sections}
    async with product.serving(config, {"alice": {"authorizedKeys": [key]}}) as server:
        yield server


async def sftp(openssh: OpenSSH, server: product.Server, *batch: str, program: str = "sftp") -> Done:
    """OpenSSH's client with commands one after another; it ends at the first that fails, unless it begins with -."""
    words = openssh.command(server, "-i", str(openssh.folder / "id"))[1:]
    at = words.index("-p")
    argv = [tool("sftp"), "-b", "-", *words[:at], "-P", words[at + 1], words[-1]]
    return await run(*argv, stdin="\n".join(batch).encode(), env=openssh.environment())


async def test_openssh_does_all_that_it_can(openssh: OpenSSH) -> None:
    up, back = openssh.folder / "up", openssh.folder / "back"
    (openssh.folder / "head").write_bytes(CONTENT[:1_000_000])
    async with serving(openssh, sftp={"digest": True}) as server:
        done = await sftp(
            openssh,
            server,
            "mkdir /tmp/d",
            f"put -p {up} /tmp/d/a",
            f"put {openssh.folder}/head /tmp/d/part",
            f"reput {up} /tmp/d/part",
            "rename /tmp/d/a /tmp/d/b",
            "rename /tmp/d/part /tmp/d/b",
            "ln /tmp/d/b /tmp/d/hard",
            "ln -s b /tmp/d/soft",
            "chmod 640 /tmp/d/b",
            "copy /tmp/d/b /tmp/d/copy",
            f"get -f /tmp/d/soft {back}",
            f"get /tmp/d/copy {back}-copy",
            "ls -la /tmp/d",
            "df /tmp",
            "pwd",
            "-rm /tmp/none",
            "rm /tmp/d/*",
            "rmdir /tmp/d",
        )
        done.check()
        assert (back.read_bytes(), back.with_name("back-copy").read_bytes()) == (CONTENT, CONTENT)
        assert b"-rw-r-----" in done.stdout
        assert b"lrwxrwxrwx" in done.stdout
        assert b"remote delete /tmp/none: No such file or directory" in done.stderr
        closed = [line["details"] for line in await server.told("SFTP_FILE")]
        assert closed[0]["sha256"] == hashlib.sha256(CONTENT).hexdigest()
        assert (closed[0]["path"], closed[0]["written"], closed[0]["created"]) == ("/tmp/d/a", len(CONTENT), True)
        await server.until(lambda: "rmdir" in str(server.logged("SFTP_OPERATION")), "the last one is logged")
        done_to = {line["details"]["operation"] for line in server.logged("SFTP_OPERATION")}
        assert done_to == {"mkdir", "attributes", "rename", "link", "symlink", "remove", "rmdir"}


async def test_scp_copies_folders_both_ways(openssh: OpenSSH) -> None:
    tree, back = openssh.folder / "tree", openssh.folder / "back"
    (tree / "deep").mkdir(parents=True)
    names = ["a b", "ü", "two\nlines", "deep/'q'"]
    for number, name in enumerate(names):
        (tree / name).write_bytes(CONTENT[:1000])
        (tree / name).chmod(0o600 + number)
        os.utime(tree / name, (1_000_000_000, 1_000_000_000 + number))
    async with serving(openssh) as server:
        words = openssh.command(server, "-i", str(openssh.folder / "id"))[1:]
        at = words.index("-p")
        scp = [tool("scp"), "-r", "-p", *words[:at], "-P", words[at + 1]]
        (await run(*scp, str(tree), f"{words[-1]}:/shared/", env=openssh.environment())).check()
        (await run(*scp, f"{words[-1]}:/shared/tree", str(back), env=openssh.environment())).check()
        older = await run(*scp, "-O", str(tree), f"{words[-1]}:/shared/", env=openssh.environment())
    (await run("diff", "-r", str(tree), str(back))).check()
    kept = [(stat.S_IMODE(found.st_mode), found.st_mtime) for found in ((back / name).stat() for name in names)]
    assert kept == [(0o600 + number, 1_000_000_000 + number) for number in range(len(names))]
    assert older.status != 0, "that protocol takes a program of the image, which has none"
    assert older.stderr.splitlines()[0].endswith(b"scp: not found")


async def test_putty_copies_both_ways(openssh: OpenSSH) -> None:
    async with serving(openssh, ssh={"ciphers": ["aes256-ctr"]}) as server:
        await run(tool("puttygen"), f"{openssh.folder}/id", "-O", "private", "-o", f"{openssh.folder}/id.ppk")
        hostkey = (await run(tool("ssh-keyscan"), "-t", "ed25519", "-p", str(server.port), "127.0.0.1")).stdout
        (openssh.folder / "hostkey").write_bytes(hostkey.split(b" ", 1)[1])
        printed = (await openssh.keygen("-lf", f"{openssh.folder}/hostkey")).stdout.split()[1].decode()
        common = ["-batch", "-hostkey", printed, "-i", f"{openssh.folder}/id.ppk", "-P", str(server.port)]
        batch = openssh.folder / "batch"
        batch.write_text(
            f"put {openssh.folder}/up /shared/a\nmv /shared/a /shared/b\nchmod 600 /shared/b\nls /shared\n"
            f"get /shared/b {openssh.folder}/back\nrm /shared/b\nquit\n"
        )
        env = {"HOME": str(openssh.folder)}
        (await run(tool("psftp"), *common, "-b", str(batch), "alice@127.0.0.1", env=env)).check()
        assert (openssh.folder / "back").read_bytes() == CONTENT
        pscp = [tool("pscp"), "-sftp", *common]
        (await run(*pscp, f"{openssh.folder}/up", "alice@127.0.0.1:/shared/c", env=env)).check()
        (await run(*pscp, "alice@127.0.0.1:/shared/c", f"{openssh.folder}/again", env=env)).check()
        assert (openssh.folder / "again").read_bytes() == CONTENT


async def test_lftp_mirrors_a_tree_both_ways(openssh: OpenSSH) -> None:
    tree = openssh.folder / "tree"
    (tree / "deep").mkdir(parents=True)
    for number in range(50):
        (tree / "deep" / f"{number}").write_bytes(CONTENT[: number * 100])
    async with serving(openssh) as server:
        words = openssh.command(server, "-a", "-x", "-i", str(openssh.folder / "id"))
        at = words.index("-p")
        script = (
            f'set sftp:connect-program "{" ".join(words[:at])}"; set net:max-retries 1; set net:timeout 20; '
            f"open -u alice, sftp://127.0.0.1:{server.port}; mirror -R {tree} /shared/m; "
            f"mirror /shared/m {openssh.folder}/back; rm -r /shared/m; bye"
        )
        (await run(tool("lftp"), "-c", script, env=openssh.environment())).check()
    (await run("diff", "-r", str(tree), f"{openssh.folder}/back")).check()


async def test_sshfs_is_a_folder_like_others(openssh: OpenSSH) -> None:
    if not os.access("/dev/fuse", os.W_OK):
        pytest.skip("this machine gives no FUSE")
    place = openssh.folder / "mounted"
    place.mkdir()
    async with serving(openssh) as server:
        settings = ssh_options(
            f"IdentityFile={openssh.folder}/id", f"UserKnownHostsFile={openssh.folder}/known",
            "StrictHostKeyChecking=accept-new", "IdentitiesOnly=yes",
        )  # fmt: skip
        mount = [tool("sshfs"), "-F", "/dev/null", "-p", str(server.port), *settings, "alice@127.0.0.1:/shared"]
        (await run(*mount, str(place), env=openssh.environment())).check()
        try:
            script = (
                "mkdir d && cp ../up d/a && cmp ../up d/a && mv d/a d/b && ln -s b d/c && test $(readlink d/c) = b && "
                "truncate -s 5 d/b && test $(stat -c %s d/b) = 5 && chmod 600 d/b && touch -d @5 d/b && "
                "echo more >> d/b && df . && rm -r d"
            )
            (await run("sh", "-ec", f"cd {place} && {script}")).check()
        finally:
            (await run(tool("fusermount3"), "-u", str(place))).check()


async def test_paramiko_resumes_appends_and_renames_over(openssh: OpenSSH) -> None:
    async with serving(openssh) as server:
        await asyncio.to_thread(_as_winscp_does, server.port, openssh.folder)


def _as_winscp_does(port: int, folder: Path) -> None:
    with paramiko.SSHClient() as client:
        client.set_missing_host_key_policy(paramiko.AutoAddPolicy())
        client.connect("127.0.0.1", port, "alice", key_filename=f"{folder}/id", allow_agent=False, look_for_keys=False)
        with client.open_sftp() as files:
            files.put(f"{folder}/up", "/shared/a.filepart")
            with files.open("/shared/a.filepart", "r+") as part:
                part.seek(len(CONTENT))
                part.write(b"resumed")
            with files.open("/shared/a.filepart", "a") as part:
                part.write(b" and appended")
            with files.open("/shared/a", "w") as old:
                old.write(b"old")
            with pytest.raises(OSError, match="file exists"):
                files.rename("/shared/a.filepart", "/shared/a")
            files.posix_rename("/shared/a.filepart", "/shared/a")
            files.chmod("/shared/a", 0o604)
            files.utime("/shared/a", (1_000_000, 2_000_000))
            found = files.stat("/shared/a")
            assert found.st_mode is not None
            assert (stat.S_IMODE(found.st_mode), found.st_mtime) == (0o604, 2_000_000)
            files.truncate("/shared/a", len(CONTENT) + len("resumed"))
            files.get("/shared/a", f"{folder}/back")
            assert (folder / "back").read_bytes() == CONTENT + b"resumed"
            assert files.normalize("/shared/../shared/./a") == "/shared/a"
            files.symlink("a", "/shared/link")
            assert files.readlink("/shared/link") == "a"
            assert {entry.filename for entry in files.listdir_attr("/shared")} == {"a", "link"}
            for missing in (files.stat, files.listdir, files.remove):
                with pytest.raises(FileNotFoundError):
                    missing("/shared/none")


async def test_a_root_and_a_size_bind_whoever_logs_in(openssh: OpenSSH) -> None:
    rules = {"root": "/shared", "maxFileSize": "1m", "umask": "077"}
    (openssh.folder / "small").write_bytes(b"x" * 1000)
    async with serving(openssh, sftp=rules, security={"forceCommand": "internal-sftp"}) as server:
        done = await sftp(
            openssh,
            server,
            f"-put {openssh.folder}/up /large",
            "-ls /etc",
            "-get /../../etc/passwd",
            "symlink /etc etc",
            "-ls etc/",
            f"put {openssh.folder}/small in",
            "pwd",
        )
        done.check()
        refused = [line["details"]["reason"] for line in await server.told("SFTP_REFUSED")]
        assert refused == ["the maximum file size is reached"]
        refusals = [
            await openssh.run(server, command, "-i", str(openssh.folder / "id"), stdin=b"\0\0\0\5\1\0\0\0\3")
            for command in ("id", "scp -t /shared", "")
        ]
    assert b"Remote working directory: /\n" in done.stdout
    assert b"root:" not in done.stdout
    assert b'write remote "/large": Failure' in done.stderr
    assert (openssh.folder / "shared" / "large").stat().st_size == 1 << 20
    assert stat.S_IMODE((openssh.folder / "shared" / "in").stat().st_mode) == 0o600
    for refused_one in refusals:
        assert (refused_one.status, refused_one.stdout) == (255, b"")
        assert b"This service allows SFTP connections only." in refused_one.stderr


async def test_refusals_are_reported_and_a_root_that_is_not_there_is_told(openssh: OpenSSH) -> None:
    async with serving(openssh, sftp={"readOnly": True}) as server:
        done = await sftp(openssh, server, "-rm /etc/passwd", "-mkdir /tmp/new", f"-put {openssh.folder}/up /tmp/a")
        assert done.stderr.count(b"Permission denied") >= 2
        lines = await server.told("SFTP_REFUSED", 3)
        refused = [(line["details"]["operation"], line["details"]["path"]) for line in lines]
        assert refused == [("remove", "/etc/passwd"), ("mkdir", "/tmp/new"), ("open", "/tmp/a")]
    async with serving(openssh, sftp={"root": "/none"}) as server:
        done = await sftp(openssh, server, "ls")
        assert done.status == 255
        assert b"The SFTP server ended: the root folder /none: no such file or directory" in done.stderr
        assert len(await server.told("SFTP_FAILED")) == 1


async def test_what_was_open_when_a_client_vanished_is_reported(openssh: OpenSSH) -> None:
    async with serving(openssh) as server:
        await asyncio.to_thread(_vanish, server.port, openssh.folder)
        await server.until(lambda: bool(server.logged("SFTP_FILE")), "the file's end is logged")
        details = server.logged("SFTP_FILE")[0]["details"]
        assert (details["path"], details["written"]) == ("/shared/half", 5)


def _vanish(port: int, folder: Path) -> None:
    client = paramiko.SSHClient()
    client.set_missing_host_key_policy(paramiko.AutoAddPolicy())
    client.connect("127.0.0.1", port, "alice", key_filename=f"{folder}/id", allow_agent=False, look_for_keys=False)
    file = client.open_sftp().open("/shared/half", "w")
    file.write(b"hello")
    file.flush()
    transport = client.get_transport()
    assert transport is not None
    transport.sock.close()


@pytest.mark.parametrize(
    ("section", "subsystem", "served_by"),
    [
        ({}, None, "agent"),
        ({}, "/usr/lib/openssh/sftp-server", "agent"),
        ({}, "/bin/echo", "image"),
        ({"server": "builtin"}, "/bin/echo", "agent"),
        ({"readOnly": True}, "/bin/echo", "agent"),
        ({"server": "image"}, "/bin/echo", "image"),
        ({"server": "image"}, None, "nobody"),
    ],
)
async def test_who_serves_is_as_configured(
    openssh: OpenSSH, section: dict[str, object], subsystem: str | None, served_by: str
) -> None:
    oci = {} if subsystem is None else {"subsystems": {"sftp": subsystem}}
    async with serving(openssh, sftp=section, oci=oci) as server:
        hello = b"\0\0\0\5\1\0\0\0\3"
        done = await openssh.run(server, "sftp", "-s", "-i", str(openssh.folder / "id"), stdin=hello)
    answer = "agent" if done.stdout[4:9] == b"\2\0\0\0\3" else "image" if done.stdout == b"\n" else "nobody"
    assert (answer, done.status == 0) == (served_by, served_by != "nobody"), done
