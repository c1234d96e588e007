"""How an image becomes a container's root: the best way that works here, determined by trying."""

from __future__ import annotations

import logging
from secrets import token_hex

from containerssh.backends.oci.bundle import IdMap
from containerssh.backends.oci.container import Host, Place
from containerssh.backends.oci.image import Image, ImageStore
from containerssh.backends.oci.runtime import staging_folder
from containerssh.config.oci import OCIConfig
from containerssh.core.codes import OCICode
from containerssh.core.errors import BackendError
from containerssh.core.instance import make_private
from containerssh.core.messages import Event

logger = logging.getLogger(__name__)


class Placement:
    """Caches which way worked, by the file system of an image and the kind of user namespace."""

    def __init__(self, host: Host, store: ImageStore) -> None:
        self._host = host
        self._store = store
        self._known: dict[tuple[int, bool], tuple[str, bool]] = {}

    async def place(self, image: Image, config: OCIConfig) -> Place:
        """
        The way in which *image* becomes a container's root.

        Raises:
            BackendError: no way works.
        """
        id_map = self._id_map(config)
        key = (image.root.stat().st_dev, id_map is None)
        if key in self._known:
            return await self._as(image, id_map, *self._known[key])
        reasons = []
        for storage, idmapped in self._ways(id_map):
            place = await self._as(image, id_map, storage, idmapped)
            failure = await self._try(place)
            if failure is None:
                self._known[key] = (storage, idmapped)
                how = "with shifted owners" if idmapped else "as a shifted copy" if id_map else "as it is"
                text = f"Images on this file system are used {how}, changes go to: {storage}"
                logger.info(Event(OCICode.RUNTIME, text, image=str(image.root)))
                return place
            reasons.append(f"{storage}: {failure}")
        raise BackendError(OCICode.RUNTIME_MISSING, f"containers can get no files of their own: {'; '.join(reasons)}")

    def _id_map(self, config: OCIConfig) -> IdMap | None:
        wanted, ranges = config.user_namespace, self._host.launcher.ranges
        if ranges is None:
            return IdMap(wanted.base, wanted.size) if wanted.enabled else None
        if not wanted.enabled:
            raise BackendError(OCICode.CONFIG_ERROR, "userNamespace cannot be turned off without root")
        # Id 0 of the helper's namespace is the server's own user; containers' ids start after it.
        return IdMap(1, min(wanted.size, ranges.size))

    def _ways(self, id_map: IdMap | None) -> list[tuple[str, bool]]:
        shift = id_map is not None and self._host.launcher.ranges is None  # idmapped mounts require root
        return [*([("overlay", True)] if shift else []), ("overlay", False), ("copy", False)]

    async def _as(self, image: Image, id_map: IdMap | None, storage: str, idmapped: bool) -> Place:
        if id_map and not idmapped:
            image = await self._store.shifted(image, id_map.base, id_map.size)
        return Place(image, storage, id_map, idmapped)

    async def _try(self, place: Place) -> str | None:
        """The reason why *place* does not work; None if it does."""
        if place.storage == "copy":
            return None
        folder = self._host.container_folder(f"try-{token_hex(4)}")
        make_private(folder.parent)
        folder.mkdir(mode=0o700)
        try:
            at = staging_folder(self._host.data, self._host.instance.runtime)
            ended = await self._host.launcher.check(**place.order(folder, at, []))
        finally:
            await self._host.launcher.call("remove", folder=str(folder))
        return None if ended.status == 0 else ended.last_words
