"""How many files and connections this process may have open."""

from __future__ import annotations

import resource

WANTED = 65_536
"""Enough for ten thousand logins; guests inherit it, and programs that walk through all of them stay quick."""


def allow_many_descriptors() -> None:
    """
    Raise the soft limit, usually 1,024, to :data:`WANTED` or as far as the hard limit lets us.

    Upstream's runtime (Go) does the same at each start, so nothing has to be set up for it.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    reachable = WANTED if hard == resource.RLIM_INFINITY else min(WANTED, hard)
    if soft != resource.RLIM_INFINITY and soft < reachable:
        resource.setrlimit(resource.RLIMIT_NOFILE, (reachable, hard))
