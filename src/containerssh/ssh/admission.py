"""Admission of connections: limits in total and per source, random early drop, penalties for failures.

Pure bookkeeping; times are seconds of a monotonic clock and are passed as arguments.
"""

from __future__ import annotations

import ipaddress
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta

from containerssh.core.codes import SSHCode
from containerssh.ssh.options import Admission, IPNetwork, Penalties
from containerssh.ssh.shared_counts import SharedCounts, SharedPenalties, Source

TOO_MANY = "Too many connections. Try again later."
TOO_MANY_FAILURES = "Too many failed logins from your address. Try again later."


@dataclass
class Refused(Exception):
    """The connection is refused."""

    code: SSHCode
    text: str = TOO_MANY
    """The text for the user."""


@dataclass(eq=False)
class Ticket:
    """An admitted connection; returned with :meth:`ConnectionLimiter.left`."""

    address: Source
    prefix: Source
    penalised: Source
    exempt: bool
    newcomer: bool = True
    inside: bool = True
    instead_of: Ticket | None = None
    """The connection that must be closed to make room for this one; its own ticket is already returned."""
    owner: object = None
    """The server's own object for this connection."""


class ConnectionLimiter:
    """
    Counts the connections of a server, across all its processes, and records failures.

    Random early drop is local to each process, with its share of the limit: a process can close only its own
    connections.
    """

    def __init__(
        self, limits: Admission, *, chance: Callable[[], float] = random.random, shared: SharedCounts | None = None
    ) -> None:
        """*chance* returns random numbers in [0, 1); *shared* holds the counts of other processes."""
        self._limits = limits
        self._chance = chance
        self._shared = shared
        self._all = 0
        # The longest waiting first.
        self._newcomers: dict[Ticket, None] = {}
        self._by_source: Counter[Source] = Counter()
        self._newcomers_by_source: Counter[Source] = Counter()
        # Sources that did not fit into the shared table; other processes do not see their connections.
        self._unshared: set[Source] = set()
        self._penalties = self._penalty_box(limits.penalties) if limits.penalties else None

    def _penalty_box(self, penalties: Penalties) -> PenaltyBox | SharedPenalties:
        return SharedPenalties(penalties, self._shared) if self._shared else PenaltyBox(penalties)

    def __len__(self) -> int:
        return self._all

    def use(self, limits: Admission) -> None:
        """Apply new limits to future connections; recorded failures are kept."""
        self._limits = limits
        if limits.penalties is None:
            self._penalties = None
        elif self._penalties is None:
            self._penalties = self._penalty_box(limits.penalties)
        else:
            self._penalties.use(limits.penalties)

    def enter(self, host: str, now: float) -> Ticket:
        """
        Admit a connection from *host*, possibly ``instead_of`` another that has not logged in yet.

        Raises:
            Refused: a limit is reached, or the source has failed too often.
        """
        address, prefix, penalised = self._sources(host)
        ticket = Ticket(address, prefix, penalised, is_within(host, self._limits.allow))
        if not ticket.exempt and self._penalties and self._penalties.is_refused(penalised, now):
            raise Refused(SSHCode.LIMIT_PENALTY, TOO_MANY_FAILURES)
        # Count before checking, so that two processes that do so simultaneously see each other.
        self._count(1)
        if not ticket.exempt:
            self._newcomers[ticket] = None
            for source in (address, prefix):
                self._count_source(source, 1, 1)
        try:
            self._check(ticket)
        except Refused:
            self.left(ticket)
            raise
        return ticket

    def _check(self, ticket: Ticket) -> None:
        limits = self._limits
        others = self._shared.total_of_others() if self._shared else 0
        if limits.connections and self._all + others > limits.connections:
            raise Refused(SSHCode.LIMIT_CONNECTIONS)
        if ticket.exempt:
            return
        self._check_source(
            ticket.address,
            (limits.connections_per_address, SSHCode.LIMIT_CONNECTIONS_PER_ADDRESS),
            (limits.unauthenticated_per_address, SSHCode.LIMIT_UNAUTHENTICATED_PER_ADDRESS),
        )
        self._check_source(
            ticket.prefix,
            (limits.connections_per_prefix, SSHCode.LIMIT_CONNECTIONS_PER_PREFIX),
            (limits.unauthenticated_per_prefix, SSHCode.LIMIT_UNAUTHENTICATED_PER_PREFIX),
        )
        if self._chance() < self._refusal_rate():
            ticket.instead_of = self._connection_to_drop(ticket)
            self.left(ticket.instead_of)

    def _check_source(self, source: Source, *limits: tuple[int, SSHCode]) -> None:
        """*limits*: the limit on the source's connections and that on its unauthenticated ones, each with its code."""
        own = self._by_source[source], self._newcomers_by_source[source]
        others = self._shared.of_others(source) if self._shared else (0, 0)
        for (most, code), here, there in zip(limits, own, others, strict=True):
            part = -(-most // self._shared.processes) if self._shared and source in self._unshared else most
            if most and (here + there > most or here > part):
                raise Refused(code)

    def _connection_to_drop(self, ticket: Ticket) -> Ticket:
        """
        The longest waiting unauthenticated connection of the network that has most of them.

        Raises:
            Refused: that network is the ticket's own.
        """
        counted = Counter(newcomer.prefix for newcomer in self._newcomers if newcomer is not ticket)
        most = max(counted.values(), default=0)
        if counted[ticket.prefix] >= most:
            raise Refused(SSHCode.LIMIT_UNAUTHENTICATED)
        return next(newcomer for newcomer in self._newcomers if counted[newcomer.prefix] == most)

    def _refusal_rate(self) -> float:
        """The probability that a connection is dropped: 0 below *start*, then from *rate* up to 1 at *full*."""
        # Not counting the new connection.
        limits, count = self._limits, len(self._newcomers) - 1
        start, full = limits.unauthenticated_start, limits.unauthenticated_full
        if not full or count < min(start, full):
            return 0.0
        if count >= full:
            return 1.0
        rate = limits.unauthenticated_rate / 100
        return rate + (1 - rate) * (count - start) / (full - start)

    def logged_in(self, ticket: Ticket) -> None:
        """The connection is authenticated; a second call does nothing."""
        if ticket.newcomer:
            ticket.newcomer = False
            if not ticket.exempt:
                del self._newcomers[ticket]
                for source in (ticket.address, ticket.prefix):
                    self._count_source(source, 0, -1)

    def left(self, ticket: Ticket) -> None:
        """The connection has ended; a second call does nothing."""
        if not ticket.inside:
            return
        ticket.inside = False
        self.logged_in(ticket)
        self._count(-1)
        if not ticket.exempt:
            for source in (ticket.address, ticket.prefix):
                self._count_source(source, -1, 0)

    def _count(self, more: int) -> None:
        self._all += more
        if self._shared:
            self._shared.put_total(self._all)

    def _count_source(self, source: Source, connections: int, newcomers: int) -> None:
        for counted, more in ((self._by_source, connections), (self._newcomers_by_source, newcomers)):
            counted[source] += more
            if not counted[source]:
                del counted[source]
        if self._shared:
            if self._shared.put(source, self._by_source[source], self._newcomers_by_source[source]):
                self._unshared.discard(source)
            else:
                self._unshared.add(source)

    def punish(self, ticket: Ticket, penalty: timedelta, now: float) -> bool:
        """Record a failure of the ticket's source; return whether the source is refused from now on."""
        if self._penalties is None or ticket.exempt:
            return False
        return self._penalties.add(ticket.penalised, penalty.total_seconds(), now)

    def _sources(self, host: str) -> tuple[Source, Source, Source]:
        """
        The address, its prefix, and the source to penalise: for IPv6 the prefix, since a client usually controls a
        whole network.
        """
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            return host, f"{host}/", host
        bits, number = address.max_prefixlen, int(address)
        length = self._limits.prefix_ipv4 if address.version == 4 else self._limits.prefix_ipv6
        whole = (address.version, bits, number)
        # Prefixes and addresses have distinct keys even at full length, so that nothing is counted twice.
        prefix = (-address.version, length, number >> (bits - length))
        return whole, prefix, whole if address.version == 4 else prefix


class PenaltyBox:
    """The sources that failed, each with the time at which its penalty expires."""

    def __init__(self, penalties: Penalties) -> None:
        self.use(penalties)
        # Ordered by the time of the last failure, so that eviction needs no search.
        self._until: dict[Source, float] = {}
        self._refused: set[Source] = set()

    def __len__(self) -> int:
        return len(self._until)

    def use(self, penalties: Penalties) -> None:
        """Apply new limits from now on."""
        self._threshold = penalties.threshold.total_seconds()
        self._longest = penalties.longest.total_seconds()
        self._most = penalties.sources

    def is_refused(self, source: Source, now: float) -> bool:
        """Whether *source* has crossed the threshold and its penalty has not expired."""
        if source not in self._refused:
            return False
        if self._until[source] > now:
            return True
        self._forget(source)
        return False

    def add(self, source: Source, seconds: float, now: float) -> bool:
        """Add to the penalty of *source*; return whether it is refused now."""
        was_refused = self.is_refused(source, now)
        if seconds <= 0:
            return was_refused
        until = min(max(self._until.pop(source, now), now) + seconds, now + self._longest)
        self._make_room(now)
        self._until[source] = until
        # The whole penalty must expire before a refused source is admitted again.
        if was_refused or until - now >= self._threshold:
            self._refused.add(source)
            return True
        return False

    def _make_room(self, now: float) -> None:
        while len(self._until) >= self._most:
            self._forget(next(iter(self._until)))
        # Remove up to two expired entries per new one: the table shrinks without a full scan.
        for source in [source for source, _ in zip(self._until, range(2), strict=False)]:
            if self._until[source] <= now:
                self._forget(source)

    def _forget(self, source: Source) -> None:
        del self._until[source]
        self._refused.discard(source)


def is_within(host: str, networks: Sequence[IPNetwork]) -> bool:
    """Whether *host* is an address of one of *networks*."""
    if not networks:
        return False
    try:
        # A zone index only names the interface.
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return any(address in network for network in networks)
