"""Labels from which another server sees when a container may be removed because its login has run out of time."""

from __future__ import annotations

from datetime import timedelta

from containerssh.core.metadata import Login

LABEL_EXPIRES = "containerssh_expires"
LABEL_LIFETIME = "containerssh_lifetime"


def expiry_labels(login: Login, container_stop: timedelta) -> dict[str, str]:
    """
    The labels of a login's containers if the duration of the login is limited: the latest time at which a container may
    be in use (RFC 3339, by the server's clock), and the seconds from the start of the login until then.
    *container_stop* is the time that the removal may take.
    """
    if login.span is None:
        return {}
    lifetime = login.span.longest + container_stop
    expires = login.span.ends + container_stop
    return {
        LABEL_EXPIRES: expires.isoformat(timespec="seconds").replace("+00:00", "Z"),
        LABEL_LIFETIME: f"{lifetime.total_seconds():.0f}",
    }
