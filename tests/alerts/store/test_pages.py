"""Pages of alerts, in every store."""

from __future__ import annotations

import base64

import pytest

from tokenpulse_mw.alerts.store import AlertStore

from .conftest import Open
from .leadership import commit
from .samples import ODD, alert, alerts, resolved

pytestmark = pytest.mark.anyio


async def page_of_two(store: AlertStore, cursor: str | None = None) -> tuple[list[str], str | None]:
    """Return the ids of a page of two alerts, and the next cursor."""
    page = await store.alerts(limit=2, cursor=cursor)
    return [alert.id for alert in page.items], page.next


async def test_alerts_are_listed_newest_first(opened: Open) -> None:
    """Alerts are sorted by start and then by id."""
    async with opened() as store:
        await commit(
            store,
            alerts(
                alert("b", started_at=100), alert("c", started_at=300), alert("a", started_at=100)
            ),
        )

        page = await store.alerts()
        assert [alert.id for alert in page.items] == ["c", "b", "a"]
        assert page.next is None


async def test_pages_contain_every_alert_once(opened: Open) -> None:
    """Following the cursors lists each alert once, even if all started at the same time."""
    async with opened() as store:
        await commit(store, alerts(*(alert(f"a{number}") for number in range(5))))

        first, cursor = await page_of_two(store)
        second, cursor = await page_of_two(store, cursor)
        third, end = await page_of_two(store, cursor)

        assert [first, second, third] == [["a4", "a3"], ["a2", "a1"], ["a0"]]
        assert end is None


async def test_full_last_page_has_no_cursor(opened: Open) -> None:
    """A last page that is full is not followed by an empty one."""
    async with opened() as store:
        await commit(store, alerts(alert("a1"), alert("a2")))

        assert await page_of_two(store) == (["a2", "a1"], None)


async def test_changes_between_pages_do_not_shift_them(opened: Open) -> None:
    """Alerts added or removed between two pages neither repeat nor hide older alerts."""
    async with opened() as store:
        await commit(store, alerts(*(alert(f"a{at}", started_at=at) for at in range(4))))
        first, cursor = await page_of_two(store)
        await commit(store, alerts(*(alert(f"b{at}", started_at=100 + at) for at in range(3))))
        await commit(store, alerts(resolved("a2", at=150, started_at=2)))
        await store.prune(200)

        second, end = await page_of_two(store, cursor)

        assert (first, second, end) == (["a3", "a2"], ["a1", "a0"], None)


async def test_cursor_encodes_any_id_and_time(opened: Open) -> None:
    """A page may end with any alert."""
    async with opened() as store:
        await commit(store, alerts(alert(ODD, started_at=1 / 3), alert("old", started_at=0.1)))

        page = await store.alerts(limit=1)

        assert [alert.id for alert in page.items] == [ODD]
        rest = await store.alerts(limit=1, cursor=page.next)
        assert [alert.id for alert in rest.items] == ["old"]


async def test_filters_select_alerts(opened: Open) -> None:
    """Each filter selects alerts, alone and combined."""
    about = {"subject": ["master", "m:1", "Ann"]}
    bad = alert("bad", severity="critical", type="error_spike")
    over = resolved("over", finding=about)

    async with opened() as store:
        await commit(store, alerts(alert("plain"), bad, over))

        async def selected(**filters: str) -> list[str]:
            page = await store.alerts(**filters)  # type: ignore[arg-type]
            return sorted(alert.id for alert in page.items)

        assert await selected(state="resolved") == ["over"]
        assert await selected(severity="critical") == ["bad"]
        assert await selected(type="error_spike") == ["bad"]
        assert await selected(subject="master:m:1") == ["over"]
        assert await selected(subject="key:k1") == ["bad", "plain"]
        assert await selected(state="firing", severity="warning") == ["plain"]
        assert await selected(state="resolved", severity="critical") == []


async def test_active_alerts_have_fired_and_are_not_resolved(opened: Open) -> None:
    """The filter selects firing and recovering alerts, over pages, but not pending ones."""
    pending = alert("pending", state="pending", fired_at=None)
    records = pending, alert("a", started_at=1), alert("b", state="recovering", started_at=2)

    async with opened() as store:
        await commit(store, alerts(*records, resolved("over")))

        newest = await store.alerts(state="active", limit=1)
        oldest = await store.alerts(state="active", limit=1, cursor=newest.next)

    assert [record.id for record in (*newest.items, *oldest.items)] == ["b", "a"]
    assert oldest.next is None


def encoded(text: str) -> str:
    """Return `text` in the encoding of a cursor."""
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
async def test_invalid_cursor_is_rejected(opened: Open, cursor: str) -> None:
    """A cursor that is not from a page is rejected with a short message."""
    async with opened() as store:
        with pytest.raises(
            ValueError, match="cursor must be `next` of the previous page"
        ) as caught:
            await store.alerts(cursor=cursor)
        assert len(str(caught.value)) < 250


@pytest.mark.parametrize("limit", [0, -1, 1001, True, 2.0])
async def test_limit_out_of_range_is_rejected(opened: Open, limit: int) -> None:
    """A limit must be an integer from 1 to 1000."""
    async with opened() as store:
        for call in (store.alerts(limit=limit), store.history(limit), store.dead_letters(limit)):
            with pytest.raises(
                ValueError, match=f"^limit must be an integer from 1 to 1000, got {limit!r}$"
            ):
                await call


@pytest.mark.parametrize("name", ["state", "severity"])
async def test_filter_with_an_unknown_value_is_rejected(opened: Open, name: str) -> None:
    """A mistyped state or severity is an error, not an empty page."""
    async with opened() as store:
        with pytest.raises(ValueError, match=f"{name} must be one of .*, got 'fierce'"):
            await store.alerts(**{name: "fierce"})  # type: ignore[arg-type]
