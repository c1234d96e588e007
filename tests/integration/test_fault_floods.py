"""A user who sends more small messages than anybody could answer does not keep others waiting."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import bcrypt
import pytest
from asyncssh.packet import Boolean, String

from tests.support.clients import good_login, logged_in
from tests.support.oci import image
from tests.support.vitals import MIB, watched

pytestmark = pytest.mark.oci

USERS = {name: {"password": bcrypt.hashpw(b"secret", bcrypt.gensalt(4)).decode()} for name in ("alice", "bob")}
OCI: dict[str, Any] = {"backend": "oci", "oci": {"image": str(image())}}
GLOBAL_REQUEST = 80


async def test_the_messages_of_one_read_are_worked_on_in_turns() -> None:
    """One read holds thousands of them: 16,000 took another user's login from 0.05 s to 8 s."""
    async with watched(OCI, USERS) as server:
        await good_login(server, "bob")
        async with logged_in(server) as connection:
            connection._transport.pause_reading()
            ends = time.monotonic() + 3

            async def flood() -> int:
                count = 0
                while time.monotonic() < ends and connection._transport:
                    if connection._transport.get_write_buffer_size() < MIB:
                        for _ in range(50):
                            connection.send_packet(GLOBAL_REQUEST, String("nothing@example.com"), Boolean(False))
                        count += 50
                    await asyncio.sleep(0.002)
                return count

            flooding = asyncio.create_task(flood())
            await asyncio.sleep(0.3)
            times = [await good_login(server, "bob") for _ in range(4)]
            assert await flooding > 2000
        assert max(times) < 4
