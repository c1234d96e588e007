"""The host ids of containers' users: a separate range for each container, where that needs no copying."""

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
    """The id ranges of this server's running containers. The first range is for containers that must share one."""

    _taken: set[int] = field(default_factory=set)

    @contextmanager
    def own(self, place: Place, config: OCIConfig, host: Host) -> Iterator[Place]:
        """
        *place* with an id range of its own, while the scope is open.

        Unchanged where the files' owners would differ between containers: in host folders that outlive the container,
        and in copies of the image. If all ranges are in use, a range is shared with another container.
        """
        count = config.user_namespace.range_count
        shift = place.id_map is not None and place.idmapped and host.makes_user_namespaces
        if place.id_map is None or not shift or config.binds or count == 1:
            yield place
            return
        size = place.id_map.size
        # Other servers of this machine use the same ranges.
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
