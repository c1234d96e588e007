"""Nothing is lost, again and again, beside others who do the same."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import bcrypt
import pytest

from tests.soak.scale import scaled
from tests.support.oci import image
from tests.support.openssh import OpenSSH, ssh_options
from tests.support.server import serving
from tests.support.transfers import MUCH, digest_of_much, digest_over_ssh

pytestmark = [pytest.mark.oci, pytest.mark.timeout(1800)]

ALICE = {"alice": {"password": bcrypt.hashpw(b"secret", bcrypt.gensalt(4)).decode()}}
CONFIG: dict[str, Any] = {"backend": "oci", "oci": {"image": str(image())}}


@pytest.mark.parametrize("options", [(), ("RekeyLimit=2M",)], ids=["plain", "rekeying"])
async def test_the_last_bytes_arrive_every_time(tmp_path: Path, options: tuple[str, ...]) -> None:
    openssh = OpenSSH(tmp_path)
    async with serving(CONFIG, ALICE) as server:
        for _ in range(scaled(20, least=1)):
            transfers = (digest_over_ssh(openssh, server, *ssh_options(*options)) for _ in range(3))
            assert set(await asyncio.gather(*transfers)) == {(MUCH, digest_of_much())}
