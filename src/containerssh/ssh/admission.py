"""Which connections are let in: numbers in all and by source, random early drop, penalties for failures.

Pure bookkeeping; times are seconds of any clock that only goes forwards, and are passed in.
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
    """The connection is not let in."""

    code: SSHCode
    text: str = TOO_MANY
    """What its user is told."""


@dataclass(eq=False)
class Ticket:
    """The place of a connection that was let in; goes back with :meth:`Door.left`."""

    address: Source
    prefix: Source
    penalised: Source
    exempt: bool
    newcomer: bool = True
    inside: bool = True
    instead_of: Ticket | None = None
    """The connection that has to make room for this one; its own ticket is back already."""
    owner: object = None
    """For the server to find its connection again."""


class Door:
    """
    Counts the connections of a server, and remembers who failed; of several processes, what all of them have.

    Random early drop is each process's own, with its part of the limit: it can send away only those whom it has.
    """

    def __init__(
        self, limits: Admission, *, chance: Callable[[], float] = random.random, shared: SharedCounts | None = None
    ) -> None:
        """*chance* gives numbers from 0 to below 1, *shared* is what other processes count."""
        self._limits = limits
        self._chance = chance
        self._shared = shared
        self._all = 0
        # Whoever waits longest comes first.
        self._newcomers: dict[Ticket, None] = {}
        self._by_source: Counter[Source] = Counter()
        self._newcomers_by_source: Counter[Source] = Counter()
        # Sources that the shared table has no room for: others do not see their connections here.
        self._unshared: set[Source] = set()
        self._penalties = self._penalty_box(limits.penalties) if limits.penalties else None

    def _penalty_box(self, penalties: Penalties) -> PenaltyBox | SharedPenalties:
        return SharedPenalties(penalties, self._shared) if self._shared else PenaltyBox(penalties)

    def __len__(self) -> int:
        return self._all

    def use(self, limits: Admission) -> None:
        """Apply other limits to those who come from now on; who failed is remembered."""
        self._limits = limits
        if limits.penalties is None:
            self._penalties = None
        elif self._penalties is None:
            self._penalties = self._penalty_box(limits.penalties)
        else:
            self._penalties.use(limits.penalties)

    def enter(self, host: str, now: float) -> Ticket:
        """
        Let a connection from *host* in, perhaps ``instead_of`` another that has not logged in yet.

        Raises:
            Refused: a limit is reached, or the source has failed too often.
        """
        address, prefix, penalised = self._sources(host)
        ticket = Ticket(address, prefix, penalised, is_within(host, self._limits.allow))
        if not ticket.exempt and self._penalties and self._penalties.is_refused(penalised, now):
            raise Refused(SSHCode.LIMIT_PENALTY, TOO_MANY_FAILURES)
        # Counted first: of two processes that count at the same moment, neither overlooks the other.
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
            ticket.instead_of = self._whom_to_send_away(ticket)
            self.left(ticket.instead_of)

    def _check_source(self, source: Source, *limits: tuple[int, SSHCode]) -> None:
        """*limits* are those on its connections and on its newcomers, each with its code."""
        own = self._by_source[source], self._newcomers_by_source[source]
        others = self._shared.of_others(source) if self._shared else (0, 0)
        for (most, code), here, there in zip(limits, own, others, strict=True):
            part = -(-most // self._shared.processes) if self._shared and source in self._unshared else most
            if most and (here + there > most or here > part):
                raise Refused(code)

    def _whom_to_send_away(self, ticket: Ticket) -> Ticket:
        """
        The newcomer that has waited longest among those of the network that has most of them.

        Raises:
            Refused: that network is the ticket's own.
        """
        counted = Counter(newcomer.prefix for newcomer in self._newcomers if newcomer is not ticket)
        most = max(counted.values(), default=0)
        if counted[ticket.prefix] >= most:
            raise Refused(SSHCode.LIMIT_UNAUTHENTICATED)
        return next(newcomer for newcomer in self._newcomers if counted[newcomer.prefix] == most)

    def _refusal_rate(self) -> float:
        """How likely somebody has to go: 0 before *start*, then from *rate* up to 1 at *full*."""
        # Without the one that it is about.
        limits, count = self._limits, len(self._newcomers) - 1
        start, full = limits.unauthenticated_start, limits.unauthenticated_full
        if not full or count < min(start, full):
            return 0.0
        if count >= full:
            return 1.0
        rate = limits.unauthenticated_rate / 100
        return rate + (1 - rate) * (count - start) / (full - start)

    def logged_in(self, ticket: Ticket) -> None:
        """The connection is no newcomer any more; a second call does nothing."""
        if ticket.newcomer:
            ticket.newcomer = False
            if not ticket.exempt:
                del self._newcomers[ticket]
                for source in (ticket.address, ticket.prefix):
                    self._count_source(source, 0, -1)

    def left(self, ticket: Ticket) -> None:
        """The connection is over; a second call does nothing."""
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
        """Remember a failure of the ticket's source; whether the source is refused from here on."""
        if self._penalties is None or ticket.exempt:
            return False
        return self._penalties.add(ticket.penalised, penalty.total_seconds(), now)

    def _sources(self, host: str) -> tuple[Source, Source, Source]:
        """The address, its prefix, and what a penalty is for: whoever has one IPv6 address has its whole network."""
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            return host, f"{host}/", host
        bits, number = address.max_prefixlen, int(address)
        length = self._limits.prefix_ipv4 if address.version == 4 else self._limits.prefix_ipv6
        whole = (address.version, bits, number)
        # A prefix has keys of its own, even if it is as long as an address: nothing must be counted twice.
        prefix = (-address.version, length, number >> (bits - length))
        return whole, prefix, whole if address.version == 4 else prefix


class PenaltyBox:
    """Sources that failed, each with the time until which its penalties run."""

    def __init__(self, penalties: Penalties) -> None:
        self.use(penalties)
        # The one that failed longest ago comes first, so making room takes no search.
        self._until: dict[Source, float] = {}
        self._refused: set[Source] = set()

    def __len__(self) -> int:
        return len(self._until)

    def use(self, penalties: Penalties) -> None:
        """Apply other limits from now on."""
        self._threshold = penalties.threshold.total_seconds()
        self._longest = penalties.longest.total_seconds()
        self._most = penalties.sources

    def is_refused(self, source: Source, now: float) -> bool:
        """Whether *source* has crossed the threshold, and not yet served its time."""
        if source not in self._refused:
            return False
        if self._until[source] > now:
            return True
        self._forget(source)
        return False

    def add(self, source: Source, seconds: float, now: float) -> bool:
        """Add to what *source* has gathered; whether it is refused now."""
        was_refused = self.is_refused(source, now)
        if seconds <= 0:
            return was_refused
        until = min(max(self._until.pop(source, now), now) + seconds, now + self._longest)
        self._make_room(now)
        self._until[source] = until
        # What was gathered has to pass as a whole: a source that is refused does not come in again half-way.
        if was_refused or until - now >= self._threshold:
            self._refused.add(source)
            return True
        return False

    def _make_room(self, now: float) -> None:
        while len(self._until) >= self._most:
            self._forget(next(iter(self._until)))
        # Two served penalties for each new one: the table shrinks again without ever being searched.
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
        # A zone index says through which interface; networks have none.
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return any(address in network for network in networks)
