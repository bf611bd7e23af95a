"""Controls: changes of a running engine are stored first and then take effect."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import pytest

from tokenpulse_mw.alerts import AlertEngine, Finding, Severity, Thresholds
from tokenpulse_mw.alerts.controls import Controls
from tokenpulse_mw.alerts.store import Ack, Conflict, Matcher, MemoryAlertStore, StoreError

from ..support.clock import FakeClock
from .findings import FixedRule, RecordingSink, finding
from .store import samples
from .store.leadership import commit

K1 = Matcher("subject_id", "k1")
STRICT = Thresholds(error_rate=0.01)


class FailingStore(MemoryAlertStore):
    """A store whose controls fail while it is `down`; it still stores evaluations."""

    down = False

    async def acknowledge(self, *values: Any) -> Any:
        self._check()
        return await super().acknowledge(*values)

    async def set_thresholds(self, *values: Any, **options: Any) -> Any:
        self._check()
        return await super().set_thresholds(*values, **options)

    async def add_silence(self, *values: Any) -> None:
        self._check()
        await super().add_silence(*values)

    async def remove_silence(self, *values: Any) -> bool:
        self._check()
        return await super().remove_silence(*values)

    def _check(self) -> None:
        if self.down:
            raise StoreError("no database")


class Gateway:
    """An engine with one rule, evaluated once a minute."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.store = FailingStore(wall=self.clock)
        self.sink = RecordingSink()
        self.rule = FixedRule()
        self.engine = self.new_engine()

    def new_engine(self) -> AlertEngine:
        """Return another engine on the same store."""
        return AlertEngine(
            [self.rule],
            [self.sink],
            store=self.store,
            cooldown=100,
            clock=self.clock,
            wall=self.clock,
        )

    @property
    def controls(self) -> Controls:
        """The controls of the engine."""
        return self.engine.controls

    async def evaluate(self, severity: Severity | None = None, *others: Finding) -> str:
        """Evaluate findings of k1 and others a minute later; return the first alert's id."""
        self.clock.advance(60)
        self.rule.findings = [*others] if severity is None else [finding(severity), *others]
        events = await self.engine.evaluate()
        return events[0].alert_id if events else ""


@pytest.mark.anyio
async def test_set_thresholds_stores_a_new_version_and_uses_it() -> None:
    """A version has a number, an author, a time and all values."""
    gateway = Gateway()
    assert (gateway.controls.thresholds, gateway.controls.version) == (Thresholds(), None)

    first = await gateway.controls.set_thresholds(STRICT, by="ada", expected=None)
    second = await gateway.controls.set_thresholds(Thresholds(), by="bob", expected=1)
    third = await gateway.controls.set_thresholds(STRICT, by="ada")

    assert [(version.version, version.by, version.at) for version in (first, second, third)] == [
        (1, "ada", 1000),
        (2, "bob", 1000),
        (3, "ada", 1000),
    ]
    assert (gateway.controls.thresholds, gateway.controls.version) == (STRICT, third)
    assert third.values == STRICT.as_dict()


@pytest.mark.parametrize("expected", [None, 1, 3])
@pytest.mark.anyio
async def test_set_thresholds_with_another_expected_version_is_a_conflict(
    expected: int | None,
) -> None:
    """The error has the current version, which still applies."""
    gateway = Gateway()
    await gateway.controls.set_thresholds(Thresholds(), by="ada")
    await gateway.controls.set_thresholds(STRICT, by="ada")

    with pytest.raises(Conflict) as caught:
        await gateway.controls.set_thresholds(Thresholds(), by="bob", expected=expected)

    assert caught.value.current == 2
    assert gateway.controls.thresholds == STRICT


