"""Controls: what people change while an engine runs is kept first, and then counts."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tokenpulse_mw.alerts import AlertEngine, Finding, Severity, Thresholds
from tokenpulse_mw.alerts.controls import Controls
from tokenpulse_mw.alerts.store import Ack, Conflict, Matcher, MemoryAlertStore, StoreError

from ..support.clock import FakeClock
from .findings import FixedRule, RecordingSink, finding

K1 = Matcher("subject_id", "k1")
STRICT = Thresholds(error_rate=0.01)


class Broken(MemoryAlertStore):
    """A store that can be `down` for people, while it keeps what rounds bring."""

    down = False

    async def acknowledge(self, *values: Any) -> Any:
        self._try()
        return await super().acknowledge(*values)

    async def set_thresholds(self, *values: Any, **options: Any) -> Any:
        self._try()
        return await super().set_thresholds(*values, **options)

    async def add_silence(self, *values: Any) -> None:
        self._try()
        await super().add_silence(*values)

    async def remove_silence(self, *values: Any) -> bool:
        self._try()
        return await super().remove_silence(*values)

    def _try(self) -> None:
        if self.down:
            raise StoreError("no database")


class Gateway:
    """An engine with a rule that finds what a test says, minute by minute."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.store = Broken(wall=self.clock)
        self.heard = RecordingSink()
        self.rule = FixedRule()
        self.engine = self.new_engine()

    def new_engine(self, sink: RecordingSink | None = None) -> AlertEngine:
        """One more on the same store."""
        return AlertEngine(
            [self.rule],
            [sink or self.heard],
            store=self.store,
            cooldown=100,
            clock=self.clock,
            wall=self.clock,
        )

    @property
    def controls(self) -> Controls:
        """Of the engine."""
        return self.engine.controls

    async def round(self, severity: Severity | None = None, *others: Finding) -> str:
        """One minute in which the alert of k1 is as bad, if at all; its id."""
        self.clock.advance(60)
        self.rule.findings = [*others] if severity is None else [finding(severity), *others]
        events = await self.engine.evaluate()
        return events[0].alert_id if events else ""


@pytest.mark.anyio
async def test_thresholds_that_are_set_are_in_force_and_kept() -> None:
    """Each time as one version more, with who did it and when."""
    gateway = Gateway()
    assert (gateway.controls.thresholds, gateway.controls.version) == (Thresholds(), None)

    first = await gateway.controls.set_thresholds(STRICT, by="ada", expected=None)
    second = await gateway.controls.set_thresholds(Thresholds(), by="bob", expected=1)
    third = await gateway.controls.set_thresholds(STRICT, by="ada")

    assert [(each.version, each.by, each.at) for each in (first, second, third)] == [
        (1, "ada", 1000),
        (2, "bob", 1000),
        (3, "ada", 1000),
    ]
    assert (gateway.controls.thresholds, gateway.controls.version) == (STRICT, third)
    assert third.values == STRICT.as_dict()


@pytest.mark.parametrize("expected", [None, 1, 3])
@pytest.mark.anyio
async def test_thresholds_made_from_another_version_are_refused(expected: int | None) -> None:
    """Those that hold stay in force."""
    gateway = Gateway()
    await gateway.controls.set_thresholds(Thresholds(), by="ada")
    await gateway.controls.set_thresholds(STRICT, by="ada")

    with pytest.raises(Conflict) as raised:
        await gateway.controls.set_thresholds(Thresholds(), by="bob", expected=expected)

    assert raised.value.current == 2
    assert gateway.controls.thresholds == STRICT


@pytest.mark.anyio
async def test_thresholds_that_somebody_else_has_set_are_in_force_after_a_conflict() -> None:
    """The one who was refused sees what they are, and can try again."""
    gateway = Gateway()
    await gateway.controls.catch_up()
    await gateway.new_engine().controls.set_thresholds(STRICT, by="ada")

    with pytest.raises(Conflict):
        await gateway.controls.set_thresholds(Thresholds(), by="bob", expected=None)

    assert gateway.controls.thresholds == STRICT
    again = await gateway.controls.set_thresholds(Thresholds(), by="bob", expected=1)
    assert again.version == 2


