"""The `quota_exceeded` rule."""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal
from fractions import Fraction
from typing import Any

import anyio
import pytest

from tokenpulse_mw import Limiter, Policy, keys
from tokenpulse_mw.alerts import Finding, Severity, Subject
from tokenpulse_mw.alerts.rules import Quota, quota_exceeded, rule_name
from tokenpulse_mw.ratelimit import quotas

from .scenario import Scenario, severities

Rows = list[tuple[Any, ...]]


async def findings_for(rows: Rows, **thresholds: Any) -> list[Finding]:
    """Return the findings for these quotas."""
    rule = quota_exceeded(lambda: rows)
    await rule.refresh()
    return Scenario(**thresholds).evaluate(rule)


@pytest.mark.anyio
async def test_quota_nearly_used_up_finding_has_its_numbers() -> None:
    """The finding names the key and the share that is used."""
    (finding,) = await findings_for([Quota("k1", 950, 1000, "acme")])

    assert finding == Finding(
        type="quota_exceeded",
        subject=Subject("key", "k1"),
        severity="warning",
        title="Quota at 95%",
        message="Key ID k1 (Master acme) has used 950/1000 tokens (95.0%)",
        value=0.95,
        metadata={"used": 950, "limit": 1000, "master": "acme", "threshold": 0.9},
        keep_firing=300,
        window=0,
        keeps="critical",
    )
    assert finding.fingerprint == "quota_exceeded:key:k1"


@pytest.mark.anyio
async def test_quota_of_another_unit_names_the_unit() -> None:
    """A quota is in tokens unless its row has another unit."""
    (finding,) = await findings_for([("k1", 100, 100, None, "requests")])

    assert finding.message == "Key ID k1 has used 100/100 requests (100.0%)"


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("used", "expected"),
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
async def test_severity_is_warning_from_90_percent_and_critical_from_100(
    used: int, expected: list[Severity | None]
) -> None:
    """Below 80 % of the warning threshold there is no finding."""
    findings = await findings_for([("k1", used, 100)])

    assert [finding.severity for finding in findings] == expected


@pytest.mark.anyio
@pytest.mark.parametrize(("used", "keeps"), [(79, "warning"), (80, "critical")])
async def test_exceeded_quota_stays_critical_down_to_80_percent(used: int, keeps: Severity) -> None:
    """A share that swings around 100 % does not change the severity."""
    (finding,) = await findings_for([("k1", used, 100)])

    assert finding.keeps == keeps


