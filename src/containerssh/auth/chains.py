"""Methods that must succeed one after another (``authenticationMethods``), and what they earn together."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Protocol

from containerssh.core.codes import AuthCode
from containerssh.core.errors import AuthFailed
from containerssh.core.handlers import AuthMethod
from containerssh.core.metadata import Login, Restrictions

Chain = tuple[AuthMethod, ...]
"""Methods in the order in which they must succeed."""


def as_chain(text: str) -> Chain:
    """The methods of a list such as `publickey,password`, which the configuration has checked."""
    return tuple(AuthMethod(name) for name in text.split(","))


class UserChains(Protocol):
    """Knows users for whom other chains hold."""

    @property
    def chains(self) -> Collection[Chain]:
        """Those of all users."""
        ...

    async def chains_of(self, username: str, others: frozenset[Chain]) -> Collection[Chain]:
        """Those of this user; *others* for one who has none of their own, or does not exist."""
        ...

    async def code_counts(self, given: str, name: str) -> bool:
        """Whether a one-time code of the user *given* says something about the user *name*, who may be another."""
        ...


def can_follow(chains: Collection[Chain], succeeded: Chain) -> frozenset[AuthMethod]:
    """
    The methods that can follow those that have *succeeded*; none when a chain is complete.

    Raises:
        AuthFailed: no chain begins like that.
    """
    begun = [chain for chain in chains if chain[: len(succeeded)] == succeeded]
    if not begun:
        raise AuthFailed(AuthCode.FAILED, f"{','.join(succeeded)} begins no list of methods for this user")
    if succeeded in begun:
        return frozenset()
    return frozenset(chain[len(succeeded)] for chain in begun)


def merged(before: Login, login: Login) -> Login:
    """
    What two methods earn together: the values of both, those of the later one winning, under all restrictions of both.

    Raises:
        AuthFailed: they vouch for different names, or each forces a command of its own.
    """
    names = {name for name in (before.authenticated_username, login.authenticated_username) if name}
    if len(names) > 1:
        raise AuthFailed(AuthCode.FAILED, "the methods vouch for different names")
    return replace(
        before.with_values(login.metadata, login.environment, login.files),
        authenticated_username=names.pop() if names else "",
        restrictions=both(before.restrictions, login.restrictions),
        config_overlay=login.config_overlay or before.config_overlay,
    )


def both(one: Restrictions, other: Restrictions) -> Restrictions:
    """
    What two credentials take away together.

    Raises:
        AuthFailed: each forces a command of its own.
    """
    commands = {command for command in (one.force_command, other.force_command) if command is not None}
    if len(commands) > 1:
        raise AuthFailed(AuthCode.FAILED, "each of two credentials forces a command of its own")
    return Restrictions(
        force_command=commands.pop() if commands else None,
        environment=one.environment | other.environment,
        pty=one.pty and other.pty,
        port_forwarding=one.port_forwarding and other.port_forwarding,
        agent_forwarding=one.agent_forwarding and other.agent_forwarding,
        x11_forwarding=one.x11_forwarding and other.x11_forwarding,
        user_rc=one.user_rc and other.user_rc,
        touch_required=one.touch_required or other.touch_required,
        verify_required=one.verify_required or other.verify_required,
        connections=one.connections + other.connections,
        listeners=one.listeners + other.listeners,
    )
