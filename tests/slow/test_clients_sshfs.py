"""A container's files mounted with sshfs, used as programs use any folder."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.support.openssh import Done, OpenSSH, run, ssh_options
from tests.support.server import Server
from tests.support.services import Engine
from tests.support.shared_folder import complaints, same_trees, sharing
from tests.support.tools import tool
from tests.support.waiting import until

pytestmark = [pytest.mark.root, pytest.mark.docker, pytest.mark.oci, pytest.mark.timeout(180)]

LIMIT = 120.0
UNITS = 60
MAKEFILE = """
objects = $(patsubst src/%.c,obj/%.o,$(wildcard src/*.c))
bin/program: $(objects) ; @mkdir -p bin && $(CC) -o $@.new $^ && mv $@.new $@
obj/%.o: src/%.c src/all.h ; @mkdir -p obj && $(CC) -O1 -Isrc -MMD -c -o $@ $<
-include $(wildcard obj/*.d)
clean: ; rm -r obj bin
"""


@asynccontextmanager
async def mounted(folder: Path, server: Server, *settings: str) -> AsyncIterator[Path]:
    """``/data`` of a container, below *folder*; unmounted at the end, which must be possible at once."""
    if not os.access("/dev/fuse", os.W_OK):
        pytest.skip("this machine gives no FUSE")
    place, openssh = folder / "mounted", OpenSSH(folder)
    place.mkdir()
    options = ssh_options(
        f"UserKnownHostsFile={folder}/known", "StrictHostKeyChecking=accept-new", "workaround=none", *settings
    )
    mount = [tool("sshfs"), "-F", "/dev/null", "-p", str(server.port), *options, "alice@127.0.0.1:/data"]
    (await run(*mount, place, env=openssh.environment())).check()
    try:
        yield place
    finally:
        (await run(tool("fusermount3"), "-u", place)).check()
    assert (await run("mountpoint", "-q", place)).status != 0


def project(root: Path) -> None:
    """A C program of many files, which prints the sum of what each of them returns."""
    source = root / "src"
    source.mkdir(parents=True)
    (root / "Makefile").write_text(MAKEFILE)
    declared = "".join(f"int unit{number}(void);\n" for number in range(UNITS))
    (source / "all.h").write_text(declared + "#define SCALE 1\n")
    for number in range(UNITS):
        body = f'#include "all.h"\nint unit{number}(void) {{ return {number} * SCALE; }}\n'
        (source / f"unit{number}.c").write_text(body)
    calls = " + ".join(f"unit{number}()" for number in range(UNITS))
    main = f'#include <stdio.h>\n#include "all.h"\nint main(void) {{ printf("%d\\n", {calls}); return 0; }}\n'
    (source / "main.c").write_text(main)


async def shell(folder: Path, script: str) -> Done:
    return (await run("sh", "-ec", f'cd "$0"; {script}', folder, limit=LIMIT)).check()


async def test_a_c_project_is_built_and_built_again_after_a_change(engine: Engine, tmp_path: Path) -> None:
    there = tmp_path / "there"
    async with sharing(engine, there) as server:
        async with mounted(tmp_path, server) as place:
            project(place / "p")
            await shell(place / "p", "make -j4 2>&1")
            assert (await shell(place / "p", "./bin/program")).stdout == b"1770\n"
            assert b"up to date" in (await shell(place / "p", "make")).stdout
            await shell(place / "p", "sed -i s/'SCALE 1'/'SCALE 2'/ src/all.h; sleep 1; touch src/all.h; make -j4 2>&1")
            assert (await shell(place / "p", "./bin/program")).stdout == b"3540\n"
            await same_trees(place / "p", there / "p")
            await shell(place / "p", "make clean")
            assert sorted(path.name for path in (there / "p").iterdir()) == ["Makefile", "src"]
        assert complaints(server) == []
        assert [line for line in server.log if line["code"] == "SFTP_FAILED"] == []


async def test_many_programs_write_sync_and_check_what_they_wrote(tmp_path: Path) -> None:
    there = tmp_path / "there"
    async with sharing(None, there) as server:
        # Nothing is read from the caches of this side.
        async with mounted(tmp_path, server, "direct_io", "dcache_timeout=1") as place:
            common = (
                f"--directory={place} --size=24m --verify=crc32c --verify_fatal=1 --verify_state_save=0"
                " --fallocate=none --group_reporting"
            )
            jobs = (
                "--name=stream --rw=write --bs=256k --numjobs=3 --end_fsync=1",
                "--name=scattered --rw=randwrite --bs=4k --numjobs=2 --size=4m --fsync=64",
                "--name=mixed --rw=randrw --bs=17k --numjobs=2 --size=6m",
            )
            for job in jobs:
                done = await run(tool("fio"), *common.split(), *job.split(), limit=LIMIT)
                assert (done.status, b"err= 0" in done.stdout) == (0, True), done
            filesystem = os.statvfs(place)
            truth = os.statvfs(there)
            assert (filesystem.f_blocks * filesystem.f_frsize, filesystem.f_namemax) == (
                truth.f_blocks * truth.f_frsize,
                truth.f_namemax,
            )
            renamed = "mv stream.0.0 a; cp a b; mv a b; ln -s b c; ln b d; cmp b d; cmp c d"
            await shell(place, renamed)
        assert sorted(path.name for path in there.iterdir())[:3] == ["b", "c", "d"]
        found = (there / "d").stat()
        assert (found.st_size, found.st_nlink, (there / "c").readlink()) == (24 << 20, 2, Path("b"))
        assert complaints(server) == []


async def test_a_mount_comes_back_after_its_connection_was_cut(engine: Engine, tmp_path: Path) -> None:
    there = tmp_path / "there"
    async with (
        sharing(engine, there) as server,
        mounted(tmp_path, server, "reconnect", "ServerAliveInterval=1") as place,
    ):
        (place / "before").write_text("one\n")
        label = server.logged("SSH_HANDSHAKE_SUCCESSFUL")[0]["details"]["connectionId"]
        look = ("ps", "-aq", "--filter", f"label=containerssh_connection_id={label}")
        (container,) = engine.docker(*look).split()
        engine.docker("rm", "-f", container)
        await until(lambda: not engine.docker(*look).split(), LIMIT)
        assert (await shell(place, "sleep 1; cat before || cat before; echo two >after")).stdout == b"one\n"
        assert (there / "after").read_text() == "two\n"
