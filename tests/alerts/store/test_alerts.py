"""Alerts and their transitions, in every store."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tokenpulse_mw.alerts.store import Ack, Changes, EngineState, UnknownAlert

from .conftest import Open
from .samples import ODD, alert, alerts, notification, resolved, transition

pytestmark = pytest.mark.anyio


async def test_a_new_store_keeps_nothing(opened: Open) -> None:
    """An engine that starts for the first time starts with nothing."""
    async with opened() as store:
        assert await store.load() == EngineState()
        assert await store.alert("a1") is None
        assert await store.transitions("a1") == ()


async def test_alerts_survive_a_restart(opened: Open) -> None:
    """Whatever was committed is there for the next process, to the last field."""
    seen = alert(
        "a1", ack=Ack("ada", 150.5, "on it"), finding={"nested": [1, 2.5, None, {"a": ""}]}
    )
    waiting = alert("a2", state="pending", fired_at=None, since=99.25, severity="critical")

    async with opened() as store:
        await store.commit(alerts(seen, waiting))

    async with opened() as store:
        assert (await store.load()).alerts == (seen, waiting)
        assert await store.alert("a1") == seen


async def test_any_text_survives(opened: Open) -> None:
    """Names come from traffic, and none of them breaks a store or comes back changed."""
    odd = alert(ODD, fingerprint=ODD, rule=ODD, type=ODD, finding={ODD: ODD}, ack=Ack(ODD, 1, ODD))
    happened = transition(ODD, fingerprint=ODD, transition=ODD)
    told = notification(ODD, sink=ODD, alert_id=ODD, fingerprint=ODD, event={ODD: ODD})

    async with opened() as store:
        await store.commit(Changes((odd,), (happened,), (told,)))

        assert await store.alert(ODD) == odd
        assert await store.transitions(ODD) == (happened,)
        assert (await store.load()).notifications == (told,)
        assert (await store.alerts(type=ODD)).items == (odd,)


async def test_a_later_round_replaces_what_was_kept(opened: Open) -> None:
    """An alert is kept as it stands now."""
    worse = alert(severity="critical", since=160.0, told=160.0, finding={"value": 2})

    async with opened() as store:
        await store.commit(alerts(alert()))
        await store.commit(alerts(worse))

        assert (await store.load()).alerts == (worse,)


async def test_a_resolved_alert_is_history(opened: Open) -> None:
    """The next engine does not go on with it, but everyone can look it up."""
    async with opened() as store:
        await store.commit(alerts(alert()))
        await store.commit(alerts(resolved()))

        assert (await store.load()).alerts == ()
        assert await store.alert("a1") == resolved()


async def test_who_has_seen_an_alert_outlives_the_next_round(opened: Open) -> None:
    """A round that began before somebody acknowledged the alert does not take it back."""
    ack = Ack("ada", 150, "on it")

    async with opened() as store:
        await store.commit(alerts(alert()))
        told = await store.acknowledge("a1", ack)
        await store.commit(alerts(alert(told=160.0)))

        assert told == alert(ack=ack)
        assert await store.alert("a1") == alert(told=160.0, ack=ack)


async def test_an_acknowledgement_can_be_taken_back(opened: Open) -> None:
    """With None, nobody has seen the alert."""
    async with opened() as store:
        await store.commit(alerts(alert(ack=Ack("ada", 150))))

        assert await store.acknowledge("a1", None) == alert()
        assert await store.alert("a1") == alert()


async def test_only_what_is_there_can_be_acknowledged(opened: Open) -> None:
    """An id of no alert gives None, and makes none."""
    async with opened() as store:
        assert await store.acknowledge("a1", Ack("ada", 150)) is None
        assert await store.alert("a1") is None


async def test_transitions_are_kept_in_their_order(opened: Open) -> None:
    """The log of an alert reads from its beginning, and is no other alert's."""
    fired, worse = transition(), transition(at=160, transition="escalated", severity="critical")
    other = transition("a2")

    async with opened() as store:
        await store.commit(Changes((alert("a1"), alert("a2")), (fired, other)))
        await store.commit(Changes((), (worse,)))

        assert await store.transitions("a1") == (fired, worse)
        assert await store.transitions("a2") == (other,)


