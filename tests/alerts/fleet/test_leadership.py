"""Takeovers: the next leader has windows, streaks, names, outages and peaks of the last one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tokenpulse_mw.alerts import AlertEvent, Matcher, MemoryAlertStore, Thresholds, default_rules
from tokenpulse_mw.alerts.store import Batch
from tokenpulse_mw.alerts.traffic import Outcomes
from tokenpulse_mw.alerts.traffic.bucket import Bucket, Profile, encode_bucket

from ..exchanges import exchange
from ..findings import finding
from .replicas import Replica, Replicas

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend(kind: str) -> str:
    """Return the event loop of the kind of store."""
    return kind.partition("-")[2]


def observe(replica: Replica, number: int, **fields: Any) -> None:
    """Let a number of exchanges end in a process."""
    for _ in range(number):
        replica.observe(exchange(**fields))


def named(events: list[AlertEvent]) -> list[tuple[str, str, object]]:
    """Return transitions, fingerprints and values."""
    return [(event.transition, event.fingerprint, event.finding.value) for event in events]


async def succeed(replicas: Replicas, replica: Replica, **options: Any) -> Replica:
    """Kill a process, and return the next one, which leads after the lease has lapsed."""
    replicas.kill(replica)
    successor = replicas.replica(**options)
    await replicas.run(20)
    assert successor.leads
    return successor


async def test_windows_are_kept_over_a_kill(replicas: Replicas) -> None:
    """A count of a day continues, with all traffic that the store has."""
    options: dict[str, Any] = {
        "rules": default_rules(),
        "thresholds": Thresholds(master_rpd=100, keep_firing=0),
    }
    engine = replicas.replica(**options)
    await replicas.run(20)
    observe(engine, 40, tenant="acme", tenant_name="Acme")
    await replicas.evaluate()  # in the windows
    observe(engine, 40, tenant="acme")
    await replicas.run(5)  # in a batch

    engine = await succeed(replicas, engine, **options)
    assert await replicas.evaluate() == []
    observe(engine, 40, tenant="acme")
    (event,) = await replicas.evaluate()

    assert event.finding.value == 120
    assert event.finding.subject.name == "Acme"


async def test_streak_of_failures_is_kept_over_a_kill(replicas: Replicas) -> None:
    """Failures before and after it are one streak."""
    options: dict[str, Any] = {"rules": default_rules()}
    engine = replicas.replica(**options)
    await replicas.run(20)
    observe(engine, 5, provider="claude", status=502)
    assert await replicas.evaluate() == []

    engine = await succeed(replicas, engine, **options)
    observe(engine, 5, provider="claude", status=502)

    assert named(await replicas.evaluate()) == [("fired", "provider_down:provider:claude", 10)]


async def test_recent_outage_inhibits_its_failures_after_a_kill(replicas: Replicas) -> None:
    """Failures of an outage that is over do not fire another alert of the next leader."""
    options: dict[str, Any] = {
        "rules": default_rules(),
        "thresholds": Thresholds(keep_firing=0),
    }
    engine = replicas.replica(**options)
    await replicas.run(20)
    observe(engine, 20, api_key="k1", provider="claude", status=502)
    events = await replicas.evaluate()
    observe(engine, 1, api_key="k1", provider="claude")
    events += await replicas.evaluate()

    await succeed(replicas, engine, **options)
    for _ in range(20):
        await replicas.run(20)
        events += await replicas.evaluate()

    assert [transition for transition, *_ in named(events)] == ["fired", "resolved"]


async def test_peak_since_the_last_evaluation_is_kept_over_a_kill(replicas: Replicas) -> None:
    """A burst that is over before the next leader evaluates still fires."""
    options: dict[str, Any] = {
        "rules": default_rules(),
        "thresholds": Thresholds(global_qps=5, traffic_keep_firing=0),
    }
    engine = replicas.replica(**options)
    await replicas.run(20)
    await replicas.evaluate()
    observe(engine, 100)
    await replicas.run(5)

    engine = await succeed(replicas, engine, **options)
    await replicas.run(30)
    (event,) = await engine.evaluate()

    assert event.fingerprint == "traffic_spike:global_qps:system:0"


async def test_pending_and_acknowledged_alerts_continue_after_a_kill(replicas: Replicas) -> None:
    """The time before counts, and controls apply."""
    pending, firing = finding(subject="k1", hold_for=60), finding(subject="k2")
    replicas.rule.findings = [pending, firing]
    engine = replicas.replica(cooldown=60)
    await replicas.run(20)
    (fired,) = await replicas.evaluate()
    await engine.controls.acknowledge(fired.alert_id, by="ada")
    await engine.controls.silence(
        Matcher("subject_id", "k1"), ends_at=replicas.wall() + 3600, by="ada"
    )

    successor = await succeed(replicas, engine, cooldown=60)
    await replicas.run(40)
    events = await replicas.evaluate()

    assert {(event.transition, event.finding.subject.id) for event in events} == {
        ("fired", "k1"),
        ("reminded", "k2"),
    }
    assert successor.sink.events == []


async def test_undelivered_notification_is_delivered_by_the_next_leader(
    replicas: Replicas,
) -> None:
    """It has the same id."""
    replicas.rule.findings = [finding()]

    async def broken(event: AlertEvent) -> None:
        raise OSError

    broken.name = "recorder"  # type: ignore[attr-defined]
    engine = replicas.replica(sinks=[broken])
    await replicas.run(20)
    (fired,) = await engine.evaluate()

    successor = await succeed(replicas, engine)
    await successor._outbox.attempt()

    assert [event.id for event in successor.sink.events] == [fired.id]


@pytest.mark.parametrize("kind", ["memory-asyncio", "memory-trio"])
async def test_damaged_batch_is_logged_and_deleted(
    replicas: Replicas, caplog: pytest.LogCaptureFixture
) -> None:
    """All other traffic counts."""
    chosen = Thresholds(master_rpm=100)
    engine = replicas.replica(rules=default_rules(), thresholds=chosen)
    await replicas.run(20)
    store = replicas.store
    assert isinstance(store, MemoryAlertStore)
    process = (await engine.fleet()).members[0].process
    damaged = replace(process, name="damaged")
    await store.heartbeat(
        damaged, batches=[Batch("damaged", 1, 7, 1, b"not a bucket")], through=0, lease=None
    )
    observe(engine, 120, tenant="acme")

    (event,) = await replicas.evaluate()

    assert event.finding.value == 120
    assert await store.batches({}) == ()
    (message,) = [message for message in caplog.messages if "traffic is invalid" in message]
    assert message.startswith(
        "stored traffic is invalid, not counted: process=damaged batch=1 error="
    )


@pytest.mark.parametrize("kind", ["memory-asyncio", "memory-trio"])
async def test_outcomes_of_a_wrong_clock_hide_no_failures(replicas: Replicas) -> None:
    """A success of a later time than now is a success until now."""
    engine = replicas.replica(rules=default_rules())
    await replicas.run(20)
    ahead = int(replicas.wall()) + 3600
    traffic = Bucket(
        ahead // 5,
        Profile.of(Thresholds()),
        outcomes={("provider", "claude"): Outcomes(successes=1, last_success=ahead * 1_000_000)},
    )
    process = replace((await engine.fleet()).members[0].process, name="ahead")
    await replicas.store.heartbeat(
        process,
        batches=[Batch("ahead", 1, traffic.slot, 1, encode_bucket(traffic))],
        through=traffic.slot,
        lease=None,
    )
    await replicas.run(5)
    observe(engine, 10, provider="claude", status=502)

    assert named(await replicas.evaluate()) == [("fired", "provider_down:provider:claude", 10)]


@pytest.mark.parametrize("kind", ["memory-asyncio", "memory-trio"])
async def test_damaged_window_holds_the_alerts_that_need_it(
    replicas: Replicas, caplog: pytest.LogCaptureFixture
) -> None:
    """Without its counts, the next leader does not know yet that an alert has ended."""
    options: dict[str, Any] = {
        "rules": default_rules(),
        "thresholds": Thresholds(keep_firing=0),
    }
    engine = replicas.replica(**options)
    await replicas.run(20)
    for _ in range(40):  # the windows are complete since long
        await replicas.run(10)
    observe(engine, 20, api_key="k1", status=500)
    assert [event.transition for event in await replicas.evaluate()] == ["fired"]
    store = replicas.store
    assert isinstance(store, MemoryAlertStore)
    damaged = {
        key: replace(window, payload=b"damaged")
        for key, window in store._windows.items()
        if window.kind in ("errors", "outages")
    }
    store._windows |= damaged

    await succeed(replicas, engine, **options)
    events = await replicas.evaluate()
    assert events == []
    for _ in range(15):
        await replicas.run(20)
        events += await replicas.evaluate()

    assert [event.transition for event in events] == ["resolved"]
    assert sum("stored traffic skipped: kind=errors" in text for text in caplog.messages) >= 1
    assert sum("stored outages are invalid" in text for text in caplog.messages) == 1