@pytest.mark.anyio
async def test_who_expects_no_version_takes_the_place_of_any() -> None:
    """Also of one that was set elsewhere, and of one that was kept before a restart."""
    gateway = Gateway()
    await gateway.controls.catch_up()
    other = gateway.new_engine()
    await other.controls.set_thresholds(STRICT, by="ada")

    second = await gateway.controls.set_thresholds(Thresholds(), by="bob")
    third = await gateway.new_engine().controls.set_thresholds(STRICT, by="eve")

    assert (second.version, third.version) == (2, 3)


@pytest.mark.anyio
async def test_a_change_that_is_refused_lets_go_of_no_alert() -> None:
    """What was held since a restart is held still: nothing has changed."""
    gateway = Gateway()
    await gateway.controls.set_thresholds(STRICT, by="ada")
    await gateway.round(None, finding(window=3600))
    gateway.engine = gateway.new_engine()
    await gateway.round()

    with pytest.raises(Conflict):
        await gateway.controls.set_thresholds(Thresholds(), by="bob", expected=99)
    await gateway.round()

    assert gateway.heard.transitions == ["fired"]


@pytest.mark.anyio
async def test_an_alert_that_somebody_has_seen_is_not_reminded_of() -> None:
    """That it gets worse, and that it is over, is told."""
    gateway = Gateway()
    alert_id = await gateway.round("warning")

    seen = await gateway.controls.acknowledge(alert_id, by="ada", note="on it")
    for severity in ("warning", "warning", "warning", "critical", None):
        await gateway.round(severity)

    assert seen is not None
    assert seen.ack == Ack("ada", 1060, "on it")
    assert gateway.heard.transitions == ["fired", "escalated", "resolved"]
    kept = await gateway.store.alert(alert_id)
    assert kept is not None
    assert kept.ack == seen.ack


@pytest.mark.anyio
async def test_that_somebody_has_seen_an_alert_can_be_taken_back() -> None:
    """Then reminders go on."""
    gateway = Gateway()
    alert_id = await gateway.round("warning")
    await gateway.controls.acknowledge(alert_id, by="ada")
    await gateway.round("warning")

    after = await gateway.controls.unacknowledge(alert_id)
    await gateway.round("warning")
    await gateway.round("warning")

    assert after is not None
    assert after.ack is None
    assert gateway.heard.transitions == ["fired", "reminded"]


@pytest.mark.anyio
async def test_an_alert_that_is_unknown_cannot_be_seen() -> None:
    """None says so."""
    gateway = Gateway()

    assert await gateway.controls.acknowledge("a1", by="ada") is None
    assert await gateway.controls.unacknowledge("a1") is None


@pytest.mark.anyio
async def test_an_alert_that_fires_in_a_silence_is_told_when_it_ends() -> None:
    """Not before, and not if it is over by then."""
    gateway = Gateway()
    await gateway.controls.silence(K1, ends_at=1180, by="ada")

    await gateway.round("warning")
    await gateway.round("critical")
    assert gateway.heard.events == []
    await gateway.round("critical")

    assert [(each.transition, each.finding.severity) for each in gateway.heard.events] == [
        ("fired", "critical")
    ]


@pytest.mark.anyio
async def test_an_alert_that_was_told_is_told_to_be_over_in_a_silence() -> None:
    """But nothing in between; and one that never was told is never told to be over."""
    gateway = Gateway()
    await gateway.round("warning")
    await gateway.controls.silence(
        Matcher("subject_id", "k.*", is_regex=True), ends_at=9999, by="ada"
    )

    await gateway.round("critical", finding(subject="k2"))
    await gateway.round()

    assert [(each.transition, each.fingerprint) for each in gateway.heard.events] == [
        ("fired", "trouble:key:k1"),
        ("resolved", "trouble:key:k1"),
    ]


@pytest.mark.anyio
async def test_a_silence_can_be_ended_and_begin_later() -> None:
    """`unsilence` says whether there was one."""
    gateway = Gateway()
    made = await gateway.controls.silence(K1, starts_at=1100, ends_at=9999, by="ada", comment="c")

    await gateway.round("warning")
    await gateway.round("critical")
    assert gateway.heard.transitions == ["fired"]
    assert await gateway.controls.unsilence(made.id)
    assert not await gateway.controls.unsilence(made.id)
    await gateway.round("critical")

    assert gateway.heard.transitions == ["fired", "escalated"]
    assert (made.matchers, made.created_by, made.comment) == ((K1,), "ada", "c")


