"""Trees of many files, by the clients that people copy them with."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from tests.support.openssh import Done, OpenSSH, run
from tests.support.services import Engine
from tests.support.shared_folder import complaints, same_trees, sharing, shell_of
from tests.support.tools import tool
from tests.support.waiting import until

pytestmark = [pytest.mark.root, pytest.mark.docker, pytest.mark.oci, pytest.mark.timeout(240)]

LIMIT = 120.0
SOME, MANY, VERY_MANY = 3_000, 10_000, 20_000


@pytest.fixture(params=["docker", "oci"])
def where(request: pytest.FixtureRequest) -> Engine | None:
    """Docker's engine, or None for the oci backend."""
    if request.param == "oci":
        return None
    engine: Engine = request.getfixturevalue("engine")
    return engine


def plant(root: Path, count: int) -> Path:
    """A tree of *count* small files below folders of a hundred, some with names that a shell would not take."""
    content = os.urandom(5000)
    for number in range(count):
        folder = root / f"{number // 1000} to copy" / f"ü{number % 1000 // 100}"
        if number % 100 == 0:
            folder.mkdir(parents=True)
        file = folder / f"{number} $file's"
        file.write_bytes(number.to_bytes(4, "big") + content[: number % 4001])
        os.utime(file, (1_000_000_000, 1_000_000_000 + number))
    return root


async def test_rsync_of_20_000_files_resumes_after_a_cut_and_then_sends_nothing(
    where: Engine | None, openssh: OpenSSH, tmp_path: Path
) -> None:
    here, there = await asyncio.to_thread(plant, tmp_path / "here", VERY_MANY), tmp_path / "there"
    async with sharing(where, there, "tools") as server:
        words = [
            tool("rsync"),
            "-a",
            "--delete",
            "--partial",
            "-z",
            "--itemize-changes",
            "-e",
            shell_of(openssh, server),
        ]
        words += [f"{here}/", "alice@127.0.0.1:/data/tree/"]

        async def rsync() -> Done:
            return (await run(*words, env=openssh.environment(), limit=LIMIT)).check()

        quiet = asyncio.subprocess.DEVNULL
        cut = await asyncio.create_subprocess_exec(*words, env=openssh.environment(), stdout=quiet, stderr=quiet)
        try:
            await until((there / "tree" / "7 to copy" / "ü0" / "7000 $file's").exists, LIMIT)
        finally:
            cut.kill()
            await cut.wait()
        arrived = await asyncio.to_thread(lambda: sum(1 for path in there.rglob("*file's")))
        sent = sum(1 for line in (await rsync()).stdout.splitlines() if line.startswith(b"<f"))
        # What was on its way at the cut came a moment after the count.
        assert VERY_MANY - sent >= 1000, "the first run was not in vain"
        assert arrived <= VERY_MANY - sent <= arrived + 5000, (arrived, sent)
        assert (await rsync()).stdout == b""
        await same_trees(here, there / "tree")
        for number in range(0, 1000, 2):
            (here / "3 to copy" / f"ü{number // 100}" / f"{3000 + number} $file's").unlink()
        gone = (await rsync()).stdout.splitlines()
        assert sum(1 for line in gone if line.startswith(b"*deleting")) == 500
        await same_trees(here, there / "tree")
        assert complaints(server) == []


async def test_sftp_carries_10_000_files_both_ways(openssh: OpenSSH, tmp_path: Path) -> None:
    here, there, back = await asyncio.to_thread(plant, tmp_path / "here", MANY), tmp_path / "there", tmp_path / "back"
    # It asks for no password when it works through a list.
    key = await openssh.make_key()
    user = {"authorizedKeys": [key.with_suffix(".pub").read_text().strip()]}
    async with sharing(None, there, user=user) as server:
        words = openssh.command(server, "-i", str(key))[1:]
        at = words.index("-p")
        sftp = [tool("sftp"), "-b", "-", *words[:at], "-P", words[at + 1], words[-1]]
        # One of which a part is here already.
        whole, part = tmp_path / "whole", tmp_path / "part"
        whole.write_bytes(os.urandom(3_000_000))
        part.write_bytes(whole.read_bytes()[:1_000_000])
        batch = (
            f"put -pR {here} /data/\nget -pR /data/here {back}\nput -f {whole} /data/whole\nreget /data/whole {part}\n"
        )
        done = await run(*sftp, stdin=batch.encode(), env=openssh.environment(), limit=LIMIT)
        done.check()
        await same_trees(here, there / "here", back)
        assert part.read_bytes() == whole.read_bytes()
        fetched = [line["details"] for line in server.logged("SFTP_FILE") if line["details"]["path"] == "/data/whole"]
        assert [details["read"] for details in fetched] == [0, 2_000_000]
        assert complaints(server) == []


async def test_lftp_mirrors_3_000_files_four_at_a_time_and_then_none(openssh: OpenSSH, tmp_path: Path) -> None:
    here, there, back = await asyncio.to_thread(plant, tmp_path / "here", SOME), tmp_path / "there", tmp_path / "back"
    async with sharing(None, there) as server:
        script = (
            f'set sftp:connect-program "{shell_of(openssh, server, "-a", "-x")}"; set net:max-retries 1; '
            f"open -u alice, sftp://127.0.0.1:{server.port}; "
            f"mirror -R --parallel=4 {here} /data/m; mirror -R --verbose=1 {here} /data/m; "
            f"mirror --parallel=4 /data/m {back}; bye"
        )
        done = (await run(tool("lftp"), "-c", script, env=openssh.environment(), limit=LIMIT)).check()
        assert b"Transferring" not in done.stdout, "all of it was there already"
        await same_trees(here, there / "m", back)
        assert complaints(server) == []
