"""Notifications until they are delivered or given up, in every store."""

from __future__ import annotations

import pytest

from tokenpulse_mw.alerts.store import AlertStore, DeadLetter

from .conftest import Open
from .samples import notification, notifications

pytestmark = pytest.mark.anyio


async def waiting(store: AlertStore) -> list[str]:
    """The ids of what is to be delivered, in order."""
    return [each.id for each in (await store.load()).notifications]


async def dead(store: AlertStore) -> list[str]:
    """The ids of what was given up, the newest first."""
    return [each.notification.id for each in await store.dead_letters(100)]


async def test_what_is_not_delivered_survives_in_order(opened: Open) -> None:
    """After a restart the sinks are told what they missed, the first first."""
    async with opened() as store:
        await store.commit(notifications("n3", "n1"))
        await store.commit(notifications("n2"))

    async with opened() as store:
        assert await waiting(store) == ["n3", "n1", "n2"]


async def test_what_is_delivered_is_gone(opened: Open) -> None:
    """It is never told again; to say so twice is no error."""
    async with opened() as store:
        await store.commit(notifications("n1", "n2"))
        await store.delivered("n1")
        await store.delivered("n1")

        assert await waiting(store) == ["n2"]


async def test_what_is_postponed_keeps_its_place_and_its_attempts(opened: Open) -> None:
    """After a restart nobody forgets how often a sink was asked, and when it is due."""
    async with opened() as store:
        await store.commit(notifications("n1", "n2"))
        await store.postponed("n1", 3, 150.5, "no answer")

    async with opened() as store:
        postponed = notification("n1", attempts=3, due_at=150.5, last_error="no answer")
        assert (await store.load()).notifications == (postponed, notification("n2"))


async def test_one_that_waits_is_not_begun_again(opened: Open) -> None:
    """A second commit of an id leaves its attempts alone."""
    async with opened() as store:
        await store.commit(notifications("n1"))
        await store.postponed("n1", 3, 150, "no answer")
        await store.commit(notifications("n1"))

        assert (await store.load()).notifications[0].attempts == 3


async def test_what_is_given_up_is_a_dead_letter(opened: Open) -> None:
    """It is not attempted any more, and can be looked at: since when, and why."""
    async with opened() as store:
        await store.commit(notifications("n1", "n2"))
        await store.postponed("n1", 3, 150, "no answer")
        await store.dead("n1", 160, "410 Gone")

    async with opened() as store:
        letter = notification("n1", attempts=3, due_at=150.0, last_error="410 Gone")
        assert await waiting(store) == ["n2"]
        assert await store.dead_letters(1) == (DeadLetter(letter, 160.0, "410 Gone"),)


async def test_the_dead_stay_dead(opened: Open) -> None:
    """Neither postponing, nor giving up, nor committing it again wakes a dead letter."""
    async with opened() as store:
        await store.commit(notifications("n1"))
        await store.dead("n1", 160, "410 Gone")
        before = await store.dead_letters(1)
        await store.postponed("n1", 9, 999, "late")
        await store.dead("n1", 999, "late")
        await store.commit(notifications("n1"))

        assert await waiting(store) == []
        assert await store.dead_letters(1) == before


async def test_a_dead_letter_that_was_delivered_after_all_is_gone(opened: Open) -> None:
    """Whoever delivers it by hand can say so."""
    async with opened() as store:
        await store.commit(notifications("n1"))
        await store.dead("n1", 160, "410 Gone")
        await store.delivered("n1")

        assert await store.dead_letters(1) == ()


async def test_nothing_happens_to_what_is_unknown(opened: Open) -> None:
    """Another process may have delivered it."""
    async with opened() as store:
        await store.delivered("n1")
        await store.postponed("n1", 1, 150, "no answer")
        await store.dead("n1", 160, "410 Gone")

        assert await waiting(store) == []
        assert await store.dead_letters(1) == ()


async def test_dead_letters_are_bounded(opened: Open) -> None:
    """The newest are kept, and come first; what waits is not counted with them."""
    async with opened(max_history=2) as store:
        await store.commit(notifications("n1", "n2", "n3", "n4", "n5"))
        for identity, at in (("n2", 170), ("n1", 160), ("n3", 170)):
            await store.dead(identity, at, "410 Gone")

        assert await dead(store) == ["n3", "n2"]
        assert [each.notification.id for each in await store.dead_letters(1)] == ["n3"]
        assert await waiting(store) == ["n4", "n5"]


async def test_old_dead_letters_can_be_pruned(opened: Open) -> None:
    """They go by when they were given up; what waits stays, however old it is."""
    async with opened() as store:
        await store.commit(notifications("n1", "n2", "n3"))
        await store.dead("n1", 160, "410 Gone")
        await store.dead("n2", 170, "410 Gone")
        await store.prune(170)

        assert await dead(store) == ["n2"]
        assert await waiting(store) == ["n3"]


async def test_a_time_is_a_number(opened: Open) -> None:
    """What is no time is refused before it is written."""
    nan = float("nan")
    async with opened() as store:
        await store.commit(notifications("n1"))
        with pytest.raises(ValueError, match="due_at must be a finite number, got nan"):
            await store.postponed("n1", 1, nan, "")
        with pytest.raises(ValueError, match="at must be a finite number, got nan"):
            await store.dead("n1", nan, "")

        assert (await store.load()).notifications == (notification("n1"),)
