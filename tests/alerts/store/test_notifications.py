"""Notifications and dead letters, in every store."""

from __future__ import annotations

import pytest

from tokenpulse_mw.alerts.store import AlertStore, Changes, DeadLetter

from .conftest import Open
from .leadership import commit, waiting
from .samples import notification, notifications

pytestmark = pytest.mark.anyio


async def waiting_ids(store: AlertStore) -> list[str]:
    """Return the ids of the undelivered notifications, in order."""
    return [notification.id for notification in await waiting(store)]


async def dead(store: AlertStore) -> list[str]:
    """Return the ids of the dead letters, the newest first."""
    return [dead_letter.notification.id for dead_letter in await store.dead_letters(100)]


async def test_undelivered_notifications_survive_a_restart_in_order(opened: Open) -> None:
    """Undelivered notifications are loaded in the order in which they were committed."""
    async with opened() as store:
        await commit(store, notifications("n3", "n1"))
        await commit(store, notifications("n2"))

    async with opened() as store:
        assert await waiting_ids(store) == ["n3", "n1", "n2"]


async def test_delivered_notification_is_deleted(opened: Open) -> None:
    """A delivered notification is not loaded again; deleting it twice is not an error."""
    async with opened() as store:
        await commit(store, notifications("n1", "n2"))
        await store.delivered("n1")
        await store.delivered("n1")

        assert await waiting_ids(store) == ["n2"]


async def test_postponed_notification_survives_a_restart_in_its_position(opened: Open) -> None:
    """A postponed notification keeps its position, attempts, time and error."""
    async with opened() as store:
        await commit(store, notifications("n1", "n2"))
        await store.postponed("n1", 3, 150.5, "timeout")

    async with opened() as store:
        postponed = notification("n1", attempts=3, due_at=150.5, last_error="timeout")
        assert await waiting(store) == (postponed, notification("n2"))


async def test_repeated_commit_does_not_reset_a_notification(opened: Open) -> None:
    """A second commit of the same id keeps the attempts."""
    async with opened() as store:
        await commit(store, notifications("n1"))
        await store.postponed("n1", 3, 150, "timeout")
        await commit(store, notifications("n1"))

        assert (await waiting(store))[0].attempts == 3


async def test_dead_letter_is_not_loaded_but_listed(opened: Open) -> None:
    """A dead letter is not attempted again, and is listed with its time and error."""
    async with opened() as store:
        await commit(store, notifications("n1", "n2"))
        await store.postponed("n1", 3, 150, "timeout")
        await store.dead("n1", 160, "410 Gone")

    async with opened() as store:
        dead_letter = notification("n1", attempts=3, due_at=150.0, last_error="410 Gone")
        assert await waiting_ids(store) == ["n2"]
        assert await store.dead_letters(1) == (DeadLetter(dead_letter, 160.0, "410 Gone"),)


async def test_dead_letter_is_not_revived(opened: Open) -> None:
    """Postponing, dead-lettering or committing a dead letter again does not change it."""
    async with opened() as store:
        await commit(store, notifications("n1"))
        await store.dead("n1", 160, "410 Gone")
        before = await store.dead_letters(1)
        await store.postponed("n1", 9, 999, "late")
        await store.dead("n1", 999, "late")
        await commit(store, notifications("n1"))

        assert await waiting_ids(store) == []
        assert await store.dead_letters(1) == before


async def test_delivered_dead_letter_is_deleted(opened: Open) -> None:
    """A dead letter that was delivered after all is deleted."""
    async with opened() as store:
        await commit(store, notifications("n1"))
        await store.dead("n1", 160, "410 Gone")
        await store.delivered("n1")

        assert await store.dead_letters(1) == ()


async def test_unknown_notification_is_ignored(opened: Open) -> None:
    """Outcomes of unknown notifications are ignored: another process may have delivered them."""
    async with opened() as store:
        await store.delivered("n1")
        await store.postponed("n1", 1, 150, "timeout")
        await store.dead("n1", 160, "410 Gone")

        assert await waiting_ids(store) == []
        assert await store.dead_letters(1) == ()


async def test_dead_letters_beyond_the_bound_are_deleted(opened: Open) -> None:
    """The newest dead letters are stored; undelivered notifications do not count."""
    async with opened(max_history=2) as store:
        await commit(store, notifications("n1", "n2", "n3", "n4", "n5"))
        for identity, at in (("n2", 170), ("n1", 160), ("n3", 170)):
            await store.dead(identity, at, "410 Gone")

        assert await dead(store) == ["n3", "n2"]
        assert [letter.notification.id for letter in await store.dead_letters(1)] == ["n3"]
        assert await waiting_ids(store) == ["n4", "n5"]


async def test_prune_deletes_old_dead_letters(opened: Open) -> None:
    """Dead letters are pruned by their time; undelivered notifications are not."""
    async with opened() as store:
        await commit(store, notifications("n1", "n2", "n3"))
        await store.dead("n1", 160, "410 Gone")
        await store.dead("n2", 170, "410 Gone")
        await store.prune(170)

        assert await dead(store) == ["n2"]
        assert await waiting_ids(store) == ["n3"]


async def test_time_that_is_not_finite_is_rejected(opened: Open) -> None:
    """NaN is rejected as a time before anything is written."""
    nan = float("nan")
    async with opened() as store:
        await commit(store, notifications("n1"))
        with pytest.raises(ValueError, match="due_at must be a finite number, got nan"):
            await store.postponed("n1", 1, nan, "")
        with pytest.raises(ValueError, match="at must be a finite number, got nan"):
            await store.dead("n1", nan, "")

        assert await waiting(store) == (notification("n1"),)


async def test_queue_lengths_count_undelivered_notifications_by_sink(opened: Open) -> None:
    """Delivered notifications and dead letters do not wait."""
    async with opened() as store:
        assert await store.queue_lengths() == {}
        paged = Changes(notifications=(notification("n4", sink="page"),))
        await commit(store, notifications("n1", "n2", "n3", "n5"))
        await commit(store, paged)
        await store.delivered("n1")
        await store.postponed("n2", 1, 150, "timeout")
        await store.dead("n3", 150, "rejected")

    async with opened() as store:
        assert await store.queue_lengths() == {"log": 2, "page": 1}
        assert await store.dead_letter_counts() == {"log": 1}
