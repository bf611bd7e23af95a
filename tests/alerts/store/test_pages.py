"""Pages of alerts, in every store."""

from __future__ import annotations

import base64

import pytest

from tokenpulse_mw.alerts.store import AlertStore

from .conftest import Open
from .samples import ODD, alert, alerts, resolved

pytestmark = pytest.mark.anyio


async def ids(store: AlertStore, cursor: str | None = None) -> tuple[list[str], str | None]:
    """A page of two, by ids."""
    page = await store.alerts(limit=2, cursor=cursor)
    return [each.id for each in page.items], page.next


async def test_the_newest_come_first(opened: Open) -> None:
    """A page begins with what started last; what started at once is in a fixed order."""
    async with opened() as store:
        await store.commit(
            alerts(
                alert("b", started_at=100), alert("c", started_at=300), alert("a", started_at=100)
            )
        )

        page = await store.alerts()
        assert [each.id for each in page.items] == ["c", "b", "a"]
        assert page.next is None


async def test_pages_together_give_every_alert_once(opened: Open) -> None:
    """Following the cursor ends, and has missed and doubled nothing, also at equal times."""
    async with opened() as store:
        await store.commit(alerts(*(alert(f"a{number}") for number in range(5))))

        first, cursor = await ids(store)
        second, cursor = await ids(store, cursor)
        third, end = await ids(store, cursor)

        assert [first, second, third] == [["a4", "a3"], ["a2", "a1"], ["a0"]]
        assert end is None


async def test_a_full_last_page_has_no_next(opened: Open) -> None:
    """There is no empty page at the end."""
    async with opened() as store:
        await store.commit(alerts(alert("a1"), alert("a2")))

        assert await ids(store) == (["a2", "a1"], None)


async def test_what_comes_in_meanwhile_moves_nothing(opened: Open) -> None:
    """New alerts between two pages neither repeat nor hide an older one; nor do removed ones."""
    async with opened() as store:
        await store.commit(alerts(*(alert(f"a{at}", started_at=at) for at in range(4))))
        first, cursor = await ids(store)
        await store.commit(alerts(*(alert(f"b{at}", started_at=100 + at) for at in range(3))))
        await store.commit(alerts(resolved("a2", at=150, started_at=2)))
        await store.prune(200)

        second, end = await ids(store, cursor)

        assert (first, second, end) == (["a3", "a2"], ["a1", "a0"], None)


async def test_a_cursor_keeps_any_id_and_time(opened: Open) -> None:
    """A page may end with any alert."""
    async with opened() as store:
        await store.commit(alerts(alert(ODD, started_at=1 / 3), alert("old", started_at=0.1)))

        page = await store.alerts(limit=1)

        assert [each.id for each in page.items] == [ODD]
        rest = await store.alerts(limit=1, cursor=page.next)
        assert [each.id for each in rest.items] == ["old"]


async def test_alerts_can_be_picked(opened: Open) -> None:
    """Every filter counts, alone and with others."""
    about = {"subject": ["master", "m:1", "Ann"]}
    bad = alert("bad", severity="critical", type="error_spike")
    over = resolved("over", finding=about)

    async with opened() as store:
        await store.commit(alerts(alert("plain"), bad, over))

        async def picked(**filters: str) -> list[str]:
            page = await store.alerts(**filters)  # type: ignore[arg-type]
            return sorted(each.id for each in page.items)

        assert await picked(state="resolved") == ["over"]
        assert await picked(severity="critical") == ["bad"]
        assert await picked(type="error_spike") == ["bad"]
        assert await picked(subject="master:m:1") == ["over"]
        assert await picked(subject="key:k1") == ["bad", "plain"]
        assert await picked(state="firing", severity="warning") == ["plain"]
        assert await picked(state="resolved", severity="critical") == []


def encoded(text: str) -> str:
    """`text` as a cursor is written."""
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


@pytest.mark.parametrize(
    "cursor",
    [
        "",
        "x",
        "*",
        "é",
        *map(encoded, ["[1]", "{}", '["1", "a"]', "[1, 2]", '[NaN, "a"]', "[" * 100_000]),
        encoded(f'[1{"0" * 400}, "a"]'),
    ],
    ids=range(11),
)
async def test_a_made_up_cursor_is_refused(opened: Open, cursor: str) -> None:
    """Only what a page gave is a cursor; what is told of another one is short."""
    async with opened() as store:
        with pytest.raises(ValueError, match="cursor must be the `next` of the page before") as e:
            await store.alerts(cursor=cursor)
        assert len(str(e.value)) < 250


@pytest.mark.parametrize("limit", [0, -1, 1001, True, 2.0])
async def test_a_limit_is_bounded(opened: Open, limit: int) -> None:
    """No caller gets everything at once."""
    async with opened() as store:
        for ask in (store.alerts(limit=limit), store.history(limit), store.dead_letters(limit)):
            with pytest.raises(ValueError, match="limit must be from 1 to 1000"):
                await ask


@pytest.mark.parametrize("name", ["state", "severity"])
async def test_a_filter_that_nothing_can_match_is_refused(opened: Open, name: str) -> None:
    """A mistyped state is told, and not answered by an empty page."""
    async with opened() as store:
        with pytest.raises(ValueError, match=f"{name} must be one of .*, got 'fierce'"):
            await store.alerts(**{name: "fierce"})  # type: ignore[arg-type]
