"""The capabilities of this machine: a working runtime, and the limits that it can enforce."""

from __future__ import annotations

import logging
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from secrets import token_hex

from containerssh.backends.oci.bundle import DEFAULT_PATH, Limits
from containerssh.backends.oci.container import ContainerSpec, Host, running
from containerssh.backends.oci.image import Image, ImageStore
from containerssh.backends.oci.launcher import Launcher
from containerssh.backends.oci.placement import Placement
from containerssh.backends.oci.ranges import Ranges
from containerssh.backends.oci.runtime import find_runtimes, swap_can_be_limited
from containerssh.backends.oci.users import User
from containerssh.config.oci import OCIConfig
from containerssh.core.codes import OCICode
from containerssh.core.errors import BackendError, ContainerSSHError, describe
from containerssh.core.instance import Instance, make_private
from containerssh.core.messages import Event

logger = logging.getLogger(__name__)

_DEFAULT_MEMORY = 2 * 1024**3
_DEFAULT_PIDS = 1024
_HOST_FOLDERS = ("/bin", "/lib", "/lib64", "/usr")


@dataclass(eq=False)
class Machine:
    """A working runtime and its data folder."""

    host: Host
    store: ImageStore
    placement: Placement
    ranges: Ranges = field(default_factory=Ranges)
    _told: bool = field(default=False)

    def close(self) -> None:
        """Remove the folders of this instance; a folder that is not empty is left to the reaper."""
        for folder in (self.host.container_folder("any").parent, self.store.scratch_folder):
            with suppress(OSError):
                folder.rmdir()

    def limits(self, config: OCIConfig) -> Limits:
        """
        The limits that can be enforced.

        Raises:
            BackendError: a configured limit cannot be enforced here.
        """
        wanted = config.resources
        if self.host.runtime.cgroups:
            memory = _DEFAULT_MEMORY if wanted.memory is None else wanted.memory
            pids = _DEFAULT_PIDS if wanted.pids is None else wanted.pids
            return Limits(memory or None, pids or None, wanted.cpus or None, swap_can_be_limited())
        given = [name for name in ("memory", "pids", "cpus") if getattr(wanted, name)]
        if given:
            text = f"{' and '.join(given)} cannot be limited: control groups are not available to this server here"
            raise BackendError(OCICode.CONFIG_ERROR, text)
        if not self._told:
            self._told = True
            text = "Memory and processes of containers are not limited: control groups are not available here"
            logger.warning(Event(OCICode.RUNTIME, text))
        return Limits(None, None, None, swap_can_be_limited=False)


def data_folder(instance: Instance, config: OCIConfig) -> Path:
    """The folder of this configuration's images and containers."""
    return Path(config.data_directory) if config.data_directory else instance.state / "oci"


async def find_machine(launcher: Launcher, instance: Instance, config: OCIConfig) -> Machine:
    """
    Find the first runtime that can start a container here, by starting one; takes about a tenth of a second.

    Raises:
        BackendError: none works; the text contains the reason for each.
    """
    data = data_folder(instance, config)
    for folder in (data, data / "containers", data / "containers" / instance.id):
        make_private(folder)
    store = ImageStore(data / "images", instance.id, launcher)
    make_private(data / "images")
    reasons: list[str] = []
    for runtime in await find_runtimes(launcher, config):
        host = Host(instance, launcher, runtime, data)
        placement = Placement(host, store)
        make_private(host.state)
        try:
            await _try(host, placement, config)
        except (ContainerSSHError, OSError) as exc:
            # Runtimes write several lines of output.
            reasons.append(f"{runtime}: {' | '.join(describe(exc).splitlines())}")
            continue
        logger.info(Event(OCICode.RUNTIME, f"Containers are run by {runtime}", runtime=runtime.path))
        for reason in reasons:
            logger.info(Event(OCICode.RUNTIME, f"Skipped {reason}"))
        return Machine(host, store, placement)
    raise BackendError(OCICode.RUNTIME_MISSING, f"no OCI runtime works here. {'; '.join(reasons)}")


def _trial(root: Path, config: OCIConfig) -> OCIConfig:
    binds = [f"{folder}:{folder}:ro" for folder in _HOST_FOLDERS if Path(folder).is_dir()]
    trial = OCIConfig.model_validate({"image": str(root), "binds": binds})
    return trial.model_copy(update={"user_namespace": config.user_namespace, "timeouts": config.timeouts})


async def _try(host: Host, placement: Placement, config: OCIConfig) -> None:
    """Run the host's ``true`` in a container with the same restrictions as all others."""
    root = host.data / "try"
    root.mkdir(mode=0o755, exist_ok=True)
    trial = _trial(root, config)
    limited = Limits(_DEFAULT_MEMORY, _DEFAULT_PIDS, None, swap_can_be_limited())
    spec = ContainerSpec(
        id=f"try-{token_hex(4)}",
        config=trial,
        image=Image(root),
        place=await placement.place(Image(root), config),
        user=User(0, 0),
        environment={"PATH": DEFAULT_PATH},
        hostname="try",
        limits=limited if host.runtime.cgroups else Limits(None, None, None, swap_can_be_limited=False),
        annotations={},
    )
    async with running(host, spec, ["true"], {}, config.timeouts.container_stop) as child:
        ended = await child.wait()
    if ended.status != 0:
        raise BackendError(OCICode.CONTAINER_CREATE_FAILED, ended.last_words)
