"""The first logins of a server come at the same moment: each gets the agent."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

from containerssh.agent.dialback import dial_back

AT_ONCE = 24


async def test_the_first_logins_at_the_same_moment_all_get_the_agent(tmp_path: Path) -> None:
    for turn in range(12):
        parent = tmp_path / str(turn)
        parent.mkdir(mode=0o700)
        async with AsyncExitStack() as stack:
            opened = await asyncio.gather(
                *(stack.enter_async_context(dial_back(parent, "amd64")) for _ in range(AT_ONCE))
            )
            # A copy that replaces another one makes links to that one fail.
            assert len({(back.folder / "agent").stat().st_ino for back in opened}) == 1
