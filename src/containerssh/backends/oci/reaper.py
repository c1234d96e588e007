"""Removal of what dead instances left behind."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from pathlib import Path

from containerssh.backends.oci import cgroups
from containerssh.backends.oci.container import kill_by_state
from containerssh.backends.oci.launcher import Launcher
from containerssh.core.codes import OCICode
from containerssh.core.instance import Instance
from containerssh.core.messages import Event

logger = logging.getLogger(__name__)


async def reap(launcher: Launcher, instance: Instance, data: Path, dead: Sequence[str]) -> int:
    """
    Kill and remove the containers of *dead* instances, and their partly fetched images; return the number of
    containers.

    Mounts need no removal: they ended with their namespaces. A helper that survives its gateway ends its containers
    itself; this covers the case that both were killed, or the machine was shut down.
    """
    count = 0
    for identity in dead:
        left = await asyncio.to_thread(_kill, instance, data, identity)
        count += len(left)
        for container in left:
            text = "Removing a container that a dead server left"
            logger.info(Event(OCICode.ORPHAN_REMOVED, text, containerId=container, instance=identity))
        for folder in (data / "containers" / identity, data / "images/scratch" / identity):
            ended = await launcher.call("remove", folder=str(folder))
            if ended.status != 0:
                text = f"{folder} could not be removed: {ended.last_words}"
                logger.warning(Event(OCICode.CONTAINER_REMOVE_FAILED, text, instance=identity))
    return count


def _kill(instance: Instance, data: Path, identity: str) -> list[str]:
    for kind in ("crun", "runc"):
        states = instance.runtime.parent / identity / kind
        if states.is_dir():
            for state in states.iterdir():
                kill_by_state(state)
    cgroups.kill_and_remove(identity)
    folder = data / "containers" / identity
    return sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []
