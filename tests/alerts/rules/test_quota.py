"""Quotas that are nearly used up, as somebody else counts them."""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal
from fractions import Fraction
from typing import Any

import anyio
import pytest

from tokenpulse_mw import Limiter, Policy, keys
from tokenpulse_mw.alerts import Finding, Severity, Subject
from tokenpulse_mw.alerts.rules import Quota, Quotas, quota_exceeded, rule_name
from tokenpulse_mw.ratelimit import budgets

from .views import View, severities

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
        keeps="critical",
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
@pytest.mark.parametrize(("used", "keeps"), [(79, "warning"), (80, "critical")])
async def test_what_was_exceeded_is_critical_down_to_80_percent(used: int, keeps: Severity) -> None:
    """A quota that is given back bit by bit, and used up again, is told of once."""
    (found,) = await ask([("k1", used, 100)])

    assert found.keeps == keeps


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
async def test_the_token_limits_of_a_gateway_are_quotas() -> None:
    """An engine that somebody makes has them too; where nothing limits tokens there are none."""
    limiter = Limiter("1000/day")
    requests = Policy("100/minute")
    tokens = Policy(limiter, name="tokens", tokens=10, key=keys.annotation("tenant"))
    limiter.hit("acme", 950)

    for policies, expected in ([requests, tokens], ["quota_exceeded:key:acme"]), ([requests], []):
        quotas = Quotas(budgets(policies))
        await quotas.refresh()
        found = View().ask(quota_exceeded(quotas))
        assert [each.fingerprint for each in found] == expected


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
        ("k1", Decimal("sNaN"), 10),
        ("k1", Fraction(10**400), 10),
        ("k1", 10**5000, 10),
        (10**5000, 10, 10),
        (True, 10, 10),
        (b"k1", 10, 10),
        ("k1", 10, 10, b"acme"),
        7,
        {"key": "k1"},
    ],
)
async def test_what_is_no_quota_costs_no_other_one(row: Any) -> None:
    """It is told, and all that came with it is taken; what was known of the same key stays."""
    rows: Given = [("k1", 9, 10), ("k2", 9, 10)]
    quotas = Quotas(lambda: rows)
    await quotas.refresh()
    rows[:] = [row, ("k2", 1, 10), ("k3", 1, 10)]

    with pytest.raises(ValueError, match=r"^a quota must be \(key, used, limit\) or .*, got "):
        await quotas.refresh()

    stays = [Quota("k1", 9, 10)] if isinstance(row, tuple) and row[:1] == ("k1",) else []
    assert list(quotas) == [Quota("k2", 1, 10), Quota("k3", 1, 10), *stays]


@pytest.mark.anyio
async def test_a_key_that_is_given_well_as_well_is_known_by_that() -> None:
    """The better news of it counts, and not what was known before."""
    rows: Given = [("k1", 10, 10)]
    quotas = Quotas(lambda: rows)
    await quotas.refresh()
    rows[:] = [("k1", None, 10), ("k1", 1, 10)]

    with pytest.raises(ValueError, match="got "):
        await quotas.refresh()

    assert list(quotas) == [Quota("k1", 1, 10)]


@pytest.mark.anyio
async def test_what_is_wrong_is_told_in_a_few_words() -> None:
    """A row may be as large as a page."""
    rows: Given = [("k1", "x" * 100_000, 10)]

    with pytest.raises(ValueError, match=r"got \('k1', 'xxx") as error:
        await Quotas(lambda: rows).refresh()

    assert len(str(error.value)) < 500


@pytest.mark.anyio
async def test_numbers_are_taken_as_databases_give_them() -> None:
    """A NUMERIC column is a Decimal, and keys are often numbered."""
    (found,) = await ask([(7, Decimal("95.5"), Decimal(100), 8)])

    assert (found.subject, found.value) == (Subject("key", "7"), 0.955)
    assert found.metadata == {"used": 95.5, "limit": 100.0, "master": "8", "threshold": 0.9}


@pytest.mark.anyio
async def test_a_source_that_fails_again_and_again_fails_the_rule() -> None:
    """From the third time on no round is as if all was well; its next answer mends it."""
    answers: list[Any] = [[("k1", 10, 10)], None, None, [("k1", "?", 10)], [("k1", 10, 10)]]
    quotas = Quotas(lambda: answers.pop(0))
    rule = quota_exceeded(quotas)
    await quotas.refresh()
    for _ in range(2):
        with pytest.raises(ValueError, match="must give a list of quotas"):
            await quotas.refresh()
        assert len(View().ask(rule)) == 1

    with pytest.raises(ValueError, match="a quota must be"):  # in what there is no quota
        await quotas.refresh()
    with pytest.raises(LookupError, match=r"^the quota source has failed 3 times in a row: what"):
        View().ask(rule)

    await quotas.refresh()
    assert len(View().ask(rule)) == 1


@pytest.mark.anyio
async def test_a_source_that_nobody_waits_for_any_longer_fails_too() -> None:
    """An engine gives it no more than an interval, which may be shorter than its deadline."""
    answers: list[Given] = [[("k1", 10, 10)]]

    async def source() -> Given:
        if not answers:
            await anyio.sleep_forever()
        return answers.pop()

    quotas = Quotas(source)
    await quotas.refresh()
    for _ in range(3):
        with anyio.move_on_after(0.01):
            await quotas.refresh()

    with pytest.raises(LookupError, match="has failed 3 times in a row"):
        View().ask(quota_exceeded(quotas))


@pytest.mark.anyio
async def test_a_source_with_a_wrong_row_is_not_dead() -> None:
    """One key that is odd for ever switches off no other."""
    rows: Given = [("k1", 10, 10), ("k2", None, 10)]
    quotas = Quotas(lambda: rows)
    for _ in range(5):
        with pytest.raises(ValueError, match="got "):
            await quotas.refresh()

    assert severities(View().ask(quota_exceeded(quotas))) == {"quota_exceeded:key:k1": "critical"}


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


@pytest.mark.parametrize("value", [0, "5", None])
@pytest.mark.parametrize(
    ("name", "number"), [("deadline", "number of seconds"), ("max_keys", "whole number")]
)
def test_bounds_that_allow_nothing_are_refused(name: str, number: str, value: object) -> None:
    """A deadline of 0 would never let a source answer."""
    chosen: dict[str, Any] = {name: value}

    with pytest.raises(ValueError, match=f"^{name} must be a {number} above 0, got {value!r}$"):
        Quotas(list, **chosen)