@pytest.mark.anyio
async def test_thresholds_of_another_engine_apply_after_a_conflict() -> None:
    """The caller can read them and retry."""
    gateway = Gateway()
    await gateway.controls.refresh()
    await gateway.new_engine().controls.set_thresholds(STRICT, by="ada")

    with pytest.raises(Conflict):
        await gateway.controls.set_thresholds(Thresholds(), by="bob", expected=None)

    assert gateway.controls.thresholds == STRICT
    retried = await gateway.controls.set_thresholds(Thresholds(), by="bob", expected=1)
    assert retried.version == 2


@pytest.mark.anyio
async def test_set_thresholds_without_an_expected_version_replaces_any_version() -> None:
    """The version may be another engine's, or one from before a restart."""
    gateway = Gateway()
    await gateway.controls.refresh()
    await gateway.new_engine().controls.set_thresholds(STRICT, by="ada")

    second = await gateway.controls.set_thresholds(Thresholds(), by="bob")
    third = await gateway.new_engine().controls.set_thresholds(STRICT, by="eve")

    assert (second.version, third.version) == (2, 3)


@pytest.mark.anyio
async def test_rejected_thresholds_release_no_held_alert() -> None:
    """An alert restored after a restart is still held after a conflict."""
    gateway = Gateway()
    await gateway.controls.set_thresholds(STRICT, by="ada")
    await gateway.evaluate(None, finding(window=3600))
    gateway.engine = gateway.new_engine()
    await gateway.evaluate()

    with pytest.raises(Conflict):
        await gateway.controls.set_thresholds(Thresholds(), by="bob", expected=99)
    await gateway.evaluate()

    assert gateway.sink.transitions == ["fired"]


@pytest.mark.anyio
async def test_acknowledged_alert_is_not_reminded() -> None:
    """Escalation and resolution of an acknowledged alert are still notified."""
    gateway = Gateway()
    alert_id = await gateway.evaluate("warning")

    acknowledged = await gateway.controls.acknowledge(alert_id, by="ada", note="on it")
    for severity in ("warning", "warning", "warning", "critical", None):
        await gateway.evaluate(severity)

    assert acknowledged is not None
    assert acknowledged.ack == Ack("ada", 1060, "on it")
    assert gateway.sink.transitions == ["fired", "escalated", "resolved"]
    stored = await gateway.store.alert(alert_id)
    assert stored is not None
    assert stored.ack == acknowledged.ack


@pytest.mark.anyio
async def test_unacknowledged_alert_is_reminded_again() -> None:
    """The acknowledgement is removed."""
    gateway = Gateway()
    alert_id = await gateway.evaluate("warning")
    await gateway.controls.acknowledge(alert_id, by="ada")
    await gateway.evaluate("warning")

    alert = await gateway.controls.unacknowledge(alert_id)
    await gateway.evaluate("warning")
    await gateway.evaluate("warning")

    assert alert is not None
    assert alert.ack is None
    assert gateway.sink.transitions == ["fired", "reminded"]


@pytest.mark.anyio
async def test_acknowledgement_of_an_unknown_alert_returns_none() -> None:
    """Removing the acknowledgement of an unknown alert returns None too."""
    gateway = Gateway()

    assert await gateway.controls.acknowledge("a1", by="ada") is None
    assert await gateway.controls.unacknowledge("a1") is None


@pytest.mark.anyio
async def test_alert_that_fires_in_a_silence_is_notified_at_its_end() -> None:
    """The notification has the current severity."""
    gateway = Gateway()
    await gateway.controls.silence(K1, ends_at=1180, by="ada")

    await gateway.evaluate("warning")
    await gateway.evaluate("critical")
    assert gateway.sink.events == []
    await gateway.evaluate("critical")

    assert [(event.transition, event.finding.severity) for event in gateway.sink.events] == [
        ("fired", "critical")
    ]


