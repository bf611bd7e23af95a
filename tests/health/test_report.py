"""What a health endpoint answers."""

from __future__ import annotations

import pytest

from tokenpulse_mw.health.report import document, wants_health_json
from tokenpulse_mw.health.results import CheckResult, Observation, Status, worst


@pytest.mark.parametrize(
    ("accept", "wanted"),
    [
        ("application/health+json", True),
        ("text/html, Application/Health+JSON;q=0.5", True),
        ("application/health+json; charset=utf-8; q=0.001", True),
        ("application/health+json;q=0", False),
        ("application/health+json; q=0.000", False),
        ("application/json", False),
        ("*/*", False),
        ("application/*", False),
        ("", False),
    ],
)
def test_the_media_type_is_given_to_who_names_it(accept: str, wanted: bool) -> None:
    """A script that takes anything gets the plain answer, as ever."""
    assert wants_health_json(accept) is wanted


@pytest.mark.parametrize(
    ("statuses", "status"),
    [
        ([], "pass"),
        (["pass", "pass"], "pass"),
        (["pass", "warn", "pass"], "warn"),
        (["warn", "fail", "pass"], "fail"),
    ],
)
def test_the_whole_fares_as_its_worst_part(statuses: list[Status], status: Status) -> None:
    """Nothing at all is fine."""
    assert worst(statuses) == status


def test_who_may_not_know_is_told_the_status() -> None:
    """And nothing else, not even a name."""
    assert document("fail", "oauth2api", None) == {"status": "fail"}


def test_who_may_know_is_told_of_each_check() -> None:
    """Why is told only of what does not pass, and what is not known is left out."""
    disk = CheckResult(status="warn", observed_value=97, observed_unit="%", output="nearly full")
    loop = CheckResult(observed_value=0.01, observed_unit="s", output="something blocks it")
    observed = {
        "disk:usage": Observation(disk, 1_769_004_042.661, "system"),
        "loop": Observation(loop, 0.0),
    }

    assert document("warn", "oauth2api", observed) == {
        "status": "warn",
        "serviceId": "oauth2api",
        "checks": {
            "disk:usage": [
                {
                    "componentType": "system",
                    "observedValue": 97,
                    "observedUnit": "%",
                    "status": "warn",
                    "time": "2026-01-21T14:00:42.661Z",
                    "output": "nearly full",
                }
            ],
            "loop": [
                {
                    "observedValue": 0.01,
                    "observedUnit": "s",
                    "status": "pass",
                    "time": "1970-01-01T00:00:00.000Z",
                }
            ],
        },
    }
