"""Quotas that are nearly used up, as somebody else counts them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import anyio
import pytest

from tests.alerts.rules.views import View, severities
from tokenpulse_mw.alerts import Finding, Severity, Subject
from tokenpulse_mw.alerts.rules import Quota, Quotas, quota_exceeded, rule_name

Given = list[tuple[Any, ...]]


async def ask(rows: Given, **chosen: Any) -> list[Finding]:
    """What is found where a source gives these quotas."""
    quotas = Quotas(lambda: rows)
    await quotas.refresh()
    return View(**chosen).ask(quota_exceeded(quotas))


@pytest.mark.anyio
async def test_a_quota_that_is_nearly_used_up_is_found_with_its_numbers() -> None:
    """The finding says whose it is and how much of it is left."""
    (found,) = await ask([Quota("k1", 950, 1000, "acme")])

    assert found == Finding(
        type="quota_exceeded",
        subject=Subject("key", "k1"),
        severity="warning",
        title="Quota at 95%",
        message="Key 'k1' (master 'acme') has used 950 of 1000 (95.0%) of its quota",
        value=0.95,
        metadata={"used": 950, "limit": 1000, "master": "acme", "threshold": 0.9},
        window=0,
    )
    assert found.fingerprint == "quota_exceeded:key:k1"


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("used", "severities_"),
    [
        (71, []),
        (73, [None]),
        (89, [None]),
        (90, ["warning"]),
        (99, ["warning"]),
        (100, ["critical"]),
        (1000, ["critical"]),
    ],
)
async def test_from_90_percent_it_is_a_warning_and_from_100_critical(
    used: int, severities_: list[Severity | None]
) -> None:
    """It ends below 80 % of the 90 %, as when a new month begins."""
    found = await ask([("k1", used, 100)])

    assert [each.severity for each in found] == severities_


@pytest.mark.anyio
async def test_defect_17_a_share_that_is_just_reached_is_reached() -> None:
    """Rounding misses none: each whole quota is used to exactly its threshold."""
    for limit in range(10, 5000, 10):
        (found,) = await ask([("k1", limit * 9 // 10, limit)])
        assert found.severity == "warning"


@pytest.mark.anyio
async def test_what_is_exceeded_is_critical_whatever_is_worth_a_warning() -> None:
    """A warning at 100 % is none: it is critical at once."""
    (found,) = await ask([("k1", 5, 5)], quota_warning=1)

    assert (found.severity, found.title) == ("critical", "Quota exceeded")


@pytest.mark.anyio
@pytest.mark.parametrize("limit", [None, 0, -1])
async def test_a_key_without_a_quota_cannot_exceed_it(limit: int | None) -> None:
    """The seed means no quota by 0."""
    assert await ask([("k1", 10, limit)]) == []


@pytest.mark.anyio
async def test_without_a_threshold_no_quota_is_looked_at() -> None:
    """None switches the rule off."""
    assert await ask([("k1", 10, 10)], quota_warning=None) == []


@pytest.mark.anyio
async def test_a_source_may_be_awaited() -> None:
    """Where a database is asked."""

    async def source() -> Iterable[tuple[object, ...]]:
        await anyio.lowlevel.checkpoint()
        return (("k1", used, 10, None) for used in (10,))

    quotas = Quotas(source)
    rule = quota_exceeded(quotas)
    with pytest.raises(LookupError, match=r"^the quota source has not answered yet$"):
        View().ask(rule)

    await quotas.refresh()

    assert severities(View().ask(rule)) == {"quota_exceeded:key:k1": "critical"}


@pytest.mark.anyio
async def test_the_rule_can_be_refreshed_and_has_a_name() -> None:
    """An engine need not know what a quota is."""
    rows: Given = [("k1", 10, 10)]
    rule: Any = quota_exceeded(Quotas(lambda: rows))

    await rule.refresh()

    assert rule_name(rule) == "quota_exceeded"
    assert len(View().ask(rule)) == 1


@pytest.mark.anyio
async def test_a_key_that_is_no_longer_given_is_no_longer_found() -> None:
    """A key that was deleted keeps no alert."""
    rows: Given = [("k1", 10, 10)]
    quotas = Quotas(lambda: rows)
    await quotas.refresh()
    rows.clear()

    await quotas.refresh()

    assert list(quotas) == []


@pytest.mark.anyio
async def test_a_source_that_takes_too_long_is_left_and_what_was_known_stays() -> None:
    """A database that hangs neither holds up the round nor ends any alert."""
    answers: list[Any] = [[("k1", 10, 10)], None]

    async def source() -> Iterable[tuple[object, ...]]:
        answer = answers.pop(0)
        if answer is None:
            await anyio.sleep_forever()
        return list(answer)

    quotas = Quotas(source, deadline=0.01)
    await quotas.refresh()

    with pytest.raises(TimeoutError):
        await quotas.refresh()

    assert list(quotas) == [Quota("k1", 10, 10)]


@pytest.mark.anyio
async def test_defect_10_a_source_that_raises_changes_nothing() -> None:
    """The engine is told, and alerts stay as they are."""
    answers: list[Any] = [[("k1", 10, 10)]]
    quotas = Quotas(lambda: answers.pop())
    await quotas.refresh()

    with pytest.raises(IndexError):
        await quotas.refresh()

    assert list(quotas) == [Quota("k1", 10, 10)]


@pytest.mark.anyio
@pytest.mark.parametrize(
    "row",
    [
        (),
        ("k1", 10),
        ("k1", 10, 10, "acme", 5),
        ("k1", "10", 10),
        ("k1", 10, "10"),
        ("k1", True, 10),
        ("k1", float("nan"), 10),
        ("k1", 10, float("inf")),
        (7, 10, 10),
        ("k1", 10, 10, 7),
        7,
        {"key": "k1"},
    ],
)
async def test_what_is_no_quota_is_refused_with_all_that_came_with_it(row: Any) -> None:
    """Half of an answer would end the alerts of the other half."""
    rows: Given = [("k1", 10, 10)]
    quotas = Quotas(lambda: rows)
    await quotas.refresh()
    rows.append(row)

    with pytest.raises(ValueError, match=r"^a quota must be \(key, used, limit\) or .*, got "):
        await quotas.refresh()

    assert list(quotas) == [Quota("k1", 10, 10)]


@pytest.mark.anyio
async def test_a_source_that_gives_no_quotas_at_all_is_told_so() -> None:
    """None is not an empty list."""
    source: Any = lambda: None  # noqa: E731 - it stands for a source that forgot its return

    with pytest.raises(ValueError, match=r"^the quota source must give a list of quotas, got None"):
        await Quotas(source).refresh()


@pytest.mark.anyio
async def test_a_source_that_never_stops_giving_is_stopped() -> None:
    """What is kept is bounded, and nothing is left out unsaid."""
    rows = (("k1", 1, 10) for _ in iter(int, 1))

    with pytest.raises(ValueError, match=r"^the quota source gave more than 3 quotas; let it"):
        await Quotas(lambda: rows, max_keys=3).refresh()


@pytest.mark.parametrize("name", ["deadline", "max_keys"])
def test_bounds_that_allow_nothing_are_refused(name: str) -> None:
    """A deadline of 0 would never let a source answer."""
    chosen: dict[str, Any] = {name: 0}

    with pytest.raises(ValueError, match=f"^{name} must be above 0, got 0$"):
        Quotas(list, **chosen)
