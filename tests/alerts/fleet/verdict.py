"""Check of what a fleet promises, from the records of a run with faults."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from itertools import pairwise
from statistics import median
from typing import NamedTuple

from .processes import GatewayProcess, Lease

MARGIN_SECONDS = 1.0  # between an event and its record
BEFORE_SECONDS = 3.0  # in which a fault may still have an effect


class Breach(NamedTuple):
    """Time in which all requests of a key failed; times in seconds since the epoch."""

    key: str
    began: float
    ended: float


class Fault(NamedTuple):
    """Fault that has ended; times in seconds since the epoch."""

    kind: str
    began: float
    ended: float

    def overlaps(self, start: float, end: float) -> bool:
        """Return True if it overlaps this time."""
        return self.began <= end and self.ended >= start


class Delivery(NamedTuple):
    """Event that the receiver was sent."""

    at: float
    webhook_id: str
    alert_id: str
    fingerprint: str
    transition: str


class Transition(NamedTuple):
    """Transition in the database."""

    alert_id: str
    fingerprint: str
    transition: str
    at: float


class Evidence(NamedTuple):
    """Records of a run, after a quiet time.

    Attributes:
        breaches: Breaches by end, each of which has fired before.
        processes: All processes that have run.
        faults: All faults.
        leases: Changes of the lease.
        deliveries: Events that the receiver was sent, in order.
        transitions: Transitions in the database, in order.
        pushed: By name of a process, the number of its last stored batch.
        counted: By tenant, its requests of the last 24 hours.
    """

    breaches: tuple[Breach, ...]
    processes: tuple[GatewayProcess, ...]
    faults: tuple[Fault, ...]
    leases: tuple[Lease, ...]
    deliveries: tuple[Delivery, ...]
    transitions: tuple[Transition, ...]
    pushed: Mapping[str, int]
    counted: Mapping[str, int]

    def faults_during(self, start: float, end: float) -> list[Fault]:
        """Return the faults that overlap this time."""
        return [fault for fault in self.faults if fault.overlaps(start, end)]


class Figures(NamedTuple):
    """Figures of a run.

    Attributes:
        faults: Number of faults by kind.
        exchanges: Number of exchanges that the processes have pushed.
        missing: Exchanges that were pushed and not counted; negative: counted twice.
        lost: Seconds of traffic that killed processes have lost, if there was no other fault.
        fired: Number of alerts that have fired.
        twice: Number of events that were delivered twice.
        failovers: Seconds from the kill of a leader to the next one, if there was no other fault.
        faulty: Violations of a promise.
    """

    faults: Mapping[str, int]
    exchanges: int
    missing: int
    lost: list[float]
    fired: int
    twice: int
    failovers: list[float]
    faulty: list[str]

    def __str__(self) -> str:
        faults = ", ".join(f"{number} {kind}" for kind, number in sorted(self.faults.items()))
        lines = [
            f"faults: {faults or 'none'}",
            f"exchanges: {self.exchanges} pushed, {self.missing} of them not counted",
            f"lost by a killed process: {_range(self.lost)}",
            f"alerts: {self.fired}; delivered twice: {self.twice}",
            f"failover after a kill: {_range(self.failovers)}",
            *self.faulty,
        ]
        return "\n".join(lines)


def judge(evidence: Evidence, *, max_failover: float, max_lost: float) -> Figures:
    """Return the figures of a run, and all violations of what a fleet promises.

    Args:
        evidence: The records.
        max_failover: Maximum time from the kill of a leader to the next one.
        max_lost: Maximum time of traffic that a killed process loses.
    """
    exchanges, missing, lost, faulty = _check_counts(evidence)
    failovers = list(_failovers(evidence))
    faulty += _check_alerts(evidence)
    twice, faults_of_deliveries = _check_deliveries(evidence)
    faulty += faults_of_deliveries
    if max(failovers, default=0) > max_failover:
        faulty.append(f"a failover took {max(failovers):.1f} s")
    if max(lost, default=0) > max_lost:
        faulty.append(f"a killed process has lost {max(lost):.1f} s")
    kinds = Counter(fault.kind for fault in evidence.faults)
    fired = sum(transition.transition == "fired" for transition in evidence.transitions)
    return Figures(kinds, exchanges, missing, lost, fired, twice, failovers, faulty)


def _check_counts(evidence: Evidence) -> tuple[int, int, list[float], list[str]]:
    """Check that each exchange that was pushed is counted once."""
    exchanges = missing = 0
    lost, faulty = list[float](), list[str]()
    for process in evidence.processes:
        record, tenant = process.record, process.plan.tenant
        pushed = evidence.pushed.get(record.process, 0)
        requests = sum(record.sent[number] for number in record.sent if number <= pushed)
        counted = evidence.counted.get(tenant, 0)
        exchanges += requests
        missing += requests - counted
        if counted != requests:
            faulty.append(f"{tenant} has pushed {requests} exchanges, {counted} are counted")
        if record.stored > pushed:
            faulty.append(f"{tenant}: batch {record.stored} was confirmed, {pushed} are stored")
        if record.ended and counted != len(record.observed):
            faulty.append(f"{tenant} has observed {len(record.observed)}, {counted} are counted")
        killed_at = process.killed_at or math.inf
        faults = evidence.faults_during(killed_at - BEFORE_SECONDS, killed_at + MARGIN_SECONDS)
        if len(faults) == 1 and record.stored and counted < len(record.observed):
            lost.append(killed_at - record.observed[counted])
    return exchanges, missing, lost, faulty


def _check_alerts(evidence: Evidence) -> list[str]:
    """Check that each breach is one alert, which has fired once and is resolved once."""
    faulty = list[str]()
    alerts = defaultdict[str, list[Transition]](list)
    ids = defaultdict[str, list[str]](list)  # by fingerprint, in order
    for transition in evidence.transitions:
        if transition.alert_id not in alerts:
            ids[transition.fingerprint].append(transition.alert_id)
        alerts[transition.alert_id].append(transition)
    breaches = defaultdict[str, list[Breach]](list)
    for breach in evidence.breaches:
        breaches[f"error_spike:key:{breach.key}"].append(breach)
    for fingerprint in ids.keys() | breaches.keys():
        expected, found = breaches[fingerprint], ids[fingerprint]
        if len(found) != len(expected):
            faulty.append(f"{fingerprint}: {len(found)} alerts of {len(expected)} breaches")
        for breach, alert_id in zip(expected, found, strict=False):
            fired, resolved = alerts[alert_id][0], alerts[alert_id][-1]
            if not breach.began < fired.at < breach.ended + MARGIN_SECONDS:
                faulty.append(f"{fingerprint}: fired at another time than the breach")
            if resolved.at < breach.ended:
                faulty.append(f"{fingerprint}: resolved during the breach")
    faulty += _check_orders((item[:3] for item in evidence.transitions), "stored")
    return faulty


def _check_deliveries(evidence: Evidence) -> tuple[int, list[str]]:
    """Check that each event was delivered, and twice only because of a fault, with the same id."""
    faulty = list[str]()
    deliveries = defaultdict[tuple[str, str], list[Delivery]](list)
    for delivery in evidence.deliveries:
        deliveries[delivery.alert_id, delivery.transition].append(delivery)
    decided = {(item.alert_id, item.transition) for item in evidence.transitions}
    for event in decided ^ deliveries.keys():
        faulty.append(f"{event} was {'not' if event in decided else 'only'} delivered")
    twice = 0
    for event, attempts in deliveries.items():
        twice += len(attempts) > 1
        if len({attempt.webhook_id for attempt in attempts}) > 1:
            faulty.append(f"{event} was delivered with several ids")
        for first, second in pairwise(attempts):
            if not evidence.faults_during(first.at - MARGIN_SECONDS, second.at):
                faulty.append(f"{event} was delivered twice without a fault")
    first_attempts = {
        event: (attempts[0].alert_id, attempts[0].fingerprint, event[1])
        for event, attempts in deliveries.items()
    }
    faulty += _check_orders(first_attempts.values(), "delivered")
    return twice, faulty


def _check_orders(transitions: Iterable[tuple[str, str, str]], where: str) -> list[str]:
    """Check that each alert has fired and then is resolved, before it fires again."""
    orders = defaultdict[str, list[tuple[str, str]]](list)
    for alert_id, fingerprint, transition in transitions:
        orders[fingerprint].append((transition, alert_id))
    faulty = list[str]()
    for fingerprint, order in orders.items():
        fired = [alert_id for _, alert_id in order[::2]]
        pairs = [(name, alert_id) for alert_id in fired for name in ("fired", "resolved")]
        if order != pairs:
            faulty.append(f"{fingerprint}: {where} as {[name for name, _ in order]}")
    return faulty


def _failovers(evidence: Evidence) -> Iterable[float]:
    """Yield the seconds from each kill of a leader to the next one, if there was no other fault."""
    for process in evidence.processes:
        killed_at = process.killed_at
        before = [lease for lease in evidence.leases if killed_at and lease.seen_at <= killed_at]
        after = evidence.leases[len(before) :]
        if killed_at is not None and before and after and before[-1].pid == process.pid:
            faults = evidence.faults_during(killed_at - BEFORE_SECONDS, after[0].seen_at)
            if len(faults) == 1:
                yield after[0].seen_at - killed_at


def _range(seconds: list[float]) -> str:
    if not seconds:
        return "none"
    return f"{len(seconds)} times, median {median(seconds):.1f} s, at most {max(seconds):.1f} s"