async def test_the_newest_transitions_are_kept(opened: Open) -> None:
    """An alert that is reminded of for months keeps a hundred of them."""
    many = tuple(transition(at=float(at)) for at in range(150))

    async with opened() as store:
        await store.commit(Changes((alert(),), many[:90]))
        await store.commit(Changes((), many[90:]))

        assert await store.transitions("a1") == many[50:]


async def test_a_commit_is_all_or_nothing(opened: Open) -> None:
    """One thing that cannot be kept leaves all others of its round out."""
    stray = Changes((alert(),), (transition(), transition("a2")), (notification(),))

    async with opened() as store:
        with pytest.raises(UnknownAlert, match="a2"):
            await store.commit(stray)

        assert await store.load() == EngineState()
        assert await store.transitions("a1") == ()


@pytest.mark.parametrize("value", [float("nan"), object(), {1: {2}}, b"bytes"])
async def test_only_json_is_kept(opened: Open, value: object) -> None:
    """What could not be read again is refused by name before anything is written."""
    async with opened() as store:
        with pytest.raises(ValueError, match=r"finding of 'trouble:key:a2' must be plain JSON"):
            await store.commit(alerts(alert("a1"), alert("a2", finding={"value": value})))
        with pytest.raises(ValueError, match=r"event of 'trouble:key:a1' must be plain JSON"):
            await store.commit(Changes((alert(),), (), (notification(event={"value": value}),)))

        assert await store.load() == EngineState()


async def test_a_commit_can_be_repeated(opened: Open) -> None:
    """Whoever does not know whether a round was kept commits it again, and nothing doubles."""
    changes = Changes((alert(),), (transition(),), (notification(),))

    async with opened() as store:
        await store.commit(changes)
        await store.commit(changes)

        assert await store.load() == EngineState(alerts=(alert(),), notifications=(notification(),))
        assert await store.transitions("a1") == (transition(),)


async def test_a_commit_of_nothing_changes_nothing(opened: Open) -> None:
    """A quiet round costs nothing and is no error."""
    async with opened() as store:
        await store.commit(Changes())

        assert await store.load() == EngineState()


async def test_what_never_fired_can_be_forgotten(opened: Open) -> None:
    """A pending alert that goes away leaves no trace; an unknown one is forgotten already."""
    async with opened() as store:
        await store.commit(Changes((alert("a1"), alert("a2")), (transition("a2"),)))
        await store.commit(Changes(forgotten=("a2", "a3")))

        assert (await store.load()).alerts == (alert("a1"),)
        assert await store.alert("a2") is None
        assert await store.transitions("a2") == ()


async def test_history_is_bounded(opened: Open) -> None:
    """The newest resolved alerts are kept; one that is open is kept however old it is."""
    over = [resolved(f"a{number}", at=200.0 + number) for number in range(5)]
    log = tuple(transition(each.id) for each in over)

    async with opened(max_history=2) as store:
        await store.commit(Changes((alert("old", started_at=1.0), *over), log))

        kept = (await store.alerts(state="resolved")).items
        assert {each.id for each in kept} == {"a3", "a4"}
        assert await store.transitions("a2") == ()
        assert await store.transitions("a3") == (transition("a3"),)
        assert [each.id for each in (await store.load()).alerts] == ["old"]


async def test_what_was_over_long_ago_can_be_pruned(opened: Open) -> None:
    """Resolved alerts go by when they were resolved, with their transitions; open ones stay."""
    old, new = resolved("a1", at=200), resolved("a2", at=300)

    async with opened() as store:
        await store.commit(Changes((alert("a0"), old, new), (transition("a1"), transition("a2"))))
        await store.prune(300)

        items = (await store.alerts()).items
        assert sorted(each.id for each in items) == ["a0", "a2"]
        assert await store.transitions("a1") == ()
        assert await store.transitions("a2") == (transition("a2"),)


async def test_what_is_kept_is_no_ones_to_change(opened: Open) -> None:
    """Changing a dict that was committed, or that was given out, changes nothing that is kept."""
    mine = alert(finding={"value": [1]})

    async with opened() as store:
        await store.commit(alerts(mine))
        mine.finding["value"].append(2)
        given = await store.alert("a1")
        assert given is not None
        given.finding["value"].append(3)

        assert await store.alert("a1") == replace(mine, finding={"value": [1]})
