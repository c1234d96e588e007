"""Nothing is lost: what a program wrote before it ended arrives whole, however much it was."""

from __future__ import annotations

import asyncio
import hashlib
from typing import Any

import pytest

from containerssh.auth.hashes import hash_password
from tests.support import server as product
from tests.support.oci import image
from tests.support.openssh import OpenSSH, ssh_options
from tests.support.transfers import MUCH, digest_of_much, digest_over_ssh
from tests.support.vitals import MIB

pytestmark = pytest.mark.oci

OCI: dict[str, Any] = {"backend": "oci", "oci": {"image": str(image())}}
USERS = {"alice": {"password": hash_password("secret", "bcrypt")}}


@pytest.mark.parametrize("options", [(), ("RekeyLimit=4M",)], ids=["plain", "rekeying"])
async def test_the_last_bytes_of_128_mib_arrive(openssh: OpenSSH, options: tuple[str, ...]) -> None:
    async with product.serving(OCI, USERS) as server:
        assert await digest_over_ssh(openssh, server, *ssh_options(*options)) == (MUCH, digest_of_much())


async def test_what_is_written_in_one_breath_with_the_end_arrives(openssh: OpenSSH) -> None:
    control = ssh_options(f"ControlPath={openssh.folder}/ctl", "ControlMaster=auto", "ControlPersist=60")
    # Around the sizes of packets, of reads, of pipes and of windows.
    sizes = [base + more for base in (0, 32_768, 65_536, 2 * MIB) for more in (-1, 0, 1, 4096) if base + more >= 0]
    async with product.serving(OCI, USERS) as server:
        for size in sizes:
            done = await openssh.run(server, f"yes 0123456789 | head -c {size}; exit 3", *control)
            assert (done.status, len(done.stdout)) == (3, size)
        await openssh.run(server, None, *control, "-O", "exit")


async def test_input_that_ends_at_once_arrives_whole(openssh: OpenSSH) -> None:
    data = hashlib.shake_256(b"input").digest(32 * MIB)
    async with product.serving(OCI, USERS) as server:
        answers = await asyncio.gather(*(openssh.run(server, "sha256sum", stdin=data) for _ in range(2)))
        assert {done.stdout.split()[0].decode() for done in answers} == {hashlib.sha256(data).hexdigest()}
