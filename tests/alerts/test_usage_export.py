"""Export of the usage of ended hours, in every store."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from tokenpulse_mw import AlertEngine, TokenUsage
from tokenpulse_mw.alerts import MemoryAlertStore, UsageEvent
from tokenpulse_mw.alerts.store.usage import UsageRecord, UsageRevision
from tokenpulse_mw.alerts.usage_export import UsageExporter, event_of

from ..support.clock import FakeClock
from .exchanges import exchange
from .store.conftest import Open, anyio_backend, kind, opened, postgres  # noqa: F401 - fixtures
from .store.leadership import batch, beat

HOUR = 3600
RECORD = UsageRecord(100, "acme", "gpt-5", "openai", requests=1, input=10, cost_nanos=5)


class Receiver:
    """Sink that stores what it receives, and fails the first `failures` times."""

    def __init__(self, failures: int = 0) -> None:
        self.events: list[UsageEvent] = []
        self.failures = failures
        self.closed = False

    async def __call__(self, event: UsageEvent) -> None:
        self.events.append(event)
        if self.failures:
            self.failures -= 1
            raise ConnectionError("the receiver is down")

    async def aclose(self) -> None:
        """Record the end."""
        self.closed = True

    def billed(self) -> dict[str, UsageRecord]:
        """Return the newest revision of each row, as a receiver stores it."""
        newest: dict[str, tuple[int, UsageRecord]] = {}
        for event in self.events:
            for row in event.rows:
                newest[row.id] = max(newest.get(row.id, (0, row.usage)), (row.revision, row.usage))
        return {identity: usage for identity, (_, usage) in newest.items()}


@pytest.mark.anyio
async def test_ended_hours_are_exported_once(opened: Open) -> None:  # noqa: F811
    """An hour is exported 15 minutes after its end, and not again unless it has grown."""
    clock, sink = FakeClock(101 * HOUR + 899.0), Receiver()
    async with opened() as store:
        exporter = UsageExporter(store, sink, wall=clock, leads=lambda: True)
        await beat(store, "p1", replace(batch(1), usage=(RECORD, replace(RECORD, hour=101))))
        await exporter.export()
        assert sink.events == []

        clock.advance(1)
        await exporter.export()
        await exporter.export()

    assert [[row.usage for row in event.rows] for event in sink.events] == [[RECORD]]
    assert sink.events[0].rows[0].revision == 1


@pytest.mark.anyio
async def test_late_traffic_is_a_new_revision_of_the_same_row(opened: Open) -> None:  # noqa: F811
    """Usage that a process sends late replaces the exported row."""
    clock, sink = FakeClock(200.0 * HOUR), Receiver()
    async with opened() as store:
        exporter = UsageExporter(store, sink, wall=clock, leads=lambda: True)
        await beat(store, "p1", replace(batch(1), usage=(RECORD,)))
        await exporter.export()
        await beat(store, "p2", replace(batch(1, "p2"), usage=(RECORD,)))
        await exporter.export()

    first, second = (event.rows[0] for event in sink.events)
    assert (first.id, first.revision) == (second.id, 1)
    assert second.revision == 2
    assert second.usage == replace(RECORD, requests=2, input=20, cost_nanos=10)
    assert sink.events[0].id != sink.events[1].id


@pytest.mark.anyio
async def test_failed_export_is_repeated_with_the_same_id(opened: Open) -> None:  # noqa: F811
    """A receiver that has stored the event and did not answer recognizes it."""
    sink = Receiver(failures=1)
    async with opened() as store:
        exporter = UsageExporter(store, sink, wall=lambda: 200.0 * HOUR, leads=lambda: True)
        await beat(store, "p1", replace(batch(1), usage=(RECORD,)))
        with pytest.raises(ConnectionError):
            await exporter.export()
        await exporter.export()

    first, second = sink.events
    assert first == second


@pytest.mark.anyio
async def test_growth_during_an_export_is_exported_too(opened: Open) -> None:  # noqa: F811
    """Usage that arrives while a row is sent is not marked as exported."""
    async with opened() as store:
        late = [replace(batch(1, "p2"), usage=(RECORD,))]

        class Growing(Receiver):
            async def __call__(self, event: UsageEvent) -> None:
                await super().__call__(event)
                while late:
                    await beat(store, "p2", late.pop())

        sink = Growing()
        exporter = UsageExporter(store, sink, wall=lambda: 200.0 * HOUR, leads=lambda: True)
        await beat(store, "p1", replace(batch(1), usage=(RECORD,)))
        await exporter.export()

    assert [usage.requests for usage in sink.billed().values()] == [2]


@pytest.mark.anyio
async def test_many_rows_are_sent_in_several_events(opened: Open) -> None:  # noqa: F811
    """An event has at most 500 rows, and no row is left out."""
    records = tuple(replace(RECORD, tenant=f"t{number:04}") for number in range(1001))
    sink = Receiver()
    async with opened() as store:
        exporter = UsageExporter(store, sink, wall=lambda: 200.0 * HOUR, leads=lambda: True)
        await beat(store, "p1", replace(batch(1), usage=records))
        await exporter.export()

    assert [len(event.rows) for event in sink.events] == [500, 500, 1]
    assert len(sink.billed()) == 1001


def test_ids_are_unambiguous() -> None:
    """Different tenants and models have different ids, however they are cut."""
    records = [
        replace(RECORD, tenant=tenant, model=model) for tenant, model in (("a", "bc"), ("ab", "c"))
    ]
    first, second = event_of([UsageRevision(record, 1) for record in records]).rows

    assert first.id != second.id


def engine_of(clock: FakeClock, sink: Any) -> AlertEngine:
    """Return an engine without rules that exports."""
    store = MemoryAlertStore(wall=clock)
    return AlertEngine([], [], store=store, usage_sink=sink, clock=clock, wall=clock)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_engine_exports_the_usage_of_its_traffic(backend: str) -> None:
    """Usage that the engine observed is exported with the hour in which it ended."""
    clock, sink = FakeClock(500_000.0 * HOUR), Receiver()
    engine = engine_of(clock, sink)
    usage = TokenUsage(100, 20)
    answer = {"tenant": "acme", "model": "gpt-5", "usage": usage, "usage_source": "reported"}
    engine.observe(exchange(tenant_name="Acme Ltd", **answer))

    async def export() -> None:
        clock.advance(6)
        await engine.evaluate()
        clock.advance(2 * HOUR)
        await engine.evaluate()
        await engine.export_usage()

    anyio.run(export, backend=backend)

    assert list(sink.billed().values()) == [
        UsageRecord(500_000, "acme", "gpt-5", "unknown", 1, 100, 20, unpriced=1)
    ]
    assert [row.tenant_name for event in sink.events for row in event.rows] == ["Acme Ltd"]


def test_running_engine_reports_failures_and_closes_the_sink(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A failing sink affects nothing else, and is called again a minute later."""
    monkeypatch.setattr("tokenpulse_mw.alerts.usage_export._INTERVAL_SECONDS", 0)
    clock, sink = FakeClock(500_000.0 * HOUR), Receiver(failures=1)
    engine = engine_of(clock, sink)
    engine.observe(exchange(tenant="acme", model="gpt-5", usage_source="missing"))

    async def run() -> None:
        async with engine:
            clock.advance(6)
            await engine.evaluate()
            clock.advance(2 * HOUR)
            await engine.evaluate()
            with anyio.fail_after(5):
                while len(sink.events) < 2:
                    await anyio.lowlevel.checkpoint()

    anyio.run(run)

    assert sink.closed
    assert sink.events[0] == sink.events[1]
    assert "usage_sink failed with ConnectionError" in caplog.text


def test_process_that_does_not_lead_exports_nothing() -> None:
    """One process of a fleet exports for all of them."""
    sink = Receiver()

    anyio.run(engine_of(FakeClock(500_000.0 * HOUR), sink).export_usage)

    assert sink.events == []


def test_engine_without_a_sink_exports_nothing() -> None:
    """Usage is only stored."""
    anyio.run(AlertEngine([], []).export_usage)


def test_invalid_sink_is_rejected() -> None:
    """The error names the argument and an example."""
    with pytest.raises(ValueError, match="usage_sink must be a function of a UsageEvent, such as"):
        AlertEngine([], [], usage_sink="https://example.com")  # type: ignore[arg-type]