@pytest.mark.anyio
async def test_silences_that_have_not_ended_are_listed_by_their_start() -> None:
    """Those that are over are forgotten."""
    gateway = Gateway()
    silence = gateway.controls.silence
    later = await silence(K1, starts_at=1500, ends_at=1600, by="ada")
    now = await silence(K1, ends_at=1400, by="ada")
    await silence(K1, ends_at=1001, by="ada")
    gateway.clock.advance(1)

    assert gateway.controls.silences == [now, later]


@pytest.mark.anyio
async def test_silences_that_are_over_take_no_room() -> None:
    """There may be 1,000 at a time, and any number one after the other."""
    gateway = Gateway()
    for _ in range(1000):
        await gateway.controls.silence(K1, ends_at=1001, by="ada")
    with pytest.raises(ValueError, match=r"^there are 1000 silences"):
        await gateway.controls.silence(K1, ends_at=1001, by="ada")
    gateway.clock.advance(1)

    await gateway.controls.silence(K1, ends_at=2000, by="ada")


@pytest.mark.parametrize(
    ("matchers", "times", "said"),
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
async def test_a_silence_that_makes_no_sense_is_refused(
    matchers: tuple[Matcher, ...], times: dict[str, float], said: str
) -> None:
    """And nothing of it is kept."""
    gateway = Gateway()

    with pytest.raises(ValueError, match=said):
        await gateway.controls.silence(*matchers, by="ada", **times)  # type: ignore[arg-type]

    assert (gateway.controls.silences, await gateway.store.silences(0)) == ([], ())


Act = Callable[[Gateway, str, str], Awaitable[object]]


@pytest.mark.parametrize(
    "act",
    [
        lambda gateway, alert, silence: gateway.controls.set_thresholds(STRICT, by="bob"),
        lambda gateway, alert, silence: gateway.controls.acknowledge(alert, by="bob"),
        lambda gateway, alert, silence: gateway.controls.silence(K1, ends_at=9999, by="bob"),
        lambda gateway, alert, silence: gateway.controls.unsilence(silence),
    ],
    ids=["thresholds", "acknowledge", "silence", "unsilence"],
)
@pytest.mark.anyio
async def test_a_store_that_fails_changes_nothing(act: Act) -> None:
    """Whoever asks is told; what was in force is so still."""
    gateway = Gateway()
    alert_id = await gateway.round("warning")
    other = Matcher("subject_id", "k2")
    silence = await gateway.controls.silence(other, ends_at=9999, by="ada")
    version = await gateway.controls.set_thresholds(Thresholds(), by="ada")

    gateway.store.down = True
    with pytest.raises(StoreError, match=r"^no database$"):
        await act(gateway, alert_id, silence.id)
    for _ in range(2):
        await gateway.round("warning", finding(subject="k2"))

    assert (gateway.controls.thresholds, gateway.controls.version) == (Thresholds(), version)
    assert gateway.controls.silences == [silence]
    assert [each.fingerprint for each in gateway.heard.events] == ["trouble:key:k1"] * 2
    assert gateway.heard.transitions == ["fired", "reminded"]


@pytest.mark.anyio
async def test_what_was_kept_and_cannot_be_used_is_told_and_left(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Other thresholds hold, and a silence is not heeded; the engine goes on."""
    gateway = Gateway()
    values = {"error_rate": 7, "unknown": 1}
    await gateway.store.set_thresholds(values, expected=None, by="ada", at=1)
    silence = await gateway.new_engine().controls.silence(K1, ends_at=9999, by="ada")
    odd = type(silence)("s1", (Matcher("colour", "red"),), 0, 9999, "ada", "")
    await gateway.store.add_silence(odd)

    await gateway.round("warning")

    assert gateway.controls.thresholds == Thresholds()
    assert gateway.controls.silences == [silence]
    assert [each.partition(":")[0] for each in caplog.messages] == [
        "stored thresholds are invalid, keeping the current ones",
        "stored silence is invalid",
    ]


@pytest.mark.anyio
async def test_thresholds_of_another_version_of_ours_are_used_as_far_as_they_are_known() -> None:
    """Those that are new keep what the application has chosen, and those that are gone are none."""
    gateway = Gateway()
    await gateway.store.set_thresholds(
        {"error_rate": 0.5, "gone": 1}, expected=None, by="ada", at=1
    )

    await gateway.round()

    assert gateway.controls.thresholds == Thresholds(error_rate=0.5)
