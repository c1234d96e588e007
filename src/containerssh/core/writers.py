"""Who may change a file that says whom to trust, apart from its owner and root (as OpenSSH's StrictModes asks)."""

from __future__ import annotations

import os
import stat
from pathlib import Path


def other_writers(path: Path, state: os.stat_result | None = None) -> str:
    """
    Who else can write to *path*, or put another file in its place, as the end of a sentence; empty if nobody can. For a
    file that was opened, *state* is its own. Blocks.

    Raises:
        OSError: it cannot be looked at.
    """
    found = state or path.stat()
    ours = (0, os.geteuid())
    if found.st_mode & stat.S_IWOTH:
        return "anybody"
    if found.st_uid not in ours:
        return f"its owner, user {found.st_uid}, who is neither root nor the server's user"
    if found.st_mode & stat.S_IWGRP:
        return "its group"
    # A link leads through folders of its own.
    for folder in dict.fromkeys((*path.absolute().parents, *path.resolve().parents)):
        around = folder.stat()
        if around.st_uid not in ours:
            return f"user {around.st_uid}, to whom the folder {folder} belongs"
        # With the sticky bit (S_ISVTX) only the owner of what is in it can put something else in its place.
        if around.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not around.st_mode & stat.S_ISVTX:
            return f"whoever may write to the folder {folder}"
    return ""
