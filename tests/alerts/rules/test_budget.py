"""The `budget` rule."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenpulse_mw.alerts import Finding, Severity, Subject
from tokenpulse_mw.alerts.rules import Budget, budget, rule_name
from tokenpulse_mw.alerts.steps import finish
from tokenpulse_mw.alerts.traffic.bucket import Bucket, Profile, ReportKey

from .scenario import Scenario, severities

NOON = datetime(2026, 5, 3, 12, tzinfo=UTC).timestamp()


class Spending:
    """The budget of one key, which a test uses, and the rule that evaluates it each minute."""

    def __init__(self, used: float, *, limit: float = 20, ends: float | None = 43_200) -> None:
        self.used, self.limit, self.ends = used, limit, ends
        self.seconds = 0.0
        self.rule = budget(self._rows, wall=lambda: NOON + self.seconds)
        self._scenario = Scenario()

    def _rows(self) -> list[Budget]:
        reset_after = None if self.ends is None else self.ends - self.seconds
        return [Budget("acme", self.used, self.limit, "dollars", reset_after)]

    async def evaluate(self) -> Finding | None:
        """Refresh and evaluate."""
        await self.rule.refresh()
        return next(iter(self._scenario.evaluate(self.rule, self.seconds)), None)

    async def use(self, *dollars: float, every: float = 60) -> Finding | None:
        """Use some dollars before each of the next evaluations, and return the last finding."""
        finding = await self.evaluate()
        for used in dollars:
            self.used += used
            self.seconds += every
            finding = await self.evaluate()
        return finding


async def findings_for(rows: list[Any], **thresholds: Any) -> list[Finding]:
    """Return the findings for these budgets."""
    rule = budget(lambda: rows)
    await rule.refresh()
    return Scenario(**thresholds).evaluate(rule)


@pytest.mark.anyio
async def test_budget_nearly_used_up_finding_has_its_dollars() -> None:
    """The finding names the key, the limit, and the dollars that are used."""
    (finding,) = await findings_for([Budget("acme", 16.6, 20, "dollars", 3600)])

    assert finding == Finding(
        type="budget",
        subject=Subject("budget", "acme"),
        metric="dollars",
        severity="warning",
        title="Budget at 83 %",
        message="Budget 'acme' of policy dollars has used 16.60 of 20.00 USD (83.0 %)",
        value=0.83,
        metadata={
            "used": 16.6,
            "limit": 20.0,
            "policy": "dollars",
            "threshold": 0.8,
            "forecast": None,
        },
        keep_firing=300,
        window=0,
        keeps="critical",
    )
    assert finding.fingerprint == "budget:dollars:acme"


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("used", "expected"),
    [
        ("12.799999", []),
        ("12.800001", [None]),
        ("15.999999", [None]),
        ("16", ["warning"]),
        ("19.999999", ["warning"]),
        ("20", ["critical"]),
        ("25", ["critical"]),
    ],
)
async def test_severity_is_warning_from_80_percent_and_critical_from_100(
    used: str, expected: list[Severity | None]
) -> None:
    """Below 80 % of the warning threshold there is no finding."""
    findings = await findings_for([("acme", Decimal(used), Decimal(20), "dollars")])

    assert [finding.severity for finding in findings] == expected


@pytest.mark.anyio
@pytest.mark.parametrize(("used", "keeps"), [(15.9, "warning"), (16, "critical")])
async def test_used_up_budget_stays_critical_down_to_80_percent(
    used: float, keeps: Severity
) -> None:
    """A refund that follows each request does not change the severity."""
    (finding,) = await findings_for([("acme", used, 20, "dollars")])

    assert finding.keeps == keeps


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("used", "limit", "title", "dollars"),
    [
        (19.999999, 20, "Budget at 99 %", "19.99 of 20.00 USD (99.9 %)"),
        (20, 20, "Budget used up", "20.00 of 20.00 USD (100.0 %)"),
        (0.085, 0.1, "Budget at 85 %", "0.085 of 0.10 USD (85.0 %)"),
    ],
)
async def test_amounts_are_never_rounded_up_to_the_limit(
    used: float, limit: float, title: str, dollars: str
) -> None:
    """A budget of less than a dollar is exact."""
    (finding,) = await findings_for([("acme", used, limit, "dollars")])

    assert finding.title == title
    assert finding.message == f"Budget 'acme' of policy dollars has used {dollars}"


@pytest.mark.anyio
async def test_share_equal_to_the_threshold_fires() -> None:
    """Rounding never misses it, although 0.08 / 0.1 is below 0.8."""
    for cents in range(10, 3000, 10):
        (finding,) = await findings_for(
            [("acme", Decimal(cents * 8) / 1000, Decimal(cents) / 100, "dollars")]
        )
        assert finding.severity == "warning"


@pytest.mark.anyio
@pytest.mark.parametrize("limit", [None, 0, -1, 1e-9])
async def test_key_without_budget_has_no_finding(limit: float | None) -> None:
    """None, and a limit below a micro-dollar, mean that the key has no budget."""
    assert await findings_for([("acme", 10, limit, "dollars")]) == []


@pytest.mark.anyio
async def test_budgets_of_two_policies_are_two_alerts() -> None:
    """A tenant may have a budget of a day and one of a month."""
    findings = await findings_for([("acme", 17, 20, "day"), ("acme", 99, 100, "month")])

    assert severities(findings) == {"budget:day:acme": "warning", "budget:month:acme": "warning"}


@pytest.mark.anyio
async def test_rule_without_threshold_finds_nothing() -> None:
    """A threshold of None disables the rule."""
    assert await findings_for([("acme", 20, 20, "dollars")], budget_warning=None) == []


@pytest.mark.anyio
async def test_rule_without_source_has_no_budgets() -> None:
    """A source of None is one without budgets."""
    rule = budget(None)
    with pytest.raises(LookupError, match=r"^the budget source has not returned any budgets yet$"):
        Scenario().evaluate(rule)

    await rule.refresh()

    assert Scenario().evaluate(rule) == []
    assert rule_name(rule) == "budget"


@pytest.mark.anyio
async def test_forecast_is_the_time_at_which_the_budget_is_empty() -> None:
    """2 dollars are left at 10 cents in a minute: 20 minutes after 12:05, and a minute rounded."""
    spending = Spending(17.5)

    finding = await spending.use(*[0.1] * 5)

    assert finding is not None
    assert finding.message == (
        "Budget 'acme' of policy dollars has used 18.00 of 20.00 USD (90.0 %), "
        "empty at about 12:25 UTC"
    )
    assert finding.metadata["forecast"] == "2026-05-03T12:25:00+00:00"


@pytest.mark.anyio
async def test_forecast_of_another_day_has_its_date() -> None:
    """A budget of a month may be empty in some days."""
    spending = Spending(800, limit=1000, ends=20 * 86_400)

    finding = await spending.use(*[0.125] * 5)

    assert finding is not None
    assert finding.message.endswith(", empty at about 14:40 UTC on 2026-05-04")


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("used", "ends", "dollars"),
    [
        (18, 43_200, [0.1] * 4),  # 4 minutes
        (18, 43_200, [0.0] * 10),  # not used
        (18, 43_200, [0.5, 0, 0, 0, 0, 0.5]),  # two requests
        (18, 43_200, [1, -1, 1, -1, 1, -1]),  # reserved and refunded
        (18, 43_200, [0.5, -0.6, 0.5, 0.5, 0.5, 0.1]),  # less than before, 4 minutes ago
        (18, None, [0.1] * 10),  # the end of the window is not known
        (16, 1500, [0.1] * 10),  # the window ends before
        (19, 43_200, [0.2] * 10),  # used up
        (18, 43_200, [1e-9] * 10),  # in more than a year
    ],
)
async def test_forecast_needs_evidence(
    used: float, ends: float | None, dollars: list[float]
) -> None:
    """Without growth in 3 of at least 5 minutes, within the window, there is none."""
    finding = await Spending(used, ends=ends).use(*dollars)

    assert finding is not None
    assert (finding.metadata["forecast"], "empty" in finding.message) == (None, False)


@pytest.mark.anyio
async def test_forecast_follows_the_last_20_minutes() -> None:
    """An expensive hour before does not count."""
    spending = Spending(2, ends=86_400)
    await spending.use(*[0.2] * 60)

    finding = await spending.use(*[0.05] * 30)

    assert finding is not None
    assert finding.metadata["used"] == 15.5
    assert finding.metadata["forecast"] == "2026-05-03T15:00:00+00:00"  # 4.5 USD in 90 minutes


@pytest.mark.anyio
async def test_new_window_or_earlier_clock_begins_without_evidence() -> None:
    """The usage of two windows, and times of two clocks, cannot be compared."""
    spending = Spending(17, ends=86_400)
    await spending.use(*[0.1] * 6)
    spending.ends = 2 * 86_400.0
    changed = await spending.use(0.1)
    resumed = await spending.use(*[0.1] * 5)
    spending.seconds -= 400
    set_back = await spending.use(0.1)

    findings = [finding for finding in (changed, resumed, set_back) if finding is not None]
    assert [finding.metadata["forecast"] is None for finding in findings] == [True, False, True]


USED = st.sampled_from([50, 100, 150, 300, 0, 2000, -100])  # thousandths of a dollar


@given(
    used=st.integers(13_000, 18_000),
    ends=st.floats(300, 8000),
    steps=st.lists(
        st.tuples(
            USED, st.sampled_from([60, 90, 120, 0, 700]), st.sampled_from([False] * 9 + [True])
        ),
        min_size=5,
        max_size=20,
    ),
)
def test_forecast_is_within_the_window_and_has_evidence(
    used: int, ends: float, steps: list[tuple[int, int, bool]]
) -> None:
    """Never without growth in 3 evaluations and 5 minutes, in the past, or after the window."""

    async def run() -> None:
        spending = Spending(used / 1000, ends=ends)
        await spending.evaluate()
        window_began, growths = 0.0, 0
        for dollars, seconds, new_window in steps:
            spending.seconds += seconds
            before = spending.used
            spending.used = max(before + dollars / 1000, 0)
            growths += spending.used > before
            if new_window:
                spending.ends = spending.seconds + 3000
                spending.used = 13
                window_began, growths = spending.seconds, 0
            finding = await spending.evaluate()
            if finding is not None and finding.metadata["forecast"] is not None:
                at = datetime.fromisoformat(finding.metadata["forecast"]).timestamp() - NOON
                assert spending.ends is not None
                assert spending.seconds < at < spending.ends
                assert spending.seconds - window_began >= 300
                assert growths >= 3
                assert finding.value < 1

    anyio.run(run)


@pytest.mark.anyio
@pytest.mark.parametrize(
    "row",
    [
        (),
        ("acme", 10, 10),
        ("acme", 10, 10, ""),
        ("acme", 10, 10, None),
        ("acme", 10, 10, "dollars", "soon"),
        ("acme", "10", 10, "dollars"),
        ("acme", math.nan, 10, "dollars"),
        ("acme", 10, math.inf, "dollars"),
        (b"acme", 10, 10, "dollars"),
        7,
    ],
)
async def test_invalid_row_does_not_affect_other_rows(row: Any) -> None:
    """Valid rows are used; a budget with an invalid row keeps its last one."""
    rows: list[Any] = [("acme", 9, 10, "dollars"), ("acme", 9, 10, "month")]
    rule = budget(lambda: rows)
    await rule.refresh()
    rows[:] = [row, ("acme", 10, 10, "month")]

    with pytest.raises(ValueError, match=r"^a budget must be \(key, used, limit, policy\) or .*"):
        await rule.refresh()

    same = isinstance(row, tuple) and row[3:4] == ("dollars",) and row[0] == "acme"
    assert severities(Scenario().evaluate(rule)) == {"budget:month:acme": "critical"} | (
        {"budget:dollars:acme": "warning"} if same else {}
    )


@pytest.mark.anyio
async def test_damaged_report_has_no_finding() -> None:
    """NaN is neither above nor below a threshold, and must not fail the rule."""
    rule = budget(list, per_process=True)
    await rule.refresh()
    scenario = Scenario()
    quotas = {
        ReportKey("budget", "dollars", "acme"): (math.nan, 10.0, math.nan),
        ReportKey("budget", "dollars", "umbrella"): (9.0, math.inf, 0.0),
        ReportKey("quota_exceeded", "", "quota"): (9.0, 10.0, 0.0),
    }
    finish(scenario.traffic.apply(Bucket(0, Profile.of(scenario.thresholds), reports=quotas)))

    assert scenario.evaluate(rule) == []


def test_source_that_is_not_a_function_is_rejected() -> None:
    """A list of budgets is not a source."""
    source: Any = [("acme", 10, 10, "dollars")]

    with pytest.raises(ValueError, match=r"^source must be a function that returns budgets, such"):
        budget(source)