@pytest.mark.anyio
async def test_silence_suppresses_all_but_resolutions_of_notified_alerts() -> None:
    """An alert that fires and resolves within the silence is never notified."""
    gateway = Gateway()
    await gateway.evaluate("warning")
    await gateway.controls.silence(
        Matcher("subject_id", "k.*", is_regex=True), ends_at=9999, by="ada"
    )

    await gateway.evaluate("critical", finding(subject="k2"))
    await gateway.evaluate()

    assert [(event.transition, event.fingerprint) for event in gateway.sink.events] == [
        ("fired", "trouble:key:k1"),
        ("resolved", "trouble:key:k1"),
    ]


@pytest.mark.anyio
async def test_silence_may_start_later_and_be_removed() -> None:
    """`unsilence` returns True only if the silence existed."""
    gateway = Gateway()
    silence = await gateway.controls.silence(
        K1, starts_at=1100, ends_at=9999, by="ada", comment="c"
    )

    await gateway.evaluate("warning")
    await gateway.evaluate("critical")
    assert gateway.sink.transitions == ["fired"]
    assert await gateway.controls.unsilence(silence.id)
    assert not await gateway.controls.unsilence(silence.id)
    await gateway.evaluate("critical")

    assert gateway.sink.transitions == ["fired", "escalated"]
    assert (silence.matchers, silence.created_by, silence.comment) == ((K1,), "ada", "c")


@pytest.mark.anyio
async def test_silences_are_listed_by_start_time() -> None:
    """A silence that has ended is not listed."""
    gateway = Gateway()
    silence = gateway.controls.silence
    later = await silence(K1, starts_at=1500, ends_at=1600, by="ada")
    now = await silence(K1, ends_at=1400, by="ada")
    await silence(K1, ends_at=1001, by="ada")
    gateway.clock.advance(1)

    assert gateway.controls.silences == [now, later]


@pytest.mark.anyio
async def test_ended_silences_do_not_count_toward_the_limit() -> None:
    """At most 1,000 silences may be pending or active."""
    gateway = Gateway()
    for _ in range(1000):
        await gateway.controls.silence(K1, ends_at=1001, by="ada")
    with pytest.raises(ValueError, match=r"^silences must be at most 1000"):
        await gateway.controls.silence(K1, ends_at=1001, by="ada")
    gateway.clock.advance(1)

    await gateway.controls.silence(K1, ends_at=2000, by="ada")


@pytest.mark.parametrize(
    ("matchers", "times", "message"),
    [
        ((), {"ends_at": 2000}, "must have 1 to 20 matchers"),
        ((Matcher("colour", "red"),), {"ends_at": 2000}, "name of a matcher must be one of"),
        ((K1,), {"ends_at": 1000}, r"ends_at must be after the current time 1000.0, got 1000"),
        ((K1,), {"ends_at": 2000, "starts_at": 2000}, "ends_at must be later than starts_at"),
        ((K1,), {"ends_at": float("nan")}, "must be a finite number"),
        ((K1,), {"ends_at": float("inf")}, "must be a finite number"),
    ],
)
@pytest.mark.anyio
async def test_invalid_silence_is_rejected(
    matchers: tuple[Matcher, ...], times: dict[str, float], message: str
) -> None:
    """Nothing is stored."""
    gateway = Gateway()

    with pytest.raises(ValueError, match=message):
        await gateway.controls.silence(*matchers, by="ada", **times)  # type: ignore[arg-type]

    assert (gateway.controls.silences, await gateway.store.silences(0)) == ([], ())


Change = Callable[[Gateway, str, str], Awaitable[object]]


