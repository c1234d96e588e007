"""A webhook that has gone mad about some users: they do not get in, others do, and nothing piles up."""

from __future__ import annotations

import asyncio
import time
from statistics import median
from typing import Any

import asyncssh
import pytest

from tests.support.clients import Peak, good_login, logged_in
from tests.support.faults import FAULTS, mad_webhook
from tests.support.oci import image
from tests.support.vitals import MIB, Watched, watched

pytestmark = pytest.mark.oci

GIVEN_UP = 3.0


def asking(url: str) -> dict[str, Any]:
    webhook = {"url": url, "timeout": "1s", "authTimeout": f"{GIVEN_UP:g}s"}
    return {
        "auth": {"password": {"method": "webhook", "webhook": webhook}},
        "backend": "oci",
        "oci": {"image": str(image())},
    }


async def refused(server: Watched, user: str) -> float:
    """How long it takes until *user* is refused."""
    began = time.monotonic()
    with pytest.raises(asyncssh.PermissionDenied):
        async with logged_in(server, user):
            pass
    return time.monotonic() - began


async def test_a_webhook_that_goes_wrong_for_some_does_not_hurt_others() -> None:
    async with mad_webhook() as hook, watched(asking(hook.url)) as server:
        for _ in range(3):
            await good_login(server)
        base = await server.settled()
        async with Peak(server) as peak:
            bad = [asyncio.create_task(refused(server, user)) for user in FAULTS for _ in range(2)]
            good = [await good_login(server) for _ in range(5)]
            times = await asyncio.gather(*bad)
        assert max(times) < GIVEN_UP + 2
        # The usual one: the first meets all sixteen at once, on a busy machine.
        assert median(good) < 2
        assert max(good) < GIVEN_UP + 2
        assert set(hook.asked) == {"alice", *FAULTS}
        # Four answers of 4 MiB, each there twice while it grows; the rest is what sixteen logins at once take.
        assert peak.growth < 80 * MIB, peak.growth / MIB
        await server.back_to(base, growth=32 * MIB)
        assert not [line for line in server.errors() if line["code"] == "SERVICE_CRASHED"]
