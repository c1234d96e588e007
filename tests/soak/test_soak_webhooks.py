"""A webhook that has gone mad about many users at once, for a while."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncssh
import pytest

from tests.soak.scale import scaled
from tests.support.clients import Peak, good_logins, logged_in
from tests.support.faults import FAULTS, mad_webhook
from tests.support.oci import image
from tests.support.vitals import MIB, Watched, watched

pytestmark = [pytest.mark.oci, pytest.mark.timeout(600)]


@pytest.mark.parametrize("fault", sorted(FAULTS))
async def test_a_fault_for_many(fault: str) -> None:
    async with mad_webhook() as hook:
        webhook = {"url": hook.url, "timeout": "2s", "authTimeout": "10s"}
        config: dict[str, Any] = {
            "auth": {"password": {"method": "webhook", "webhook": webhook}},
            "backend": "oci",
            "oci": {"image": str(image())},
        }
        async with watched(config) as server:
            before = await good_logins(server, 5)
            base = await server.settled()
            async with Peak(server) as peak:
                refused = asyncio.gather(*(_is_refused(server, fault) for _ in range(scaled(40, least=8))))
                during = await good_logins(server, 9)
                async with asyncio.timeout(20):
                    assert all(await refused)
            print(f"{fault}: {before * 1000:.0f} ms before, {during * 1000:.0f} ms during, {peak.growth / MIB:.0f} MiB")
            assert during < 2
            # Four answers of 4 MiB, each there twice while it grows, and a little of all others.
            assert peak.growth < 80 * MIB, peak.growth / MIB
            await server.back_to(base, growth=48 * MIB)


async def _is_refused(server: Watched, user: str) -> bool:
    try:
        async with logged_in(server, user):
            return False
    except asyncssh.PermissionDenied:
        return True