@pytest.mark.parametrize(
    "change",
    [
        lambda gateway, alert, silence: gateway.controls.set_thresholds(STRICT, by="bob"),
        lambda gateway, alert, silence: gateway.controls.acknowledge(alert, by="bob"),
        lambda gateway, alert, silence: gateway.controls.silence(K1, ends_at=9999, by="bob"),
        lambda gateway, alert, silence: gateway.controls.unsilence(silence),
    ],
    ids=["thresholds", "acknowledge", "silence", "unsilence"],
)
@pytest.mark.anyio
async def test_change_that_cannot_be_stored_has_no_effect(change: Change) -> None:
    """The caller gets the error of the store."""
    gateway = Gateway()
    alert_id = await gateway.evaluate("warning")
    other = Matcher("subject_id", "k2")
    silence = await gateway.controls.silence(other, ends_at=9999, by="ada")
    version = await gateway.controls.set_thresholds(Thresholds(), by="ada")

    gateway.store.down = True
    with pytest.raises(StoreError, match=r"^no database$"):
        await change(gateway, alert_id, silence.id)
    for _ in range(2):
        await gateway.evaluate("warning", finding(subject="k2"))

    assert (gateway.controls.thresholds, gateway.controls.version) == (Thresholds(), version)
    assert gateway.controls.silences == [silence]
    assert [event.fingerprint for event in gateway.sink.events] == ["trouble:key:k1"] * 2
    assert gateway.sink.transitions == ["fired", "reminded"]


@pytest.mark.anyio
async def test_invalid_stored_state_is_logged_and_ignored(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The current thresholds still apply, and the valid silences are restored."""
    gateway = Gateway()
    silence = await gateway.new_engine().controls.silence(K1, ends_at=9999, by="ada")
    values = {"error_rate": 7, "unknown": 1}
    await gateway.store.set_thresholds(values, expected=None, by="ada", at=1)
    invalid = type(silence)("s1", (Matcher("colour", "red"),), 0, 9999, "ada", "")
    await gateway.store.add_silence(invalid)

    await gateway.evaluate("warning")

    assert gateway.controls.thresholds == Thresholds()
    assert gateway.controls.silences == [silence]
    assert [message.partition(":")[0] for message in caplog.messages] == [
        "stored thresholds are invalid, keeping the current ones",
        "stored silence is invalid",
    ]


@pytest.mark.anyio
async def test_stored_thresholds_of_another_version_of_the_package_are_restored() -> None:
    """Unknown thresholds are ignored, and missing ones keep their values."""
    gateway = Gateway()
    await gateway.store.set_thresholds(
        {"error_rate": 0.5, "gone": 1}, expected=None, by="ada", at=1
    )

    await gateway.evaluate()

    assert gateway.controls.thresholds == Thresholds(error_rate=0.5)


@pytest.mark.anyio
async def test_firing_alerts_of_a_member_are_those_of_the_last_heartbeat() -> None:
    """They have the findings of the leader, even if there are many; a malformed one is left out."""
    gateway = Gateway()
    member = gateway.new_engine()
    await gateway.evaluate("warning", *(finding(subject=f"k{number}") for number in range(60)))
    assert member.firing == []

    await member.fleet()

    assert {finding.fingerprint: finding for finding in member.firing} == {
        finding.fingerprint: finding for finding in gateway.engine.firing
    }
    assert len(member.firing) == 60
    malformed = samples.alert("broken", finding={})
    await commit(gateway.store, samples.alerts(malformed))
    await member.fleet()
    assert len(member.firing) == 60


@pytest.mark.anyio
async def test_settings_are_shared_and_reported_once_for_each_change() -> None:
    """Listeners of each engine have `on_settings`, called at the first heartbeat after a change."""

    class Listener:
        def __init__(self) -> None:
            self.reported: list[dict[str, Any]] = []

        def on_settings(self, settings: Mapping[str, Any]) -> None:
            self.reported.append(dict(settings))

    gateway = Gateway()
    other, listeners = gateway.new_engine(), (Listener(), Listener())
    for engine, listener in zip((gateway.engine, other), listeners, strict=True):
        engine.add_listener(listener)

    await gateway.controls.set_setting("colour", "blue", by="ada")
    await gateway.controls.set_thresholds(STRICT, by="ada")
    for _ in range(2):
        await other.fleet()

    assert [listener.reported for listener in listeners] == [[{"colour": "blue"}]] * 2
    assert other.controls.settings == {"colour": "blue"}
