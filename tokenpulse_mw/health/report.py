"""What a health endpoint answers: a status, and for those who may know, the reasons."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from .results import Observation, Status

HEALTH_JSON = "application/health+json"

# What draft-inadarei-api-health-check has as aliases, and the seed's /health says.
PLAIN: Mapping[Status, str] = {"pass": "ok", "warn": "warn", "fail": "error"}


def wants_health_json(accept: str) -> bool:
    """Whether an Accept header names `application/health+json` itself."""
    for part in accept.split(","):
        name, *parameters = (each.strip().lower() for each in part.split(";"))
        if name == HEALTH_JSON:
            return not any(each.rstrip("0.") == "q=" for each in parameters)
    return False


def document(
    status: Status, service: str, observed: Mapping[str, Observation] | None
) -> dict[str, Any]:
    """The answer as `application/health+json` (draft-inadarei-api-health-check-06).

    Args:
        status: Of the whole.
        service: What is asked.
        observed: The reasons by name; None for those who may not know them.
    """
    if observed is None:
        return {"status": status}
    checks = {name: [_check(each)] for name, each in observed.items()}
    return {"status": status, "serviceId": service, "checks": checks}


def _check(observed: Observation) -> dict[str, Any]:
    result = observed.result
    told = {
        "componentType": observed.component_type,
        "observedValue": result.observed_value,
        "observedUnit": result.observed_unit,
        "status": result.status,
        "time": _date(observed.time),
        "output": None if result.status == "pass" else result.output,
    }
    return {name: value for name, value in told.items() if value is not None}


def _date(seconds: float) -> str:
    when = datetime.fromtimestamp(seconds, UTC)
    return when.isoformat(timespec="milliseconds").replace("+00:00", "Z")
