"""Alerts and their transitions, in every store."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tokenpulse_mw.alerts.store import Ack, Changes, EngineState, UnknownAlert

from .conftest import Open
from .leadership import commit, loaded, waiting
from .samples import ODD, alert, alerts, notification, resolved, transition

pytestmark = pytest.mark.anyio


async def test_new_store_is_empty(opened: Open) -> None:
    """A new store has no alerts, transitions or other state."""
    async with opened() as store:
        assert await loaded(store) == EngineState()
        assert await store.alert("a1") is None
        assert await store.transitions("a1") == ()


async def test_alerts_survive_a_restart(opened: Open) -> None:
    """A committed alert is loaded after a restart with all its fields."""
    acknowledged = alert(
        "a1", ack=Ack("ada", 150.5, "on it"), finding={"nested": [1, 2.5, None, {"a": ""}]}
    )
    pending = alert("a2", state="pending", fired_at=None, since=99.25, severity="critical")

    async with opened() as store:
        await commit(store, alerts(acknowledged, pending))

    async with opened() as store:
        assert (await loaded(store)).alerts == (acknowledged, pending)
        assert await store.alert("a1") == acknowledged


async def test_notified_severity_survives_a_restart(opened: Open) -> None:
    """The severity of the last notification is loaded, so that none is sent twice or omitted."""
    silent = alert("a1")
    notified = alert("a2", severity="critical", notified_severity="warning")
    over = resolved("a3", notified_severity="info")
    async with opened() as store:
        await commit(store, alerts(silent, notified, over))

    async with opened() as store:
        assert (await loaded(store)).alerts == (silent, notified)
        assert await store.alert("a3") == over


async def test_notified_severity_changes_with_every_commit(opened: Open) -> None:
    """Each commit replaces the severity of the last notification, also with None."""
    async with opened() as store:
        for severity in (None, "warning", "critical", None):
            await commit(store, alerts(alert(notified_severity=severity)))

            (stored,) = (await store.alerts()).items
            assert stored.notified_severity == severity


async def test_arbitrary_text_is_stored_unchanged(opened: Open) -> None:
    """Names from traffic may contain any character."""
    odd = alert(ODD, fingerprint=ODD, rule=ODD, type=ODD, finding={ODD: ODD}, ack=Ack(ODD, 1, ODD))
    fired = transition(ODD, fingerprint=ODD, transition=ODD)
    later = replace(fired, at=160.0)
    undelivered = notification(ODD, sink=ODD, alert_id=ODD, fingerprint=ODD, event={ODD: ODD})

    async with opened() as store:
        await commit(store, Changes((odd,), (fired,), (undelivered,)))
        await commit(store, Changes((), (later,)))

        assert await store.alert(ODD) == odd
        assert await store.transitions(ODD) == (fired, later)
        assert await waiting(store) == (undelivered,)
        assert (await store.alerts(type=ODD)).items == (odd,)


async def test_commit_replaces_a_stored_alert(opened: Open) -> None:
    """A changed alert replaces the stored one."""
    worse = alert(severity="critical", since=160.0, last_notified_at=160.0, finding={"value": 2})

    async with opened() as store:
        await commit(store, alerts(alert()))
        await commit(store, alerts(worse))

        assert (await loaded(store)).alerts == (worse,)


async def test_resolved_alert_is_not_loaded_but_listed(opened: Open) -> None:
    """A resolved alert is not part of the state of an engine, but can be looked up."""
    async with opened() as store:
        await commit(store, alerts(alert()))
        await commit(store, alerts(resolved()))

        assert (await loaded(store)).alerts == ()
        assert await store.alert("a1") == resolved()


async def test_commit_does_not_change_an_acknowledgement(opened: Open) -> None:
    """An evaluation that began before the acknowledgement does not remove it."""
    ack = Ack("ada", 150, "on it")

    async with opened() as store:
        await commit(store, alerts(alert()))
        acknowledged = await store.acknowledge("a1", ack)
        await commit(store, alerts(alert(last_notified_at=160.0)))

        assert acknowledged == alert(ack=ack)
        assert await store.alert("a1") == alert(last_notified_at=160.0, ack=ack)


async def test_acknowledgement_is_removed_with_none(opened: Open) -> None:
    """Acknowledging with None removes the acknowledgement."""
    async with opened() as store:
        await commit(store, alerts(alert(ack=Ack("ada", 150))))

        assert await store.acknowledge("a1", None) == alert()
        assert await store.alert("a1") == alert()


async def test_acknowledging_an_unknown_alert_returns_none(opened: Open) -> None:
    """Acknowledging an unknown alert returns None and stores nothing."""
    async with opened() as store:
        assert await store.acknowledge("a1", Ack("ada", 150)) is None
        assert await store.alert("a1") is None


async def test_transitions_are_listed_in_order(opened: Open) -> None:
    """The transitions of an alert are listed in the order in which they were committed."""
    fired, worse = transition(), transition(at=160, transition="escalated", severity="critical")
    other = transition("a2")

    async with opened() as store:
        await commit(store, Changes((alert("a1"), alert("a2")), (fired, other)))
        await commit(store, Changes((), (worse,)))

        assert await store.transitions("a1") == (fired, worse)
        assert await store.transitions("a2") == (other,)


async def test_transitions_beyond_the_bound_are_deleted(opened: Open) -> None:
    """The newest 100 transitions of an alert are stored."""
    many = tuple(transition(at=float(at)) for at in range(150))

    async with opened() as store:
        await commit(store, Changes((alert(),), many[:90]))
        await commit(store, Changes((), many[90:]))

        assert await store.transitions("a1") == many[50:]


async def test_commit_with_a_transition_of_an_unknown_alert_stores_nothing(opened: Open) -> None:
    """A transition whose alert is neither stored nor committed rejects the whole commit."""
    stray = Changes((alert(),), (transition(), transition("a2")), (notification(),))

    async with opened() as store:
        with pytest.raises(
            UnknownAlert, match=r"^alert 'a2' of a transition is not stored: commit it as well$"
        ):
            await commit(store, stray)

        assert await loaded(store) == EngineState()
        assert await store.transitions("a1") == ()


@pytest.mark.parametrize("value", [float("nan"), object(), {1: {2}}, b"bytes"])
async def test_commit_of_a_value_that_is_not_json_stores_nothing(
    opened: Open, value: object
) -> None:
    """The error names the record whose finding or event is not JSON."""
    async with opened() as store:
        with pytest.raises(ValueError, match=r"finding of 'trouble:key:a2' must be plain JSON"):
            await commit(store, alerts(alert("a1"), alert("a2", finding={"value": value})))
        with pytest.raises(ValueError, match=r"event of 'trouble:key:a1' must be plain JSON"):
            await commit(store, Changes((alert(),), (), (notification(event={"value": value}),)))

        assert await loaded(store) == EngineState()


async def test_repeated_commit_changes_nothing(opened: Open) -> None:
    """A commit is idempotent, so it can be repeated if its outcome is unknown."""
    changes = Changes((alert(),), (transition(),), (notification(),))

    async with opened() as store:
        await commit(store, changes)
        await commit(store, changes)

        assert await loaded(store) == EngineState(revision=2, alerts=(alert(),))
        assert await waiting(store) == (notification(),)
        assert await store.transitions("a1") == (transition(),)


async def test_empty_commit_changes_nothing(opened: Open) -> None:
    """A commit without changes is not an error."""
    async with opened() as store:
        await commit(store, Changes())

        assert await loaded(store) == EngineState()


async def test_forgotten_alert_is_deleted_with_its_transitions(opened: Open) -> None:
    """A forgotten alert is deleted with its transitions; an unknown id is ignored."""
    async with opened() as store:
        await commit(store, Changes((alert("a1"), alert("a2")), (transition("a2"),)))
        await commit(store, Changes(forgotten=("a2", "a3")))

        assert (await loaded(store)).alerts == (alert("a1"),)
        assert await store.alert("a2") is None
        assert await store.transitions("a2") == ()


async def test_resolved_alerts_beyond_the_bound_are_deleted(opened: Open) -> None:
    """The newest resolved alerts are stored; open alerts are stored however old they are."""
    over = [resolved(f"a{number}", at=200.0 + number) for number in range(5)]
    log = tuple(transition(alert.id) for alert in over)

    async with opened(max_history=2) as store:
        await commit(store, Changes((alert("old", started_at=1.0), *over), log))

        stored = (await store.alerts(state="resolved")).items
        assert {alert.id for alert in stored} == {"a3", "a4"}
        assert await store.transitions("a2") == ()
        assert await store.transitions("a3") == (transition("a3"),)
        assert [alert.id for alert in (await loaded(store)).alerts] == ["old"]


async def test_prune_deletes_old_resolved_alerts(opened: Open) -> None:
    """Resolved alerts are pruned by `resolved_at`, with their transitions; open ones are not."""
    old, new = resolved("a1", at=200), resolved("a2", at=300)

    async with opened() as store:
        await commit(store, Changes((alert("a0"), old, new), (transition("a1"), transition("a2"))))
        await store.prune(300)

        items = (await store.alerts()).items
        assert sorted(alert.id for alert in items) == ["a0", "a2"]
        assert await store.transitions("a1") == ()
        assert await store.transitions("a2") == (transition("a2"),)


async def test_stored_alerts_do_not_share_objects_with_the_caller(opened: Open) -> None:
    """Changing a finding that was committed or returned does not change the stored one."""
    committed = alert(finding={"value": [1]})

    async with opened() as store:
        await commit(store, alerts(committed))
        committed.finding["value"].append(2)
        returned = await store.alert("a1")
        assert returned is not None
        returned.finding["value"].append(3)

        assert await store.alert("a1") == replace(committed, finding={"value": [1]})
