"""Traffic of several processes, merged and restored, compared with one that saw everything."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from hypothesis import given
from hypothesis import strategies as st

from tokenpulse_mw import Exchange, TokenUsage
from tokenpulse_mw.alerts import Finding, Thresholds, Traffic, default_rules
from tokenpulse_mw.alerts.steps import finish
from tokenpulse_mw.alerts.store.records import WindowRecord
from tokenpulse_mw.alerts.traffic.aggregator import TrafficAggregator
from tokenpulse_mw.alerts.traffic.bucket import PROTOCOL, Bucket, decode_bucket, encode_bucket

from ..exchanges import exchange
from ..observed_traffic import begin_evaluation

THRESHOLDS = Thresholds(
    global_qps=2,
    master_rpm=20,
    master_tpm=2000,
    master_rpd=40,
    master_tpd=4000,
    provider_failures=4,
    provider_429_rpm=5,
    provider_latency_p95=2,
)


SLOT = 5


SPACING = 0.125  # seconds; so an upstream has at most 40 failures in a bucket


class Burst(NamedTuple):
    """Exchanges at short distances, `later` seconds after those before."""

    later: float
    fields: tuple[dict[str, Any], ...]


class Event(NamedTuple):
    """An exchange that ended at a time in one of the processes."""

    at: float
    process: int
    exchange: Exchange


FIELDS = st.fixed_dictionaries(
    {
        "tenant": st.sampled_from([None, "m1", "m2"]),
        "api_key": st.sampled_from(["k1", "k2"]),
        "credential": st.sampled_from([None, "c1", "c2"]),
        "provider": st.just("claude"),
        "status": st.sampled_from([200, 200, 404, 429, 500]),
        "duration": st.sampled_from([0.1, 1.9, 2.1, 30.0]),
        "usage": st.sampled_from([None, TokenUsage(input=100, output=17)]),
    },
    optional={
        "limited": st.just(True),
        "tenant_name": st.just("Acme"),
        "credential_group": st.just("claude-prod"),
        "outcome": st.sampled_from(["error", "client_disconnect"]),
    },
)


REPEATED = st.builds(lambda fields, times: (fields,) * times, FIELDS, st.integers(1, 40))


BURSTS = st.lists(
    st.builds(
        Burst,
        later=st.sampled_from([SPACING, 1.0, 4.0, 5.0, 31.0, 250.0, 4000.0]),
        fields=st.one_of(st.lists(FIELDS, max_size=12).map(tuple), REPEATED),
    ),
    min_size=1,
    max_size=8,
)


@st.composite
def logs(draw: st.DrawFn) -> tuple[int, list[Event]]:
    """Return a number of processes, and exchanges that they have observed."""
    processes = draw(st.integers(1, 8))
    events: list[Event] = []
    at = 1_000_000.0
    for burst in draw(BURSTS):
        at += burst.later
        for fields in burst.fields:
            at += SPACING
            events.append(Event(at, draw(st.integers(0, processes - 1)), exchange(**fields)))
    return processes, events


def watermarks(events: list[Event]) -> Iterable[int]:
    """Yield the slots in which something may change: those of events, and some after them."""
    slots = {int(event.at // SLOT) for event in events}
    offsets = (0, 1, 2, 3, 12, 13, 60, 61, 66, 67)
    return sorted({slot + offset for slot in slots for offset in offsets})


class Fleet:
    """Processes with clocks of their own, whose buckets a leader merges and applies."""

    def __init__(self, processes: int, events: list[Event], offsets: list[float]) -> None:
        self.traffic = Traffic(THRESHOLDS, max_subjects=100)
        self.stored: dict[tuple[str, int], WindowRecord] = {}
        self._events = list(reversed(events))
        self._payloads: list[bytes] = []
        self._aggregators = [
            TrafficAggregator(
                THRESHOLDS,
                max_subjects=100,
                sealed=lambda bucket: self._payloads.append(encode_bucket(bucket)),
                offset=offset,
            )
            for offset in offsets[:processes]
        ]

    def received(self, watermark: int) -> list[Bucket]:
        """Return the buckets of all processes up to a slot."""
        end = (watermark + 1) * SLOT
        while self._events and self._events[-1].at < end:
            event = self._events.pop()
            aggregator = self._aggregators[event.process]
            aggregator.observe(event.exchange, event.at - aggregator.offset)
        for aggregator in self._aggregators:
            assert aggregator.through(end - aggregator.offset) == watermark
        buckets = [decode_bucket(payload, PROTOCOL) for payload in self._payloads]
        self._payloads.clear()
        return buckets

    def apply(self, buckets: Iterable[Bucket]) -> None:
        """Merge the buckets of each slot, and apply them in the order of their slots."""
        merged: dict[int, Bucket] = {}
        for bucket in buckets:
            merged.setdefault(bucket.slot, Bucket(bucket.slot, bucket.profile)).merge(bucket)
        for _, bucket in sorted(merged.items()):
            finish(self.traffic.apply(bucket))

    def advance(self, watermark: int) -> None:
        """Move the windows to the end of the slot."""
        self.traffic.advance((watermark + 1) * SLOT)

    def findings(self) -> list[Finding]:
        """Return the findings of all default rules."""
        findings = [
            finding
            for rule in default_rules()
            for finding in rule(self.traffic, THRESHOLDS, 0)
            if finding is not None
        ]
        return sorted(findings, key=lambda finding: finding.fingerprint)

    def store(self) -> None:
        """Store the changed slots, and delete the expired ones."""
        records, expired = finish(self.traffic.snapshot())
        self.traffic.confirm_stored()
        self.stored |= {(record.kind, record.slot): record for record in records}
        self.stored = {
            (kind, slot): record
            for (kind, slot), record in self.stored.items()
            if slot >= expired.get(kind, 0)
        }

    def restart(self, records: list[WindowRecord]) -> None:
        """Replace the traffic by one that is restored from records in this order."""
        self.traffic = Traffic(THRESHOLDS, max_subjects=100)
        assert finish(self.traffic.restore(records, float("inf"))) == 0


# Multiples of 1/8 s, so that a sum with a time is exact.
OFFSETS = st.lists(st.integers(0, 8_000_000).map(lambda number: number / 8), min_size=8, max_size=8)


@given(log=logs(), offsets=OFFSETS, data=st.data())
def test_findings_of_merged_processes_equal_those_of_one_process(
    log: tuple[int, list[Event]], offsets: list[float], data: st.DataObject
) -> None:
    """At every watermark, no rule can see how the traffic was split over the processes."""
    processes, events = log
    fleet = Fleet(processes, events, offsets)
    one = Fleet(1, [event._replace(process=0) for event in events], [0.0])

    for watermark in watermarks(events):
        fleet.apply(data.draw(st.permutations(fleet.received(watermark))))
        for bucket in one.received(watermark):
            finish(one.traffic.apply(bucket))
        for part in (fleet, one):
            part.advance(watermark)

        assert fleet.findings() == one.findings()
        if data.draw(st.booleans()):
            for part in (fleet, one):
                begin_evaluation(part.traffic)


@given(log=logs(), data=st.data())
def test_restored_traffic_has_the_same_findings(
    log: tuple[int, list[Event]], data: st.DataObject
) -> None:
    """At any point, another leader continues from the stored slots as the first one would."""
    processes, events = log
    leader, next_leader = (Fleet(processes, events, [0.0] * 8) for _ in range(2))

    for watermark in watermarks(events):
        for part in (leader, next_leader):
            part.apply(part.received(watermark))
            if data.draw(st.booleans()):
                part.advance(watermark)
        next_leader.store()
        if data.draw(st.booleans()):
            records = list(next_leader.stored.values())
            next_leader.restart(data.draw(st.permutations(records)))
        for part in (leader, next_leader):
            part.advance(watermark)

        assert next_leader.findings() == leader.findings()
        if data.draw(st.booleans()):
            for part in (leader, next_leader):
                begin_evaluation(part.traffic)


@given(log=logs(), data=st.data())
def test_late_buckets_count_in_their_slots(
    log: tuple[int, list[Event]], data: st.DataObject
) -> None:
    """In the end, all counts equal those of buckets that came in time."""
    processes, events = log
    late, in_time = (Fleet(processes, events, [0.0] * 8) for _ in range(2))
    withheld: list[Bucket] = []
    end = 0
    for watermark in watermarks(events):
        buckets = in_time.received(watermark)
        in_time.apply(buckets)
        for bucket in (*late.received(watermark), *withheld):
            if data.draw(st.booleans()):
                late.apply([bucket])
                withheld = [other for other in withheld if other is not bucket]
            elif not any(other is bucket for other in withheld):
                withheld.append(bucket)
        end = watermark
        for part in (late, in_time):
            part.advance(watermark)
    for bucket in withheld:
        late.apply([bucket])

    for part in (late, in_time):
        part.advance(end)
    for kind, window in in_time.traffic.counts.by_kind.items():
        counts = late.traffic.counts.by_kind[kind]
        assert sorted(counts.items()) == sorted(window.items())
    assert {name: streak.failures for name, streak in late.traffic.upstreams.failing()} == {
        name: streak.failures for name, streak in in_time.traffic.upstreams.failing()
    }


@given(log=logs())
def test_windows_never_miss_a_request(log: tuple[int, list[Event]]) -> None:
    """Each count is that of its window, or of up to one slot more; maxima are never too low."""
    processes, events = log
    fleet = Fleet(processes, events, [0.0] * 8)
    fleet.traffic.counts.minute.set_levels(count=1)
    fleet.traffic.counts.request_rate.set_levels(count=1)
    arrivals = [event for event in events if event.exchange.method != "OPTIONS"]

    def requests(tenant: str | None, start: float, end: float) -> int:
        """Return the requests between two times, of one tenant or of all."""
        return sum(
            start <= event.at < end and (not tenant or event.exchange.tenant == tenant)
            for event in arrivals
        )

    for watermark in watermarks(events):
        fleet.apply(fleet.received(watermark))
        counts = fleet.traffic.counts
        rates = {tenant: most for tenant, most, _ in counts.minute.maxima()}
        (peak,) = [most for _, most, _ in counts.request_rate.maxima()] or [0]
        start, peaks = watermark * SLOT, [peak]
        for event in arrivals:
            if start <= event.at < start + SLOT:
                after = event.at + SPACING / 2
                assert peak >= requests(None, after - 10, after)
                peaks.append(requests(None, int(event.at) - 10, int(event.at) + 1))
                for tenant in filter(None, [event.exchange.tenant]):
                    assert rates[tenant] >= requests(tenant, after - 60, after)

        assert peak == max(peaks[1:], default=peak)
        fleet.advance(watermark)
        now = (watermark + 1) * SLOT
        for window, length in ((counts.minute, 60), (counts.day, 86_400)):
            least, most = now - length, now - length - window.step
            for tenant in ("m1", "m2"):
                counted, _ = window.get(tenant)
                assert requests(tenant, least, now) <= counted <= requests(tenant, most, now)
        counted, _ = counts.request_rate.get("")
        assert requests(None, now - 10, now) <= counted <= requests(None, now - 11, now)
        begin_evaluation(fleet.traffic)
