"""``containerssh remembered``: list and revoke the keys that replace keyboard-interactive."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from containerssh.auth.remembered import Remembered, Store, StoreUnusable
from containerssh.core.instance import default_state_folder
from containerssh.core.text import printable


def show(state: str, *, as_json: bool) -> int:
    """List the remembered keys in the folder *state* (empty: the default folder); return the exit status."""
    return _with(state, lambda store: _show(store, as_json=as_json))


def revoke(state: str, username: str) -> int:
    """Revoke all remembered keys of *username*, or of all users if it is empty; return the exit status."""
    return _with(state, lambda store: _say(store.revoke(username) if username else store.revoke_all()))


def _with(state: str, do: Callable[[Store], None]) -> int:
    folder = Path(state) if state else default_state_folder()
    if state and not folder.is_dir():
        print(f"containerssh: there is no folder {state}", file=sys.stderr)
        return 1
    try:
        do(Store(folder / "remembered"))
    except StoreUnusable as exc:
        print(f"containerssh: {exc}", file=sys.stderr)
        return 1
    return 0


def _say(count: int) -> None:
    print(f"{count} {'key' if count == 1 else 'keys'} forgotten")


def _show(store: Store, *, as_json: bool) -> None:
    entries = store.entries()
    if as_json:
        print(json.dumps([_fields(entry) for entry in entries], indent=2))
        return
    for entry in entries:
        fields = _fields(entry)
        name = f"{entry.username} ({entry.authenticated_username})" if entry.authenticated_username else entry.username
        place = entry.address or "any address"
        name = printable(name, "\N{REPLACEMENT CHARACTER}")
        print(f"{name}  {entry.fingerprint}  {fields['since']} to {fields['expires']}  from {place}")


def _fields(entry: Remembered) -> dict[str, str]:
    return {
        "username": entry.username,
        "authenticatedUsername": entry.authenticated_username,
        "fingerprint": entry.fingerprint,
        "address": entry.address,
        "since": _time(entry.since),
        "expires": _time(entry.expires),
    }


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
