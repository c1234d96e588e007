"""Which users outside a container's users are: a range of ids for each, where that costs nothing."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from containerssh.backends.oci.bundle import IdMap
from containerssh.backends.oci.container import Host, Place
from containerssh.config.oci import OCIConfig


@dataclass
class Ranges:
    """The ranges of ids that this server's containers have at this moment. The first is for those that must share."""

    _taken: set[int] = field(default_factory=set)

    @contextmanager
    def own(self, place: Place, config: OCIConfig, host: Host) -> Iterator[Place]:
        """
        *place* for a container of its own, until it is gone.

        Unchanged where the container's files would then be another user's: in folders of the host that outlive it, and
        in copies of the image. When all ranges are taken, it is one that another container has as well.
        """
        count = config.user_namespace.range_count
        shift = place.id_map is not None and place.idmapped and host.makes_user_namespaces
        if place.id_map is None or not shift or config.binds or count == 1:
            yield place
            return
        size = place.id_map.size
        # Other servers of this machine draw from the same ones.
        number = first = 1 + secrets.randbelow(count - 1)
        while (base := place.id_map.base + number * size) in self._taken:
            number = number % (count - 1) + 1
            if number == first:
                yield replace(place, id_map=IdMap(base, size))
                return
        self._taken.add(base)
        try:
            yield replace(place, id_map=IdMap(base, size))
        finally:
            self._taken.discard(base)
