"""Clients cut off at random steps of the protocol: nothing of them is left in the server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import asyncssh
import pytest

from tests.support.aborts import STAGES, Aborter
from tests.support.oci import image
from tests.support.openssh import OpenSSH
from tests.support.vitals import MIB, oci_leftovers, watched

pytestmark = pytest.mark.oci

OCI: dict[str, Any] = {"backend": "oci", "oci": {"image": str(image())}}


async def test_clients_cut_off_at_random_steps_leave_nothing(tmp_path: Path) -> None:
    key = asyncssh.generate_private_key("ssh-ed25519")
    line = key.export_public_key().decode().strip()
    openssh = OpenSSH(tmp_path, password=None)
    (tmp_path / "id").write_bytes(key.export_private_key())
    (tmp_path / "id").chmod(0o600)
    async with watched(OCI, {"alice": {"authorizedKeys": [line]}}) as server:
        aborter = Aborter(server.port, key)
        # What is loaded at its first use, at any step, is no leak.
        await openssh.run(server, "true", "-i", str(tmp_path / "id"))
        await aborter.run(200, logins=0.5)
        base = await server.settled()
        await aborter.run(200, logins=0.25)
        await server.back_to(base, growth=6 * MIB)
        assert set(aborter.stages) == set(STAGES), aborter.stages
        await server.server.until(lambda: not oci_leftovers(server.server), "no container is left", 20)
        done = await openssh.run(server, "echo in", "-i", str(tmp_path / "id"))
        assert done.stdout == b"in\n"
        assert server.errors() == []
