"""Bodies of the health endpoints."""

from __future__ import annotations

import pytest

from tokenpulse_mw.health.report import accepts_health_json, document
from tokenpulse_mw.health.results import CheckResult, Observation, Status, worst


@pytest.mark.parametrize(
    ("accept", "expected"),
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
def test_health_json_is_sent_only_if_named(accept: str, expected: bool) -> None:
    """A client that accepts any type gets the plain response."""
    assert accepts_health_json(accept) is expected


@pytest.mark.parametrize(
    ("statuses", "status"),
    [
        ([], "pass"),
        (["pass", "pass"], "pass"),
        (["pass", "warn", "pass"], "warn"),
        (["warn", "fail", "pass"], "fail"),
    ],
)
def test_combined_status_is_the_worst(statuses: list[Status], status: Status) -> None:
    """Without statuses it is pass."""
    assert worst(statuses) == status


def test_unauthorized_document_has_only_the_status() -> None:
    """Without authorization the document has no service and no checks."""
    assert document("fail", "oauth2api", None) == {"status": "fail"}


def test_authorized_document_has_the_checks() -> None:
    """The output of a passed check and unknown values are omitted."""
    disk = CheckResult(status="warn", observed_value=97, observed_unit="%", output="nearly full")
    loop = CheckResult(observed_value=0.01, observed_unit="s", output="the event loop is blocked")
    observations = {
        "disk:usage": Observation(disk, 1_769_004_042.661, "system"),
        "loop": Observation(loop, 0.0),
    }

    assert document("warn", "oauth2api", observations) == {
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