@pytest.mark.anyio
async def test_defect_17_share_equal_to_the_threshold_fires() -> None:
    """Rounding never misses a share that equals the threshold."""
    for limit in range(10, 5000, 10):
        (finding,) = await findings_for([("k1", limit * 9 // 10, limit)])
        assert finding.severity == "warning"


@pytest.mark.anyio
async def test_warning_threshold_of_100_percent_is_critical() -> None:
    """With a warning threshold of 100 % the finding is critical at once."""
    (finding,) = await findings_for([("k1", 5, 5)], quota_warning=1)

    assert (finding.severity, finding.title) == ("critical", "Quota exceeded")


@pytest.mark.anyio
@pytest.mark.parametrize("limit", [None, 0, -1])
async def test_key_without_quota_has_no_finding(limit: int | None) -> None:
    """None, 0 and negative limits mean that the key has no quota."""
    assert await findings_for([("k1", 10, limit)]) == []


@pytest.mark.anyio
async def test_token_limits_of_policies_are_quotas() -> None:
    """`quotas` of policies is a source; without token limits there are no quotas."""
    limiter = Limiter("1000/day")
    requests = Policy("100/minute")
    tokens = Policy(limiter, name="tokens", tokens=10, key=keys.annotation("tenant"))
    limiter.hit("acme", 950)

    for policies, expected in ([requests, tokens], ["quota_exceeded:key:acme"]), ([requests], []):
        rule = quota_exceeded(quotas(policies))
        await rule.refresh()
        assert [finding.fingerprint for finding in Scenario().evaluate(rule)] == expected


@pytest.mark.anyio
async def test_rule_without_threshold_finds_nothing() -> None:
    """A threshold of None disables the rule."""
    assert await findings_for([("k1", 10, 10)], quota_warning=None) == []


@pytest.mark.anyio
async def test_async_source_is_awaited() -> None:
    """An async source may return an iterator; before its first result the rule fails."""

    async def source() -> Iterable[tuple[object, ...]]:
        await anyio.lowlevel.checkpoint()
        return (("k1", used, 10, None) for used in (10,))

    rule = quota_exceeded(source)
    with pytest.raises(LookupError, match=r"^the quota source has not returned any quotas yet$"):
        Scenario().evaluate(rule)

    await rule.refresh()

    assert severities(Scenario().evaluate(rule)) == {"quota_exceeded:key:k1": "critical"}


@pytest.mark.anyio
async def test_rule_has_refresh_and_name() -> None:
    """The engine refreshes the rule and reads its name."""
    rows: Rows = [("k1", 10, 10)]
    rule = quota_exceeded(lambda: rows)

    await rule.refresh()

    assert rule_name(rule) == "quota_exceeded"
    assert len(Scenario().evaluate(rule)) == 1


@pytest.mark.anyio
async def test_key_missing_from_the_source_has_no_quota() -> None:
    """The quota of a deleted key is dropped."""
    rows: Rows = [("k1", 10, 10)]
    rule = quota_exceeded(lambda: rows)
    await rule.refresh()
    rows.clear()

    await rule.refresh()

    assert list(rule.quotas) == []


@pytest.mark.anyio
async def test_source_beyond_timeout_keeps_the_last_quotas() -> None:
    """A source that hangs raises TimeoutError and the last quotas stay."""
    results: list[Any] = [[("k1", 10, 10)], None]

    async def source() -> Iterable[tuple[object, ...]]:
        result = results.pop(0)
        if result is None:
            await anyio.sleep_forever()
        return list(result)

    rule = quota_exceeded(source, timeout=0.01)
    await rule.refresh()

    with pytest.raises(TimeoutError):
        await rule.refresh()

    assert list(rule.quotas) == [Quota("k1", 10, 10)]


@pytest.mark.anyio
async def test_defect_10_source_that_raises_keeps_the_last_quotas() -> None:
    """The error is raised to the engine and the last quotas stay."""
    results: list[Any] = [[("k1", 10, 10)]]
    rule = quota_exceeded(lambda: results.pop())
    await rule.refresh()

    with pytest.raises(IndexError):
        await rule.refresh()

    assert list(rule.quotas) == [Quota("k1", 10, 10)]


@pytest.mark.anyio
@pytest.mark.parametrize(
    "row",
    [
        (),
        ("k1", 10),
        ("k1", 10, 10, "acme", None),
        ("k1", 10, 10, "acme", "USD", 5),
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
async def test_invalid_row_does_not_affect_other_rows(row: Any) -> None:
    """Valid rows are used; a key with an invalid row keeps its last quota."""
    rows: Rows = [("k1", 9, 10), ("k2", 9, 10)]
    rule = quota_exceeded(lambda: rows)
    await rule.refresh()
    rows[:] = [row, ("k2", 1, 10), ("k3", 1, 10)]

    with pytest.raises(ValueError, match=r"^a quota must be \(key, used, limit\) or .*, got "):
        await rule.refresh()

    unchanged = [Quota("k1", 9, 10)] if isinstance(row, tuple) and row[:1] == ("k1",) else []
    assert list(rule.quotas) == [Quota("k2", 1, 10), Quota("k3", 1, 10), *unchanged]


@pytest.mark.anyio
async def test_valid_row_replaces_an_invalid_row_of_the_same_key() -> None:
    """The last quota of a key stays only if all its rows are invalid."""
    rows: Rows = [("k1", 10, 10)]
    rule = quota_exceeded(lambda: rows)
    await rule.refresh()
    rows[:] = [("k1", None, 10), ("k1", 1, 10)]

    with pytest.raises(ValueError, match="got "):
        await rule.refresh()

    assert list(rule.quotas) == [Quota("k1", 1, 10)]


@pytest.mark.anyio
async def test_error_for_a_long_row_is_short() -> None:
    """The error shows only the beginning of a long row."""
    rows: Rows = [("k1", "x" * 100_000, 10)]

    with pytest.raises(ValueError, match=r"got \('k1', 'xxx") as caught:
        await quota_exceeded(lambda: rows).refresh()

    assert len(str(caught.value)) < 500


@pytest.mark.anyio
async def test_decimals_and_integer_keys_are_accepted() -> None:
    """A NUMERIC column is a Decimal, and keys are often integers."""
    (finding,) = await findings_for([(7, Decimal("95.5"), Decimal(100), 8)])

    assert (finding.subject, finding.value) == (Subject("key", "7"), 0.955)
    assert finding.metadata == {"used": 95.5, "limit": 100.0, "master": "8", "threshold": 0.9}


@pytest.mark.anyio
async def test_third_failure_in_a_row_fails_the_rule() -> None:
    """The rule raises from the third failure on; the next success resets it."""
    results: list[Any] = [[("k1", 10, 10)], None, None, [("k1", "?", 10)], [("k1", 10, 10)]]
    rule = quota_exceeded(lambda: results.pop(0))
    await rule.refresh()
    for _ in range(2):
        with pytest.raises(ValueError, match="must return a list of quotas"):
            await rule.refresh()
        assert len(Scenario().evaluate(rule)) == 1

    with pytest.raises(ValueError, match="a quota must be"):  # a result without any valid quota
        await rule.refresh()
    with pytest.raises(LookupError, match=r"^the quota source has failed 3 times in a row: its"):
        Scenario().evaluate(rule)

    await rule.refresh()
    assert len(Scenario().evaluate(rule)) == 1


@pytest.mark.anyio
async def test_cancelled_refresh_counts_as_failure() -> None:
    """The engine cancels a refresh after an interval, which may be shorter than the timeout."""
    results: list[Rows] = [[("k1", 10, 10)]]

    async def source() -> Rows:
        if not results:
            await anyio.sleep_forever()
        return results.pop()

    rule = quota_exceeded(source)
    await rule.refresh()
    for _ in range(3):
        with anyio.move_on_after(0.01):
            await rule.refresh()

    with pytest.raises(LookupError, match="has failed 3 times in a row"):
        Scenario().evaluate(rule)


@pytest.mark.anyio
async def test_source_with_an_invalid_row_does_not_count_as_failed() -> None:
    """A row that is always invalid does not disable the other keys."""
    rows: Rows = [("k1", 10, 10), ("k2", None, 10)]
    rule = quota_exceeded(lambda: rows)
    for _ in range(5):
        with pytest.raises(ValueError, match="got "):
            await rule.refresh()

    assert severities(Scenario().evaluate(rule)) == {"quota_exceeded:key:k1": "critical"}


@pytest.mark.anyio
async def test_source_that_returns_none_is_an_error() -> None:
    """None is not an empty list."""
    source: Any = lambda: None  # noqa: E731 - a source with a missing return

    with pytest.raises(
        ValueError, match=r"^the quota source must return a list of quotas, got None"
    ):
        await quota_exceeded(source).refresh()


@pytest.mark.anyio
async def test_source_with_more_than_max_keys_is_an_error() -> None:
    """An endless source is stopped at `max_keys`."""
    rows = (("k1", 1, 10) for _ in iter(int, 1))

    with pytest.raises(
        ValueError, match=r"^the quota source must return at most 3 quotas, got more: return"
    ):
        await quota_exceeded(lambda: rows, max_keys=3).refresh()


@pytest.mark.parametrize("value", [0, "5", None])
@pytest.mark.parametrize(
    ("name", "expected"),
    [("timeout", "a number of seconds above 0"), ("max_keys", "an integer of at least 1")],
)
def test_invalid_timeout_or_max_keys_is_rejected(name: str, expected: str, value: object) -> None:
    """The error names the parameter, the expected value and the value it got."""
    arguments: dict[str, Any] = {name: value}

    with pytest.raises(ValueError, match=f"^{name} must be {expected}, got {value!r}$"):
        quota_exceeded(list, **arguments)


def test_source_that_is_not_a_function_is_rejected() -> None:
    """A list of quotas is not a source."""
    source: Any = [("k1", 10, 10)]

    with pytest.raises(ValueError, match=r"^source must be a function that returns quotas, such"):
        quota_exceeded(source)
